"""A pause: nothing leaves, what is in flight is kept, and the run goes on, ends or is taken up as if nothing was."""

import asyncio
import time
from typing import Any

import pytest

from lora_tui.engine.generation.pipeline import Pipeline
from lora_tui.engine.jobs import generate
from lora_tui.engine.runtime.context import RunContext
from lora_tui.store import events
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.live_run import live_run, on_store, wait_for
from tests.engine.generation.test_generation_run import check_the_books
from tests.openai_server import http, made_up_text, too_many


def paused_events(harness: GenerationHarness) -> list[bool]:
    return [event["paused"] for event in harness.events("paused")]


def test_nothing_leaves_while_a_run_is_paused_and_it_goes_on_when_told(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.server.delay = 0.1
    with live_run(harness, total_examples=20, num_examples_per_file=4, max_concurrency=4) as run:
        wait_for(lambda: harness.server.count("judge") >= 4)
        assert run.ask("pause") == "done"
        sent = run.wait_until_still()
        time.sleep(0.6)
        assert run.sent() == sent
        assert harness.value("SELECT state FROM runs") == "running"
        assert harness.value("SELECT COUNT(*) FROM attempts WHERE status='ok'") == sent, "what was in flight was kept"
        assert paused_events(harness) == [True]
        assert run.ask("continue") == "done"
        harness.server.delay = 0.0
        outcome = run.end()
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 20)
    assert paused_events(harness) == [True, False]
    check_the_books(harness)


def test_a_pause_is_obeyed_in_a_moment(harness: GenerationHarness) -> None:
    harness.write("three.txt", made_up_text(3, 12))
    harness.server.delay = 0.02
    with live_run(harness, total_examples=500, num_examples_per_file=8, max_concurrency=2) as run:
        wait_for(lambda: harness.server.count("judge") >= 4)
        asked_at = time.time()
        on_store(harness, events.send_command, run.run_id, "pause")
        wait_for(lambda: paused_events(harness) == [True])
        time.sleep(0.3)
        assert max(one.at for one in harness.server.received) - asked_at < 5.0, "half a second, where nothing else runs"


def test_a_call_that_waits_for_its_next_try_does_not_try_while_the_run_is_paused(harness: GenerationHarness) -> None:
    harness.server.next_faults.extend([None, http(500, retry_after="0.6")])
    with live_run(harness, max_concurrency=1) as run:
        wait_for(lambda: harness.server.count(outcome="http") == 1)
        assert run.ask("pause") == "done"
        sent = run.wait_until_still()
        time.sleep(1.2)
        assert run.sent() == sent
        run.ask("continue")
        assert run.end().result["accepted"] == 6
    check_the_books(harness)


def test_a_rate_limit_that_ends_during_a_pause_does_not_end_the_pause(harness: GenerationHarness) -> None:
    harness.server.next_faults.extend([None, None, too_many("0.6")])
    with live_run(harness, total_examples=20, num_examples_per_file=6, max_concurrency=4) as run:
        wait_for(lambda: harness.server.count(outcome="http") == 1)
        run.ask("pause")
        sent = run.wait_until_still()
        time.sleep(1.0)
        assert run.sent() == sent


def test_a_stop_ends_a_paused_run_at_once(harness: GenerationHarness) -> None:
    harness.server.delay = 0.05
    with live_run(harness, total_examples=30, num_examples_per_file=4, max_concurrency=2) as run:
        wait_for(lambda: harness.server.count("judge") >= 2)
        run.ask("pause")
        sent = run.wait_until_still()
        asked_at = time.monotonic()
        run.engine.stop(run.run_id)
        outcome = run.end()
        assert time.monotonic() - asked_at < 10.0
    assert (outcome.state, outcome.result["attempts"]) == ("stopped", {"ok": sent})
    assert run.sent() == sent
    assert paused_events(harness) == [True, False], "a run that has ended is not paused"
    check_the_books(harness)


def test_a_paused_run_does_nothing_but_wait(harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []
    real = Pipeline._apply_requests

    async def counted(self: Pipeline) -> None:
        turns.append(time.monotonic())
        await real(self)

    monkeypatch.setattr(Pipeline, "_apply_requests", counted)
    harness.server.delay = 0.05
    with live_run(harness, total_examples=30, num_examples_per_file=4, max_concurrency=2) as run:
        wait_for(lambda: harness.server.count("judge") >= 2)
        run.ask("pause")
        run.wait_until_still()
        before = len(turns)
        time.sleep(0.5)
        assert len(turns) <= before + 1


def test_what_is_no_change_is_said_and_told_to_nobody(harness: GenerationHarness) -> None:
    harness.server.delay = 0.2
    with live_run(harness, total_examples=30, num_examples_per_file=4, max_concurrency=1) as run:
        wait_for(lambda: run.sent() >= 1)
        assert run.ask("continue") == "it is not paused"
        assert run.ask("pause") == "done"
        assert run.ask("pause") == "it is paused already"
        assert paused_events(harness) == [True]


def test_a_run_can_be_paused_while_it_still_reads(harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    real = generate._read_first

    async def slowly(ctx: RunContext, *rest: Any) -> None:
        while not paused_events(harness):  # noqa: ASYNC110  # another connection writes it
            await asyncio.sleep(0.05)
        await real(ctx, *rest)

    monkeypatch.setattr(generate, "_read_first", slowly)
    with live_run(harness) as run:
        assert run.ask("pause") == "done"
        wait_for(lambda: harness.events("note"))  # it knows its folder and its model
        time.sleep(0.4)
        assert run.sent() == 0
        run.ask("continue")
        assert run.end().state == "finished"


def test_a_run_that_was_killed_while_it_was_paused_goes_on_when_it_is_taken_up(harness: GenerationHarness) -> None:
    harness.server.delay = 0.03
    values = {"total_examples": 12, "num_examples_per_file": 4, "max_concurrency": 2}
    with harness.killed_process(**values):
        wait_for(lambda: harness.server.count("judge") >= 2)
        on_store(harness, events.send_command, 1, "pause")
        wait_for(lambda: paused_events(harness) == [True])
    harness.server.delay = 0.0
    outcome = harness.run(resume=1, **values)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 12)
    assert paused_events(harness) == [True, False]
    check_the_books(harness)
