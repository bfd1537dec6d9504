"""A run that is stopped or killed goes on where it was, and pays for no answered call twice."""

import time
from collections import Counter

import pytest

from lora_tui.engine.generation import pipeline
from lora_tui.engine.runtime.engine import Engine
from tests.engine.generation.generation_harness import KEY, GenerationHarness
from tests.engine.generation.live_run import wait_for
from tests.engine.generation.test_generation_run import check_the_books
from tests.openai_server import MODEL, http, made_up_text, pair_of_sentence


def test_a_killed_run_goes_on_and_repeats_only_what_was_in_flight(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.server.delay = 0.03
    values = {"total_examples": 40, "num_examples_per_file": 4, "max_concurrency": 4}
    with harness.killed_process(**values):
        wait_for(lambda: harness.server.count("judge", "ok") >= 15)
    answered_before = harness.value("SELECT COUNT(*) FROM attempts WHERE status='ok'")
    in_flight = harness.value("SELECT COUNT(*) FROM attempts WHERE status='sent'")
    accepted_before = harness.value("SELECT COUNT(*) FROM pairs WHERE state='accepted'")
    assert accepted_before >= 10
    assert 0 < in_flight <= 8
    run_id = harness.value("SELECT id FROM runs")
    harness.server.delay = 0.0
    outcome = harness.run(resume=run_id, **values)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 40)
    assert outcome.result["attempts"]["lost"] == in_flight
    assert outcome.result["attempts"]["ok"] > answered_before
    assert outcome.result["unknown_calls"] == in_flight
    (warned,) = [event["message"] for event in harness.events("warning") if "cut off" in event["message"]]
    assert f"{in_flight} call" in warned, "that their outcome is not known is said"
    assert f"up to {outcome.result['unknown_tokens_up_to']:,} tokens" in warned
    assert {model for (model,) in harness.rows("SELECT DISTINCT model FROM attempts WHERE status='ok'")} == {MODEL}
    check_the_books(harness)
    judged = Counter(between_pair(one.body) for one in harness.server.received if one.kind == "judge")
    assert sum(count - 1 for count in judged.values()) <= in_flight
    stored = harness.value(
        "SELECT COUNT(*) FROM attempts JOIN tasks ON tasks.id=task_id WHERE status='ok' AND kind='judge'"
    )
    assert stored == harness.value("SELECT COUNT(*) FROM decisions WHERE score IS NOT NULL")


def between_pair(body: dict[str, object]) -> str:
    messages = body["messages"]
    assert isinstance(messages, list)
    return str(messages[1]["content"]).split("BEGIN PAIR")[1].split("\n", 1)[1].split("\nEND PAIR")[0]


