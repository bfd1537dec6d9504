"""What a trainer reports, as columns, and events, checkpoints and weights by their kind."""

import math
from array import array
from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import events, feedback
from lora_tui.store.connection import Store
from lora_tui.store.queries import runs as run_queries
from lora_tui.store.queries.runs import checkpoints, events_of_kinds, newest_event, step_columns, weight_history
from lora_tui.store.rows import StepColumns
from tests.store.store_fixtures import add_run, plans, with_store
from tests.store.test_store_rows import STEP


async def take_steps(store: Store, run_id: int, *steps: int, **changes: Any) -> None:
    await events.append(store, run_id, [(100.0 + n, "step", {**STEP, "step": n, **changes}) for n in steps])


def test_steps_are_columns_of_equal_length(tmp_path: Path) -> None:
    async def work(store: Store) -> StepColumns:
        run_id, other = await add_run(store), await add_run(store)
        await take_steps(store, run_id, 1, 3)
        await take_steps(store, other, 1, 2)
        await take_steps(store, run_id, 2, loss=None, grad_norm=None)
        return await step_columns(store, run_id)

    columns = with_store(tmp_path / "store.db", work)
    assert len(columns) == 3
    assert columns.step == array("q", [1, 2, 3])
    assert columns.at == array("d", [101.0, 102.0, 103.0])
    assert (columns.loss[0], columns.loss[2]) == (2.5, 2.5)
    assert math.isnan(columns.loss[1])
    assert math.isnan(columns.grad_norm[1])
    for name in ("epoch", "lr", "tokens", "tokens_per_s", "seconds", "memory_mb"):
        assert list(getattr(columns, name)) == [STEP[name]] * 3


@pytest.mark.parametrize("steps", [0, 1, 9, 10, 11, 25])
def test_blocks_leave_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(run_queries, "_BLOCK", 5)

    async def work(store: Store) -> list[list[int]]:
        run_id = await add_run(store)
        await take_steps(store, run_id, *range(1, steps + 1))
        return [list((await step_columns(store, run_id, after)).step) for after in (0, 4, 30)]

    assert with_store(tmp_path / "store.db", work) == [
        list(range(1, steps + 1)),
        list(range(5, steps + 1)),
        [],
    ]


def test_the_newest_event_of_a_kind(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Any]:
        run_id, other = await add_run(store), await add_run(store)
        for n, kind in enumerate(("note", "plan", "note", "plan", "note")):
            await events.append(store, run_id, [(1.0, kind, {"n": n})])
        await events.append(store, other, [(1.0, "plan", {"n": 99})])
        found = [await newest_event(store, run_id, kind) for kind in ("plan", "note", "done")]
        return [event and event.payload["n"] for event in found]

    assert with_store(tmp_path / "store.db", work) == [3, 4, None]


def test_events_of_some_kinds_come_in_order_and_in_pages(tmp_path: Path) -> None:
    async def work(store: Store) -> list[list[int]]:
        run_id, other = await add_run(store), await add_run(store)
        for n in range(12):
            await events.append(store, run_id, [(1.0, ("a", "b", "c")[n % 3], {"n": n})])
            await events.append(store, other, [(1.0, "a", {"n": 100 + n})])
        pages = [await events_of_kinds(store, run_id, ("c", "a"), 0, 3)]
        while pages[-1]:
            pages.append(await events_of_kinds(store, run_id, ("c", "a"), pages[-1][-1].id, 3))
        assert await events_of_kinds(store, run_id, ()) == []
        return [[event.payload["n"] for event in page] for page in pages]

    assert with_store(tmp_path / "store.db", work) == [[0, 2, 3], [5, 6, 8], [9, 11], []]


def test_events_of_a_rare_kind_are_found_without_reading_the_others(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        return await plans(store, events_of_kinds(store, 1, ("a", "b"), 7, 100))

    steps = with_store(tmp_path / "store.db", work)
    assert steps.count("SEARCH events USING COVERING INDEX events_of_kind (run_id=? AND kind=? AND id>?)") == 2
    assert not any("SCAN events" in step for step in steps)


def test_checkpoints_are_the_newest_first(tmp_path: Path) -> None:
    async def work(store: Store) -> list[tuple[int, str]]:
        run_id, other = await add_run(store), await add_run(store)
        for where, step, kind in ((run_id, 3, "best"), (other, 9, "last"), (run_id, 4, "last"), (run_id, 6, "last")):
            payload = {"step": step, "kind": kind, "path": "/p", "score": None}
            await events.append(store, where, [(1.0, "checkpoint", payload)])
        return [(checkpoint.step, checkpoint.kind) for checkpoint in await checkpoints(store, run_id)]

    assert with_store(tmp_path / "store.db", work) == [(6, "last"), (4, "last"), (3, "best")]


def test_the_history_of_the_weights_is_of_one_scope_and_the_oldest_first(tmp_path: Path) -> None:
    async def work(store: Store) -> list[list[tuple[int, dict[str, float]]]]:
        for version, scope in ((0, "evaluation"), (0, "generation"), (1, "evaluation"), (2, "evaluation")):
            async with store.transaction() as t:
                await feedback.record_weights(t, scope, version, {"bleu": version / 2})
        histories = [await weight_history(store, "evaluation", limit) for limit in (1000, 2)]
        return [[(row.version, row.weights) for row in history] for history in histories]

    whole, newest = with_store(tmp_path / "store.db", work)
    assert whole == [(0, {"bleu": 0.0}), (1, {"bleu": 0.5}), (2, {"bleu": 1.0})]
    assert newest == whole[1:]
