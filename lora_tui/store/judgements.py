"""Queries on judgements that are kept by themselves, each stored in the transaction that ends the call it came from.

They are kept where a task asks more than once: of several judges, and of a judge that is being checked. Whoever takes
the task up again asks only for those that are missing, so no answer is paid for twice. Apart from `tasks`, which knows
calls and not what they say, and from `generation`, where a pair's metrics are what its verdict rests on.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store


@dataclass(frozen=True, slots=True)
class JudgementRow:
    """What a judge has answered about a text: metrics (0-1), how they were measured, and what it wrote."""

    judge: str
    subject: str
    metrics: dict[str, float]
    note: str
    mode: str


async def add(
    t: Store, task_id: int, judge: str, subject: str, metrics: Mapping[str, float], note: str, mode: str
) -> None:
    """Store a judge's answer inside the caller's transaction; `subject` is the hash of the text it is about."""
    await t.insert(
        "judgements",
        otherwise="OR REPLACE",
        task_id=task_id,
        judge=judge,
        subject=subject,
        metrics=dict(metrics),
        note=note,
        mode=mode,
        at=time.time(),
    )


async def of_task(store: Store, task_id: int) -> dict[tuple[str, str], JudgementRow]:
    """Return the answers that a task has by judge and subject."""
    sql = "SELECT judge, subject, metrics, note, mode FROM judgements WHERE task_id=?"
    return {(row.judge, row.subject): row for row in await store.all(JudgementRow, sql, (task_id,))}


async def answers_by_judge(store: Store, run_id: int) -> dict[str, int]:
    """Return how many answers about pairs of a run each of several judges has given."""
    return await store.mapping(
        "SELECT judge, COUNT(*) FROM judgements JOIN tasks ON tasks.id = task_id"
        " WHERE run_id=? AND kind='judge' GROUP BY judge ORDER BY judge",
        (run_id,),
    )


async def checks(store: Store, run_id: int) -> list[dict[str, Any]]:
    """Return what a run has reported about each of its judges, as the newest event about it says."""
    rows = await store.mapping(
        "SELECT json_extract(payload, '$.judge'), payload FROM events"
        " WHERE run_id=? AND kind IN ('note', 'warning') AND json_extract(payload, '$.told') IS NOT NULL ORDER BY id",
        (run_id,),
    )
    return list(rows.values())
