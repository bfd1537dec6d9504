"""The queue: each run exactly once, in order, one on a device; what fails or is killed does not stop the rest."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.runtime import queue as worker_module
from lora_tui.engine.runtime.context import RunContext, Stopped
from lora_tui.engine.runtime.device_lock import DeviceLock, lock_device
from lora_tui.engine.runtime.engine import Engine, Outcome
from lora_tui.engine.runtime.queue import (
    BegunRun,
    QueueWorker,
    add_run,
    add_to_queue,
    device_for,
    stop_and_go_on_later,
)
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.store import queue, runs
from lora_tui.store.connection import Store
from lora_tui.store.queue import QueueEntry
from lora_tui.store.rows import Run
from tests.engine.conftest import EngineHarness
from tests.store.store_fixtures import list_runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_TUI_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(worker_module, "devices_here", lambda: ("cpu",))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the jobs of modes do: a coroutine a mode."""
    found: dict[str, Any] = {}
    monkeypatch.setattr("lora_tui.engine.runtime.engine.load_job", lambda mode: found[mode])
    return found


def add(harness: EngineHarness, mode: str = "train", **changes: Any) -> int:
    """Add a run to the queue, as another program would."""

    async def put(store: Store) -> int:
        async with store.transaction() as t:
            settings = with_values(Settings(), {key.replace("__", "."): value for key, value in changes.items()})
            return await add_to_queue(t, mode, settings, {})

    number: int = harness.ask(put)
    return number


def begin_next(engine: Engine, device: str = "auto") -> BegunRun | None:
    return engine.call(QueueWorker(engine, device).begin_next()).result(timeout=60)


def work(engine: Engine) -> list[Outcome]:
    """Work until nothing can begin."""
    outcomes = []
    while (begun := begin_next(engine)) is not None:
        outcomes.append(begun.ending.result(timeout=60))
    return outcomes


def waiting(harness: EngineHarness) -> list[int]:
    found: list[QueueEntry] = harness.ask(queue.entries)
    return [entry.run_id for entry in found]


async def change(store: Store, what: Callable[..., Any], *arguments: Any) -> Any:
    async with store.transaction() as t:
        return await what(t, *arguments)


def test_a_failure_does_not_stop_the_rest(engine_harness: EngineHarness, jobs: dict[str, Any]) -> None:
    ran: list[tuple[int, float]] = []

    async def train(ctx: RunContext) -> dict[str, Any]:
        ran.append((ctx.run_id, ctx.settings.fine_tuning.optimizer.lora_lr))
        if len(ran) == 2:
            raise LoraTuiError("The file is gone.")
        if len(ran) == 3:
            raise ZeroDivisionError("a bug of ours")
        return {}

    jobs["train"] = train
    rates = [1e-4, 2e-4, 3e-4, 4e-4]
    numbers = [add(engine_harness, fine_tuning__optimizer__lora_lr=rate) for rate in rates]
    assert [outcome.state for outcome in work(engine_harness.engine)] == ["finished", "failed", "failed", "finished"]
    assert ran == list(zip(numbers, rates, strict=True)), "each with the settings that it was added with"
    assert waiting(engine_harness) == []


def test_two_processes_at_one_queue_never_take_the_same_run(
    engine_harness: EngineHarness,
    new_engine_harness: Callable[[Path, Settings], EngineHarness],
    jobs: dict[str, Any],
) -> None:
    ran: list[int] = []

    async def generate(ctx: RunContext) -> dict[str, Any]:
        ran.append(ctx.run_id)
        await asyncio.sleep(0.01)
        return {}

    jobs["generate"] = generate
    other = new_engine_harness(engine_harness.folder, engine_harness.settings)
    numbers = [add(engine_harness, "generate") for _ in range(12)]
    # The same entry, in both hands at once:
    first = engine_harness.ask(queue.entries)[0]
    taken = [one.engine.call(queue.take(one.engine.open_store, first, "")) for one in (engine_harness, other)]
    assert sorted(one.result(timeout=60) for one in taken) == [False, True]

    async def both() -> None:
        engines = (engine_harness.engine, other.engine)

        async def one(engine: Engine) -> None:
            while (begun := await asyncio.wrap_future(engine.call(QueueWorker(engine).begin_next()))) is not None:
                await asyncio.wrap_future(begun.ending)

        await asyncio.gather(*map(one, engines))

    asyncio.run(both())
    assert sorted(ran) == numbers[1:], "all but the one that was only taken"


