"""No result is written over the program's own files, and none over somebody else's without a copy."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.load import load_settings
from lora_tui.engine.data.results import keep_foreign, remember_result
from lora_tui.errors import UsageError
from lora_tui.files import write_atomically
from lora_tui.outputs import check_name, keep_older, refuse_own
from lora_tui.store.connection import Store
from tests.store.store_fixtures import list_runs, with_store

COMPANIONS = ("store.db", "store.db-wal", "store.db-shm", "store.db-journal")


@pytest.mark.parametrize("name", COMPANIONS)
def test_the_store_and_its_companions_are_refused_by_every_writer(tmp_path: Path, name: str) -> None:
    async def work(store: Store) -> None:
        for path in (tmp_path / name, tmp_path / "x" / ".." / name):
            with pytest.raises(UsageError, match="store and is not written over"):
                write_atomically(path, "x")

    with_store(tmp_path / "store.db", work)


def test_a_file_of_ours_is_refused_by_its_links_too(tmp_path: Path) -> None:
    with_store(tmp_path / "store.db", list_runs)
    (tmp_path / "soft").symlink_to("store.db")
    (tmp_path / "hard").hardlink_to(tmp_path / "store.db")
    for name in ("soft", "hard"):
        with pytest.raises(UsageError, match=rf"--output .*{name} is the store"):
            refuse_own(tmp_path / name, "--output")


def test_any_other_store_is_refused_and_an_ordinary_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_bytes(b"SQLite format 3\x00" + bytes(100))
    with pytest.raises(UsageError, match="is an SQLite database"):
        write_atomically(tmp_path / "other.db", "x")
    (tmp_path / "a.txt").write_text("SQLite format 3")
    write_atomically(tmp_path / "a.txt", "x")


def test_the_configuration_that_was_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("")
    load_settings(tmp_path / "c.toml")
    with pytest.raises(UsageError, match=r"c.toml is the configuration and is not written over"):
        write_atomically(tmp_path / "c.toml", "x")
    write_atomically(tmp_path / "c.toml", "x", own=True)


def test_a_result_that_was_remembered_is_not_kept_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("ours")

    async def work(store: Store) -> list[Any]:
        async with store.transaction() as t:
            await remember_result(t, path)
        seen = [await keep_foreign(store, path)]
        await asyncio.to_thread(path.write_text, "edited")
        return [*seen, await keep_foreign(store, path), await keep_foreign(store, tmp_path / "none")]

    assert with_store(tmp_path / "store.db", work) == [None, tmp_path / "a.1.txt", None]


def test_a_copy_of_a_name_of_the_greatest_length_has_a_shorter_one(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125 + ".json")
    path.write_text("x")
    copy = keep_older(path)
    assert copy is not None
    assert copy.name.endswith("ä.1.json")


@pytest.mark.parametrize("name", ["a" * 256, "ä" * 128, "b/" + "c" * 300, "d/" * 2048 + "e", "f\0g"])
def test_a_name_that_no_file_can_have_is_refused_with_what_named_it(name: str) -> None:
    with pytest.raises(UsageError, match=r"--output: (the (name|path) .* bytes|a file name cannot hold)"):
        check_name(Path(name), "--output")
