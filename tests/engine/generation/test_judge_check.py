"""A judge is asked about known pairs before money is spent, once; one that cannot tell them apart is named."""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lora_tui.engine.generation.canaries import CANARIES, KNOWN_PAIRS, check_key, check_of
from lora_tui.engine.generation.endpoint_memory import recall_check
from lora_tui.engine.generation.gates import check_gates
from lora_tui.engine.generation.generation_model import Judgement
from tests.engine.generation.generation_harness import KEY, GenerationHarness
from tests.openai_server import MODEL

RIGHT = {canary.right.answer for canary in CANARIES}
FAULTS = {canary.spoilt.answer: canary.fault for canary in CANARIES}


def judging(*blind_to: str) -> Callable[[str], str]:
    """A judge that knows the canaries, but for some faults, and finds every other pair good."""

    def digits(prompt: str) -> str:
        answer = re.findall(r"BEGIN PAIR.*?Answer: (.*?)\nEND", prompt, re.DOTALL)[0]
        fault = FAULTS.get(answer)
        return "5 5 4" if fault is None or fault in blind_to else "2 2 3"

    return digits


@pytest.fixture(autouse=True)
def _paid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is one that asks for money, but where a test says otherwise."""
    monkeypatch.setattr("lora_tui.engine.jobs.generate.is_own_network", lambda url: False)


def checks(harness: GenerationHarness) -> list[dict[str, Any]]:
    return [event for kind in ("note", "warning") for event in harness.events(kind) if "told" in event]


def asked_about(harness: GenerationHarness) -> int:
    known = [pair.answer for pair in KNOWN_PAIRS]
    return sum(
        any(f"Answer: {answer}\n" in str(one.body["messages"][-1]["content"]) for answer in known)
        for one in harness.server.received
        if one.kind == "judge"
    )


def test_there_are_three_canaries_of_each_fault_and_few_calls() -> None:
    assert set(Counter(canary.fault for canary in CANARIES).values()) == {3}
    assert (len(CANARIES), len(KNOWN_PAIRS)) == (12, 18)
    for canary in CANARIES:
        assert canary.right.question == canary.spoilt.question
        assert canary.right.answer != canary.spoilt.answer


def test_the_right_ones_of_the_canaries_pass_the_gates() -> None:
    for canary in CANARIES:
        assert check_gates(canary.right.pair, canary.right.passage) is None, canary


def test_a_good_judge_is_asked_before_anything_is_written_and_named(harness: GenerationHarness) -> None:
    harness.server.digits = judging()
    outcome = harness.run(check_judge=True)
    assert outcome.state == "finished"
    kinds = [one.kind for one in harness.server.received]
    assert kinds[: len(KNOWN_PAIRS)] == ["judge"] * len(KNOWN_PAIRS), "before money is spent on pairs"
    (check,) = checks(harness)
    assert (check["judge"], check["told"], check["of"], check["misses"]) == (MODEL, 12, 12, {})
    assert check["right_level"] > 4.5 > 2 > check["wrong_level"]
    assert check["mode"] == "logprob"
    (tokens,) = harness.rows(
        "SELECT SUM(prompt_tokens + completion_tokens) FROM attempts JOIN tasks ON tasks.id=task_id WHERE kind='check'"
    )
    assert f"it took {tokens[0]:,} tokens" in check["message"], "the cost is shown"
    assert outcome.result["judges"] == [check]
    assert not any("told" in event for event in harness.events("warning"))
    assert outcome.result["calls"] == len(harness.server.received), "its calls are in the account"
    assert outcome.result["tasks"]["check"]["done"] == 1


def test_what_a_judge_misses_is_a_warning_by_name_and_figure(harness: GenerationHarness) -> None:
    harness.server.digits = judging("negated", "told to give full marks")
    outcome = harness.run(check_judge=True)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 6), "the run goes on"
    (warning,) = [event for event in harness.events("warning") if "told" in event]
    assert warning["misses"] == {"negated": 3, "told to give full marks": 3}
    said = f"{MODEL} tells right from wrong in 6 of 12 test pairs: misses negated (3), told to give full marks (3)"
    assert warning["message"].startswith(said)
    assert "data_generation.judge_model" in warning["message"]


def test_a_second_run_does_not_pay_again_and_says_it_again(harness: GenerationHarness) -> None:
    harness.server.digits = judging("negated")
    harness.run(check_judge=True)
    harness.server.received.clear()
    outcome = harness.run(check_judge=True, total_examples=8)
    assert asked_about(harness) == 0
    assert outcome.result["judges"][0]["misses"] == {"negated": 3}
    assert "(found " in outcome.result["judges"][0]["message"]
    assert outcome.result["tasks"]["check"]["planned"] == 0


def test_another_judge_is_asked_by_itself(harness: GenerationHarness) -> None:
    harness.server.models.add("other")
    harness.server.digits = judging()
    harness.run(check_judge=True)
    harness.server.received.clear()
    outcome = harness.run(check_judge=True, judge_model="other", total_examples=8)
    assert asked_about(harness) == len(KNOWN_PAIRS)
    assert [check["judge"] for check in outcome.result["judges"]] == ["other"]


def test_a_server_of_ones_own_is_not_held_up(harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LORA_TUI_CACHE", str(harness.folder / "cache"))
    harness.server.digits = judging("negated")
    outcome = harness.run(check_judge=True, total_examples=20)
    assert outcome.state == "finished"
    assert harness.server.received[0].kind == "generate", "the first pairs come first"
    assert outcome.result["judges"][0]["misses"] == {"negated": 3}
    assert asked_about(harness) == len(KNOWN_PAIRS)


def test_a_weak_model_on_ones_own_network_is_checked_at_most_once_and_holds_nothing_up(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.jobs.generate.is_own_network", lambda url: True)
    harness.server.pair_of = lambda passage, n: dict.fromkeys(("evidence", "question", "answer", "topic"), "...")
    outcome = harness.run(check_judge=True)
    assert outcome.state == "finished"
    # The check runs beside the first pairs: how much of it has left when the model shows as weak is a race.
    assert asked_about(harness) <= len(KNOWN_PAIRS)
    ended = outcome.result["tasks"]["check"]
    assert (ended["pending"], ended["cancelled"] + ended["done"]) == (0, 1)


def test_it_can_be_switched_off(harness: GenerationHarness) -> None:
    outcome = harness.run(check_judge=False)
    assert asked_about(harness) == 0
    assert outcome.result["judges"] == []


def test_the_run_ends_before_a_judge_that_misses_too_much_if_that_was_asked_for(harness: GenerationHarness) -> None:
    harness.server.digits = judging("negated")
    outcome = harness.run(check_judge=True, judge_must_tell=10)
    assert outcome.state == "failed"
    assert "9 of 12" in str(outcome.error)
    assert "data_generation.judge_must_tell = 10" in str(outcome.error)
    assert harness.server.count("generate") == 0, "nothing was written"
    harness.server.received.clear()
    again = harness.run(check_judge=True, judge_must_tell=10)
    assert (again.state, harness.server.count()) == ("failed", 0), "it is remembered"
    assert harness.run(check_judge=True, judge_must_tell=9).state == "finished"


def test_a_killed_check_asks_only_for_what_is_missing(harness: GenerationHarness) -> None:
    harness.server.digits = judging()
    # The budget ends the first run in the middle of the check; one request at a time, so that it is known where.
    first = harness.run(check_judge=True, budget_tokens=5000, max_concurrency=1)
    answered = asked_about(harness)
    assert first.state == "failed"
    assert 2 < answered < len(KNOWN_PAIRS)
    second = harness.run(resume=first.run_id, check_judge=True, max_concurrency=1)
    assert second.state == "finished"
    assert asked_about(harness) == len(KNOWN_PAIRS), "no answer is paid for twice"


def test_a_judge_that_keeps_another_form_is_checked_in_that(harness: GenerationHarness) -> None:
    sensible = judging("wrong number")

    def levels(prompt: str) -> str:
        if not prompt.endswith("The JSON object:"):
            return "This is a fine pair."
        digits = sensible(prompt).split()
        return json.dumps(dict(zip(("groundedness", "correctness", "usefulness"), digits, strict=True)))

    harness.server.digits = levels
    outcome = harness.run(check_judge=True)
    assert outcome.state == "finished"
    (check,) = outcome.result["judges"]
    assert (check["told"], check["misses"]) == (9, {"wrong number": 3})
    assert asked_about(harness) <= len(KNOWN_PAIRS) + 6, "the form was left on the first of them"


def test_where_no_model_can_judge_there_is_nothing_to_check(harness: GenerationHarness) -> None:
    harness.server.digits = lambda prompt: "As I said."
    outcome = harness.run(check_judge=True)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 6)
    assert outcome.result["judges"] == []
    assert outcome.result["tasks"]["check"]["cancelled"] == 1
    assert "nothing: the program's gates" in harness.events("warning")[-1]["message"]


def test_what_is_remembered_is_forgotten_with_the_words_of_the_prompt(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.server.digits = judging()
    harness.run(check_judge=True)
    key = check_key(harness.server.url, MODEL, "digits")
    assert recall_check(key) is not None
    monkeypatch.setattr("lora_tui.engine.generation.prompts._RUBRIC", "Rate it from 1 to 5.")
    assert check_key(harness.server.url, MODEL, "digits") != key
    assert check_key(harness.server.url, MODEL, "levels") != key


def test_pairs_without_an_answer_do_not_count() -> None:
    good, bad = (
        Judgement(dict.fromkeys(("judge_groundedness", "judge_correctness"), level), "", "single")
        for level in (1.0, 0.0)
    )
    canary = CANARIES[0]
    check = check_of("j", {canary.right: good, canary.spoilt: bad, CANARIES[1].spoilt: good}, 0.0)
    assert check is not None
    assert (check.told, check.of) == (1, 1)
    assert check_of("j", {canary.right: good}, 0.0) is None
