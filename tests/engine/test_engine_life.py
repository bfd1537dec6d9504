"""The life of a run, with jobs that do nothing but happen."""

import asyncio
import errno
import importlib
import logging
import os
import resource
import shutil
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.models import Settings
from lora_tui.engine.jobs.registry import load_job
from lora_tui.engine.runtime.context import RunContext, Stopped
from lora_tui.engine.runtime.engine import Engine
from lora_tui.errors import LoraTuiError, UnreachableError, UsageError
from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import Command, Run
from tests.engine.conftest import EngineHarness
from tests.engine.tiny import tiny_settings

Job = Callable[[RunContext], Awaitable[dict[str, Any]]]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[[Job], None]:
    """Let a function be the job of ``train``."""

    def use(function: Job) -> None:
        monkeypatch.setattr("lora_tui.engine.runtime.engine.load_job", lambda mode: function)

    return use


async def until_stopped(ctx: RunContext) -> dict[str, Any]:
    """Goes on until it is asked to stop, then saves its work."""
    ctx.emit("note", message="under way")
    await ctx.stop_async.wait()
    assert ctx.stop.is_set()
    raise Stopped({"saved": True})


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it has not happened")


def state_of(engine_harness: EngineHarness, run_id: int) -> str:
    return str(engine_harness.ask(runs.get, run_id).state)


def test_a_run_that_ends_well_is_finished_with_its_result(
    engine_harness: EngineHarness, job: Callable[[Job], None]
) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        ctx.emit("note", message="hello")
        return {"answer": 42}

    job(work)
    outcome = engine_harness.run("train", {"option": 1})
    assert (outcome.state, outcome.exit_status, outcome.result, outcome.error) == ("finished", 0, {"answer": 42}, None)
    run: Run = engine_harness.ask(runs.get, outcome.run_id)
    assert (run.mode, run.state, run.result, run.error, run.options) == (
        "train",
        "finished",
        {"answer": 42},
        None,
        {"option": 1},
    )
    assert run.started_at is not None
    assert run.ended_at is not None
    assert run.created_at <= run.started_at <= run.ended_at
    started, note, done = engine_harness.events(outcome.run_id)
    assert (started.kind, started.payload["mode"], started.payload["resumed"]) == ("started", "train", False)
    assert started.payload["config"]["fine_tuning"]["lora"]["r"] == 4
    assert (note.kind, note.payload) == ("note", {"message": "hello"})
    assert done.kind == "done"
    assert done.payload == {"status": "finished", "exit_status": 0, "result": {"answer": 42}, "error": None}


def test_a_job_may_name_its_own_state_and_exit_status(
    engine_harness: EngineHarness, job: Callable[[Job], None]
) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        return {"state": "failed", "exit_status": 1, "written": 3}

    job(work)
    outcome = engine_harness.run("train")
    assert (outcome.state, outcome.exit_status, outcome.result) == ("failed", 1, {"written": 3})


@pytest.mark.parametrize(("error", "status"), [(LoraTuiError, 1), (UsageError, 2), (UnreachableError, 3)])
def test_a_failure_that_the_user_can_mend_is_its_message_and_status(
    engine_harness: EngineHarness, job: Callable[[Job], None], error: type[LoraTuiError], status: int
) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        problem = error("the folder is empty")
        problem.result = {"accepted": 2}  # type: ignore[attr-defined]  # the engine looks for it
        raise problem

    job(work)
    outcome = engine_harness.run("train")
    assert (outcome.state, outcome.exit_status, outcome.error) == ("failed", status, "the folder is empty")
    assert outcome.result == {"accepted": 2}
    run = engine_harness.ask(runs.get, outcome.run_id)
    assert (run.state, run.error, run.result) == ("failed", "the folder is empty", {"accepted": 2})
    assert engine_harness.events(outcome.run_id, "done")[0].payload["error"] == "the folder is empty"


def test_a_run_that_another_process_has_taken_over_ends_here_and_leaves_it_alone(
    engine_harness: EngineHarness, job: Callable[[Job], None]
) -> None:
    seen = []

    async def work(ctx: RunContext) -> dict[str, Any]:
        async def take_over(store: Store) -> None:
            await runs.end(store, ctx.run_id, "stopped", None, None)
            assert await runs.take_over(store, ctx.run_id)
            await runs.start(store, ctx.run_id)

        await asyncio.to_thread(engine_harness.ask, take_over)
        await ctx.stop_async.wait()
        seen.append(ctx.lost.is_set())
        raise Stopped({"saved": True})

    job(work)
    outcome = engine_harness.run("train")
    assert (outcome.state, outcome.exit_status, seen) == ("failed", 1, [True])
    assert outcome.error is not None
    assert outcome.error.startswith("Run 1 was taken over by process ")
    assert state_of(engine_harness, outcome.run_id) == "running"
    assert not engine_harness.events(outcome.run_id, "done")


