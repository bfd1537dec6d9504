"""What watchers ask of a run: honoured in its phase, answered with a reason elsewhere, never left open."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lora_tui.engine.runtime.commands import Commands
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import LoraTuiError
from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import Command
from tests.engine.conftest import EngineHarness
from tests.engine.test_engine_life import until_stopped, wait_for

Job = Callable[[RunContext], Awaitable[dict[str, Any]]]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a function be the job of a mode."""

    jobs: dict[str, Job] = {}
    monkeypatch.setattr("lora_tui.engine.runtime.engine.load_job", jobs.__getitem__)

    def use(function: Job, mode: str = "train") -> None:
        jobs[mode] = function

    return use


def outcome_of(engine_harness: EngineHarness, number: int, seconds: float = 60.0) -> str:
    """The outcome of a command, once it is answered."""

    async def outcome(store: Store) -> str | None:
        found: str | None = await store.value("SELECT outcome FROM commands WHERE id=?", (number,))
        return found

    return str(wait_for(lambda: engine_harness.ask(outcome), seconds))


def honouring(kind: str, heard: list[str], **more: Any) -> Job:
    """A job that honours a command until it is stopped."""

    async def obey() -> str:
        heard.append(kind)
        return "done"

    async def work(ctx: RunContext) -> dict[str, Any]:
        with ctx.commands.handling({kind: obey}):
            ctx.emit("note", message="under way")
            await asyncio.wait([asyncio.ensure_future(ctx.stop_async.wait())], timeout=more.get("seconds"))
        ctx.emit("note", message="over")
        await ctx.stop_async.wait()
        return {}

    return work


def test_a_command_is_obeyed_within_half_a_second(engine_harness: EngineHarness, job: Callable[..., None]) -> None:
    heard: list[str] = []
    job(honouring("checkpoint", heard))
    run_id, future = engine_harness.start("train")
    wait_for(lambda: engine_harness.events(run_id, "note"))
    took = []
    for _ in range(3):
        asked_at = time.monotonic()
        number = engine_harness.ask(events.send_command, run_id, "checkpoint")
        assert outcome_of(engine_harness, number) == "done"
        took.append(time.monotonic() - asked_at)
    assert min(took) < 0.6, "each was asked right after a look, so the quickest waited for a whole pause between two"
    assert heard == ["checkpoint"] * 3, "each of them once"
    engine_harness.engine.stop(run_id)
    future.result(timeout=300)


@pytest.mark.parametrize(
    ("mode", "kind", "outcome"),
    [
        ("train", "pause", "pause means nothing to a run of mode train"),
        ("train", "recount", "recount means nothing to a run of mode train"),
        ("generate", "checkpoint", "checkpoint means nothing to a run of mode generate"),
        ("evaluate", "continue", "continue means nothing to a run of mode evaluate"),
        ("train", "dance", "unknown command dance"),
        ("quickstart", "checkpoint", "not now: the run is not training"),
        ("quickstart", "pause", "not now: it writes no pairs"),
        ("train", "checkpoint", "not now: the run is not training"),
    ],
)
def test_what_does_not_fit_is_answered_with_the_reason_and_the_run_goes_on(
    engine_harness: EngineHarness, job: Callable[..., None], mode: str, kind: str, outcome: str
) -> None:
    job(until_stopped, mode)
    run_id, future = engine_harness.start(mode)
    wait_for(lambda: engine_harness.events(run_id, "note"))
    asked_at = time.monotonic()
    assert outcome_of(engine_harness, engine_harness.ask(events.send_command, run_id, kind)) == outcome
    assert time.monotonic() - asked_at < 10.0
    assert engine_harness.ask(runs.get, run_id).state == "running"
    engine_harness.engine.stop(run_id)
    assert future.result(timeout=300).state == "stopped"


@pytest.mark.parametrize("begins", [True, False])
def test_a_command_that_comes_too_early_waits_for_one_poll(begins: bool) -> None:
    async def obey() -> str:
        return "done"

    async def polls() -> list[str | None]:
        commands = Commands("quickstart")
        early = Command(7, 1, "pause", {})
        first = await commands.handle(early, last=False)
        with commands.handling({"pause": obey} if begins else {}):
            return [first, await commands.handle(early, last=False)]

    assert asyncio.run(polls()) == [None, "done" if begins else "not now: it writes no pairs"]


def test_a_command_that_comes_after_its_phase_is_not_obeyed(
    engine_harness: EngineHarness, job: Callable[..., None]
) -> None:
    heard: list[str] = []
    job(honouring("pause", heard, seconds=0.05), "quickstart")
    run_id, future = engine_harness.start("quickstart")
    wait_for(lambda: len(engine_harness.events(run_id, "note")) == 2)
    assert (
        outcome_of(engine_harness, engine_harness.ask(events.send_command, run_id, "pause"))
        == "not now: it writes no pairs"
    )
    assert heard == []
    engine_harness.engine.stop(run_id)
    future.result(timeout=300)


def test_a_command_that_fails_says_why_and_does_not_end_the_run(
    engine_harness: EngineHarness, job: Callable[..., None]
) -> None:
    async def obey() -> str:
        raise LoraTuiError("the disk is full")

    async def work(ctx: RunContext) -> dict[str, Any]:
        with ctx.commands.handling({"checkpoint": obey}):
            return await until_stopped(ctx)

    job(work)
    run_id, future = engine_harness.start("train")
    assert (
        outcome_of(engine_harness, engine_harness.ask(events.send_command, run_id, "checkpoint"))
        == "failed: the disk is full"
    )
    assert engine_harness.ask(runs.get, run_id).state == "running"
    engine_harness.engine.stop(run_id)
    future.result(timeout=300)


def test_what_is_asked_in_the_last_moment_is_answered_when_the_run_has_ended(
    engine_harness: EngineHarness, job: Callable[..., None]
) -> None:
    states: list[str] = []

    async def work(ctx: RunContext) -> dict[str, Any]:
        async def obey() -> str:
            run = await runs.get(ctx.store, ctx.run_id)
            assert run is not None
            states.append(run.state)
            return "done"

        ctx.commands.handle_until_end("recount", obey)
        for kind in ("recount", "pause", "stop", "checkpoint"):
            await events.send_command(ctx.store, ctx.run_id, kind)
        return {}

    async def outcomes(store: Any) -> list[tuple[str, str]]:
        return list(await store.tuples("SELECT kind, outcome FROM commands ORDER BY id"))

    job(work, "generate")
    assert engine_harness.run("generate").state == "finished"
    assert engine_harness.ask(outcomes) == [
        ("recount", "done"),
        ("pause", "the run has ended"),
        ("stop", "done"),
        ("checkpoint", "checkpoint means nothing to a run of mode generate"),
    ]
    assert states == ["finished"], "who changes something from then on does not count on this process"
