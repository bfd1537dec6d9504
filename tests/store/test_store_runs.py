"""Runs: states, owners, devices, and what can be taken up again."""

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.store.owner import LostRunError
from lora_tui.store.queries.runs import run_lines
from lora_tui.store.rows import Run, worked_seconds
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


def test_a_run_that_goes_on_was_not_worked_on_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(store: Store) -> list[float | None]:
        at = 1_000_000.0
        monkeypatch.setattr(time, "time", lambda: at)
        run_id = await add_run(store)
        at += 5  # it waits: that is not work either
        await runs.start(store, run_id)
        at += 60
        await runs.end(store, run_id, "stopped", None, None)
        at += 86_400
        assert await runs.take_over(store, run_id)
        await runs.start(store, run_id)
        at += 30
        await runs.renew_heartbeat(store, run_id)
        (line,) = await run_lines(store)
        live = worked_seconds(line, line.heartbeat)
        await set_owner(store, run_id, pid=2**22 + 1)
        at += 7200
        assert await runs.mark_interrupted(store) == 1
        assert await runs.take_over(store, run_id)
        await runs.start(store, run_id)
        at += 10
        await runs.end(store, run_id, "finished", None, None)
        run = await runs.get(store, run_id)
        (line,) = await run_lines(store)
        assert run is not None
        return [live, worked_seconds(run, run.ended_at), worked_seconds(line, line.ended_at), run.idle_seconds]

    assert with_store(tmp_path / "store.db", work) == [90.0, 100.0, 100.0, 93_600.0]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, "running"),
        ({"pid": 2**22 + 1}, "interrupted"),  # above the largest process id
        ({"ticks": 5}, "interrupted"),  # the id is in use again, by another process
        ({"pid_started": 5.0, "heartbeat": -3600.0}, "running"),  # the system clock was stepped
        ({"ticks": None, "place": None, "pid_started": 5.0, "heartbeat": -3600.0}, "interrupted"),  # an older version's
        ({"ticks": None, "place": None, "pid_started": 5.0, "heartbeat": 0.0}, "running"),
        ({"place": "another container", "heartbeat": 0.0}, "running"),
        ({"place": "another container", "pid": 2**22 + 1, "heartbeat": 0.0}, "running"),
        ({"place": "an earlier boot", "heartbeat": -1e9}, "interrupted"),
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


def test_a_run_that_was_taken_for_dead_lives_again_at_its_next_heartbeat(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        run_id = await runs.create(store, "train", {}, {}, token="mine")
        await runs.start(store, run_id)
        await set_owner(store, run_id, host="elsewhere", heartbeat=0.0)
        await runs.mark_interrupted(store)
        seen = [await state(store, run_id)]
        await runs.renew_heartbeat(runs.owned_by(store, run_id, "mine"), run_id)
        return [*seen, await state(store, run_id)]

    assert with_store(tmp_path / "store.db", work) == ["interrupted", "running"]


@pytest.mark.parametrize("beats", [True, False])
def test_a_run_of_another_machine_is_taken_over_only_when_its_heart_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats: bool
) -> None:
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.05)

    async def work(store: Store) -> bool:
        run_id = await runs.create(store, "train", {}, {}, token="theirs")
        await set_owner(store, run_id, host="elsewhere", heartbeat=0.0)  # our clock was stepped far ahead
        await runs.mark_interrupted(store)
        taking = asyncio.create_task(runs.take_over(store, run_id))
        await asyncio.sleep(0.05)
        if beats:
            await runs.renew_heartbeat(runs.owned_by(store, run_id, "theirs"), run_id)
        return await taking

    assert with_store(tmp_path / "store.db", work) is not beats


def test_what_a_former_owner_still_writes_is_refused(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[int, list[str]]:
        run_id = await runs.create(store, "generate", {}, {}, token="first")
        former = runs.owned_by(store, run_id, "first")
        await events.append(former, run_id, [(0.0, "note", {})])
        await runs.end(store, run_id, "stopped", None, None)
        assert await runs.take_over(store, run_id, "second")
        for write in (
            events.append(former, run_id, [(0.0, "note", {})]),
            runs.end(former, run_id, "finished", {}, None),
            runs.renew_heartbeat(former, run_id),
            runs.mark_stopping(former, run_id),
        ):
            with pytest.raises(LostRunError, match=r"Run 1 was taken over by process \d+ on "):
                await write
        await events.append(runs.owned_by(store, run_id, "second"), run_id, [(0.0, "note", {})])
        states = [await state(store, run_id)]
        async with store.transaction() as t:
            await runs.delete_part(t, run_id, 10)
            await runs.delete_part(t, run_id, 10)
        with pytest.raises(LostRunError, match="Run 1 was deleted"):
            await events.append(former, run_id, [(0.0, "note", {})])
        return await events.last_id(store, run_id), states

    assert with_store(tmp_path / "store.db", work) == (0, ["queued"])


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
