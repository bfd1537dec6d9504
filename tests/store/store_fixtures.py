"""Rows for tests: pairs, calls, feedback put in by the store's own functions, and what is read back of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from lora_tui.store import feedback, generation, runs, tasks
from lora_tui.store.connection import Store
from lora_tui.store.rows import Checkpoint, ChunkRow, Decision, NewPair, NewTask, Run, SourceFile

SLOT = {"topic": "bees", "question_type": "why", "difficulty": "hard", "audience": "an expert", "count": 1}
METRICS = {"judge_groundedness": 0.5, "coverage": 0.75}
SETTINGS = {
    "data_generation": {
        "model": "writer",
        "input_folder": "texts",
        "output_file": "accepted.txt",
        "adaptive_aggregator": {"learning_rate": 0.1},
    },
    "fine_tuning": {
        "model_name": "base",
        "train_data_file": "",
        "training": {"save_dir": "checkpoints"},
        "evaluation": {"adaptive_aggregator": {"learning_rate": 0.2}},
    },
}


def with_store(path: Path, work: Callable[[Store], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on an open store."""

    async def run() -> Any:
        async with await Store.open(path) as store:
            return await work(store)

    return asyncio.run(run())


async def add_run(store: Store, mode: str = "train") -> int:
    return await runs.create(store, mode, {"key": 1}, {})


async def make_chunk(store: Store, name: str = "chunk") -> str:
    """Store a passage; returns its id."""
    async with store.transaction() as t:
        row = ChunkRow(name, "document", 0, 0, 20, 5, "Bees", "Bees dance in the dark.")
        await generation.add_document(t, "document", 20, "utf-8", "1/400/40", [row])
    return name


async def make_file(store: Store, run_id: int, path: str, skipped: str | None = None) -> None:
    async with store.transaction() as t:
        await generation.add_source_file(t, run_id, SourceFile(path, None if skipped else "document", 100, 3, skipped))


async def make_pair(
    store: Store,
    run_id: int,
    question: str = "Why do bees dance?",
    state: str = "waiting",
    score: float | None = None,
    **more: Any,
) -> int:
    """Store a pair with its writing task and its judge's task, decided where `state` says so; returns its id."""
    number = int(await store.value("SELECT COUNT(*) FROM tasks"))
    source = more.get("source", "a.txt")
    async with store.transaction() as t:
        task = NewTask("generate", f"key {number}", more.get("chunk"), round=1, source=source, slot=SLOT)
        await tasks.add_tasks(t, run_id, [task])
        planned = await tasks.task_by_key(t, run_id, "generate", task.key)
        assert planned is not None
        answer, topic = more.get("answer", "To show the way."), more.get("topic", "bees")
        new = NewPair(0, question, answer, "They show the way.", topic, question.lower())
        pair_id = await generation.add_pair(t, run_id, planned, new, 0)
        await tasks.end_task(t, planned.id, "done")
        await tasks.add_tasks(t, run_id, [NewTask("judge", str(pair_id), None, pair_id, 1, source)])
        if state != "waiting":
            judge = await tasks.task_by_key(t, run_id, "judge", str(pair_id))
            assert judge is not None
            await tasks.end_task(t, judge.id, "done")
            cause, reason = more.get("cause", "below threshold"), more.get("reason", "scores too little")
            verdict = Decision(state, score, 7.0, more.get("weights_version", 1), "aggregator", cause, reason)
            await generation.decide(t, pair_id, verdict, more.get("metrics", METRICS), {"coverage": "how"})
    return pair_id


async def make_call(store: Store, run_id: int, task_id: int, status: str, **more: Any) -> None:
    """Store a call; `sent_at` and `ended_at` are seconds since the epoch."""
    columns = {"task_id": task_id, "run_id": run_id, "status": status, "sent_at": time.time(), **more}
    async with store.transaction() as t:
        await t.execute(
            f"INSERT INTO attempts({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})", columns.values()
        )


async def add_feedback(store: Store, *judgement: Any) -> int:
    """Store one judgement, given as `feedback.add` takes it, in a transaction of its own; returns its id."""
    async with store.transaction() as t:
        return await feedback.add(t, *judgement)


async def undo_feedback(store: Store, feedback_id: int) -> None:
    """Take a judgement out of force."""
    async with store.transaction() as t:
        await t.execute("UPDATE feedback SET undone_at=1 WHERE id=?", (feedback_id,))


async def turn_ratings(store: Store, conversation_id: int) -> dict[int, int]:
    """Return people's ratings (1-5) of the replies of a conversation, by turn id."""
    rows = await store.tuples(
        "SELECT subject_id, target FROM feedback WHERE subject='turn' AND undone_at IS NULL AND given_by='person'"
        " AND subject_id IN (SELECT id FROM turns WHERE conversation_id=?) ORDER BY id",
        (conversation_id,),
    )
    return {turn_id: feedback.rating_of(target) for turn_id, target in rows}


async def newest_checkpoint(store: Store, run_id: int, kind: str) -> Checkpoint | None:
    """Return the newest checkpoint of a kind (``last`` or ``best``), or None."""
    return await store.one(
        Checkpoint, "SELECT * FROM checkpoints WHERE run_id=? AND kind=? ORDER BY id DESC LIMIT 1", (run_id, kind)
    )


async def list_runs(store: Store) -> list[Run]:
    """Return every run, newest first, after marking those whose owner is gone."""
    await runs.mark_interrupted(store)
    return await store.all(Run, "SELECT * FROM runs ORDER BY id DESC")


async def plans(store: Store, ask: Awaitable[Any]) -> list[str]:
    """Return how SQLite goes about what is asked, step by step, in the order of the statements."""
    steps: list[str] = []
    real = store._rows

    async def watch(sql: str, parameters: Iterable[Any]) -> Any:
        given = tuple(parameters)
        steps.extend(str(row[3]) for row in await real(f"EXPLAIN QUERY PLAN {sql}", given))
        return await real(sql, given)

    store._rows = watch  # type: ignore[method-assign]
    try:
        await ask
    finally:
        store._rows = real  # type: ignore[method-assign]
    return steps
