"""One damaged row costs that row, and what SQLite cannot do has a message that says what to do."""

import asyncio
import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.review.runs import delete_run
from lora_tui.store import events, generation, runs, training
from lora_tui.store.connection import Store
from lora_tui.store.damage import StoreError, store_problem
from lora_tui.store.queries.run_figures import run_figures
from lora_tui.store.queries.runs import run_lines
from tests.store.store_fixtures import SETTINGS, add_run, make_pair, with_store

DAMAGES: dict[str, Any] = {
    "settings": '{"data_generation": {"mo',
    "options": b"\xff\xfe{",
    "result": "not JSON",
    "created_at": "yesterday",
    "started_at": b"\x00\x01",
    "heartbeat": "x",
    "error": b"\xff\xff caf\xe9",
    "mode": b"\xffgen",
    "name": b"\xc3\x28",
    "written": "[",
    "pid": "many",
    "host": b"\xfe",
}


@pytest.mark.parametrize("column", DAMAGES)
@pytest.mark.parametrize("mode", ["generate", "train"])
def test_a_damaged_run_leaves_the_others_readable_and_can_be_deleted(tmp_path: Path, column: str, mode: str) -> None:
    async def work(store: Store) -> None:
        for state in ("stopped", "running", "finished"):
            await runs.end(store, await runs.create(store, mode, SETTINGS, {}), state, {}, "why")
        async with store.transaction() as t:
            await t.execute(f"UPDATE runs SET {column}=? WHERE id=2", (DAMAGES[column],))
        lines = await run_lines(store)
        assert [line.id for line in lines] == [3, 2, 1]
        assert not lines[0].damaged
        assert isinstance(lines[1].created_at, float)
        assert await run_figures(store, [1, 2, 3])
        await runs.mark_interrupted(store)
        await runs.output_files(store)
        await generation.other_runs(store, 3, "writer")
        await generation.runs_over_folder(store, 3, "texts")
        await training.planned_runs(store)
        newest = await runs.newest_resumable(store, ["generate", "train"])
        assert newest is not None
        async with store.transaction() as t:
            await t.execute("UPDATE runs SET state='stopped' WHERE id=2")
        await delete_run(store, 2, with_files=True)
        assert [line.id for line in await run_lines(store)] == [3, 1]

    with_store(tmp_path / "store.db", work)


def test_a_live_run_without_a_result_is_not_damaged(tmp_path: Path) -> None:
    async def work(store: Store) -> bool:
        await runs.start(store, await add_run(store))
        return (await run_lines(store))[0].damaged

    assert not with_store(tmp_path / "store.db", work)


def test_a_damaged_run_that_is_asked_for_says_so(tmp_path: Path) -> None:
    async def work(store: Store) -> bool:
        await add_run(store)
        async with store.transaction() as t:
            await t.execute("UPDATE runs SET settings='{' WHERE id=1")
        with pytest.raises(StoreError, match=r"damaged: what it has of run 1 cannot be read"):
            await runs.get(store, 1)
        return (await run_lines(store))[0].damaged

    assert with_store(tmp_path / "store.db", work)


def test_damaged_events_and_pairs_are_left_out(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[list[Any], list[Any]]:
        run_id = await add_run(store, "generate")
        await events.append(store, run_id, [(0.0, "note", {"n": n}) for n in range(3)])
        pairs = [await make_pair(store, run_id, f"Why {n}?", "accepted") for n in range(3)]
        async with store.transaction() as t:
            await t.execute("UPDATE events SET payload='{' WHERE id=2")
            await t.execute("UPDATE pairs SET slot='?', question=? WHERE id=?", (b"\xff?", pairs[1]))
        seen = [event.payload["n"] for event in await events.since(store, run_id, 0) if event.kind == "note"]
        assert await generation.histogram(store, run_id, "difficulty", ("accepted",))
        return seen, [pair.id for pair in await generation.pairs(store, run_id, ("accepted",))]

    assert with_store(tmp_path / "store.db", work) == ([0, 2], [1, 3])


def test_runs_of_a_file_with_a_damaged_page_are_listed_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def fill(store: Store) -> None:
        for _ in range(40):
            await runs.end(store, await runs.create(store, "generate", {"x": "y" * 900}, {}), "finished", {}, None)

    with_store(path, fill)
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()
    content = bytearray(path.read_bytes())
    page = next(  # a leaf of the table of runs
        at for at in range(4096, len(content), 4096) if content[at] == 13 and b"y" * 900 in content[at : at + 4096]
    )
    content[page : page + 4096] = bytes(4096)
    path.write_bytes(content)

    async def work(store: Store) -> int:
        return len(await run_lines(store))

    assert 20 < with_store(path, work) < 40


@pytest.mark.parametrize("limit", [200_000, 260_000, 320_000, 400_000])
def test_a_store_that_can_grow_no_further_says_that_its_disk_is_full(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "store.db"
    asyncio.run(_opened(path))

    async def work(store: Store) -> None:
        pages = await store.value("PRAGMA page_count") + limit // 400_000
        await store.value(f"PRAGMA max_page_count={pages}")
        run_id = await add_run(store)
        for _ in range(500):
            await events.append(store, run_id, [(0.0, "note", {"text": "x" * 5000})])

    with pytest.raises(StoreError, match=r"The disk of the store .*store.db is full. Free some space, then go on"):
        with_store(path, work)

    async def look(store: Store) -> int:
        return len(await run_lines(store))

    assert with_store(path, look) <= 1


async def _opened(path: Path) -> None:
    await (await Store.open(path)).close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sqlite3.SQLITE_FULL, "is full"),
        (sqlite3.SQLITE_IOERR | (3 << 8), "Check its disk"),
        (sqlite3.SQLITE_CANTOPEN, "ulimit -n"),
        (sqlite3.SQLITE_NOMEM, "Memory ran out"),
        (sqlite3.SQLITE_READONLY, "permissions"),
        (sqlite3.SQLITE_BUSY, "locked"),
        (sqlite3.SQLITE_CORRUPT, "damaged"),
    ],
)
def test_every_failure_of_the_system_has_a_message(code: int, said: str) -> None:
    problem = sqlite3.OperationalError(errno.errorcode[errno.EIO])
    problem.sqlite_errorcode = code
    explained = store_problem(Path("x.db"), problem)
    assert explained is not None
    assert said in str(explained)
    assert "x.db" in str(explained)


def test_a_mistake_of_ours_stays_one() -> None:
    problem = sqlite3.IntegrityError("UNIQUE")
    problem.sqlite_errorcode = sqlite3.SQLITE_CONSTRAINT
    assert store_problem(Path("x.db"), problem) is None
