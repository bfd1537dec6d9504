"""Queries on human review: overrides and edits of pairs, their undo, and the evaluation sample that a rating is about.

Nothing is deleted. A decision or edit that was undone keeps its row with `undone_at`; the pair gets what the one before
it says. All of these work inside the caller's transaction.
"""

import time
from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.feedback import PERSON
from lora_tui.store.rows import DecisionRow, PairEdit

DECISIONS = (
    "SELECT done.*, weight_versions.weights FROM decisions AS done"
    " LEFT JOIN weight_versions ON weight_versions.id = weights_version"
)
"""Decisions as `DecisionRow` has them, to be followed by WHERE; their table is called ``done``."""

_IN_FORCE = " WHERE pair_id=? AND undone_at IS NULL ORDER BY done.id DESC LIMIT 1"

# The few rows that people made, newest first, by an index of their own: a run may have 100,000 pairs.
_NEWEST = (
    " WHERE {} AND undone_at IS NULL AND (SELECT run_id FROM pairs WHERE pairs.id = done.pair_id) = ?"
    " ORDER BY done.at DESC, done.id DESC LIMIT 1"
)


_TOGETHER = (
    " WHERE done.at=? AND {} AND undone_at IS NULL AND (SELECT run_id FROM pairs WHERE pairs.id = done.pair_id) = ?"
    " ORDER BY done.id"
)


@dataclass(frozen=True, slots=True)
class RatedSample:
    """The answer to a test prompt as it can be rated: its metrics (0-1) and the run whose evaluation it belongs to."""

    metrics: dict[str, float]
    run_id: int
    kind: str


async def rated_sample(t: Store, sample_id: int) -> RatedSample | None:
    """Return a sample with the metrics that a rating of it is judged by, or None."""
    return await t.one(
        RatedSample,
        "SELECT samples.metrics, run_id, kind FROM samples JOIN evaluations ON evaluations.id = evaluation_id"
        " WHERE samples.id=?",
        (sample_id,),
    )


async def run_of_pair(t: Store, pair_id: int) -> int:
    """Return the run that a pair, which exists, belongs to."""
    return int(await t.value("SELECT run_id FROM pairs WHERE id=?", (pair_id,)))


async def decision_in_force(t: Store, pair_id: int) -> DecisionRow | None:
    """Return the decision that a pair's verdict comes from; None while it waits for one."""
    return await t.one(DecisionRow, DECISIONS + _IN_FORCE, (pair_id,))


async def newest_overrides(t: Store, run_id: int) -> list[DecisionRow]:
    """Return the newest verdict of a person in a run that is in force, with those that were given with it."""
    newest = await t.one(DecisionRow, DECISIONS + _NEWEST.format(f"decided_by='{PERSON}'"), (run_id,))
    if newest is None:
        return []
    together = DECISIONS + _TOGETHER.format(f"decided_by='{PERSON}'")
    return await t.all(DecisionRow, together, (newest.at, run_id))


async def newest_edit(t: Store, run_id: int) -> PairEdit | None:
    """Return the newest edit of a pair of a run that is in force, or None."""
    return await t.one(PairEdit, "SELECT done.* FROM pair_edits AS done" + _NEWEST.format("1"), (run_id,))


async def undo_override(t: Store, decision: DecisionRow) -> DecisionRow | None:
    """Undo a decision and restore the one before it; returns that, None where the pair waits for a verdict again."""
    await t.execute("UPDATE decisions SET undone_at=? WHERE id=?", (time.time(), decision.id))
    before = await decision_in_force(t, decision.pair_id)
    restored: tuple[Any, ...] = ("waiting", None, "", "", None)
    if before is not None:
        restored = (before.verdict, before.score, before.cause, before.reason, before.at)
    await t.execute(
        "UPDATE pairs SET state=?, score=?, cause=?, reason=?, decided_at=? WHERE id=?", (*restored, decision.pair_id)
    )
    if before is None:
        await t.execute(
            "UPDATE tasks SET state='pending', reason=NULL, ended_at=NULL WHERE kind='judge' AND key=?"
            " AND run_id = (SELECT run_id FROM pairs WHERE id=?)",
            (str(decision.pair_id), decision.pair_id),
        )
    return before


async def edit(t: Store, pair_id: int, question: str, answer: str, question_key: str) -> None:
    """Replace the text of a pair and keep the one it had in `pair_edits`."""
    await t.execute(
        "INSERT INTO pair_edits(pair_id, question, answer, question_key, at)"
        " SELECT id, question, answer, question_key, ? FROM pairs WHERE id=?",
        (time.time(), pair_id),
    )
    await _put_text(t, pair_id, question, answer, question_key)


async def undo_edit(t: Store, done: PairEdit) -> None:
    """Undo an edit: the pair gets the text it had before."""
    await t.execute("UPDATE pair_edits SET undone_at=? WHERE id=?", (time.time(), done.id))
    await _put_text(t, done.pair_id, done.question, done.answer, done.question_key)


async def _put_text(t: Store, pair_id: int, question: str, answer: str, question_key: str) -> None:
    await t.execute(
        "UPDATE pairs SET question=?, answer=?, question_key=? WHERE id=?", (question, answer, question_key, pair_id)
    )


async def metrics_of_text(store: Store, pair_id: int) -> dict[str, float]:
    """Return the metrics of a pair by name; none where its text is another one than was measured."""
    return await store.mapping(
        "SELECT name, value FROM pair_metrics WHERE pair_id=?1 AND NOT EXISTS"
        " (SELECT 1 FROM pair_edits WHERE pair_id=?1 AND undone_at IS NULL) ORDER BY name",
        (pair_id,),
    )
