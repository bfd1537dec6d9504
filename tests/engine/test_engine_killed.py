"""A process that is killed with its run under way: the next one sees that, and may go on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.runtime.context import RunContext
from lora_tui.store import events, runs
from tests.engine.conftest import EngineHarness
from tests.store.store_fixtures import list_runs

ROOT = Path(__file__).parents[2]

OWNER = """
import asyncio, sys
from pathlib import Path
from lora_tui.config.models import Settings
from lora_tui.engine.runtime import engine
from lora_tui.engine.runtime.engine import Engine

async def job(ctx):
    await ctx.take_device("cpu")
    ctx.emit("note", message="under way")
    await ctx.flush()
    print(ctx.run_id, flush=True)
    await asyncio.sleep(60)

engine.load_job = lambda mode: job
owner = Engine(Path(sys.argv[1]))
owner.start()
owner.submit("train", Settings())[1].result()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int]]]:
    """Start another process that owns a run; returns it and the run's id once the run is under way."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], int]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", OWNER, str(tmp_path / "store.db")]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def finished_job(ctx: RunContext) -> dict[str, Any]:
    await ctx.take_device("cpu")
    return {"resumed": ctx.resumed}


def test_a_killed_owner_leaves_an_interrupted_run_that_can_be_resumed(
    engine_harness: EngineHarness, owner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.runtime.engine.load_job", lambda mode: finished_job)
    process, run_id = owner()
    assert engine_harness.ask(list_runs)[0].state == "running", "its owner lives"
    refused = engine_harness.run("train")
    assert refused.error is not None
    assert f"cpu is training run {run_id} (process {process.pid}" in refused.error

    process.send_signal(signal.SIGKILL)
    process.wait()
    run = engine_harness.ask(list_runs)[1]
    assert (run.id, run.state) == (run_id, "interrupted")
    assert run.ended_at == run.heartbeat
    assert engine_harness.ask(runs.newest_resumable, ["train"]).id == run_id, "not the one that was refused the device"
    assert engine_harness.run("train").state == "finished", "its device is free again"

    _, future = engine_harness.start("train", resume=run_id)
    outcome = future.result(timeout=300)
    assert (outcome.run_id, outcome.state, outcome.result) == (run_id, "finished", {"resumed": True})
    assert engine_harness.ask(runs.get, run_id).pid == os.getpid()
    kinds = [event.kind for event in engine_harness.events(run_id)]
    assert kinds == ["started", "note", "started", "done"]


def test_a_killed_owner_that_nobody_has_collected_is_gone_all_the_same(
    engine_harness: EngineHarness, owner: Callable[..., Any]
) -> None:
    process, _ = owner()
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is dead, and still a zombie
    assert engine_harness.ask(list_runs)[0].state == "interrupted"


def test_a_killed_owners_run_can_be_resumed_without_looking_first(
    engine_harness: EngineHarness, owner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.runtime.engine.load_job", lambda mode: finished_job)
    process, run_id = owner()
    process.kill()
    process.wait()
    assert engine_harness.start("train", resume=run_id)[1].result(timeout=300).state == "finished"


def test_a_watcher_of_another_process_can_stop_a_run(engine_harness: EngineHarness, owner: Callable[..., Any]) -> None:
    _, run_id = owner()
    engine_harness.ask(events.send_command, run_id, "stop")

    async def answered(store: Any) -> Any:
        return await store.value("SELECT outcome FROM commands WHERE run_id=?", (run_id,))

    for _ in range(100):
        if engine_harness.ask(answered) == "done":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the owner has not answered")
    assert engine_harness.ask(runs.get, run_id).state == "stopping"
