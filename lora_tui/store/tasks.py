"""Queries on the tasks of a generation run and the API calls (attempts) made for them.

    tasks     pending -> done | dead | cancelled          kinds: generate, judge, analyse
    attempts  sent -> ok | one of the ways to fail; `lost` when the process ended before the answer was stored

Functions whose first parameter is `t` work inside the caller's transaction: the end of a call is one transaction, so an
answer that was paid for is either stored with everything that follows from it or not at all.
"""

import time
from collections.abc import Iterable
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.rows import AttemptEnd, AttemptTotals, NewTask, TaskRow
from lora_tui.store.values import columns_of, to_json

_INTO = (
    " INTO tasks(run_id, kind, key, chunk_id, pair_id, round, source, slot, state, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)"
)


def _values(run_id: int, n: NewTask, now: float) -> tuple[Any, ...]:
    return (run_id, n.kind, n.key, n.chunk_id, n.pair_id, n.round, n.source, to_json(dict(n.slot or {})), now)


async def add_task(t: Store, run_id: int, task: NewTask) -> TaskRow:
    """Plan one task whose key is new, and return it."""
    task_id = await t.execute(f"INSERT{_INTO}", _values(run_id, task, time.time()))
    slot = dict(task.slot or {})
    return TaskRow(task_id, task.kind, task.key, task.chunk_id, task.pair_id, task.round, task.source, slot)


async def add_tasks(t: Store, run_id: int, tasks: Iterable[NewTask]) -> int:
    """Plan tasks; those whose key is there already stay as they are. Returns how many are new."""
    now = time.time()
    before = int(await t.value("SELECT total_changes()"))
    await t.execute_many(f"INSERT OR IGNORE{_INTO}", [_values(run_id, task, now) for task in tasks])
    return int(await t.value("SELECT total_changes()")) - before


async def pending_tasks(store: Store, run_id: int, kind: str, limit: int, after: int = 0) -> list[TaskRow]:
    """Return the oldest pending tasks of a kind, of those planned later than the one with the id `after`."""
    return await store.all(
        TaskRow,
        "SELECT * FROM tasks WHERE run_id=? AND kind=? AND state='pending' AND id>? ORDER BY id LIMIT ?",
        (run_id, kind, after, limit),
    )


async def task_by_key(store: Store, run_id: int, kind: str, key: str) -> TaskRow | None:
    """Return the task of that key, or None."""
    return await store.one(TaskRow, "SELECT * FROM tasks WHERE run_id=? AND kind=? AND key=?", (run_id, kind, key))


async def keys_of_kind(store: Store, run_id: int, kind: str) -> frozenset[str]:
    """Return the keys of all tasks of a kind."""
    rows = await store.tuples("SELECT key FROM tasks WHERE run_id=? AND kind=?", (run_id, kind))
    return frozenset(key for (key,) in rows)


async def last_number(store: Store, run_id: int, kind: str) -> int:
    """Return the highest number among the keys of a kind's tasks, 0 where there is none."""
    sql = "SELECT COALESCE(MAX(CAST(key AS INTEGER)), 0) FROM tasks WHERE run_id=? AND kind=?"
    return int(await store.value(sql, (run_id, kind)))


async def end_task(t: Store, task_id: int, state: str, reason: str | None = None, refused: int = 0) -> None:
    """Move a pending task to ``done``, ``dead`` or ``cancelled``; `refused` items of its reply were no pairs at all."""
    await t.execute(
        "UPDATE tasks SET state=?, reason=?, refused=?, ended_at=? WHERE id=? AND state='pending'",
        (state, reason, refused, time.time(), task_id),
    )


async def refused_items(store: Store, run_id: int) -> int:
    """Return how many items of the replies of a run were no pairs."""
    return int(await store.value("SELECT COALESCE(SUM(refused), 0) FROM tasks WHERE run_id=?", (run_id,)))


async def cancel_pending(t: Store, run_id: int, reason: str, kind: str | None = None) -> None:
    """Cancel every pending task of a run, or those of one kind."""
    await t.execute(
        "UPDATE tasks SET state='cancelled', reason=?, ended_at=?"
        " WHERE run_id=? AND state='pending' AND kind=COALESCE(?, kind)",
        (reason, time.time(), run_id, kind),
    )


