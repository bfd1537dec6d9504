"""The file of accepted pairs follows what people change, where it is the run's own."""

from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.review.pairs import (
    ReviewedRun,
    accepted_file,
    accepted_file_with_earlier,
    edit_pair,
    rewrite_file,
    undo,
)
from lora_tui.errors import UsageError
from lora_tui.protocol.backend import ReviewResult
from lora_tui.store import runs
from lora_tui.store.connection import Store
from tests.engine.review.one_pair import override_pair
from tests.engine.review.test_review_pairs import new_run
from tests.store.store_fixtures import SETTINGS, make_chunk, make_file, make_pair, with_store


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "accepted.txt"
    path.write_text("Question: old\nAnswer: old\n")
    return path


def content(file: Path) -> str:
    return file.read_text()


def put_a_folder_there(file: Path) -> None:
    file.unlink()
    file.mkdir()


def test_every_act_shows_in_the_file_of_a_run_that_has_ended(tmp_path: Path, file: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await new_run(store, wrote="accepted.txt")
        first = await make_pair(store, run_id, "One?", "accepted")
        second = await make_pair(store, run_id, "Two?", "rejected")
        done = await override_pair(store, second, "accepted")
        assert done.message == f"Accepted: «Two?». {file} is written again."
        assert content(file).count("Question: ") == 2
        done = await edit_pair(store, first, "Uno?", "Sì.")
        assert done.message == f"Edited: «Uno?». {file} is written again."
        assert content(file) == "Question: Uno?\nAnswer: Sì.\n\nQuestion: Two?\nAnswer: To show the way.\n"
        await override_pair(store, first, "rejected")
        assert content(file) == "Question: Two?\nAnswer: To show the way.\n"
        taken_back = [done for _ in range(3) if (done := await undo(store, run_id)) is not None]
        assert taken_back[0].message == "Took back the rejection of «Uno?»; accepted.txt is written anew."
        assert taken_back[2].message == "Took back the acceptance of «Two?»; accepted.txt is written anew."
        assert content(file) == "Question: One?\nAnswer: To show the way.\n"

    with_store(tmp_path / "store.db", work)


def test_the_last_accepted_pair_can_be_rejected(tmp_path: Path, file: Path) -> None:
    async def work(store: Store) -> list[ReviewResult]:
        kept = await new_run(store, wrote="accepted.txt")
        done = [await override_pair(store, await make_pair(store, kept, state="accepted"), "rejected")]
        assert content(file) == ""
        killed = await new_run(store, ended="interrupted")
        async with store.transaction() as t:
            await t.execute("UPDATE runs SET result=NULL WHERE id=?", (killed,))
        pair_id = await make_pair(store, killed, state="rejected")
        return [*done, await override_pair(store, pair_id, "accepted"), await override_pair(store, pair_id, "rejected")]

    assert all(done.message.endswith(f". {file} is written again.") for done in with_store(tmp_path / "store.db", work))
    assert content(file) == ""


@pytest.mark.parametrize("newer", ["accepted.txt", "deep/../accepted.txt", "{folder}/accepted.txt"])
def test_the_file_of_a_newer_run_is_left_alone(tmp_path: Path, file: Path, newer: str) -> None:
    async def work(store: Store) -> ReviewResult:
        run_id = await new_run(store, wrote="accepted.txt")
        await new_run(store, wrote=newer.format(folder=tmp_path))
        return await override_pair(store, await make_pair(store, run_id, state="rejected"), "accepted")

    done = with_store(tmp_path / "store.db", work)
    assert done.message == "Accepted: «Why do bees dance?»."
    assert content(file) == "Question: old\nAnswer: old\n"


@pytest.mark.parametrize(
    ("mode", "result"),
    [
        ("generate", {"output_file": "other.txt"}),
        ("generate", {"output_file": None}),  # it accepted nothing
        ("train", {"output_file": "accepted.txt"}),
        ("generate", {}),  # it failed before it did anything
    ],
)
def test_a_newer_run_that_did_not_write_that_file_is_in_nobodys_way(
    tmp_path: Path, file: Path, mode: str, result: dict[str, Any]
) -> None:
    async def work(store: Store) -> ReviewResult:
        run_id = await new_run(store, wrote=str(file))
        newer = await runs.create(store, mode, SETTINGS, {})
        await runs.end(store, newer, "failed", result, None)
        return await override_pair(store, await make_pair(store, run_id, state="rejected"), "accepted")

    assert with_store(tmp_path / "store.db", work).message.endswith(f" {file} is written again.")


def test_of_two_runs_the_one_that_was_taken_up_again_wrote_last(tmp_path: Path, file: Path) -> None:
    async def work(store: Store) -> list[str]:
        first, second = [await new_run(store, wrote="accepted.txt") for _ in range(2)]
        await runs.take_over(store, first)
        pairs = [await make_pair(store, run_id, state="rejected") for run_id in (first, second)]
        await make_pair(store, first, state="accepted")
        said = [(await override_pair(store, pairs[1], "accepted")).message]  # the other one is live, and will write
        await runs.end(store, first, "finished", {"output_file": "accepted.txt"}, None)
        return [*said, *[(await override_pair(store, pair_id, "rejected")).message for pair_id in pairs]]

    assert with_store(tmp_path / "store.db", work) == [
        "Accepted: «Why do bees dance?».",
        f"Rejected: «Why do bees dance?». {file} is written again.",
        "Rejected: «Why do bees dance?».",
    ]


def test_a_run_that_wrote_no_file_gets_none(tmp_path: Path, file: Path) -> None:
    async def work(store: Store) -> ReviewResult:
        pair_id = await make_pair(store, await new_run(store, wrote=None), state="rejected")
        return await override_pair(store, pair_id, "accepted")

    assert with_store(tmp_path / "store.db", work).message == "Accepted: «Why do bees dance?»."
    assert content(file) == "Question: old\nAnswer: old\n"


def test_a_file_that_cannot_be_written_is_told_and_the_verdict_stands(tmp_path: Path, file: Path) -> None:
    async def work(store: Store) -> tuple[ReviewResult, Any, ReviewResult | None]:
        pair_id = await make_pair(store, await new_run(store, wrote="accepted.txt"), state="rejected")
        put_a_folder_there(file)
        done = await override_pair(store, pair_id, "accepted")
        return done, await store.value("SELECT state FROM pairs"), await undo(store, 1)

    done, state, undone = with_store(tmp_path / "store.db", work)
    problem = f"cannot write {file}: it is a folder; name a file in it"
    assert state == "accepted"
    assert done.message == f"Accepted: «Why do bees dance?». {problem}"
    assert undone is not None
    assert undone.message == f"Took back the acceptance of «Why do bees dance?»; {problem}."


def test_the_quickstarts_own_file_is_one_too(tmp_path: Path) -> None:
    async def work(store: Store) -> ReviewResult:
        run_id = await runs.create(store, "quickstart", SETTINGS, {})
        await make_pair(store, run_id, "One?", "accepted")
        await runs.end(store, run_id, "finished", {"rows": []}, None)
        return await override_pair(store, await make_pair(store, run_id, state="rejected"), "accepted")

    assert with_store(tmp_path / "store.db", work).message.endswith(f" {tmp_path / 'accepted.txt'} is written again.")


def test_a_run_that_was_taken_up_again_in_the_meantime_is_left_to_its_owner(tmp_path: Path, file: Path) -> None:
    async def work(store: Store) -> Any:
        run_id = await new_run(store, wrote="accepted.txt")
        await make_pair(store, run_id, state="accepted")
        await runs.take_over(store, run_id)
        return await rewrite_file(store, ReviewedRun(run_id, live=False, file=file))

    assert with_store(tmp_path / "store.db", work) == (None, None)
    assert content(file) == "Question: old\nAnswer: old\n"


def test_the_copy_that_was_kept_of_an_older_run_follows_it(tmp_path: Path, file: Path) -> None:
    async def work(store: Store) -> None:
        older = await new_run(store, wrote="accepted.txt")
        await new_run(store, wrote="accepted.txt")
        kept = tmp_path / f"accepted.run-{older}.txt"
        kept.write_text("Question: stale\nAnswer: stale\n")
        done = await override_pair(store, await make_pair(store, older, "One?", "rejected"), "accepted")
        assert done.message == f"Accepted: «One?». {kept} is written again."
        assert content(kept) == "Question: One?\nAnswer: To show the way.\n"
        assert content(file) == "Question: old\nAnswer: old\n"

    with_store(tmp_path / "store.db", work)


def test_training_takes_the_runs_own_pairs_whatever_became_of_its_file(tmp_path: Path, file: Path) -> None:
    async def work(store: Store) -> None:
        run_id = await new_run(store, wrote="accepted.txt")
        await make_pair(store, run_id, "One?", "accepted")
        assert await accepted_file(store, run_id) == Path("accepted.txt"), "it is there"
        assert content(file) == "Question: old\nAnswer: old\n", "what a person has written there stays"
        file.unlink()  # noqa: ASYNC240  # one file
        assert await accepted_file(store, run_id) == Path("accepted.txt")
        assert content(file) == "Question: One?\nAnswer: To show the way.\n"
        await new_run(store, wrote="accepted.txt")
        own = Path(f"accepted.run-{run_id}.txt")
        assert await accepted_file(store, run_id) == own, "another run has written the path since"
        assert content(own) == "Question: One?\nAnswer: To show the way.\n"
        with pytest.raises(UsageError, match="no accepted pair to train on"):
            await accepted_file(store, await new_run(store, wrote=None))

    with_store(tmp_path / "store.db", work)


def test_pairs_of_earlier_runs_about_the_same_text_can_be_had_with_a_runs_own(tmp_path: Path, file: Path) -> None:
    async def work(store: Store) -> None:
        chunk = await make_chunk(store)
        made = [await new_run(store, wrote="accepted.txt") for _ in range(3)]
        for run_id, question in zip(made, ("One?", "Two?", "Three?"), strict=True):
            await make_pair(store, run_id, question, "accepted", chunk=chunk)
        for run_id in made[:2]:  # the last one has read other documents
            await make_file(store, run_id, "a.txt")
        first, second, third = made
        both = Path(f"accepted.runs-{first}-{second}.txt")
        assert await accepted_file_with_earlier(store, second) == both
        assert content(both) == "Question: One?\nAnswer: To show the way.\n\nQuestion: Two?\nAnswer: To show the way.\n"
        assert await accepted_file_with_earlier(store, third) == Path(f"accepted.runs-{third}.txt")

    with_store(tmp_path / "store.db", work)
