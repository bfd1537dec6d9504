"""Passes over the folder: what is asked of which passage, and that planning can be repeated."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lora_tui.config.generation import DataGeneration, Generation
from lora_tui.engine.generation.planner import Planner, pairs_by_call
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.store import generation as store_generation
from lora_tui.store import runs, tasks
from lora_tui.store.connection import Store
from tests.engine.generation.whole_folder import read_folder


def chosen(pairs: int = 1, tokens: int = 300, topics: tuple[str, ...] = ()) -> DataGeneration:
    return DataGeneration(
        num_examples_per_file=pairs, generation=Generation(max_tokens=tokens), seed=42, topics=list(topics)
    )


@pytest.mark.parametrize(
    ("pairs", "tokens", "counts"),
    [(1, 300, [1]), (2, 300, [1, 1]), (5, 400, [2, 2, 1]), (3, 50, [1, 1, 1]), (12, 4000, [5, 5, 2])],
)
def test_a_call_asks_for_what_a_reply_has_room_for(pairs: int, tokens: int, counts: list[int]) -> None:
    assert pairs_by_call(chosen(pairs, tokens)) == counts


def with_planner(
    tmp_path: Path, story: Callable[[Store, int, Planner], Awaitable[None]], settings: DataGeneration
) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "long.md").write_text("# Bees\n\n" + "\n\n".join(f"Paragraph {n} says a thing or two." for n in range(3)))
    (folder / "short.txt").write_text("Ants walk.")

    async def run() -> None:
        async with await Store.open(tmp_path / "store.db") as store:
            run_id = await runs.create(store, "generate", {}, {})
            cut = DataGeneration(input_folder=str(folder), chunk_tokens=12, chunk_overlap=0)
            corpus = await read_folder(store, run_id, cut, print, lambda done, total: None)
            assert [source.chunks for source in corpus.sources] == [3, 1]
            await story(store, run_id, Planner(store, run_id, corpus, settings, 1))

    asyncio.run(run())


async def positions(store: Store, run_id: int) -> list[tuple[int, str, int]]:
    """Return pass, file and position of the passage of every task."""
    sql = (
        "SELECT round, source, position FROM tasks JOIN chunks ON chunks.id = chunk_id WHERE run_id=? ORDER BY tasks.id"
    )
    return [tuple(row) for row in await store.tuples(sql, (run_id,))]  # type: ignore[misc]  # three columns


def test_passages_of_a_file_take_turns(tmp_path: Path) -> None:
    async def story(store: Store, run_id: int, planner: Planner) -> None:
        await planner.plan(8)
        found = await positions(store, run_id)
        assert found == [
            (1, "long.md", 0),
            (1, "short.txt", 0),
            (2, "long.md", 1),
            (2, "short.txt", 0),
            (3, "long.md", 2),
            (3, "short.txt", 0),
            (4, "long.md", 0),
            (4, "short.txt", 0),
        ]

    with_planner(tmp_path, story, chosen())


def test_several_calls_of_a_pass_go_to_several_passages(tmp_path: Path) -> None:
    async def story(store: Store, run_id: int, planner: Planner) -> None:
        await planner.plan(8)
        found = [position for _, source, position in await positions(store, run_id) if source == "long.md"]
        assert found == [0, 1, 2, 0]

    with_planner(tmp_path, story, chosen(pairs=4, tokens=400))


def test_planning_again_adds_nothing_twice_and_draws_the_same(tmp_path: Path) -> None:
    async def story(store: Store, run_id: int, planner: Planner) -> None:
        await planner.plan(3)
        before = await store.tuples("SELECT key, CAST(slot AS TEXT) FROM tasks ORDER BY id")
        again = Planner(store, run_id, planner._corpus, chosen(), 1)
        await again.plan(2)
        after = await store.tuples("SELECT key, CAST(slot AS TEXT) FROM tasks ORDER BY id")
        assert after[:3] == before
        assert len(after) == 5
        assert len({key for key, _ in after}) == 5

    with_planner(tmp_path, story, chosen())


def test_every_passage_is_asked_once_before_the_folder_counts_as_exhausted(tmp_path: Path) -> None:
    async def story(store: Store, run_id: int, planner: Planner) -> None:
        assert planner.fruitless_limit == 10, "few passages get some tries"
        many = Planner(store, run_id, planner._corpus, chosen(pairs=40, tokens=400), 1)
        assert many.fruitless_limit == 40

    with_planner(tmp_path, story, chosen())


def test_a_request_has_the_passage_its_slot_and_what_to_avoid(tmp_path: Path) -> None:
    async def story(store: Store, run_id: int, planner: Planner) -> None:
        await planner.plan(2)
        long, short = await tasks.pending_tasks(store, run_id, "generate", 5)
        row = await store_generation.chunk(store, long.chunk_id or "")
        assert row is not None
        request = await planner.request(long, row, ["Be brief."])
        assert request.passage == row.text
        assert request.slot.topic == "Bees"
        assert request.count == json.loads(json.dumps(long.slot))["count"] == 1
        assert request.directives == ("Be brief.",)
        assert "short" in request.further_topics
        assert "Bees" not in request.further_topics
        assert short.slot["topic"] == "short"

    with_planner(tmp_path, story, chosen())


def test_every_call_of_the_built_in_model_is_told_how_each_file_begins_once(tmp_path: Path) -> None:
    async def story(store: Store, run_id: int, planner: Planner) -> None:
        await planner.plan(8)
        planned = await tasks.pending_tasks(store, run_id, "generate", 8)
        rows = [await planner.passage(task.chunk_id or "") for task in planned]
        requests = [planner.request(task, row, []) for task, row in zip(planned, rows, strict=True)]
        told = {request.beginnings for request in await asyncio.gather(*requests)}
        assert len(told) == 1
        assert [beginning.split()[0] for beginning in told.pop()] == ["#", "Ants"]

    with_planner(tmp_path, story, chosen().model_copy(update={"model": BUILTIN}))


def test_configured_topics_take_the_place_of_the_folders_own(tmp_path: Path) -> None:
    async def story(store: Store, run_id: int, planner: Planner) -> None:
        await planner.plan(1)
        (task,) = await tasks.pending_tasks(store, run_id, "generate", 5)
        row = await store_generation.chunk(store, task.chunk_id or "")
        assert row is not None
        assert set((await planner.request(task, row, [])).further_topics) == {"clocks", "tides"}

    with_planner(tmp_path, story, chosen(topics=("clocks", "tides")))


def test_many_calls_are_planned_at_once_as_one_after_the_other(tmp_path: Path) -> None:
    async def story(store: Store, run_id: int, planner: Planner) -> None:
        other_run = await runs.create(store, "generate", {}, {})
        await planner.plan(8)
        single = Planner(store, other_run, planner._corpus, chosen(pairs=3), 1)
        for _ in range(8):
            await single.plan(1)
        query = "SELECT key, chunk_id, CAST(slot AS TEXT) FROM tasks WHERE run_id=? ORDER BY id"
        assert await store.tuples(query, (run_id,)) == await store.tuples(query, (other_run,))

    with_planner(tmp_path, story, chosen(pairs=3))