async def task_counts(store: Store, run_id: int) -> dict[tuple[str, str], int]:
    """Return how many tasks there are by kind and state."""
    rows = await store.tuples("SELECT kind, state, COUNT(*) FROM tasks WHERE run_id=? GROUP BY kind, state", (run_id,))
    return {(kind, state): n for kind, state, n in rows}


async def dead_reasons(store: Store, run_id: int) -> dict[str, int]:
    """Return how often each reason ended a task, most frequent first."""
    return await store.mapping(
        "SELECT reason, COUNT(*) FROM tasks WHERE run_id=? AND state='dead' GROUP BY reason ORDER BY 2 DESC, 1",
        (run_id,),
    )


async def last_round(store: Store, run_id: int) -> int:
    """Return the number of the last pass that was begun, 0 before the first."""
    return int(await store.value("SELECT COALESCE(MAX(round), 0) FROM tasks WHERE run_id=?", (run_id,)))


WAITS_FOR_BATCH = " (batch)"
"""The model of an attempt that has begun and waits for its batch: until the batch is stored nothing of it leaves."""


async def begin_attempt(t: Store, run_id: int, task_id: int, estimated_tokens: int, model: str = "") -> int:
    """Store that a request is about to leave, once this is committed; returns the attempt's id."""
    attempt: dict[str, Any] = {"task_id": task_id, "run_id": run_id, "estimated_tokens": estimated_tokens}
    attempt |= {"model": model} if model else {}
    return await t.insert("attempts", status="sent", sent_at=time.time(), **attempt)


async def end_attempt(t: Store, attempt_id: int, end: AttemptEnd) -> None:
    """Store how an attempt ended."""
    columns = columns_of(end)
    await t.execute(
        f"UPDATE attempts SET ended_at=?, {'=?, '.join(columns)}=? WHERE id=? AND status='sent'",
        (time.time(), *columns.values(), attempt_id),
    )


async def mark_lost_attempts(store: Store, run_id: int) -> int:
    """Mark the calls whose answer never arrived here, because the process ended, as ``lost``; returns how many.

    Those in a batch are not lost: the endpoint keeps their answers.
    """
    async with store.transaction() as t:
        await t.execute(
            "UPDATE attempts SET status='unreached', ended_at=?, error='the program ended before its batch was begun'"
            " WHERE run_id=? AND status='sent' AND model=? AND id NOT IN (SELECT attempt_id FROM batch_calls)",
            (time.time(), run_id, WAITS_FOR_BATCH),
        )
        return await t.execute(
            "UPDATE attempts SET status='lost', ended_at=?, error='the program ended before the answer was stored'"
            " WHERE run_id=? AND status='sent' AND id NOT IN (SELECT attempt_id FROM batch_calls)",
            (time.time(), run_id),
        )


async def tokens_of_task(store: Store, task_id: int) -> tuple[int, int]:
    """Return the tokens that a task's calls have sent and got back."""
    sql = "SELECT COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0) FROM attempts WHERE task_id=?"
    ((sent, written),) = await store.tuples(sql, (task_id,))
    return sent, written


async def tokens_of_kind(store: Store, run_id: int, kind: str) -> tuple[int, int]:
    """Return the tokens that the calls of a run's tasks of one kind have sent and got back."""
    sql = (
        "SELECT COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0) FROM attempts"
        " WHERE task_id IN (SELECT id FROM tasks WHERE run_id=? AND kind=?)"
    )
    ((sent, written),) = await store.tuples(sql, (run_id, kind))
    return sent, written


async def attempt_totals(store: Store, run_id: int, without: str | None = None) -> list[AttemptTotals]:
    """Return calls and tokens by the way calls ended, and by the model that was asked; `without` a kind of task."""
    condition, parameters = "run_id=?", list[Any]([run_id])
    if without is not None:
        condition += " AND task_id NOT IN (SELECT id FROM tasks WHERE run_id=? AND kind=?)"
        parameters += [run_id, without]
    return await store.all(
        AttemptTotals,
        "SELECT status, COUNT(*) AS calls, SUM(prompt_tokens) AS prompt_tokens,"
        " SUM(completion_tokens) AS completion_tokens, SUM(cached_tokens) AS cached_tokens,"
        " SUM(estimated_tokens) AS estimated_tokens, SUM(reasoning_tokens) AS reasoning_tokens, model"
        f" FROM attempts WHERE {condition} GROUP BY status, model ORDER BY status, model",
        parameters,
    )
