"""The file itself: its versions, its permissions, its journal, its transactions, and many who write at once."""

import asyncio
import os
import sqlite3
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.store import events, opening, runs, schema
from lora_tui.store.connection import Store
from tests.store.store_fixtures import add_run, list_runs, with_store


def pragma(path: Path, name: str) -> Any:
    with sqlite3.connect(path) as file:
        return file.execute(f"PRAGMA {name}").fetchone()[0]


async def nothing(store: Store) -> None:
    """Just open and close."""


def test_a_new_file_has_the_newest_version_and_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store.db"
    with_store(path, nothing)
    assert pragma(path, "user_version") == schema.VERSION == len(schema.MIGRATIONS)
    assert with_store(path, add_run) == 1


def test_an_empty_file_is_brought_to_the_newest_version(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    with_store(path, nothing)
    assert pragma(path, "user_version") == schema.VERSION


def test_an_older_file_is_migrated_with_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    with_store(path, add_run)
    addition = "CREATE TABLE tea (kind TEXT);\nINSERT INTO tea VALUES ('a;b');\n"
    monkeypatch.setattr(opening, "MIGRATIONS", (*schema.MIGRATIONS, addition))
    monkeypatch.setattr(opening, "VERSION", schema.VERSION + 1)

    async def look(store: Store) -> tuple[Any, Any]:
        return await store.value("SELECT kind FROM tea"), await store.value("SELECT COUNT(*) FROM runs")

    assert with_store(path, look) == ("a;b", 1)
    assert with_store(path, look) == ("a;b", 1), "once"
    assert pragma(path, "user_version") == schema.VERSION + 1


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    with_store(path, add_run)
    broken = "CREATE TABLE tea (kind TEXT);\nINSERT INTO coffee VALUES (1);\n"
    monkeypatch.setattr(opening, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    monkeypatch.setattr(opening, "VERSION", schema.VERSION + 1)
    with pytest.raises(LoraTuiError, match="coffee"):
        with_store(path, nothing)
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT COUNT(*) FROM sqlite_master WHERE name='tea'").fetchone() == (0,)
        assert file.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with_store(path, add_run)
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version=99")
    with pytest.raises(LoraTuiError, match=r"written by a newer lora-tui \(schema 99"):
        with_store(path, nothing)
    assert pragma(path, "user_version") == 99


def test_the_file_and_its_companions_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    before = os.umask(0)
    try:

        def modes_now() -> list[int]:
            return [stat.S_IMODE(file.stat().st_mode) for file in sorted(tmp_path.iterdir())]

        async def modes(store: Store) -> list[int]:
            await add_run(store)
            return modes_now()

        assert with_store(path, modes) == [0o600] * 3  # the file, its log and the log's index
    finally:
        os.umask(before)


def test_a_file_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    path.chmod(0o644)
    with_store(path, nothing)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_journal_is_a_write_ahead_log(tmp_path: Path) -> None:
    async def mode(store: Store) -> Any:
        return await store.value("PRAGMA journal_mode"), await store.value("PRAGMA foreign_keys"), store.warning

    assert with_store(tmp_path / "store.db", mode) == ("wal", 1, None)


def test_on_a_network_file_system_the_journal_is_another_one_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_on_network", lambda path: True)

    async def mode(store: Store) -> Any:
        await add_run(store)
        return await store.value("PRAGMA journal_mode"), store.warning

    journal, warning = with_store(tmp_path / "store.db", mode)
    assert journal == "truncate"
    assert "TRUNCATE" in warning
    assert "network file system" in warning
    assert not (tmp_path / "store.db-wal").exists()


def test_a_file_that_was_a_write_ahead_log_can_move_to_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    with_store(path, add_run)
    monkeypatch.setattr(opening, "_on_network", lambda path: True)
    assert [run.id for run in with_store(path, list_runs)] == [1]
    assert pragma(path, "journal_mode") == "delete", "no log is kept in the file's header any more"


@pytest.mark.parametrize(
    ("kind", "expected"), [("nfs4", True), ("fuse.sshfs", True), ("cifs", True), ("9p", True), ("ext4", False)]
)
def test_the_nearest_mount_tells_what_kind_of_file_system_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: bool
) -> None:
    mounts = [("/", "ext4" if expected else "nfs"), (str(tmp_path), kind), (f"{tmp_path}/other", "nfs")]
    parts = [SimpleNamespace(mountpoint=place, fstype=name) for place, name in mounts]
    monkeypatch.setattr(opening.psutil, "disk_partitions", lambda **_: parts)
    assert opening._on_network(tmp_path / "store.db") is expected


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be taken for one. " * 40, b"SQLite format 3\0cut"]
)
def test_a_file_that_is_no_database_is_refused_by_name_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"notes.txt cannot be used as the store.*--store"):
        with_store(path, nothing)
    assert path.read_bytes() == content


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be opened for writing: Is a directory"):
        with_store(tmp_path, nothing)


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be opened for writing.*--store"):
        with_store(tmp_path / "file" / "store.db", nothing)


