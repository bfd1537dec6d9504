"""The queue in the app: worked once something was begun or queued there, to its end, also in the background."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_tui.backend import queue_loop
from lora_tui.backend.engine_backend import EngineBackend
from lora_tui.config.models import Settings
from lora_tui.engine.runtime.context import RunContext, Stopped
from lora_tui.errors import UsageError
from lora_tui.store import queue, runs
from lora_tui.store.connection import Store
from tests.store.store_fixtures import list_runs, with_store

RAN: list[int] = []


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineBackend]:
    async def train(ctx: RunContext) -> dict[str, Any]:
        RAN.append(ctx.run_id)
        if ctx.options.get("waits"):
            await ctx.stop_async.wait()
            raise Stopped
        return {}

    RAN.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_TUI_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("lora_tui.engine.runtime.engine.load_job", lambda mode: train)
    monkeypatch.setattr(queue_loop, "_POLL_SECONDS", 0.02)
    opened = EngineBackend(tmp_path / "store.db")
    yield opened
    opened.close()


def queued(backend: EngineBackend, **options: Any) -> int:
    return asyncio.run(backend.queue_run("train", Settings(), options))


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def left(store: Store) -> list[int]:
    return [entry.run_id for entry in await queue.entries(store)]


def test_what_was_queued_here_runs_and_the_process_waits_for_it(backend: EngineBackend, tmp_path: Path) -> None:
    numbers = [queued(backend) for _ in range(3)]
    outcomes = None
    while outcomes is None:
        outcomes = backend.wait(0.05)
    assert numbers == RAN
    assert {run.state for run in with_store(tmp_path / "store.db", list_runs)} == {"finished"}
    assert {outcome.run_id for outcome in outcomes} == set(numbers)


def test_what_waits_from_before_is_not_begun_by_looking(backend: EngineBackend, tmp_path: Path) -> None:
    async def put(store: Store) -> int:
        async with store.transaction() as t:
            values = Settings().model_dump(mode="json")
            return await queue.add(t, "train", values, {}, None, folder=tmp_path)

    number = with_store(tmp_path / "store.db", put)
    asyncio.run(backend.move_in_queue(number, -1))  # the engine is up
    time.sleep(0.2)
    assert RAN == []
    asyncio.run(backend.work_queue(on=True))
    until(lambda: [number] == RAN)


def test_leaving_stops_the_run_and_keeps_it_in_the_queue(backend: EngineBackend, tmp_path: Path) -> None:
    first, second = queued(backend, waits=True), queued(backend)
    until(lambda: [first] == RAN)
    backend.stop_own()
    until(lambda: backend.wait(0.05) is not None)
    assert with_store(tmp_path / "store.db", left) == [first, second]
    assert [first] == RAN


def test_turned_off_nothing_more_begins(backend: EngineBackend, tmp_path: Path) -> None:
    first, second = queued(backend, waits=True), queued(backend)
    until(lambda: [first] == RAN)
    asyncio.run(backend.work_queue(on=False))
    assert not backend.works_queue
    asyncio.run(backend.stop(first))
    until(lambda: with_store(tmp_path / "store.db", lambda store: runs.get(store, first)).state == "stopped")
    time.sleep(0.1)
    assert [first] == RAN
    asyncio.run(backend.work_queue(on=True))
    until(lambda: [first, second] == RAN)


def test_a_copy_has_the_settings_of_the_other_and_a_sweep_its_points(backend: EngineBackend, tmp_path: Path) -> None:
    first = queued(backend, note="kept")
    copy = asyncio.run(backend.queue_copy(first))
    swept = asyncio.run(backend.queue_sweep("fine_tuning.lora.r=4,8", Settings(), {}))
    until(lambda: [first, copy, *swept] == RAN)
    until(lambda: backend.wait(0.05) is not None)
    found = {run.id: run for run in with_store(tmp_path / "store.db", list_runs)}
    assert found[copy].options == {"note": "kept"}
    assert [found[number].settings["fine_tuning"]["lora"]["r"] for number in swept] == [4, 8]
    with pytest.raises(UsageError, match="one run alone"):
        asyncio.run(backend.queue_sweep("fine_tuning.lora.r=4", Settings(), {}))
