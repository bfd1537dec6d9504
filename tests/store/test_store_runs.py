"""Runs: states, owners, devices, and what can be taken up again."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import Run
from tests.store.store_fixtures import add_run, with_store


async def set_owner(store: Store, run_id: int, **columns: Any) -> None:
    async with store.transaction() as t:
        for name, value in columns.items():
            await t.execute(f"UPDATE runs SET {name}=? WHERE id=?", (value, run_id))


async def state(store: Store, run_id: int) -> str:
    run = await runs.get(store, run_id)
    assert run is not None
    return run.state


def test_a_new_run_is_queued_and_belongs_to_this_process(tmp_path: Path) -> None:
    async def work(store: Store) -> Run | None:
        return await runs.get(store, await runs.create(store, "train", {"a": {"b": [1.5]}}, {"file": "ü"}))

    run = with_store(tmp_path / "store.db", work)
    assert (run.mode, run.state, run.pid, run.host) == ("train", "queued", os.getpid(), socket.gethostname())
    assert (run.settings, run.options) == ({"a": {"b": [1.5]}}, {"file": "ü"})
    assert runs.owner_alive(run)


def test_the_states_of_a_run_follow_its_life(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        run_id = await add_run(store)
        seen = [await state(store, run_id)]
        await runs.start(store, run_id)
        seen.append(await state(store, run_id))
        await runs.mark_stopping(store, run_id)
        seen.append(await state(store, run_id))
        await runs.end(store, run_id, "stopped", {"saved": 1}, None)
        seen.append(await state(store, run_id))
        await runs.mark_stopping(store, run_id)  # too late
        return [*seen, await state(store, run_id)]

    assert with_store(tmp_path / "store.db", work) == ["queued", "running", "stopping", "stopped", "stopped"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, "running"),
        ({"pid": 2**22 + 1}, "interrupted"),  # above the largest process id
        ({"pid_started": 5.0}, "interrupted"),  # the id is in use again, by another process
        ({"host": "elsewhere", "heartbeat": 0.0}, "running"),
        ({"host": "elsewhere", "heartbeat": -3600.0}, "interrupted"),
    ],
)
def test_a_run_whose_owner_is_gone_is_interrupted(tmp_path: Path, columns: dict[str, Any], expected: str) -> None:
    if "heartbeat" in columns:  # given as seconds from now: the test may run long after it was collected
        columns = {**columns, "heartbeat": time.time() + columns["heartbeat"]}

    async def work(store: Store) -> tuple[int, str]:
        run_id = await add_run(store)
        await runs.start(store, run_id)
        await set_owner(store, run_id, **columns)
        return await runs.mark_interrupted(store), await state(store, run_id)

    assert with_store(tmp_path / "store.db", work) == (int(expected == "interrupted"), expected)


def test_a_run_that_has_ended_is_never_interrupted(tmp_path: Path) -> None:
    async def work(store: Store) -> str:
        run_id = await add_run(store)
        await runs.end(store, run_id, "finished", {}, None)
        await set_owner(store, run_id, pid=2**22 + 1)
        await runs.mark_interrupted(store)
        return await state(store, run_id)

    assert with_store(tmp_path / "store.db", work) == "finished"


def test_a_device_is_one_runs_until_that_run_ends_or_its_owner_is_gone(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int | None]:
        async def lock(run_id: int, device: str = "cuda:0") -> int | None:
            holder = await runs.lock_device(store, run_id, device)
            return None if holder is None else holder.id

        first, second, third = [await add_run(store) for _ in range(3)]
        seen = [await lock(first), await lock(first), await lock(second), await lock(second, "cuda:1")]
        await runs.end(store, first, "finished", {}, None)
        seen.append(await lock(second))
        await set_owner(store, second, pid=2**22 + 1)
        seen.append(await lock(third))
        run = await runs.get(store, third)
        assert run is not None
        assert run.device == "cuda:0"
        return seen

    assert with_store(tmp_path / "store.db", work) == [None, None, 1, None, None, None]


def test_only_one_of_two_takes_a_run_over(tmp_path: Path) -> None:
    async def work() -> list[bool]:
        path = tmp_path / "store.db"
        async with await Store.open(path) as one, await Store.open(path) as other:
            run_id = await add_run(one)
            await runs.end(one, run_id, "failed", {"a": 1}, "why")
            taken = [await runs.take_over(one, run_id), await runs.take_over(other, run_id)]
            run = await runs.get(one, run_id)
            assert run is not None
            assert (run.state, run.error, run.result, run.ended_at) == ("queued", None, None, None)
            return taken

    import asyncio

    assert asyncio.run(work()) == [True, False]


def test_the_newest_run_that_can_go_on_is_found_by_mode(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int | None]:
        ends = [("train", "stopped"), ("generate", "failed"), ("train", "finished"), ("train", "interrupted")]
        for mode, end in ends:
            await runs.end(store, await add_run(store, mode), end, None, None)
        await add_run(store)  # live
        found = [
            await runs.newest_resumable(store, modes)
            for modes in (["train"], ["generate"], ["train", "generate"], ["export"])
        ]
        return [run and run.id for run in found]

    assert with_store(tmp_path / "store.db", work) == [4, None, 4, None]


def test_a_failed_run_can_be_gone_on_with_once_it_has_done_something(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int | None]:
        refused, worked = await add_run(store, "train"), await add_run(store, "train")
        step = {"epoch": 1.0, "loss": 1.0, "lr": 1e-3, "grad_norm": 1.0, "tokens": 1, "tokens_per_s": 1.0}
        news = (time.time(), "step", {"step": 1, **step, "seconds": 1.0, "memory_mb": 1.0})
        await events.append(store, worked, [news])
        found = []
        for run_id in (refused, worked):
            await runs.end(store, run_id, "failed", None, "a reason")
            newest = await runs.newest_resumable(store, ["train"])
            found.append(newest and newest.id)
        return found

    assert with_store(tmp_path / "store.db", work) == [None, 2]


def test_the_newest_adapter_is_that_of_a_finished_training(tmp_path: Path) -> None:
    async def work(store: Store) -> int | None:
        for mode, end, folder in (
            ("train", "finished", "a"),
            ("quickstart", "finished", "b"),
            ("train", "stopped", "c"),
            ("generate", "finished", "d"),
            ("train", "finished", None),
        ):
            run_id = await add_run(store, mode)
            if folder:
                await runs.set_folder(store, run_id, Path(folder))
            await runs.end(store, run_id, end, None, None)
        run = await runs.newest_trained(store)
        return run and run.id

    assert with_store(tmp_path / "store.db", work) == 2
