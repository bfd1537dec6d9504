"""Endpoints that refuse, misunderstand or are not there: the right message, the right status, no wasted call."""

import json

import pytest

from tests.engine.generation.generation_harness import KEY, GenerationHarness
from tests.openai_server import MALFORMED, MODEL, TRUNCATED, OpenAIServer, http, made_up_text


def one_failure(harness: GenerationHarness, status: int, **values: object) -> str:
    """Run, expect the exit status, and return the message, which has one or two lines."""
    outcome = harness.run(**values)
    assert (outcome.state, outcome.exit_status) == ("failed", status)
    assert outcome.error is not None
    assert 1 <= len(outcome.error.splitlines()) <= 2
    assert "Traceback" not in outcome.error
    return outcome.error


def test_a_missing_key_names_the_variable_and_the_ways_out(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    error = one_failure(harness, 3, base_url="")
    assert error.startswith("OPENAI_API_KEY is not set: export it, or set data_generation.base_url")
    assert 'data_generation.model="builtin"' in error
    assert harness.server.received == []


def test_the_variable_of_the_key_can_be_another(harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    assert harness.run(api_key_env="MY_KEY").state == "finished"


def test_a_key_that_cannot_be_one_is_refused_without_showing_it(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-schlüssel")
    error = one_failure(harness, 3)
    assert "OPENAI_API_KEY" in error
    assert "schl" not in error


def test_a_refused_key_stops_the_run_with_one_request(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-wrong-wrong-wrong-wrong")
    error = one_failure(harness, 3)
    assert "refuses the key in OPENAI_API_KEY (HTTP 401" in error
    assert harness.server.url in error
    assert len(harness.server.received) == 1


def test_a_server_that_wants_a_key_and_gets_none(harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "wants a key and OPENAI_API_KEY is not set" in one_failure(harness, 3)


def test_a_local_server_needs_no_key(harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    harness.server.key = None
    assert harness.run().state == "finished"


def test_an_unknown_model_is_named(harness: GenerationHarness) -> None:
    error = one_failure(harness, 3, model="gpt-5-mega")
    assert "no model 'gpt-5-mega'" in error
    assert "data_generation.model" in error
    assert len(harness.server.received) == 1


def test_an_unknown_judge_is_named(harness: GenerationHarness) -> None:
    error = one_failure(harness, 3, judge_model="no-judge")
    assert "no model 'no-judge'" in error


def test_another_judge_is_asked_for_judging_only(harness: GenerationHarness) -> None:
    harness.server.models.add("judge-model")
    harness.run(judge_model="judge-model")
    assert {one.body["model"] for one in harness.server.received if one.kind == "judge"} == {"judge-model"}
    assert {one.body["model"] for one in harness.server.received if one.kind == "generate"} == {MODEL}


def test_an_account_without_quota_stops_at_once(harness: GenerationHarness) -> None:
    harness.server.next_faults.extend([http(429, "You exceeded your current quota", "insufficient_quota")] * 50)
    error = one_failure(harness, 3)
    assert "no quota left" in error
    assert len(harness.server.received) == 1


def test_a_forbidden_request_stops_at_once(harness: GenerationHarness) -> None:
    harness.server.next_faults.extend([http(403, "Country not supported")] * 50)
    assert "HTTP 403: Country not supported" in one_failure(harness, 3)


def test_a_port_where_nobody_listens_is_told_at_once(harness: GenerationHarness) -> None:
    error = one_failure(harness, 3, base_url="http://127.0.0.1:9/v1")
    assert error.startswith("Cannot connect to http://127.0.0.1:9/v1 (")
    assert "refused" in error.lower()
    assert MODEL in error
    assert "OPENAI_API_KEY" in error
    assert harness.value("SELECT COUNT(*) FROM attempts") == 1


def test_an_unknown_host_is_told_at_once(harness: GenerationHarness) -> None:
    assert "Cannot connect to http://no-such-host.invalid/v1" in one_failure(
        harness, 3, base_url="http://no-such-host.invalid/v1"
    )


def test_a_key_over_an_open_line_is_warned_of(harness: GenerationHarness) -> None:
    one_failure(harness, 3, base_url="http://no-such-host.invalid/v1")
    assert any("not encrypted" in event["message"] for event in harness.events("warning"))


def test_a_proxy_from_the_environment_is_not_used_for_this_machine(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert harness.run().state == "finished"


FORMS = {"json_schema", "json_object", "tools", "grammar"}


@pytest.mark.parametrize(
    ("refused", "gone", "refusals"),
    [
        ({"json_schema"}, "json_schema", 1),
        ({"json_schema", "json_object"}, "response_format", 3),
        (FORMS, "grammar", 5),
        ({"logprobs"}, "logprobs", 1),
        ({*FORMS, "presence_penalty", "frequency_penalty"}, "presence_penalty", 7),
        ({"max_tokens"}, "max_tokens", 1),
        ({"temperature", "top_p"}, "temperature", 2),
        ({*FORMS, "logprobs", "presence_penalty", "frequency_penalty", "max_tokens"}, "logprobs", 9),
    ],
)
def test_what_a_server_does_not_know_is_left_out_and_told_once(
    harness: GenerationHarness, refused: set[str], gone: str, refusals: int
) -> None:
    harness.server.refuses = refused
    outcome = harness.run(total_examples=8)
    assert outcome.state == "finished"
    assert harness.server.count(outcome="http") <= refusals + 1, "a dialect is learned by one call for all"
    assert outcome.result["attempts"]["http_error"] == harness.server.count(outcome="http")
    told = [event["message"] for event in harness.events("warning") if "does not take" in event["message"]]
    assert len(told) == len(set(told)) == refusals
    last = [one.body for one in harness.server.received if one.kind in ("generate", "judge")][-1]
    assert gone not in json.dumps(last) or gone == "max_tokens"
    if "max_tokens" in refused:
        assert last["max_completion_tokens"] > 0
    modes = {
        detail.split(":")[0] for (detail,) in harness.rows("SELECT detail FROM pair_metrics WHERE name LIKE 'judge%'")
    }
    assert modes == ({"single"} if "logprobs" in refused else {"logprob"})


def test_a_refusal_that_explains_nothing_walks_down_the_ladder(harness: GenerationHarness) -> None:
    harness.server.next_faults.extend([http(400, "Bad request")] * 5)
    outcome = harness.run(total_examples=1)
    assert outcome.state == "finished"
    bodies = [one.body for one in harness.server.received[:6]]
    formats = [body.get("response_format", {}) for body in bodies]
    assert [form.get("type") for form in formats] == ["json_schema", "json_object", "json_object", None, None, None]
    assert ["schema" in form for form in formats[1:3]] == [True, False]
    assert ["tools" in body for body in bodies[3:]] == [True, False, False]
    assert ["grammar" in body for body in bodies[3:]] == [False, True, False]
    assert ["presence_penalty" in body for body in bodies] == [False] * 5 + [True]


def test_an_error_of_the_server_that_names_a_parameter_is_a_refusal(harness: GenerationHarness) -> None:
    """llama-cpp-python answers HTTP 500 to log-probabilities that its model was not loaded for."""
    message = "logprobs is not supported for models created with logits_all=False"
    harness.server.next_faults.extend([None, http(500, message)])
    outcome = harness.run(total_examples=1)
    assert outcome.state == "finished"
    assert outcome.result["attempts"]["http_error"] == 1
    assert "logprobs" not in [one.body for one in harness.server.received if one.kind == "judge"][-1]


def test_a_passage_that_is_too_long_for_the_model_names_the_key_to_change(harness: GenerationHarness) -> None:
    harness.server.kind_faults["generate"] = http(400, "This model's maximum context length is 512 tokens")
    outcome = harness.run()
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert any("lower data_generation.chunk_tokens" in reason for reason in outcome.result["dead_reasons"])


def test_a_reply_that_is_cut_off_is_asked_for_with_twice_the_room(harness: GenerationHarness) -> None:
    harness.server.next_faults.append(TRUNCATED)
    outcome = harness.run(total_examples=1)
    assert outcome.state == "finished"
    rooms = [one.body["max_tokens"] for one in harness.server.received if one.kind == "generate"]
    assert rooms[:2] == [400, 800]
    assert outcome.result["attempts"]["truncated"] == 1
    assert any("data_generation.generation.max_tokens" in event["message"] for event in harness.events("warning"))


def test_a_judge_that_never_gives_levels_ends_the_run_before_a_pass_is_paid_for(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 30))
    harness.server.kind_faults["judge"] = TRUNCATED
    outcome = harness.run(total_examples=30)
    assert outcome.exit_status == 1
    assert outcome.error is not None
    assert "8 times in a row: the reply was cut off" in outcome.error
    assert "raise data_generation.evaluation.max_tokens" in outcome.error
    assert harness.server.count("judge") < 40
    assert (outcome.result["accepted"], outcome.result["review"]) == (0, 0)
    harness.server.kind_faults.clear()
    resumed = harness.run(resume=outcome.run_id, total_examples=30)
    assert resumed.result["accepted"] == 30, "what was written before is judged now"
    assert resumed.result["review"] == 0


def test_a_few_judgements_that_cannot_be_read_cost_those_pairs_alone(harness: GenerationHarness) -> None:
    answers = iter(["no"] * 4)
    harness.server.digits = lambda prompt: next(answers, "5 5 4")
    outcome = harness.run(total_examples=6, max_concurrency=1)
    assert outcome.state == "finished"


def test_a_malformed_reply_is_shown_to_the_model_once(harness: GenerationHarness) -> None:
    harness.server.next_faults.append(MALFORMED)
    outcome = harness.run(total_examples=1)
    assert outcome.state == "finished"
    second = harness.server.received[1].body["messages"]
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert "no JSON in the reply" in second[3]["content"]
    assert outcome.result["attempts"]["malformed"] == 1
    assert harness.value("SELECT reply FROM attempts WHERE status='malformed'").startswith("I am sorry")


def test_servers_that_do_not_count_tokens_are_estimated(harness: GenerationHarness) -> None:
    harness.server.usage = False
    outcome = harness.run()
    assert outcome.result["prompt_tokens"] > 1000
    assert outcome.result["completion_tokens"] > 100


def test_the_first_request_goes_alone(harness: GenerationHarness) -> None:
    harness.server.next_faults.append(http(500))
    harness.server.delay = 0.1
    harness.run(total_examples=8, num_examples_per_file=8)
    first, second, third = (one.at for one in harness.server.received[:3])
    assert second - first >= 0.09
    assert third - second >= 0.09


def test_a_server_on_another_machine_is_told_where_secrets_go(harness: GenerationHarness) -> None:
    harness.write("notes.txt", "The password file holds sk-abcdefghijklmnop0123 for everybody to see, says the manual.")
    one_failure(harness, 3, base_url="http://no-such-host.invalid/v1")
    assert any("notes.txt seems to hold" in event["message"] for event in harness.events("warning"))


def test_a_second_server_can_be_used_by_its_address(harness: GenerationHarness) -> None:
    with OpenAIServer(KEY) as other:
        assert harness.run(base_url=other.url + "/").state == "finished"
        assert len(other.received) > 0