def test_a_stop_keeps_what_was_paid_for_and_the_rest_is_resumed(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.server.delay = 0.05
    engine = Engine(harness.store)
    engine.start()
    values = {"total_examples": 40, "num_examples_per_file": 4}
    try:
        run_id, future = engine.submit("generate", harness.settings(**values))
        wait_for(lambda: harness.server.count("judge") >= 6)
        asked_at = time.monotonic()
        engine.stop(run_id)
        outcome = future.result(timeout=300)
    finally:
        engine.close()
    assert time.monotonic() - asked_at < 10
    assert outcome.state == "stopped"
    assert outcome.result["reason"] == "stopped"
    assert 0 < outcome.result["accepted"] < 40
    assert outcome.result["attempts"] == {"ok": len(harness.server.received)}, (
        "what was in flight was answered and kept"
    )
    check_the_books(harness)
    harness.server.delay = 0.0
    resumed = harness.run(resume=run_id, **values)
    assert (resumed.state, resumed.result["accepted"]) == ("finished", 40)
    judged = Counter(between_pair(one.body) for one in harness.server.received if one.kind == "judge")
    assert max(judged.values()) == 1
    assert resumed.result["calls"] == len(harness.server.received)
    check_the_books(harness)


def test_a_stop_does_not_wait_for_a_call_that_sleeps_before_its_next_try(harness: GenerationHarness) -> None:
    harness.server.next_faults.extend([None] + [http(500, "later", retry_after="30")] * 50)
    engine = Engine(harness.store)
    engine.start()
    try:
        run_id, future = engine.submit("generate", harness.settings())
        wait_for(lambda: harness.server.count(outcome="http") >= 2)
        begun = time.monotonic()
        engine.stop(run_id)
        assert future.result(timeout=300).state == "stopped"
    finally:
        engine.close()
    assert time.monotonic() - begun < 15
    assert harness.value("SELECT COUNT(*) FROM tasks WHERE state='dead'") == 0


def test_nothing_is_sent_after_the_stop(harness: GenerationHarness) -> None:
    harness.server.delay = 0.3
    engine = Engine(harness.store)
    engine.start()
    try:
        run_id, future = engine.submit("generate", harness.settings(max_concurrency=1))
        wait_for(lambda: len(harness.server.received) == 1)
        engine.stop(run_id)
        assert future.result(timeout=300).state == "stopped"
    finally:
        engine.close()
    assert len(harness.server.received) == 1


def test_a_pair_that_was_decided_while_the_run_stood_still_is_not_judged(harness: GenerationHarness) -> None:
    harness.server.kind_faults["judge"] = http(401, "no more")
    outcome = harness.run()
    waiting = harness.value("SELECT COUNT(*) FROM pairs WHERE state='waiting'")
    assert (outcome.exit_status, outcome.result["waiting"]) == (3, waiting)
    assert waiting > 0
    harness.change("UPDATE pairs SET state='rejected', reason='a person said so', cause='person'")
    harness.server.kind_faults.clear()
    harness.run(resume=outcome.run_id)
    assert harness.value("SELECT COUNT(*) FROM pairs WHERE reason='a person said so'") == waiting
    assert harness.value("SELECT COUNT(*) FROM tasks WHERE reason LIKE '%decided in the meantime%'") == waiting


def test_a_call_that_is_not_answered_in_the_grace_is_cancelled_and_counted(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "STOP_GRACE", 0.2)
    harness.server.delays.extend([0.0, 8.0, 8.0, 8.0])
    engine = Engine(harness.store)
    engine.start()
    try:
        run_id, future = engine.submit("generate", harness.settings(timeout=20))
        wait_for(lambda: len(harness.server.received) >= 3)
        engine.stop(run_id)
        outcome = future.result(timeout=300)
    finally:
        engine.close()
    assert outcome.state == "stopped"
    assert outcome.result["attempts"]["cancelled"] >= 1
    assert outcome.result["unknown_calls"] == outcome.result["attempts"]["cancelled"]
    assert harness.value("SELECT COUNT(*) FROM tasks WHERE state='pending'") >= 1
    check_the_books(harness)


def test_an_analysis_that_was_cut_off_is_made_up_for(harness: GenerationHarness) -> None:
    outcome = harness.run(total_examples=12, max_concurrency=1)
    assert outcome.result["analyses"] == 2
    harness.change("UPDATE runs SET state='interrupted'")
    harness.change("UPDATE tasks SET state='pending' WHERE kind='analyse' AND key='10'")
    harness.change("DELETE FROM analyses WHERE at_accepted=10")
    before = harness.server.count("analyse")
    harness.run(resume=outcome.run_id, total_examples=12)
    assert harness.server.count("analyse") == before + 1
    assert sorted(at for (at,) in harness.rows("SELECT at_accepted FROM analyses")) == [5, 10]


def test_resuming_a_run_that_has_what_it_wanted_asks_nothing(harness: GenerationHarness) -> None:
    outcome = harness.run(total_examples=5)
    asked_before = len(harness.server.received)
    # As after a crash between the last verdict and the end of the run.
    harness.change("UPDATE runs SET state='interrupted'")
    again = harness.run(resume=outcome.run_id, total_examples=5)
    assert (again.state, again.result["accepted"]) == ("finished", 5)
    assert len(harness.server.received) == asked_before


def reworded(passage: str, number: int) -> dict[str, str]:
    pair = pair_of_sentence(passage, number)
    return pair | {"question": pair["question"].replace("What is", "What's")}


def test_a_resumed_run_knows_what_it_asked_before(harness: GenerationHarness) -> None:
    outcome = harness.run(total_examples=4)
    harness.change("UPDATE runs SET state='interrupted'")
    old = [question for (question,) in harness.rows("SELECT question FROM pairs WHERE state='accepted'")]
    harness.server.reset(KEY)  # it begins again with the first sentence of each passage, in slightly other words
    harness.server.pair_of = reworded
    again = harness.run(resume=outcome.run_id, total_examples=9)
    assert again.result["accepted"] == 9
    assert again.result["reasons"]["near duplicate"] >= 3
    first = next(one for one in harness.server.received if one.kind == "generate")
    assert any(question in first.body["messages"][1]["content"] for question in old)