def test_one_run_at_a_time_on_a_device(engine_harness: EngineHarness, jobs: dict[str, Any]) -> None:
    async def until_stopped(ctx: RunContext) -> dict[str, Any]:
        await ctx.stop_async.wait()
        raise Stopped

    jobs["train"] = jobs["generate"] = until_stopped
    first, second, remote = add(engine_harness), add(engine_harness), add(engine_harness, "generate")
    begun = [begin_next(engine_harness.engine) for _ in range(3)]
    assert [one and one.run_id for one in begun] == [first, remote, None], "a writer elsewhere needs no device"
    engine_harness.engine.stop(first)
    assert begun[0] is not None
    assert begun[0].ending.result(timeout=60).state == "stopped"
    third = begin_next(engine_harness.engine)
    assert third is not None
    assert third.run_id == second
    for one in (begun[1], third):
        assert one is not None
        engine_harness.engine.stop(one.run_id)
        one.ending.result(timeout=60)
    assert waiting(engine_harness) == [], "a run that somebody stops is not begun again"


def test_runs_are_spread_over_the_devices_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "devices_here", lambda: ("cuda:0", "cuda:1"))

    def entry(device: str = "auto", mode: str = "train", writer: str = "gpt-4", parallel: str = "none") -> QueueEntry:
        return QueueEntry(1, mode, "waiting", device, parallel, writer, None, "", 0, False)

    assert device_for(entry(), "auto", []) == "cuda:0"
    assert device_for(entry(), "auto", ["cuda:0"]) == "cuda:1"
    assert device_for(entry(), "auto", ["cuda:0", "cuda:1"]) is None
    assert device_for(entry(), "cuda:1", ["cuda:0"]) == "cuda:1", "who works it for one device gives it that one"
    assert device_for(entry(), "cuda", ["cuda:1"]) == "cuda:0"
    assert device_for(entry("cuda:1"), "cuda:0", []) is None, "and leaves those of another device alone"
    assert device_for(entry("cuda"), "auto", ["cuda:0"]) is None
    assert device_for(entry("cpu"), "auto", ["cuda:0"]) == "cpu"
    assert device_for(entry(), "auto", [None]) is None, "a run that has not said where it computes may be anywhere"
    assert device_for(entry(parallel="auto"), "auto", []) == queue.ALL_DEVICES
    assert device_for(entry(parallel="ddp"), "auto", ["cuda:1"]) is None, "it is divided among all of them"
    assert device_for(entry(parallel="auto"), "cuda:1", ["cuda:0"]) == "cuda:1"
    assert device_for(entry(parallel="ddp"), "cuda:1", []) is None
    assert device_for(entry(), "auto", [queue.ALL_DEVICES]) is None
    assert device_for(entry(mode="generate"), "auto", [None]) == ""
    assert device_for(entry(mode="generate", writer="builtin"), "auto", ["cuda:0"]) == "cuda:1"


