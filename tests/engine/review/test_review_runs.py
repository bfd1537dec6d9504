"""Runs that are named and runs that are deleted, with or without what lies on the disk."""

from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.review.runs import delete_run, rename_run
from lora_tui.errors import UsageError
from lora_tui.store import chat_log, events, feedback, runs
from lora_tui.store.connection import Store
from tests.store.store_fixtures import SETTINGS, add_feedback, make_call, make_pair, with_store
from tests.store.test_store_rows import EVALUATION, STEP


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def ended(store: Store, folder: Path | None = None, mode: str = "train") -> int:
    run_id = await runs.create(store, mode, SETTINGS, {})
    if folder is not None:
        await runs.set_folder(store, run_id, folder)
    await runs.end(store, run_id, "finished", {}, None)
    return run_id


def adapter(folder: Path) -> Path:
    """A run's folder as training leaves it."""
    for name in ("best", "step-40"):
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text("{}")
        (folder / name / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def deleted(tmp_path: Path, folder: Path, *, with_files: bool = True, others: tuple[Path, ...] = ()) -> str:
    async def work(store: Store) -> str:
        run_id = await ended(store, folder)
        for other in others:
            await ended(store, other)
        done = await delete_run(store, run_id, with_files=with_files)
        assert await runs.get(store, run_id) is None
        return done

    done = with_store(tmp_path / "store.db", work)
    assert isinstance(done, str)
    return done


@pytest.mark.parametrize(
    ("name", "stored"), [("  the   first\none ", "the first one"), ("", ""), ("x" * 200, "x" * 80), ("日本", "日本")]
)
def test_a_run_has_the_name_it_was_given_on_one_line(tmp_path: Path, name: str, stored: str) -> None:
    async def work(store: Store) -> Any:
        run_id = await ended(store)
        await rename_run(store, run_id, name)
        return await runs.get(store, run_id)

    assert with_store(tmp_path / "store.db", work).name == stored


def test_a_run_that_is_not_there_can_be_neither_named_nor_deleted(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(UsageError, match="There is no run 7"):
            await rename_run(store, 7, "x")
        with pytest.raises(UsageError, match="There is no run 7"):
            await delete_run(store, 7, with_files=False)

    with_store(tmp_path / "store.db", work)


def test_every_row_of_a_deleted_run_goes_and_no_other(tmp_path: Path) -> None:
    async def filled(store: Store) -> int:
        run_id = await ended(store, mode="quickstart")
        pair_id = await make_pair(store, run_id, state="rejected")
        await make_call(store, run_id, int(await store.value("SELECT MAX(id) FROM tasks")), "ok")
        await events.append(store, run_id, [(1.0, "step", STEP), (1.0, "evaluation", EVALUATION)])
        payload = {"step": 1, "kind": "last", "path": "/p"}
        await events.append(store, run_id, [(1.0, "checkpoint", payload)])
        await events.send_command(store, run_id, "stop")
        await add_feedback(store, "generation", run_id, "pair", pair_id, {"coverage": 1.0}, 1.0, "person")
        talk = await chat_log.begin(store, run_id, "model", None)
        await chat_log.add_turn(store, talk, "user", "hi")
        return run_id

    async def counts(store: Store) -> dict[str, int]:
        names = [name for (name,) in await store.tuples("SELECT name FROM sqlite_master WHERE type='table'")]
        return {name: await store.value(f"SELECT COUNT(*) FROM {name}") for name in names if "sqlite" not in name}

    async def work(store: Store) -> None:
        kept = await filled(store)
        one = await counts(store)
        gone = await filled(store)
        assert await delete_run(store, gone, with_files=True) == f"Run {gone} is deleted."
        left = await counts(store)
        outlives = {"feedback": 2, "conversations": 2, "turns": 2}
        assert left == one | outlives, "feedback is what the weights follow from, and a conversation is the user's"
        assert await store.tuples("PRAGMA foreign_key_check") == []
        assert [line.run_id for line in await feedback.in_force(store, "generation")] == [kept, None]

    with_store(tmp_path / "store.db", work)


def test_a_large_run_goes_in_parts_between_which_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_tui.engine.review.runs._ROWS_PER_TRANSACTION", 4)
    parts: list[list[int]] = []
    real = runs.delete_part

    async def counted(t: Store, run_id: int, most: int) -> bool:
        tables = ("events", "steps", "tasks")
        before = [await t.value(f"SELECT COUNT(*) FROM {table}") for table in tables]
        gone = await real(t, run_id, most)
        after = [await t.value(f"SELECT COUNT(*) FROM {table}") for table in tables]
        parts.append([one - other for one, other in zip(before, after, strict=True)])
        return gone

    monkeypatch.setattr(runs, "delete_part", counted)

    async def work(store: Store) -> None:
        run_id, kept = await ended(store), await ended(store)
        for where in (run_id, kept):
            await events.append(store, where, [(1.0, "step", {**STEP, "step": n}) for n in range(10)])
            await make_pair(store, where, state="accepted")
        await delete_run(store, run_id, with_files=False)
        assert parts == [[4, 4, 2], [4, 4, 0], [2, 2, 0], [0, 0, 0]]
        left = await store.tuples("SELECT DISTINCT run_id FROM events UNION SELECT run_id FROM steps")
        assert left == [(kept,)]
        assert await store.value("SELECT COUNT(*) FROM pairs") == 1

    with_store(tmp_path / "store.db", work)


def test_a_run_that_is_taken_up_while_it_is_deleted_is_left_to_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = runs.delete_part

    async def resumed(t: Store, run_id: int, most: int) -> bool:
        gone = await real(t, run_id, most)
        await t.execute("UPDATE runs SET state='running' WHERE id=?", (run_id,))
        return gone

    monkeypatch.setattr(runs, "delete_part", resumed)

    async def work(store: Store) -> Any:
        run_id = await ended(store)
        await events.append(store, run_id, [(1.0, "note", {})])
        with pytest.raises(UsageError, match="Run 1 is live"):
            await delete_run(store, run_id, with_files=True)
        return await runs.get(store, run_id)

    assert with_store(tmp_path / "store.db", work) is not None


@pytest.mark.parametrize("state", ["queued", "running", "stopping"])
def test_a_live_run_is_not_deleted(tmp_path: Path, state: str) -> None:
    folder = adapter(tmp_path / "checkpoints" / "run-1")

    async def work(store: Store) -> None:
        run_id = await runs.create(store, "train", SETTINGS, {})
        await runs.set_folder(store, run_id, folder)
        async with store.transaction() as t:
            await t.execute("UPDATE runs SET state=?", (state,))
        with pytest.raises(UsageError, match=r"Run 1 is live \(process \d+ on .*Stop it"):
            await delete_run(store, run_id, with_files=True)
        assert await runs.get(store, run_id) is not None
        await rename_run(store, run_id, "mine")
        run = await runs.get(store, run_id)
        assert run is not None
        assert run.name == "mine", "a name harms nobody"

    with_store(tmp_path / "store.db", work)
    assert folder.is_dir()


def test_a_run_whose_process_was_killed_can_be_deleted(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        run_id = await runs.create(store, "train", SETTINGS, {})
        async with store.transaction() as t:
            await t.execute("UPDATE runs SET pid=?", (2**22 + 1,))
        await delete_run(store, run_id, with_files=False)
        return await runs.get(store, run_id)

    assert with_store(tmp_path / "store.db", work) is None


def test_the_folder_stays_unless_it_is_to_go(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "checkpoints" / "run-1")
    assert deleted(tmp_path, folder, with_files=False) == "Run 1 is deleted."
    assert (folder / "best").is_dir()


@pytest.mark.parametrize("name", ["checkpoints/run-1", "checkpoints/run-1-2", "elsewhere/mine"])
def test_a_folder_with_adapters_goes_with_its_run(tmp_path: Path, name: str) -> None:
    folder = adapter(tmp_path / name)
    done = deleted(tmp_path, folder)
    assert done == f"Run 1 is deleted, with {folder}."
    assert not folder.exists()
    assert folder.parent.is_dir()


def test_a_folder_that_has_a_runs_name_and_place_goes_though_it_is_empty(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "run-1"
    folder.mkdir(parents=True)
    assert deleted(tmp_path, folder) == f"Run 1 is deleted, with {folder}."
    assert not folder.exists()


@pytest.mark.parametrize("name", ["elsewhere/run-1", "checkpoints/my-run", "checkpoints/run-1/deep", "documents"])
def test_a_folder_that_is_not_ours_stays(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    (folder / "best").mkdir(parents=True)  # a name alone is no adapter
    (folder / "letter.txt").write_text("dear")
    done = deleted(tmp_path, folder)
    assert done == f"Run 1 is deleted. {folder} stays: it does not look like a folder that this program made"
    assert (folder / "letter.txt").read_text() == "dear"


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    real = adapter(tmp_path / "precious")
    link = tmp_path / "checkpoints" / "run-1"
    link.parent.mkdir()
    link.symlink_to(real)
    assert deleted(tmp_path, link).startswith(f"Run 1 is deleted. {link} stays: ")
    assert (real / "best").is_dir()


@pytest.mark.parametrize("other", ["checkpoints/run-1", "checkpoints/run-1/inside", "linked"])
def test_a_folder_that_another_run_points_at_stays(tmp_path: Path, other: str) -> None:
    folder = adapter(tmp_path / "checkpoints" / "run-1")
    (tmp_path / "linked").symlink_to(folder)
    done = deleted(tmp_path, folder, others=(tmp_path / other,))
    assert done == f"Run 1 is deleted. {folder} stays: another run has its results there"
    assert (folder / "best").is_dir()


def test_a_neighbours_folder_is_no_reason_to_stay(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "checkpoints" / "run-1")
    neighbour = adapter(tmp_path / "checkpoints" / "run-11")
    assert deleted(tmp_path, folder, others=(neighbour,)) == f"Run 1 is deleted, with {folder}."
    assert (neighbour / "best").is_dir()


def test_a_folder_that_holds_where_we_are_or_the_store_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapter(tmp_path / "with the store")
    assert deleted(folder, folder) == f"Run 1 is deleted. {folder} stays: it holds more than the run"
    inside = adapter(tmp_path / "here")
    (inside / "deep").mkdir()
    monkeypatch.chdir(inside / "deep")
    assert deleted(tmp_path, inside) == f"Run 1 is deleted. {inside} stays: it holds more than the run"
    assert (folder / "best").is_dir()
    assert inside.is_dir()


def test_a_folder_that_is_gone_already_is_no_failure(tmp_path: Path) -> None:
    done = deleted(tmp_path, tmp_path / "checkpoints" / "run-1")
    assert done == f"Run 1 is deleted. {tmp_path / 'checkpoints' / 'run-1'} was gone already"
