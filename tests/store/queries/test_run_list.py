"""Runs as lines: what each mode works with and on, and how good it became."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import events, queue, runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import RunLine, data_version, run_lines
from tests.store.store_fixtures import SETTINGS, with_store
from tests.store.test_store_rows import EVALUATION


async def one_run(store: Store, mode: str, options: dict[str, Any], result: dict[str, Any] | None) -> RunLine:
    run_id = await runs.create(store, mode, SETTINGS, options)
    if result is not None:
        await runs.end(store, run_id, "finished", result, None)
    (line,) = await run_lines(store, 1)
    assert line.id == run_id
    return line


@pytest.mark.parametrize(
    ("mode", "options", "result", "model", "data"),
    [
        ("generate", {}, None, "writer", "texts"),
        ("format", {"raw": "raw.txt"}, None, "", "raw.txt"),
        ("train", {}, None, "base", "accepted.txt"),
        ("train", {"train_data_file": "mine.jsonl"}, None, "base", "mine.jsonl"),
        ("train", {"train_data_file": None}, None, "base", "accepted.txt"),
        ("quickstart", {}, None, "base", ""),
        ("evaluate", {}, None, "", ""),
        ("evaluate", {}, {"base_model": "its own"}, "its own", ""),
        ("export", {}, {"base_model": "its own"}, "its own", ""),
        ("export", {}, {"format": "text"}, "", ""),
    ],
)
def test_a_line_says_what_a_run_works_with_and_on(
    tmp_path: Path, mode: str, options: dict[str, Any], result: dict[str, Any] | None, model: str, data: str
) -> None:
    line = with_store(tmp_path / "store.db", lambda store: one_run(store, mode, options, result))
    assert (line.mode, line.model, line.data) == (mode, model, data)


@pytest.mark.parametrize(
    ("recipe", "written", "model", "shown"),
    [
        ("auto", [], "", "(chosen at its start)"),
        ("auto", ["fine_tuning.model_name"], "base", "base"),
        ("auto", None, "base", "base"),
        ("as written", [], "base", "base"),
    ],
)
def test_a_waiting_run_names_the_model_only_where_it_is_not_left_to_choose(
    tmp_path: Path, recipe: str, written: list[str] | None, model: str, shown: str
) -> None:
    async def work(store: Store) -> tuple[RunLine, RunLine]:
        settings = {"fine_tuning": {"model_name": "base", "recipe": recipe}}
        async with store.transaction() as t:
            run_id = await queue.add(t, "train", settings, {}, written, folder=tmp_path)
        (waiting,) = await run_lines(store)
        await runs.start(store, run_id)
        (begun,) = await run_lines(store)
        return waiting, begun

    waiting, begun = with_store(tmp_path / "store.db", work)
    assert (waiting.model, waiting.shown_model) == (model, shown)
    assert (begun.model, begun.shown_model) == ("base", "base")


def test_settings_that_lack_a_key_leave_the_line_empty(tmp_path: Path) -> None:
    async def work(store: Store) -> list[RunLine]:
        for mode in ("generate", "train", "format", "quickstart"):
            await runs.create(store, mode, {}, {})
        return await run_lines(store)

    assert {(line.model, line.data) for line in with_store(tmp_path / "store.db", work)} == {("", "")}


@pytest.mark.parametrize(
    ("mode", "result", "score"),
    [
        ("train", {"best_score": 0.5}, 0.5),
        ("train", {"best_score": 1}, 1.0),
        ("evaluate", {"tuned_score": 0.75, "base_score": 0.9}, 0.75),
        ("train", {"best_score": None}, 0.25),  # from its evaluations
        ("train", None, 0.25),
        ("generate", {}, None),
    ],
)
def test_the_best_score_is_the_results_or_that_of_the_evaluations(
    tmp_path: Path, mode: str, result: dict[str, Any] | None, score: float | None
) -> None:
    async def work(store: Store) -> RunLine:
        run_id = await runs.create(store, mode, SETTINGS, {})
        for step, model, value in ((1, "tuned", 0.125), (2, "tuned", 0.25), (3, "tuned", 0.0), (0, "base", 0.875)):
            loss = {"held_out_loss": 2.0 - value} if step else {}
            evaluation = {**EVALUATION, **loss, "step": step, "model": model, "score": value}
            await events.append(store, run_id, [(1.0, "evaluation", evaluation)])
        if result is not None:
            await runs.end(store, run_id, "finished", result, None)
        return (await run_lines(store))[0]

    line = with_store(tmp_path / "store.db", work)
    assert line.best_score == score
    assert score is None or isinstance(line.best_score, float)
    assert line.held_out_loss == 1.75


def test_lines_are_the_newest_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    async def work(store: Store) -> list[list[int]]:
        for _ in range(4):
            await runs.create(store, "train", SETTINGS, {})
        return [[line.id for line in await run_lines(store, limit)] for limit in (2, 1000, -1)]

    assert with_store(tmp_path / "store.db", work) == [[4, 3], [4, 3, 2, 1], [4, 3, 2, 1]]


def test_a_line_holds_the_rest_of_the_run(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[RunLine, Any]:
        run_id = await runs.create(store, "train", SETTINGS, {})
        await runs.rename(store, run_id, "the first")
        await runs.set_folder(store, run_id, Path("/work/run-1"), "cpu")
        await runs.start(store, run_id)
        await runs.end(store, run_id, "failed", {}, "it broke")
        return (await run_lines(store))[0], await runs.get(store, run_id)

    line, run = with_store(tmp_path / "store.db", work)
    assert (line.name, line.folder, line.device, line.state, line.error) == (
        "the first",
        "/work/run-1",
        "cpu",
        "failed",
        "it broke",
    )
    for name in ("created_at", "started_at", "ended_at", "heartbeat", "pid", "host"):
        assert getattr(line, name) == getattr(run, name)


def test_the_data_version_changes_when_another_connection_writes(tmp_path: Path) -> None:
    async def work(store: Store) -> list[bool]:
        seen = [await data_version(store)]
        await runs.create(store, "train", {}, {})
        seen.append(await data_version(store))
        async with await Store.open(tmp_path / "store.db") as other:
            await runs.create(other, "train", {}, {})
        seen.append(await data_version(store))
        seen.append(await data_version(store))
        return [one == next_one for one, next_one in pairwise(seen)]

    assert with_store(tmp_path / "store.db", work) == [True, False, True]


def test_live_runs_are_found_by_an_index(tmp_path: Path) -> None:
    async def work(store: Store) -> str:
        sql = "SELECT * FROM runs WHERE state IN ('queued', 'running', 'stopping')"
        return " / ".join(str(row[3]) for row in await store.tuples(f"EXPLAIN QUERY PLAN {sql}"))

    assert "live_runs" in with_store(tmp_path / "store.db", work)


def test_the_runs_that_wrote_a_file_the_last_writer_first(tmp_path: Path) -> None:
    from tests.store.store_fixtures import make_pair

    async def work(store: Store) -> list[tuple[int, str]]:
        async def run(mode: str, state: str, result: dict[str, Any] | None, ended_at: float, *, accepted: bool) -> int:
            run_id = await runs.create(store, mode, SETTINGS, {})
            await make_pair(store, run_id, state="accepted" if accepted else "rejected", score=8.0)
            if state != "running":
                await runs.end(store, run_id, state, result, None)
            async with store.transaction() as t:
                await t.execute("UPDATE runs SET ended_at=?, state=? WHERE id=?", (ended_at, state, run_id))
            return run_id

        now = time.time()
        await run("generate", "finished", {"output_file": "other.txt"}, now + 5, accepted=True)
        await run("generate", "failed", {"output_file": None}, now + 9, accepted=False)
        await run("generate", "interrupted", None, now + 3, accepted=True)
        await run("generate", "interrupted", None, now + 8, accepted=False)
        await run("quickstart", "finished", {"rows": []}, now + 4, accepted=True)
        await run("train", "finished", {}, now + 7, accepted=True)
        await run("generate", "running", None, now, accepted=True)
        return await runs.output_files(store)

    assert with_store(tmp_path / "store.db", work) == [
        (7, "accepted.txt"),
        (1, "other.txt"),
        (5, "accepted.txt"),
        (3, "accepted.txt"),
    ]


async def data_of(store: Store, tuning: dict[str, Any], options: dict[str, Any]) -> str:
    settings = {**SETTINGS, "fine_tuning": tuning, "data_generation": {"output_file": "accepted.txt"}}
    run_id = await runs.create(store, "train", settings, options)
    return next(line.data for line in await run_lines(store) if line.id == run_id)


def test_a_run_on_preferences_names_what_it_learned_from(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        said = {"method": "dpo", "train_data_file": "pairs.txt"}
        named = {**said, "preferences": {"data_file": "judged.jsonl"}}
        return [
            await data_of(store, said, {}),
            await data_of(store, named, {}),
            await data_of(store, named, {"train_data_file": "other.jsonl"}),
            await data_of(store, {"method": "sft", "preferences": {"data_file": "judged.jsonl"}}, {}),
        ]

    assert with_store(tmp_path / "store.db", work) == [
        "what people said",
        "judged.jsonl",
        "other.jsonl",
        "accepted.txt",
    ]
