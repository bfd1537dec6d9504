"""Pairs by the Batch API: one batch a round, half the price, and nothing lost or paid for twice, whenever it ends."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_tui.engine.generation.client import batch_rounds
from tests.batch_server import BatchServer
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.live_run import live_run, wait_for
from tests.engine.generation.test_generation_run import check_the_books
from tests.openai_server import MALFORMED, http, made_up_text

ANSWERED = "SELECT COUNT(*) FROM attempts WHERE status='ok' AND model LIKE '% (batch)'"


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as server:
        yield server


@pytest.fixture
def batches(tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> GenerationHarness:
    monkeypatch.setattr(batch_rounds, "_QUIET", 0.15)
    monkeypatch.setattr(batch_rounds, "_POLL_SECONDS", (0.02, 0.05))
    harness = GenerationHarness(tmp_path, server)
    harness.values |= {"batch": True, "prompt_price": 2.0, "completion_price": 8.0}
    for number in range(3):
        harness.write(f"{number}.txt", made_up_text(number, 8))
    return harness


def rows(harness: GenerationHarness) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in harness.rows("SELECT batch_id, state FROM batches ORDER BY id")]


def stop_with_a_batch_out(batches: GenerationHarness, server: BatchServer, examples: int) -> None:
    """Stop a run of so many examples whose batch is at the endpoint, which holds it."""
    server.held = True
    with live_run(batches, total_examples=examples) as run:
        wait_for(lambda: any(state == "submitted" for _, state in rows(batches)))
        run.engine.stop(run.run_id)
        run.end()


def test_a_round_is_one_batch_and_costs_half(batches: GenerationHarness, server: BatchServer) -> None:
    end = batches.run(total_examples=9)
    assert end.state == "finished", end.error
    assert end.result["accepted"] == 9
    assert 2 <= len(server.created) <= 6, "written, judged, and what was refused once more"
    first = server.batches["batch-1"]["lines"]
    assert len(first) > 2, "one call goes ahead, from which the others learn the form of a reply"
    assert all(one["endpoint"] == "/v1/chat/completions" for one in server.created)
    assert all(one["completion_window"] == "24h" for one in server.created)
    assert {state for _, state in rows(batches)} == {"completed"}
    sums = "SELECT COALESCE(SUM(2.0 * prompt_tokens + 8.0 * completion_tokens), 0) / 1e6 FROM attempts WHERE model"
    cost = batches.value(f"{sums} LIKE '% (batch)'") / 2 + batches.value(f"{sums} NOT LIKE '% (batch)'")
    assert end.result["dollars"] == pytest.approx(cost, abs=1e-6)
    told = batches.events("batch")
    assert told[-1]["state"] == "completed"
    assert told[-1]["answered"] == told[-1]["requests"]
    check_the_books(batches)


def test_a_stop_leaves_the_batch_and_a_resumed_run_collects_it(batches: GenerationHarness, server: BatchServer) -> None:
    server.held = True
    with live_run(batches, total_examples=9) as run:
        wait_for(lambda: any(state == "submitted" for _, state in rows(batches)))
        began = time.monotonic()
        run.engine.stop(run.run_id)
        first = run.end()
    assert time.monotonic() - began < 10, "nobody waits for a batch"
    assert first.state == "stopped"
    assert any("--resume 1 collects it" in note["message"] for note in batches.events("note"))
    written = len(server.batches["batch-1"]["lines"])
    server.held = False
    end = batches.run(resume=1, total_examples=9)
    assert end.state == "finished", end.error
    assert end.result["accepted"] == 9
    asked = [line for batch in server.batches.values() for line in batch["lines"]]
    assert len({line["custom_id"] for line in asked}) == len(asked)
    assert batches.value("SELECT COUNT(*) FROM batch_calls WHERE batch=1") == written
    assert batches.value(ANSWERED) == server.answered
    check_the_books(batches)


@pytest.mark.parametrize("forgotten", ["batch_id='', state='planned'", "state='submitted'"])
def test_a_process_that_was_killed_finds_its_batch_again(
    batches: GenerationHarness, server: BatchServer, forgotten: str
) -> None:
    stop_with_a_batch_out(batches, server, 6)
    batches.change(f"UPDATE batches SET {forgotten}")  # as it was before the endpoint's answer was stored
    server.held = False
    end = batches.run(resume=1, total_examples=6)
    assert end.state == "finished", end.error
    assert end.result["accepted"] == 6
    assert batches.value(ANSWERED) == server.answered
    assert not batches.rows("SELECT 1 FROM attempts WHERE status IN ('lost', 'cancelled')")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_key_that_is_refused_while_a_batch_is_out_costs_no_answer(
    batches: GenerationHarness, server: BatchServer, status: int
) -> None:
    stop_with_a_batch_out(batches, server, 6)
    server.held, server.looks_refused = False, status
    refused = batches.run(resume=1, total_examples=6)
    assert refused.state == "failed"
    assert f"HTTP {status}" in (refused.error or "")
    assert "--resume" in (refused.error or "")
    assert rows(batches) == [("batch-1", "submitted")], "its answers are still wanted"
    server.looks_refused = 0
    end = batches.run(resume=1, total_examples=6)
    assert end.state == "finished", end.error
    assert end.result["accepted"] == 6
    assert batches.value(ANSWERED) == server.answered
    assert not batches.rows("SELECT 1 FROM attempts WHERE status IN ('lost', 'cancelled')")


@pytest.mark.parametrize("while_it_runs", [True, False])
def test_the_judgement_of_a_text_is_not_that_of_the_text_after_an_edit(
    batches: GenerationHarness, server: BatchServer, while_it_runs: bool
) -> None:
    judging = (
        "SELECT pair_id FROM tasks JOIN attempts ON task_id = tasks.id JOIN batch_calls ON attempt_id = attempts.id"
        " WHERE kind='judge' AND status='sent' ORDER BY pair_id DESC"
    )

    def edit() -> None:
        pair = batches.value(judging)
        batches.change(
            "INSERT INTO pair_edits(pair_id, question, answer, question_key, at)"
            f" SELECT id, question, answer, question_key, {time.time()} FROM pairs WHERE id={pair}"
        )
        batches.change(f"UPDATE pairs SET question='What was worded anew?', question_key='anew' WHERE id={pair}")

    server.held_kind = "judge"
    with live_run(batches, total_examples=6) as run:
        wait_for(lambda: batches.rows(judging) and rows(batches)[-1][1] == "submitted")
        if while_it_runs:
            edit()
        run.engine.stop(run.run_id)
        run.end()
    if not while_it_runs:
        edit()
    server.held_kind = ""
    end = batches.run(resume=1, total_examples=6)
    assert end.state == "finished", end.error
    judged = [str(one.body) for one in server.received if one.kind == "judge"]
    assert any("What was worded anew?" in one for one in judged), "the new text was judged"
    check_the_books(batches)


def test_a_batch_that_was_never_begun_is_asked_again(batches: GenerationHarness, server: BatchServer) -> None:
    stop_with_a_batch_out(batches, server, 4)
    batches.change("UPDATE batches SET batch_id='', state='planned'")
    server.batches.clear()
    server.held = False
    end = batches.run(resume=1, total_examples=4)
    assert end.state == "finished", end.error
    assert end.result["accepted"] == 4


def test_calls_that_waited_for_their_round_when_the_process_ended_were_never_sent(
    batches: GenerationHarness, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_rounds, "_QUIET", 60.0)
    with live_run(batches, total_examples=4) as run:
        wait_for(lambda: batches.rows("SELECT 1 FROM attempts WHERE status='sent'"))
        kept = batches.rows("SELECT id FROM attempts WHERE status='sent'")
        run.engine.stop(run.run_id)
        run.end()
    for (number,) in kept:  # as a kill would have left them
        batches.change(f"UPDATE attempts SET status='sent', model=' (batch)' WHERE id={number}")
    monkeypatch.setattr(batch_rounds, "_QUIET", 0.15)
    end = batches.run(resume=1, total_examples=4)
    assert end.state == "finished", end.error
    assert end.result["unknown_calls"] == 0
    assert end.result["attempts"]["unreached"] >= len(kept)


def test_calls_of_an_expired_batch_are_asked_again_and_single_failures_counted(
    batches: GenerationHarness, server: BatchServer
) -> None:
    server.ends, server.share_answered = ["expired"], 0.5
    server.next_faults.extend([None, http(500), MALFORMED])
    end = batches.run(total_examples=8)
    assert end.state == "finished", end.error
    assert end.result["accepted"] == 8
    assert end.result["attempts"]["http_error"] >= 2
    assert end.result["attempts"]["malformed"] == 1
    assert rows(batches)[0][1] == "expired"
    check_the_books(batches)


def test_the_network_may_fail_and_no_batch_is_begun_twice(batches: GenerationHarness, server: BatchServer) -> None:
    server.faults = {"/v1/files": [503], "/v1/batches": [0]}
    end = batches.run(total_examples=4, give_up_after=30.0)
    assert end.state == "finished", end.error
    assert len({one["metadata"]["lora_tui"] for one in server.created}) == len(server.created)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ({"/v1/files": [404], "/v1/batches": []}, "knows no batches"),
        ({"/v1/files": [401], "/v1/batches": []}, "HTTP 401"),
    ],
)
def test_an_endpoint_without_batches_is_told_plainly(
    batches: GenerationHarness, server: BatchServer, script: dict[str, list[int]], said: str
) -> None:
    server.faults = script
    end = batches.run(total_examples=4)
    assert end.state == "failed"
    assert said in (end.error or "")
    assert batches.rows("SELECT status, error FROM attempts WHERE status NOT IN ('unreached', 'ok')") == []


def test_a_refused_batch_ends_the_run_with_its_reason(batches: GenerationHarness, server: BatchServer) -> None:
    server.ends = ["failed"]
    end = batches.run(total_examples=4)
    assert end.state == "failed"
    assert "Enqueued token limit reached" in (end.error or "")
    assert end.result["unknown_calls"] == 0, "nothing was charged"


def test_a_budget_is_kept_before_a_batch_leaves(batches: GenerationHarness, server: BatchServer) -> None:
    end = batches.run(total_examples=40, num_examples_per_file=20, budget_tokens=9_000)
    assert end.state == "failed"
    assert "budget" in (end.error or "")
    spent = end.result["prompt_tokens"] + end.result["completion_tokens"]
    assert 0 < spent <= 9_000
    assert end.result["waiting"] == 0, "what was written was judged"