def test_a_transaction_that_raises_leaves_nothing_behind(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        async def fail() -> None:
            async with store.transaction() as t:
                await t.execute("INSERT INTO weight_versions(scope, version, weights, at) VALUES ('a', 1, '{}', 0)")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        await add_run(store)
        return await store.value("SELECT COUNT(*) FROM weight_versions")

    assert with_store(tmp_path / "store.db", work) == 0


def test_a_coroutine_that_is_cancelled_while_it_waits_for_the_lock_does_not_block_the_next(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def work(store: Store) -> list[str]:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(add_run(store, "cancelled"))
        await asyncio.sleep(0.1)
        waiting.cancel()
        asyncio.get_running_loop().call_later(0.1, other.execute, "COMMIT")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await add_run(store, "next")
        other.close()
        return [run.mode for run in await list_runs(store)]

    assert with_store(path, work) == ["next"]


def test_coroutines_of_one_store_take_turns(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        async def add(number: int) -> None:
            async with store.transaction() as t:
                before = await t.value("SELECT COUNT(*) FROM weight_versions")
                await asyncio.sleep(0)
                await t.execute(
                    "INSERT INTO weight_versions(scope, version, weights, at) VALUES ('a', ?, '{}', 0)", (before,)
                )

        await asyncio.gather(*(add(number) for number in range(20)))
        return [v for (v,) in await store.tuples("SELECT version FROM weight_versions ORDER BY id")]

    assert with_store(tmp_path / "store.db", work) == list(range(20))


@pytest.mark.parametrize("network", [False, True])
def test_two_stores_write_at_once_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    monkeypatch.setattr(opening, "_on_network", lambda path: network)
    path = tmp_path / "store.db"

    async def work() -> list[list[int]]:
        async with await Store.open(path) as one, await Store.open(path) as other:
            first, second = await add_run(one), await add_run(other)

            async def write(store: Store, run_id: int) -> None:
                for number in range(25):
                    await events.append(store, run_id, [(0.0, "note", {"n": number}), (0.0, "note", {"n": -number})])

            async def read(store: Store) -> None:
                for _ in range(25):
                    await events.since(store, first, 0)

            await asyncio.gather(write(one, first), write(other, second), read(one), read(other))
            return [
                [event.payload["n"] for event in await events.since(store, run_id, 0) if event.payload["n"] >= 0]
                for store, run_id in ((other, first), (one, second))
            ]

    assert asyncio.run(work()) == [[0, *range(25)], [0, *range(25)]]


def test_many_who_open_a_new_file_at_once_find_one_whole_schema(tmp_path: Path) -> None:
    async def work(path: Path) -> list[str | None]:
        stores = await asyncio.gather(*(Store.open(path) for _ in range(6)))
        warnings = [store.warning for store in stores]
        for store in stores:
            await store.close()
        return warnings

    for attempt in range(5):
        assert asyncio.run(work(tmp_path / f"{attempt}.db")) == [None] * 6


def test_opening_a_file_again_in_the_same_process_does_not_drop_the_locks_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def work(store: Store) -> str:
        async with store.transaction():
            async with await Store.open(path):
                pass
            # Another process, which must find the write lock held.
            code = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
            import sys

            process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
            return (await process.communicate())[1].decode()

    assert "database is locked" in with_store(path, work)


def test_compacting_gives_space_back_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def fill_and_delete(store: Store) -> tuple[int, int]:
        kept, deleted = await add_run(store), await add_run(store)
        for run_id in (kept, deleted):
            await events.append(store, run_id, [(0.0, "note", {"message": "x" * 1000})] * 1000)
        async with store.transaction() as t:
            assert not await runs.delete_part(t, deleted, 10_000)
            assert await runs.delete_part(t, deleted, 10_000)
        return await store.compact()

    before, after = with_store(path, fill_and_delete)
    assert after == path.stat().st_size
    assert before > 2_000_000 > after > 1_000_000
    assert [run.id for run in with_store(path, list_runs)] == [1]
    assert len(with_store(path, lambda store: events.since(store, 1, 0, 2000))) == 1000


def test_a_store_that_somebody_writes_to_is_not_compacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_MS", 50)
    with_store(path, add_run)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LoraTuiError, match="cannot be compacted: database is locked"):
            with_store(path, lambda store: store.compact())
