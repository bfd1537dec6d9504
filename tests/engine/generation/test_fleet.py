"""Several endpoints for one run: each gets what it can take, and one that fails costs no pair and no run."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation import fleet_members
from lora_tui.engine.generation.client import contact, outage
from lora_tui.engine.generation.client.refusals import end_of_run
from tests.engine.generation.generation_harness import KEY, GenerationHarness
from tests.engine.generation.live_run import live_run, wait_for
from tests.openai_server import MODEL, OpenAIServer, http, made_up_text
from tests.raw_endpoint import RawEndpoint


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that waits for seconds waits for parts of one."""
    monkeypatch.setattr(fleet_members, "_FIRST_LOOK", 0.05)
    monkeypatch.setattr(fleet_members, "_LONGEST_BETWEEN_LOOKS", 0.2)
    monkeypatch.setattr(outage, "_FIRST_LOOK", 0.05)
    monkeypatch.setattr(contact, "_FIRST_LOOKS", (0.2, 0.3))


@pytest.fixture
def other() -> Iterator[OpenAIServer]:
    with OpenAIServer(KEY) as running:
        yield running


def asked(harness: GenerationHarness, *urls: str, **more: Any) -> dict[str, Any]:
    harness.write("three.txt", made_up_text(3, 90))
    return {"base_url": "", "base_urls": list(urls), "total_examples": 30, "max_concurrency": 4, **more}


def check_pairs(harness: GenerationHarness, total: int = 30) -> None:
    """The target is reached, no pair is there twice, and no call was left open."""
    questions = [row[0] for row in harness.rows("SELECT question FROM pairs WHERE state='accepted'")]
    assert len(questions) == len(set(questions)) == total == harness.output.read_text().count("Question: ")
    assert harness.value("SELECT COUNT(*) FROM attempts WHERE status='sent'") == 0
    assert harness.value("SELECT COUNT(*) FROM pairs WHERE cause='judge failed'") == 0


def states(harness: GenerationHarness) -> list[dict[str, Any]]:
    """Return each endpoint as the newest progress event has it."""
    found: list[dict[str, Any]] = [one for one in harness.events("progress") if one.get("endpoints")][-1]["endpoints"]
    return found


def test_two_endpoints_share_the_work_and_the_account_has_both(harness: GenerationHarness, other: OpenAIServer) -> None:
    harness.server.delay = other.delay = 0.02
    outcome = harness.run(**asked(harness, harness.server.url, other.url))
    assert outcome.state == "finished"
    check_pairs(harness)
    for server in (harness.server, other):
        assert server.count("generate") > 3
        assert server.count("judge") > 3
    sent = len(harness.server.received) + len(other.received)
    assert harness.value("SELECT COUNT(*) FROM attempts WHERE status NOT IN ('unreached', 'cancelled')") <= sent
    ended = harness.rows("SELECT SUM(prompt_tokens), SUM(completion_tokens) FROM attempts WHERE status='ok'")[0]
    assert all(ended)
    shown = states(harness)
    assert [one["url"] for one in shown] == [harness.server.url, other.url]
    assert [one["state"] for one in shown] == ["works", "works"]
    assert all(one["roles"] == ["writes", "judges"] and one["answers"] > 3 for one in shown)
    assert KEY not in str(harness.rows("SELECT payload FROM events"))


def test_the_faster_endpoint_does_more(harness: GenerationHarness, other: OpenAIServer) -> None:
    harness.server.delay, other.delay = 0.15, 0.015
    assert harness.run(**asked(harness, harness.server.url, other.url)).state == "finished"
    check_pairs(harness)
    assert len(other.received) > 2 * len(harness.server.received) > 0


def test_one_that_dies_is_left_out_named_and_asked_again_once_it_is_back(
    harness: GenerationHarness, other: OpenAIServer
) -> None:
    other.delay = 0.05
    with RawEndpoint() as dying:
        dying.delay = 0.02
        with live_run(harness, **asked(harness, dying.url, other.url, total_examples=120)) as run:
            wait_for(lambda: dying.count("judge") > 4)
            dying.go_away()
            warned = wait_for(lambda: [one for one in harness.events("warning") if dying.url in one["message"]])
            assert "is left out until it answers again" in warned[0]["message"]
            assert "1 other endpoint goes on" in warned[0]["message"]
            before, others = len(dying.received), len(other.received)
            wait_for(lambda: len(other.received) > others + 10)
            assert len(dying.received) == before
            shown = wait_for(lambda: [one for one in states(harness) if one["state"] == "away"])
            assert shown[0]["url"] == dying.url
            dying.listen()
            wait_for(lambda: len(dying.received) > before + 10)
            assert run.end().state == "finished"
        assert not harness.events("waiting"), "the run never waits while one works"
        assert "answers again after" in str(harness.events("warning"))
        check_pairs(harness, 120)


