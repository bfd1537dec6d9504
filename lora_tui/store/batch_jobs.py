"""Queries on the batches of a run: calls that an endpoint answers in its own time, at half the price.

    batches   planned -> submitted -> completed | expired | cancelled | failed

A batch is stored before anything of it leaves, with the attempts that it holds, and the endpoint's number as soon as it
is known: whoever comes after a crash finds it by that, or by our own name for it in its metadata.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lora_tui.store.connection import Store

OPEN = ("planned", "submitted")
"""States of batches that the endpoint may still work on."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch of calls."""

    id: int
    name: str
    batch_id: str
    state: str
    requests: int
    answered: int
    failed: int
    error: str


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call of a batch whose answer is not stored yet."""

    attempt_id: int
    task_id: int
    batch: int
    model: str
    estimated_tokens: int


async def add(t: Store, run_id: int, name: str, calls: Sequence[tuple[int, str]]) -> int:
    """Store a batch that is about to be submitted, with attempt and model of each of its calls; returns its id."""
    now = time.time()
    batch = await t.insert(
        "batches", run_id=run_id, name=name, state="planned", requests=len(calls), created_at=now, changed_at=now
    )
    await t.execute_many(
        "INSERT INTO batch_calls(attempt_id, batch, model) VALUES (?, ?, ?)",
        [(attempt, batch, model) for attempt, model in calls],
    )
    return batch


async def change(t: Store, batch: int, **columns: object) -> None:
    """Store what has become of a batch."""
    names = ", ".join(f"{name}=?" for name in columns)
    await t.execute(f"UPDATE batches SET {names}, changed_at=? WHERE id=?", (*columns.values(), time.time(), batch))


async def of_run(store: Store, run_id: int) -> list[BatchRow]:
    """Return the batches of a run, the oldest first."""
    sql = "SELECT id, name, batch_id, state, requests, answered, failed, error FROM batches WHERE run_id=? ORDER BY id"
    return await store.all(BatchRow, sql, (run_id,))


async def end_unwanted(t: Store, run_id: int) -> None:
    """End the calls of batches whose task is over: nobody will ask for their answers."""
    await t.execute(
        "UPDATE attempts SET status='cancelled', ended_at=?2, error='its task was over before' WHERE run_id=?1"
        " AND status='sent' AND id IN (SELECT attempt_id FROM batch_calls)"
        " AND task_id IN (SELECT id FROM tasks WHERE run_id=?1 AND state<>'pending')",
        (run_id, time.time()),
    )


async def open_calls(store: Store, run_id: int) -> list[OpenCall]:
    """Return the calls of a run's batches whose answers are not stored yet, the oldest first."""
    return await store.all(
        OpenCall,
        "SELECT attempt_id, task_id, batch, batch_calls.model AS model, estimated_tokens FROM batch_calls"
        " JOIN attempts ON attempts.id = attempt_id WHERE attempts.run_id=? AND status='sent' ORDER BY attempt_id",
        (run_id,),
    )


async def end_if_outdated(t: Store, attempt: int) -> bool:
    """End a call that has judged a pair whose text was changed since it was sent; tells whether it is one.

    Its answer is about the former text. What it costs stays counted.
    """
    return bool(
        await t.execute(
            "UPDATE attempts SET status='cancelled', ended_at=?2, error='the pair was edited after it was sent'"
            " WHERE id=?1 AND EXISTS (SELECT 1 FROM tasks JOIN pair_edits USING (pair_id) WHERE tasks.id = task_id"
            " AND tasks.kind = 'judge' AND (at > sent_at OR undone_at > sent_at))",
            (attempt, time.time()),
        )
    )
