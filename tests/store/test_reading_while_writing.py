"""Coroutines that read and others that write on one store, while another process writes too."""

import asyncio
from pathlib import Path

from lora_tui.store import events
from lora_tui.store.connection import Store
from tests.store.store_fixtures import add_run


def test_a_long_read_never_keeps_a_write_of_the_same_store_from_beginning(tmp_path: Path) -> None:
    async def work() -> int:
        path = tmp_path / "store.db"
        async with await Store.open(path) as one, await Store.open(path) as other:
            run_id = await add_run(one)
            await events.append(one, run_id, [(0.0, "note", {"n": n}) for n in range(3000)])
            writing = True

            async def read() -> None:
                while writing:
                    await one.tuples("SELECT * FROM events")
                    await one.value("SELECT payload FROM events")

            async def write(store: Store) -> None:
                for _ in range(30):
                    await events.append(store, run_id, [(0.0, "note", {})])
                    await asyncio.sleep(0)

            readers = [asyncio.create_task(read()) for _ in range(2)]
            await asyncio.gather(write(one), write(other))
            writing = False
            await asyncio.gather(*readers)
            return int(await one.value("SELECT COUNT(*) FROM events"))

    assert asyncio.run(work()) == 3060


def test_columns_are_the_result_turned_on_its_side(tmp_path: Path) -> None:
    async def work() -> list[list[tuple[object, ...]]]:
        async with await Store.open(tmp_path / "store.db") as store:
            return [
                await store.columns("SELECT 1, 'a' UNION ALL SELECT 2, NULL"),
                await store.columns("SELECT id, mode FROM runs"),
            ]

    assert asyncio.run(work()) == [[(1, 2), ("a", None)], []]