def test_a_bug_is_a_failure_whose_traceback_is_in_the_log(
    engine_harness: EngineHarness, job: Callable[[Job], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        return {"never": 1 // 0}

    job(work)
    with caplog.at_level(logging.ERROR):
        outcome = engine_harness.run("train")
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert outcome.error is not None
    assert outcome.error.startswith("Unexpected ZeroDivisionError")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_job_that_cannot_be_imported_fails_its_run_and_not_the_engine(
    engine_harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, job: Callable[[Job], None]
) -> None:
    monkeypatch.setattr(
        "lora_tui.engine.runtime.engine.load_job", lambda mode: importlib.import_module("lora_tui.no_such_module")
    )
    assert engine_harness.run("train").state == "failed"

    async def work(ctx: RunContext) -> dict[str, Any]:
        return {}

    job(work)
    assert engine_harness.run("train").state == "finished"


def test_stopping_is_a_request_that_the_job_honours(engine_harness: EngineHarness, job: Callable[[Job], None]) -> None:
    job(until_stopped)
    run_id, future = engine_harness.start("train")
    wait_for(lambda: engine_harness.events(run_id, "note"))
    assert state_of(engine_harness, run_id) == "running"
    engine_harness.engine.stop(run_id)
    outcome = future.result(timeout=300)
    assert (outcome.state, outcome.exit_status, outcome.result) == ("stopped", 0, {"saved": True})
    assert state_of(engine_harness, run_id) == "stopped"
    assert engine_harness.events(run_id, "done")[0].payload["status"] == "stopped"


def test_while_it_stops_a_run_says_so(engine_harness: EngineHarness, job: Callable[[Job], None]) -> None:
    go = threading.Event()

    async def work(ctx: RunContext) -> dict[str, Any]:
        await ctx.stop_async.wait()
        await asyncio.to_thread(go.wait)
        ctx.raise_if_stopping()
        return {}

    job(work)
    run_id, future = engine_harness.start("train")
    engine_harness.engine.stop(run_id)
    wait_for(lambda: state_of(engine_harness, run_id) == "stopping")
    go.set()
    assert future.result(timeout=300).state == "stopped"


def test_a_stop_right_after_the_start_is_not_lost(engine_harness: EngineHarness, job: Callable[[Job], None]) -> None:
    job(until_stopped)
    loop = engine_harness.engine._loop
    real = engine_harness.engine.call

    def call_and_stop(work: Any) -> Any:
        """Both requests reach the loop before it wakes up."""
        loop.call_soon_threadsafe(time.sleep, 0.2)
        time.sleep(0.1)
        future = real(work)
        engine_harness.engine.call = real  # type: ignore[method-assign]
        engine_harness.engine.stop(1)
        return future

    admit = engine_harness.engine._create_or_take_over

    async def admit_and_arm(*args: Any) -> int:
        run_id = await admit(*args)
        engine_harness.engine.call = call_and_stop  # type: ignore[method-assign]
        return run_id

    engine_harness.engine._create_or_take_over = admit_and_arm  # type: ignore[method-assign]
    _, future = engine_harness.start("train")
    assert future.result(timeout=300).state == "stopped"


def test_a_stop_asked_for_in_the_store_is_honoured_and_answered(
    engine_harness: EngineHarness, job: Callable[[Job], None]
) -> None:
    job(until_stopped)
    run_id, future = engine_harness.start("train")
    engine_harness.ask(events.send_command, run_id, "dance")
    engine_harness.ask(events.send_command, run_id, "stop")
    assert future.result(timeout=300).state == "stopped"
    wait_for(lambda: not engine_harness.ask(events.open_commands, run_id))

    async def outcomes(store: Any) -> list[tuple[str, str]]:
        return list(await store.tuples("SELECT kind, outcome FROM commands ORDER BY id"))

    assert engine_harness.ask(outcomes) == [("dance", "unknown command dance"), ("stop", "done")]


def test_the_heartbeat_is_renewed_while_a_run_lives(
    engine_harness: EngineHarness, job: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.5)
    job(until_stopped)
    run_id, future = engine_harness.start("train")
    first = engine_harness.ask(runs.get, run_id).heartbeat
    wait_for(lambda: engine_harness.ask(runs.get, run_id).heartbeat > first + 0.4)
    engine_harness.engine.stop(run_id)
    future.result(timeout=300)


def test_a_heartbeat_that_fails_once_does_not_make_the_run_deaf(
    engine_harness: EngineHarness, job: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = runs.renew_heartbeat, threading.Event()

    async def beat(store: Any, run_id: int) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("database is locked")
        await real(store, run_id)

    monkeypatch.setattr(runs, "renew_heartbeat", beat)
    job(until_stopped)
    run_id, future = engine_harness.start("train")
    assert failed.wait(60)
    engine_harness.ask(events.send_command, run_id, "stop")
    assert future.result(timeout=300).state == "stopped"


def test_events_from_any_thread_arrive_all_and_in_order(
    engine_harness: EngineHarness, job: Callable[[Job], None]
) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        def torch_work() -> None:
            for number in range(500):
                ctx.emit("note", message=str(number))

        await ctx.in_torch_thread(torch_work)
        ctx.emit("note", message="500")
        return {}

    job(work)
    outcome = engine_harness.run("train")
    assert [int(event.payload["message"]) for event in engine_harness.events(outcome.run_id, "note")] == list(
        range(501)
    )
    ids = [event.id for event in engine_harness.events(outcome.run_id)]
    assert ids == sorted(ids)


def test_emitting_never_waits_for_the_store(engine_harness: EngineHarness, job: Callable[[Job], None]) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        def emit() -> None:
            for number in range(500):
                ctx.emit("note", message=str(number))

        async with ctx.store.transaction() as t:  # the writer cannot get in: whoever waited for it would never return
            emit()
            await ctx.in_torch_thread(emit)
            stored = [event for event in await events.since(t, ctx.run_id, 0) if event.kind == "note"]
        return {"stored": len(stored)}

    job(work)
    outcome = engine_harness.run("train")
    assert outcome.result == {"stored": 0}
    assert len(engine_harness.events(outcome.run_id, "note")) == 1000


def test_what_json_cannot_say_is_stored_as_null(engine_harness: EngineHarness, job: Callable[[Job], None]) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        ctx.emit("note", value=float("nan"), deep={"list": [float("inf"), 1.5]})
        return {}

    job(work)
    outcome = engine_harness.run("train")
    assert engine_harness.events(outcome.run_id, "note")[0].payload == {"value": None, "deep": {"list": [None, 1.5]}}


def test_a_result_that_json_cannot_say_ends_the_run_all_the_same(
    engine_harness: EngineHarness, job: Callable[[Job], None]
) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        return {"loss": float("nan")}

    job(work)
    outcome = engine_harness.run("train")
    assert outcome.state == "finished"
    assert engine_harness.ask(runs.get, outcome.run_id).result == {"loss": None}


def test_a_store_that_can_no_longer_be_written_stops_the_job(
    engine_harness: EngineHarness, job: Callable[[Job], None]
) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        pages = await ctx.store.value("PRAGMA page_count")
        await ctx.store.value(f"PRAGMA max_page_count={pages}")  # the disk is full
        while not ctx.stop.is_set():
            ctx.emit("note", message="x" * 10_000)
            await asyncio.sleep(0.01)
        raise Stopped({"saved": True})

    job(work)
    outcome = engine_harness.run("train")
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert outcome.error is not None
    assert "store.db is full. Free some space, then go on with --resume" in outcome.error
    assert "full" in outcome.error


def test_a_store_that_is_gone_altogether_still_gives_an_outcome(
    engine_harness: EngineHarness, job: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("disk I/O error")

    async def work(ctx: RunContext) -> dict[str, Any]:
        monkeypatch.setattr(events, "append", broken)
        monkeypatch.setattr(runs, "end", broken)
        ctx.emit("note", message="lost")
        return {}

    job(work)
    outcome = engine_harness.run("train")
    assert outcome.state == "failed"
    assert outcome.error is not None
    assert "disk I/O error" in outcome.error


def test_torch_work_runs_on_one_thread_beside_the_loop(
    engine_harness: EngineHarness, job: Callable[[Job], None]
) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        names = [await ctx.in_torch_thread(lambda: threading.current_thread().name) for _ in range(3)]
        blocking = asyncio.ensure_future(ctx.in_torch_thread(time.sleep, 0.3))
        ticks = 0
        while not blocking.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return {"names": names, "ticks": ticks}

    job(work)
    result = engine_harness.run("train").result
    assert len(set(result["names"])) == 1
    assert result["names"][0].startswith("torch")
    assert result["ticks"] > 5


def test_a_stopped_run_is_taken_up_again_under_its_number(
    engine_harness: EngineHarness, job: Callable[[Job], None]
) -> None:
    job(until_stopped)
    run_id, future = engine_harness.start("train")
    engine_harness.engine.stop(run_id)
    future.result(timeout=300)
    engine_harness.ask(events.send_command, run_id, "stop")  # too late: it must not stop the next life

    async def work(ctx: RunContext) -> dict[str, Any]:
        await asyncio.sleep(0.7)
        return {"resumed": ctx.resumed, "stopping": ctx.stop.is_set()}

    job(work)
    again, future = engine_harness.start("train", resume=run_id)
    outcome = future.result(timeout=300)
    assert again == run_id
    assert (outcome.state, outcome.result) == ("finished", {"resumed": True, "stopping": False})
    assert [event.payload["resumed"] for event in engine_harness.events(run_id, "started")] == [False, True]
    assert engine_harness.ask(runs.get, run_id).error is None


def test_a_live_run_is_not_taken_over(engine_harness: EngineHarness, job: Callable[[Job], None]) -> None:
    job(until_stopped)
    run_id, future = engine_harness.start("train")
    with pytest.raises(UsageError, match=rf"Run {run_id} is live \(process \d+"):
        engine_harness.start("train", resume=run_id)
    engine_harness.engine.stop(run_id)
    assert future.result(timeout=300).state == "stopped"


def test_a_run_that_is_not_there_cannot_be_resumed(engine_harness: EngineHarness) -> None:
    with pytest.raises(UsageError, match="There is no run 17"):
        engine_harness.start("train", resume=17)


def test_a_store_warning_is_told_in_every_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Callable[[Job], None],
    new_engine_harness: Callable[..., EngineHarness],
) -> None:
    monkeypatch.setattr("lora_tui.store.opening._on_network", lambda path: True)

    async def work(ctx: RunContext) -> dict[str, Any]:
        return {}

    job(work)
    engine_harness = new_engine_harness(tmp_path / "network", tiny_settings())
    outcome = engine_harness.run("train")
    assert "TRUNCATE" in engine_harness.events(outcome.run_id, "warning")[0].payload["message"]


def test_one_trainer_at_a_time_on_a_device(engine_harness: EngineHarness, job: Callable[[Job], None]) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        await ctx.take_device(ctx.options["device"])
        ctx.emit("note", message="has it")
        if ctx.options.get("waits"):
            await ctx.stop_async.wait()
        return {}

    job(work)
    first, future = engine_harness.start("train", {"device": "cuda:0", "waits": True})
    wait_for(lambda: engine_harness.events(first, "note"))
    refused = engine_harness.run("train", {"device": "cuda:0"})
    assert refused.state == "failed"
    assert refused.error is not None
    assert f"cuda:0 is training run {first}" in refused.error
    assert engine_harness.run("train", {"device": "cuda:1"}).state == "finished"
    engine_harness.engine.stop(first)
    future.result(timeout=300)
    assert engine_harness.run("train", {"device": "cuda:0"}).state == "finished"


def test_a_store_that_cannot_be_opened_is_told_when_the_engine_starts(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    with pytest.raises(UsageError, match="cannot be opened for writing"):
        engine.start()
    engine.close()
    assert not engine._thread.is_alive()


def test_closing_ends_the_thread(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "store.db")
    engine.start()
    engine.close()
    assert not engine._thread.is_alive()
    assert not (tmp_path / "store.db-wal").exists(), "the last connection tidies up"


def test_open_commands_are_rows_of_a_run(engine_harness: EngineHarness, job: Callable[[Job], None]) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        return {}

    job(work)
    run_id = engine_harness.run("train").run_id
    number = engine_harness.ask(events.send_command, run_id, "stop", {"why": "tea"})
    assert engine_harness.ask(events.open_commands, run_id) == [Command(number, run_id, "stop", {"why": "tea"})]


@pytest.mark.parametrize("what", ["removed", "renamed", "renamed while it is read", "replaced", "with its folder"])
def test_a_store_that_goes_away_under_a_run_fails_it_and_nothing_is_lost(
    new_engine_harness: Callable[[Path, Settings], EngineHarness],
    tmp_path: Path,
    job: Callable[[Job], None],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    monkeypatch.setattr("lora_tui.store.runs.HEARTBEAT_SECONDS", 0.25)
    monkeypatch.setattr("lora_tui.store.opening.BUSY_TIMEOUT_MS", 300)
    readers: list[sqlite3.Connection] = []
    engine_harness = new_engine_harness(tmp_path / "folder", tiny_settings())
    path = engine_harness.store_path

    async def work(ctx: RunContext) -> dict[str, Any]:
        ctx.emit("note", message="kept")
        await ctx.flush()
        if what.startswith("renamed"):
            if what != "renamed":
                readers.append(sqlite3.connect(path, check_same_thread=False, isolation_level=None))
                readers[0].execute("BEGIN")
                readers[0].execute("SELECT * FROM runs").fetchall()
            path.rename(path.with_name("other.db"))
        elif what == "with its folder":
            shutil.rmtree(path.parent)
        else:
            for file in path.parent.glob("store.db*"):
                file.unlink()
        if what == "replaced":
            path.write_bytes(b"something else")
        ctx.emit("note", message="written after that")
        await asyncio.wait_for(ctx.stop_async.wait(), 20)
        raise Stopped({"saved": True})

    job(work)
    outcome = engine_harness.run("train")
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert outcome.error is not None
    name = "other.db" if what == "renamed" else "store.rescued-1.db"
    assert f"Go on with: lora-tui --resume 1 --store {path.with_name(name)}" in outcome.error
    rescued = EngineHarness(engine_harness.engine, path.parent, engine_harness.settings)

    async def look() -> tuple[str, list[str]]:
        async with await Store.open(rescued.folder / name) as store:
            run = await runs.get(store, 1)
            assert run is not None
            notes = [event.payload["message"] for event in await events.since(store, 1, 0) if event.kind == "note"]
            return run.state, notes

    assert asyncio.run(look()) == ("failed", ["kept", "written after that"])
    with pytest.raises(UsageError, match="removed, renamed or replaced; start lora-tui again"):
        engine_harness.start("train")
    for reader in readers:
        reader.close()


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "The disk is full (/data/x)"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (MemoryError(), "Memory ran out"),
        (RuntimeError("can't start new thread"), "no further thread"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), "Memory ran out"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), "too long for this disk (aaa)"),
    ],
)
def test_what_the_system_refuses_is_not_called_a_bug(
    engine_harness: EngineHarness, job: Callable[[Job], None], problem: Exception, said: str
) -> None:
    async def work(ctx: RunContext) -> dict[str, Any]:
        raise problem

    job(work)
    outcome = engine_harness.run("train")
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert outcome.error is not None
    assert said in outcome.error
    assert "Unexpected" not in outcome.error


@pytest.mark.parametrize(("device", "state"), [("cpu", "finished"), ("cuda:0", "failed")])
def test_a_device_is_one_runs_also_of_another_store(
    new_engine_harness: Callable[[Path, Settings], EngineHarness],
    tmp_path: Path,
    job: Callable[[Job], None],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    state: str,
) -> None:
    monkeypatch.setenv("LORA_TUI_LOCKS", str(tmp_path / "locks"))
    one, other = [new_engine_harness(tmp_path / name, tiny_settings()) for name in ("one", "other")]

    async def first(ctx: RunContext) -> dict[str, Any]:
        await ctx.take_device(device)
        await ctx.take_device(device)
        return await until_stopped(ctx)

    async def second(ctx: RunContext) -> dict[str, Any]:
        await ctx.take_device(device)
        return {}

    job(first)
    run_id, ending = one.start("train")
    wait_for(lambda: one.events(run_id, "note"))
    job(second)
    outcome = other.run("train")
    said = outcome.error or other.events(outcome.run_id, "warning")[0].payload["message"]
    assert outcome.state == state
    assert f"run 1 of {one.store_path} (process {os.getpid()})" in said
    one.engine.stop(run_id)
    ending.result(timeout=60)
    again = other.run("train")
    assert (again.state, other.events(again.run_id, "warning")) == ("finished", [])


@pytest.mark.parametrize(("megabytes", "refused"), [(680, True), (1023, True), (1024, False), (-1, False)])
def test_a_run_is_refused_the_memory_that_ends_its_libraries(
    monkeypatch: pytest.MonkeyPatch, megabytes: int, refused: bool
) -> None:
    most = megabytes << 20 if megabytes > 0 else resource.RLIM_INFINITY
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (most, most) if kind == resource.RLIMIT_AS else (1024, 1024)
    )
    with pytest.raises(LoraTuiError, match=f"may use {megabytes} MB") if refused else nullcontext():
        load_job("format")
