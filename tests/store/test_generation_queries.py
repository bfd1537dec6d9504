"""Tasks, attempts, pairs, decisions and analyses as the store keeps them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lora_tui.store import generation, runs, tasks
from lora_tui.store.connection import Store
from lora_tui.store.rows import AnalysisRow, AttemptEnd, ChunkRow, Decision, NewPair, NewTask, TaskRow
from tests.store.store_fixtures import plans

Work = Callable[[Store, int], Awaitable[None]]

SLOT = {"topic": "bees", "question_type": "fact", "difficulty": "easy", "audience": "an expert", "count": 2}


@pytest.fixture
def on_store(tmp_path: Path) -> Callable[[Work], None]:
    def run(work: Work) -> None:
        async def opened() -> None:
            async with await Store.open(tmp_path / "store.db") as store:
                await work(store, await runs.create(store, "generate", {}, {}))

        asyncio.run(opened())

    return run


async def planned(store: Store, run_id: int, key: str = "1/0/a.txt", kind: str = "generate") -> TaskRow:
    async with store.transaction() as t:
        await tasks.add_tasks(t, run_id, [NewTask(kind, key, source="a.txt", round=1, slot=SLOT)])
    found = await tasks.task_by_key(store, run_id, kind, key)
    assert found is not None
    return found


async def proposed(store: Store, run_id: int, task: TaskRow, ordinal: int, state: str = "waiting") -> int:
    new = NewPair(ordinal, f"Question {ordinal}?", "A.", "E.", "bees", f"question {ordinal}")
    async with store.transaction() as t:
        pair_id = await generation.add_pair(t, run_id, task, new, 0)
        if state != "waiting":
            await generation.decide(t, pair_id, verdict(state, None), {}, {})
    return pair_id


def verdict(kind: str, score: float | None = 8.0) -> Decision:
    return Decision(kind, score, 7.0, 1, "aggregator", "below threshold" if kind == "rejected" else kind, "because")


def test_planning_a_task_twice_adds_it_once(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        async with store.transaction() as t:
            first = await tasks.add_tasks(t, run_id, [NewTask("generate", "a", slot=SLOT), NewTask("generate", "b")])
            again = await tasks.add_tasks(t, run_id, [NewTask("generate", "a"), NewTask("judge", "a")])
        assert (first, again) == (2, 1)
        pending = await tasks.pending_tasks(store, run_id, "generate", 10)
        assert [task.key for task in pending] == ["a", "b"]
        assert pending[0].slot == SLOT

    on_store(work)


def test_only_pending_tasks_can_end(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        task = await planned(store, run_id)
        async with store.transaction() as t:
            await tasks.end_task(t, task.id, "done", "1 item refused", 1)
            await tasks.end_task(t, task.id, "dead", "too late")
        assert await tasks.task_counts(store, run_id) == {("generate", "done"): 1}
        assert await tasks.refused_items(store, run_id) == 1
        assert await tasks.dead_reasons(store, run_id) == {}

    on_store(work)


def test_cancelling_can_be_limited_to_a_kind(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        await planned(store, run_id)
        await planned(store, run_id, "5", "analyse")
        async with store.transaction() as t:
            await tasks.cancel_pending(t, run_id, "later", "analyse")
        assert await tasks.task_counts(store, run_id) == {("generate", "pending"): 1, ("analyse", "cancelled"): 1}
        assert await tasks.last_round(store, run_id) == 1

    on_store(work)


def test_an_attempt_ends_once(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        task = await planned(store, run_id)
        attempt = await store.together(lambda t: tasks.begin_attempt(t, run_id, task.id, 400))
        async with store.transaction() as t:
            await tasks.end_attempt(t, attempt, AttemptEnd("ok", 100, 20, 10, 200, "r1", "reply"))
            await tasks.end_attempt(t, attempt, AttemptEnd("cancelled"))
        (total,) = await tasks.attempt_totals(store, run_id)
        assert (total.status, total.calls, total.prompt_tokens, total.completion_tokens) == ("ok", 1, 100, 20)
        assert (total.cached_tokens, total.estimated_tokens) == (10, 400)

    on_store(work)


def test_attempts_without_an_end_are_lost(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        task = await planned(store, run_id)
        await store.together(lambda t: tasks.begin_attempt(t, run_id, task.id, 400))
        other = await runs.create(store, "generate", {}, {})
        assert await tasks.mark_lost_attempts(store, other) == 0
        assert await tasks.mark_lost_attempts(store, run_id) == 1
        assert await tasks.mark_lost_attempts(store, run_id) == 0
        (total,) = await tasks.attempt_totals(store, run_id)
        assert (total.status, total.estimated_tokens) == ("lost", 400)

    on_store(work)


def test_a_decision_moves_the_pair_and_is_kept(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        task = await planned(store, run_id)
        pair_id = await proposed(store, run_id, task, 0)
        async with store.transaction() as t:
            await generation.decide(t, pair_id, verdict("rejected", 5.0), {"coverage": 0.5}, {"coverage": "how"})
            await generation.decide(t, pair_id, verdict("accepted", 9.0), {"coverage": 0.75}, {})
        row = await generation.pair(store, pair_id)
        assert row is not None
        assert (row.state, row.score, row.reason, row.slot, row.source) == ("accepted", 9.0, "because", SLOT, "a.txt")
        assert await store.tuples("SELECT name, value FROM pair_metrics") == [("coverage", 0.75)]
        assert [v for (v,) in await store.tuples("SELECT verdict FROM decisions ORDER BY id")] == [
            "rejected",
            "accepted",
        ]

    on_store(work)


def test_a_task_cannot_propose_the_same_pair_twice(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        task = await planned(store, run_id)
        await proposed(store, run_id, task, 0)
        with pytest.raises(Exception, match="UNIQUE"):
            await proposed(store, run_id, task, 0)
        assert await generation.pair_counts(store, run_id) == {"waiting": 1}

    on_store(work)


def test_pairs_come_in_pages_by_state(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        task = await planned(store, run_id)
        ids = [await proposed(store, run_id, task, n, "accepted" if n % 2 else "rejected") for n in range(7)]
        page = await generation.pairs(store, run_id, ("accepted",), 0, 2)
        assert [row.id for row in page] == [ids[1], ids[3]]
        assert [row.id for row in await generation.pairs(store, run_id, ("accepted",), page[-1].id, 2)] == [ids[5]]
        newest = await generation.newest_pairs(store, run_id, ("accepted", "rejected"), 2)
        assert [row.id for row in newest] == [ids[6], ids[5]]

    on_store(work)


def test_a_question_is_known_unless_a_gate_refused_it(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        task = await planned(store, run_id)
        await proposed(store, run_id, task, 0, "waiting")
        await proposed(store, run_id, task, 1, "rejected")
        judged = await proposed(store, run_id, task, 2)
        async with store.transaction() as t:
            await generation.decide(t, judged, verdict("rejected", 3.0), {}, {})
        known = [await generation.has_question(store, run_id, f"question {n}") for n in range(4)]
        assert known == [True, False, True, False]

    on_store(work)


def test_counts_causes_and_histograms(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        task = await planned(store, run_id)
        ids = [await proposed(store, run_id, task, n) for n in range(4)]
        async with store.transaction() as t:
            for pair_id, kind in zip(ids, ("accepted", "accepted", "rejected", "review"), strict=True):
                await generation.decide(t, pair_id, verdict(kind), {"coverage": 0.5}, {})
        assert await generation.pair_counts(store, run_id) == {"accepted": 2, "rejected": 1, "review": 1}
        assert await generation.rejection_causes(store, run_id) == {"below threshold": 1, "review": 1}
        assert await generation.histogram(store, run_id, "question_type", ("accepted",)) == {"fact": 2}
        assert await generation.histogram(store, run_id, "topic", ("accepted", "review")) == {"bees": 3}
        assert await generation.histogram(store, run_id, "source", ("accepted",)) == {"a.txt": 2}
        assert await generation.mean_metrics(store, run_id) == {"coverage": 0.5}

    on_store(work)


def test_analyses_are_numbered_in_their_run(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        assert await generation.newest_analysis(store, run_id) is None
        for version in (1, 2):
            async with store.transaction() as t:
                row = AnalysisRow(version, 5 * version, {"entropy": 1.5}, ["Be brief."], "words", 0.0)
                await generation.add_analysis(t, run_id, row)
        newest = await generation.newest_analysis(store, run_id)
        assert newest is not None
        assert (newest.version, newest.statistics, newest.directives) == (2, {"entropy": 1.5}, ["Be brief."])
        assert await store.tuples("SELECT version FROM analyses ORDER BY version") == [(1,), (2,)]

    on_store(work)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM tasks WHERE run_id=1 AND kind='judge' AND state='pending' ORDER BY id LIMIT 9",
        "SELECT id FROM pairs WHERE run_id=1 AND state IN ('accepted') AND id>7 ORDER BY id LIMIT 9",
        "SELECT 1 FROM pairs WHERE run_id=1 AND question_key='x' LIMIT 1",
        "SELECT id FROM chunks WHERE document_id='x' AND chunking='y' AND position=0",
    ],
)
def test_the_queries_of_every_turn_are_index_look_ups(on_store: Callable[[Work], None], sql: str) -> None:
    async def work(store: Store, run_id: int) -> None:
        steps = [row[3] for row in await store.tuples(f"EXPLAIN QUERY PLAN {sql}")]
        assert all("SEARCH" in step and "USING" in step for step in steps if "TEMP B-TREE" not in step), steps
        assert not any("SCAN" in step for step in steps)

    on_store(work)


def test_what_was_said_about_a_passage_is_found_by_the_passage(on_store: Callable[[Work], None]) -> None:
    async def work(store: Store, run_id: int) -> None:
        chunk = ChunkRow("x", "d", 0, 0, 1, 1, "", "text", content_id="c")
        steps = await plans(store, generation.said_about(store, (run_id, 7), chunk))
        assert [step for step in steps if " pairs " in step] == ["SEARCH pairs USING INDEX pairs_of_chunk (chunk_id=?)"]

    on_store(work)
