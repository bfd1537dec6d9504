"""Works that are done together: each whole or not at all, in few transactions, in the connection's thread."""

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import tasks
from lora_tui.store.batches import run_to_end
from lora_tui.store.connection import Store
from lora_tui.store.damage import StoreError
from lora_tui.store.rows import NewTask, TaskRow
from tests.store.store_fixtures import add_run


async def opened(path: Path, work: Callable[[Store, int], Awaitable[Any]]) -> Any:
    async with await Store.open(path) as store:
        return await work(store, await add_run(store))


def add(run_id: int, key: str) -> Callable[[Store], Awaitable[int]]:
    async def work(t: Store) -> int:
        return await tasks.add_tasks(t, run_id, [NewTask("generate", key, slot={"count": 1})])

    return work


def test_works_of_many_coroutines_are_few_transactions(tmp_path: Path) -> None:
    async def scenario(store: Store, run_id: int) -> tuple[list[int], int, int]:
        transactions = 0
        together = store._run_together

        async def counted(works: Any) -> Any:
            nonlocal transactions
            transactions += 1
            return await together(works)

        store._batches._run_all = counted
        added = await asyncio.gather(*(store.together(add(run_id, str(number))) for number in range(60)))
        return added, transactions, int(await store.value("SELECT COUNT(*) FROM tasks"))

    added, transactions, stored = asyncio.run(opened(tmp_path / "s.db", scenario))
    assert added == [1] * 60
    assert stored == 60
    assert transactions <= 2


def test_what_one_work_raises_undoes_its_own_statements_alone(tmp_path: Path) -> None:
    async def scenario(store: Store, run_id: int) -> list[Any]:
        async def failing(t: Store) -> None:
            await tasks.add_tasks(t, run_id, [NewTask("generate", "lost")])
            raise ValueError("it cannot be")

        works = [add(run_id, "first"), failing, add(run_id, "last")]
        outcomes = await asyncio.gather(*(store.together(work) for work in works), return_exceptions=True)
        return [*map(repr, outcomes), *await store.tuples("SELECT key FROM tasks ORDER BY id")]

    found = asyncio.run(opened(tmp_path / "s.db", scenario))
    assert found == ["1", "ValueError('it cannot be')", "1", ("first",), ("last",)]


def test_a_store_that_is_lost_refuses_every_work_before_anything_is_written(tmp_path: Path) -> None:
    async def scenario(store: Store, run_id: int) -> list[Any]:
        async def check(t: Store) -> None:
            assert await t.value("SELECT COUNT(*) FROM runs") == 1
            raise PermissionError("another owns the run")

        checked = store.checked_by(check)
        outcomes = await asyncio.gather(*(checked.together(add(run_id, str(n))) for n in "ab"), return_exceptions=True)
        return [*map(repr, outcomes), await store.value("SELECT COUNT(*) FROM tasks")]

    refused = "PermissionError('another owns the run')"
    assert asyncio.run(opened(tmp_path / "s.db", scenario)) == [refused, refused, 0]


def test_works_and_transactions_take_turns(tmp_path: Path) -> None:
    async def scenario(store: Store, run_id: int) -> int:
        async def by_transaction(key: str) -> None:
            async with store.transaction() as t:
                await asyncio.sleep(0)
                await tasks.add_tasks(t, run_id, [NewTask("judge", key)])

        works = [store.together(add(run_id, str(number))) for number in range(10)]
        await asyncio.gather(*works, *(by_transaction(str(number)) for number in range(10)))
        return int(await store.value("SELECT COUNT(*) FROM tasks"))

    assert asyncio.run(opened(tmp_path / "s.db", scenario)) == 20


def test_rows_are_read_as_outside_in_the_connections_thread(tmp_path: Path) -> None:
    async def scenario(store: Store, run_id: int) -> None:
        async def read(t: Store) -> tuple[TaskRow | None, Any, int]:
            task = await t.one(TaskRow, "SELECT * FROM tasks")
            return task, await t.mapping("SELECT kind, COUNT(*) FROM tasks GROUP BY kind"), threading.get_ident()

        await store.together(add(run_id, "a"))
        task, counts, thread = await store.read_together(read)
        assert task == await store.one(TaskRow, "SELECT * FROM tasks")
        assert task is not None
        assert task.slot == {"count": 1}
        assert counts == {"generate": 1}
        assert thread != threading.get_ident()

    asyncio.run(opened(tmp_path / "s.db", scenario))


def test_a_work_that_waits_for_anything_else_is_a_mistake() -> None:
    async def waiting() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waits"):
        run_to_end(waiting())


def test_a_full_disk_is_told_to_all_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    async def scenario(store: Store, run_id: int) -> tuple[list[Any], list[Any]]:
        async def large(t: Store) -> None:
            await tasks.add_tasks(t, run_id, [NewTask("generate", "x" * 1_000_000)])

        pages = int(await store.value("PRAGMA page_count"))
        await store.value(f"PRAGMA max_page_count = {pages + 4}")
        works = [add(run_id, "small"), large, add(run_id, "later")]
        outcomes = await asyncio.gather(*(store.together(work) for work in works), return_exceptions=True)
        await store.value("PRAGMA max_page_count = 1000000")
        added = await store.together(add(run_id, "afterwards"))
        return outcomes, [added, *await store.tuples("SELECT key FROM tasks ORDER BY id")]

    outcomes, stored = asyncio.run(opened(tmp_path / "s.db", scenario))
    told = [one for one in outcomes if isinstance(one, Exception)]
    assert told
    assert all(isinstance(one, StoreError) and "is full" in str(one) for one in told), outcomes
    kept = [("small",), ("later",)] if len(told) == 1 else []
    assert stored == [1, *kept, ("afterwards",)], "what was told as failed is not there, what was not is"


def test_reads_of_one_moment_share_a_change_of_threads_and_fail_alone(tmp_path: Path) -> None:
    async def scenario(store: Store, run_id: int) -> None:
        seen: list[int] = []

        async def count(t: Store) -> int:
            seen.append(id(t))
            return int(await t.value("SELECT COUNT(*) FROM tasks"))

        async def fail(t: Store) -> int:
            return int(await t.value("SELECT nothing FROM nowhere"))

        found = await asyncio.gather(*map(store.read_together, (count, fail, count)), return_exceptions=True)
        assert found[0] == found[2] == 0
        assert isinstance(found[1], sqlite3.OperationalError)
        assert seen[0] == seen[1], "the same turn in the connection's thread"

    asyncio.run(opened(tmp_path / "s.db", scenario))