def test_a_wrong_key_at_one_leaves_that_one_out(
    harness: GenerationHarness, other: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-wrong-0123456789abcdef")
    host = f"127.0.0.1:{other.port}"
    values = asked(harness, other.url, harness.server.url, api_key_envs={host: "OTHER_KEY"})
    assert harness.run(**values).state == "finished"
    check_pairs(harness)
    assert len(other.received) == 0 or other.count(outcome="ok") == 0
    told = [one["message"] for one in harness.events("warning") if other.url in one["message"]]
    assert len(told) == 1
    assert "refuses the key in OTHER_KEY" in told[0]
    assert "or set another data_generation.base_urls." in told[0]
    assert "It is left out; 1 other endpoint goes on." in told[0]
    assert states(harness)[0]["state"] == "left out"
    assert "sk-wrong" not in str(harness.rows("SELECT payload FROM events"))


def test_advice_names_the_key_that_has_the_address() -> None:
    data = DataGeneration(base_urls=["http://a:1/v1/"], judge_base_urls=["http://a:1/v1", "http://b:1/v1"])
    own = [data.at(url) for url in data.urls]
    assert [one.address_key for one in own] == ["data_generation.base_urls", "data_generation.judge_base_urls"]
    advice = end_of_run("tls", "http://b:1/v1", own[1], "model", "(no)", has_key=True)
    assert advice is not None
    assert advice.endswith("\nWrite https://b:1/v1 in its place in data_generation.judge_base_urls.")
    assert DataGeneration().at("").address_key == "data_generation.base_url"


def test_each_host_gets_its_own_key_and_its_own_name_of_the_model(
    harness: GenerationHarness, other: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-other-0123456789abcdef")
    other.key, other.models = "sk-other-0123456789abcdef", {"vendor/model"}
    harness.server.delay = other.delay = 0.02
    host = f"127.0.0.1:{other.port}"
    tables = {"api_key_envs": {host: "OTHER_KEY"}, "models_by_host": {host: "vendor/model"}}
    assert harness.run(**asked(harness, harness.server.url, other.url, **tables)).state == "finished"
    check_pairs(harness)
    assert {one.body["model"] for one in other.received} == {"vendor/model"}
    assert {one.body["model"] for one in harness.server.received} == {MODEL}
    assert other.count(outcome="ok") == len(other.received) > 3


def test_writer_and_judge_at_different_endpoints(harness: GenerationHarness, other: OpenAIServer) -> None:
    other.models = {"referee"}
    values = asked(harness, harness.server.url, judge_base_urls=[other.url], judge_model="referee")
    assert harness.run(**values).state == "finished"
    check_pairs(harness)
    assert harness.server.count("judge") == 0
    assert other.count("generate") == 0
    assert other.count("judge") >= 30
    assert [one["roles"] for one in states(harness)] == [["writes"], ["judges"]]


def test_one_that_fails_every_request_is_left_out_within_seconds(
    harness: GenerationHarness, other: OpenAIServer
) -> None:
    other.kind_faults = dict.fromkeys(("generate", "judge", "analyse"), http(502, "Bad gateway"))
    values = asked(harness, harness.server.url, other.url, generation__initial_delay=0.05)
    began = time.monotonic()
    assert harness.run(**values).state == "finished"
    assert time.monotonic() - began < 20
    check_pairs(harness)
    assert "HTTP 502" in str(harness.events("warning"))


def test_limits_of_one_send_its_calls_to_the_other(harness: GenerationHarness, other: OpenAIServer) -> None:
    limit = http(429, "slow down", retry_after="30")
    other.kind_faults = dict.fromkeys(("generate", "judge", "analyse"), limit)
    assert harness.run(**asked(harness, other.url, harness.server.url)).state == "finished"
    check_pairs(harness)
    assert len(other.received) < 12, "it asked to wait half a minute"


def test_where_all_are_away_the_run_waits_for_one_and_gives_up_as_with_one(harness: GenerationHarness) -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(RawEndpoint()) for _ in range(2)]
        for one in both:
            one.delay = 0.02
        values = asked(harness, *(one.url for one in both), give_up_after=60.0, total_examples=60)
        with live_run(harness, **values) as run:
            wait_for(lambda: all(one.count("judge") > 3 for one in both))
            for one in both:
                one.go_away()
            told = wait_for(lambda: harness.events("waiting"))
            assert told[0]["waiting"] is True
            assert "The run waits" in told[0]["message"]
            both[1].listen()
            assert run.end().state == "finished"
        assert harness.events("waiting")[-1]["waiting"] is False
        check_pairs(harness, 60)


def test_where_none_can_be_reached_the_run_ends_at_once_and_names_all(harness: GenerationHarness) -> None:
    began = time.monotonic()
    outcome = harness.run(**asked(harness, "http://127.0.0.1:9/v1", "http://localhost:9/v1", give_up_after=3600.0))
    assert outcome.state == "failed"
    assert time.monotonic() - began < 20
    assert "http://127.0.0.1:9/v1" in str(outcome)
    assert "http://localhost:9/v1" in str(outcome)


def test_batches_go_to_one_endpoint_alone(harness: GenerationHarness, other: OpenAIServer) -> None:
    outcome = harness.run(**asked(harness, harness.server.url, other.url, batch=True))
    assert outcome.state == "failed"
    assert "data_generation.batch works with one endpoint alone" in str(outcome)


def test_a_run_goes_on_with_other_endpoints(harness: GenerationHarness, other: OpenAIServer) -> None:
    with RawEndpoint() as first:
        first.delay = 0.02
        with live_run(harness, **asked(harness, first.url, other.url, give_up_after=60.0)) as run:
            wait_for(lambda: first.count("judge") > 2)
            number = run.run_id
    assert harness.run(resume=number, **asked(harness, harness.server.url)).state == "finished"
    check_pairs(harness)
