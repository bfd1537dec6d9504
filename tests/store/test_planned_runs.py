"""Earlier training runs: what they planned and how fast they were."""

import asyncio
import time
from pathlib import Path
from typing import Any

from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import PlannedRun
from lora_tui.store.training import planned_runs
from tests.store.test_store_rows import STEP

SETTINGS = {
    "fine_tuning": {"train_data_file": "", "training": {"max_length": 512}},
    "data_generation": {"output_file": "accepted.txt"},
}
PLAN = {"model": "builtin", "device": "cpu", "tokens": 1234, "examples": 7}


async def trained(
    store: Store,
    steps: int,
    *,
    mode: str = "train",
    settings: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    end: str | None = "finished",
    plan: bool = True,
) -> int:
    run_id = await runs.create(store, mode, settings or SETTINGS, options or {})
    news: list[events.NewEvent] = [(5.0, "note", {"message": "before"})]
    news += [(7.0, "plan", PLAN)] if plan else []
    news += [(8.0, "step", {**STEP, "step": number + 1}) for number in range(steps)]
    await events.append(store, run_id, news)
    if end:
        await runs.end(store, run_id, end, {}, None)
    return run_id


def found(path: Path, *wanted: dict[str, Any]) -> list[PlannedRun]:
    async def work() -> list[PlannedRun]:
        async with await Store.open(path) as store:
            for one in wanted:
                await trained(store, **one)
            return await planned_runs(store)

    return asyncio.run(work())


def test_plans_come_newest_first_with_the_sums_of_their_steps(tmp_path: Path) -> None:
    first, second = found(tmp_path / "s.db", {"steps": 3}, {"steps": 0, "end": None})
    assert (first.id, first.state, first.tokens, first.seconds) == (2, "queued", 0, 0.0)
    assert (second.id, second.state, second.tokens, second.seconds) == (1, "finished", 300, 6.0)
    assert (second.plan, second.planned_at, second.max_length) == (PLAN, 7.0, 512)


def test_runs_without_a_plan_and_other_modes_are_left_out(tmp_path: Path) -> None:
    assert found(tmp_path / "s.db", {"steps": 1, "plan": False}, {"steps": 0, "mode": "generate"}) == []


def test_the_training_file_is_the_one_the_run_was_given(tmp_path: Path) -> None:
    named = {**SETTINGS, "fine_tuning": {"train_data_file": "named.txt", "training": {"max_length": 8}}}
    rows = found(
        tmp_path / "s.db",
        {"steps": 0},
        {"steps": 0, "settings": named},
        {"steps": 0, "settings": named, "options": {"train_data_file": "option.txt"}},
        {"steps": 0, "mode": "quickstart"},
    )
    assert [row.data for row in reversed(rows)] == ["accepted.txt", "named.txt", "option.txt", ""]


def test_long_runs_are_looked_at_in_a_moment(tmp_path: Path) -> None:
    async def work() -> float:
        async with await Store.open(tmp_path / "s.db") as store:
            for _ in range(5):
                await trained(store, 1000)
            took = []
            for _ in range(5):
                began = time.perf_counter()
                assert len(await planned_runs(store)) == 5
                took.append(time.perf_counter() - began)
            return min(took)

    assert asyncio.run(work()) < 0.05