def test_a_gpu_that_another_store_trains_on_is_waited_for(
    engine_harness: EngineHarness, jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def train(ctx: RunContext) -> dict[str, Any]:
        return {}

    jobs["train"] = train
    monkeypatch.setattr(worker_module, "devices_here", lambda: ("cuda:0", "cuda:1"))
    add(engine_harness, fine_tuning__device="cuda:1")
    lock = lock_device("cuda:1", "run 9 of another store")
    assert isinstance(lock, DeviceLock)
    assert begin_next(engine_harness.engine) is None
    lock.release()
    assert [one.state for one in work(engine_harness.engine)] == ["finished"]


def test_the_order_can_be_changed_and_runs_taken_out(engine_harness: EngineHarness, jobs: dict[str, Any]) -> None:
    first, second, third, fourth = (add(engine_harness) for _ in range(4))
    assert engine_harness.ask(change, queue.move, fourth, -1)
    assert engine_harness.ask(change, queue.move, first, 1)
    assert waiting(engine_harness) == [second, first, fourth, third]
    assert not engine_harness.ask(change, queue.move, second, -1), "it is the first"
    assert engine_harness.ask(change, queue.remove, first)
    assert waiting(engine_harness) == [second, fourth, third]
    assert engine_harness.ask(runs.get, first) is None
    assert not engine_harness.ask(change, queue.remove, first)


def test_leaving_the_queue_stops_the_run_and_the_next_process_goes_on_with_it(
    engine_harness: EngineHarness, jobs: dict[str, Any]
) -> None:
    seen: list[bool] = []

    async def train(ctx: RunContext) -> dict[str, Any]:
        seen.append(ctx.resumed)
        if len(seen) == 1:
            await ctx.stop_async.wait()
            raise Stopped
        return {}

    jobs["train"] = train
    number = add(engine_harness)
    begun = begin_next(engine_harness.engine)
    assert begun is not None
    engine_harness.engine.call(stop_and_go_on_later(engine_harness.engine, number)).result(timeout=60)
    assert begun.ending.result(timeout=60).state == "stopped"
    assert waiting(engine_harness) == [number]
    assert [(one.run_id, one.state) for one in work(engine_harness.engine)] == [(number, "finished")]
    assert seen == [False, True]


def test_a_run_that_somebody_goes_on_with_and_stops_does_not_begin_again(
    engine_harness: EngineHarness, jobs: dict[str, Any]
) -> None:
    async def train(ctx: RunContext) -> dict[str, Any]:
        await ctx.stop_async.wait()
        raise Stopped

    jobs["train"] = train
    number = add(engine_harness)
    begun = begin_next(engine_harness.engine)
    assert begun is not None
    engine_harness.engine.call(stop_and_go_on_later(engine_harness.engine, number)).result(timeout=60)
    assert begun.ending.result(timeout=60).state == "stopped"
    assert waiting(engine_harness) == [number]
    _, ending = engine_harness.engine.submit("train", Settings(), {}, number)
    engine_harness.engine.stop(number)
    assert ending.result(timeout=60).state == "stopped"
    assert waiting(engine_harness) == []


WORKER = """
import asyncio, os, signal, sys
from pathlib import Path
from lora_tui.engine.runtime import engine as module
from lora_tui.engine.runtime.engine import Engine
from lora_tui.engine.runtime.queue import QueueWorker

log = Path(sys.argv[2])

async def job(ctx):
    with log.open("a") as file:
        file.write(f"begin {ctx.run_id} {ctx.resumed}\\n")
    ctx.emit("step", step=1, steps=2, epoch=1.0, loss=1.0, lr=1.0, grad_norm=1.0, tokens=1, tokens_per_s=1.0,
             seconds=1.0, memory_mb=1.0, eta_s=0.0)
    await ctx.flush()
    if int(sys.argv[3]) == ctx.run_id:
        os.kill(os.getpid(), signal.SIGKILL)
    with log.open("a") as file:
        file.write(f"end {ctx.run_id}\\n")
    return {}

module.load_job = lambda mode: job
engine = Engine(Path(sys.argv[1]))
engine.start()
while (begun := engine.call(QueueWorker(engine).begin_next()).result()) is not None:
    begun.ending.result()
engine.close()
"""


def test_eight_runs_with_the_power_off_in_between_run_once_each(engine_harness: EngineHarness, tmp_path: Path) -> None:
    numbers = [add(engine_harness) for _ in range(8)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    statuses = []
    for victim in (numbers[2], 0):
        command = [sys.executable, "-c", WORKER, str(engine_harness.store_path), str(tmp_path / "log"), str(victim)]
        statuses.append(subprocess.run(command, env=environment, timeout=120).returncode)
    assert statuses == [-9, 0]
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if line.startswith("end")] == [f"end {number}" for number in numbers]
    begun = [line for line in lines if line.startswith("begin")]
    wanted = [f"begin {number} False" for number in numbers]
    assert begun == [*wanted[:3], f"begin {numbers[2]} True", *wanted[3:]]
    assert {run.state for run in engine_harness.ask(list_runs)} == {"finished"}


def test_a_run_that_kills_its_process_again_and_again_is_given_up(
    engine_harness: EngineHarness, jobs: dict[str, Any]
) -> None:
    ran: list[int] = []

    async def train(ctx: RunContext) -> dict[str, Any]:
        ran.append(ctx.run_id)
        return {}

    jobs["train"] = train
    bad, good = add(engine_harness), add(engine_harness)

    async def lose_its_process(store: Store) -> None:
        async with store.transaction() as t:
            await t.execute("UPDATE runs SET state='interrupted' WHERE id=?", (bad,))

    for _ in range(queue.MOST_TRIES):
        entry = engine_harness.ask(queue.entries)[0]
        assert engine_harness.ask(queue.take, entry, "cpu")
        engine_harness.ask(lose_its_process)
    assert [(one.run_id, one.state) for one in work(engine_harness.engine)] == [(good, "finished")]
    given_up: Run = engine_harness.ask(runs.get, bad)
    assert given_up.state == "failed"
    assert "lost 3 times" in (given_up.error or "")


def test_a_run_begun_in_another_folder_finds_its_files(
    engine_harness: EngineHarness, jobs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[str, str, str, str]] = []

    async def train(ctx: RunContext) -> dict[str, Any]:
        tuning = ctx.settings.fine_tuning
        save_dir, said = tuning.training.save_dir, tuning.preferences.data_file
        found.append((tuning.train_data_file, save_dir, tuning.model_name, said))
        return {}

    jobs["train"] = train
    changes = {"fine_tuning__train_data_file": "pairs.txt", "fine_tuning__model_name": "org/model"}
    changes["fine_tuning__preferences__data_file"] = "said.jsonl"
    add(engine_harness, **changes)
    add(engine_harness, **changes)
    begun = begin_next(engine_harness.engine)
    assert begun is not None
    begun.ending.result(timeout=60)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    work(engine_harness.engine)
    assert worker_module._rebased_options({"adapter": "run-3", "train_data_file": "hf:a/b:c"}, tmp_path) == {
        "adapter": "run-3",
        "train_data_file": "hf:a/b:c",
    }
    here = ("pairs.txt", "checkpoints", "org/model", "said.jsonl")
    there = (str(tmp_path / "pairs.txt"), str(tmp_path / "checkpoints"), "org/model", str(tmp_path / "said.jsonl"))
    assert found == [here, there]


def test_a_store_from_elsewhere_runs_no_command_and_sends_no_key(
    engine_harness: EngineHarness, jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs["generate"] = lambda ctx: pytest.fail("it has begun")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc123def456ghi789jkl012mno345pq")
    key = {
        "data_generation__api_key_env": "AWS_SECRET_ACCESS_KEY",
        "data_generation__base_url": "https://evil.example/v1",
    }
    add(engine_harness, "generate", **key)
    add(engine_harness, "generate", data_generation__extractors={"xyz": "touch /tmp/ran"})
    first, second = work(engine_harness.engine)
    assert (first.state, second.state) == ("failed", "failed")
    assert "AWS_SECRET_ACCESS_KEY" in (first.error or "")
    assert "touch /tmp/ran" in (second.error or "")


def test_whoever_adds_a_run_has_agreed_to_each_of_its_endpoints(
    engine_harness: EngineHarness, jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def generate(ctx: RunContext) -> dict[str, Any]:
        return {}

    jobs["generate"] = generate
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc123def456ghi789jkl012mno345pq")
    urls = ["https://one.example/v1", "https://two.example/v1"]
    key = {"data_generation.api_key_env": "AWS_SECRET_ACCESS_KEY", "data_generation.base_urls": urls}
    settings = with_values(Settings(), key)
    engine_harness.ask(lambda store: add_run(store, "generate", settings, {}))
    (ended,) = work(engine_harness.engine)
    assert (ended.state, ended.error) == ("finished", None)


def test_settings_that_do_not_fit_this_version_fail_alone(engine_harness: EngineHarness, jobs: dict[str, Any]) -> None:
    async def train(ctx: RunContext) -> dict[str, Any]:
        return {}

    jobs["train"] = train
    odd, good = add(engine_harness), add(engine_harness)

    async def spoil(store: Store) -> None:
        async with store.transaction() as t:
            await t.execute(
                "UPDATE runs SET settings=json_set(settings, '$.fine_tuning.lora.r', 'many') WHERE id=?", (odd,)
            )

    engine_harness.ask(spoil)
    ended = {one.run_id: one.state for one in work(engine_harness.engine)}
    assert ended == {odd: "failed", good: "finished"}
    assert "fine_tuning.lora.r" in (engine_harness.ask(runs.get, odd).error or "")


def test_modes_that_do_not_end_by_themselves_are_not_queued(engine_harness: EngineHarness) -> None:
    with pytest.raises(UsageError, match="A serve run does not wait"):
        add(engine_harness, "serve")
