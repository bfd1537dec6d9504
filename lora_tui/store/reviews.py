"""What people do while they look: overrides and edits of pairs, taking them back, and what a rating is about.

Nothing is deleted. A decision or edit that was taken back keeps its row with `undone_at`; the pair gets what the one
before it says. All of these work inside the caller's transaction.
"""

import time
from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.feedback import PERSON

_DECISION = "id, pair_id, verdict, score, threshold, weights_version, decided_by, cause, reason, at, feedback_id"
_EDIT = "id, pair_id, question, answer, question_key, at, undone_at"


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A verdict that is in force; `score` and `threshold` are 0-10, `feedback_id` is what a person's override gave."""

    id: int
    pair_id: int
    verdict: str
    score: float | None
    threshold: float | None
    weights_version: int
    decided_by: str
    cause: str
    reason: str
    at: float
    feedback_id: int | None


@dataclass(frozen=True, slots=True)
class PairEdit:
    """An edit of a pair: its text as it was before."""

    id: int
    pair_id: int
    question: str
    answer: str
    question_key: str
    at: float
    undone_at: float | None


@dataclass(frozen=True, slots=True)
class RatedSample:
    """The answer to a test prompt as it can be rated: its metrics (0-1) and the run whose evaluation it belongs to."""

    metrics: dict[str, float]
    run_id: int


@dataclass(frozen=True, slots=True)
class RatedTurn:
    """A message as it can be rated: who wrote it, what the user wrote before it, and the run that was talked to."""

    role: str
    text: str
    question: str
    run_id: int | None


async def rated_sample(t: Store, sample_id: int) -> RatedSample | None:
    """Return what a rating of a sample is about, or None."""
    return await t.one(
        RatedSample,
        "SELECT samples.metrics, run_id FROM samples JOIN evaluations ON evaluations.id = evaluation_id"
        " WHERE samples.id=?",
        (sample_id,),
    )


async def rated_turn(t: Store, turn_id: int) -> RatedTurn | None:
    """Return what a rating of a message is about, or None."""
    return await t.one(
        RatedTurn,
        "SELECT role, text, run_id, COALESCE((SELECT text FROM turns AS asked WHERE role='user'"
        " AND asked.conversation_id = turns.conversation_id AND asked.id < turns.id ORDER BY id DESC LIMIT 1), '')"
        " AS question FROM turns JOIN conversations ON conversations.id = conversation_id WHERE turns.id=?",
        (turn_id,),
    )


async def run_of_pair(t: Store, pair_id: int) -> int:
    """Return the run that a pair, which exists, belongs to."""
    return int(await t.value("SELECT run_id FROM pairs WHERE id=?", (pair_id,)))


async def decision_in_force(t: Store, pair_id: int) -> DecisionRow | None:
    """Return the decision that a pair's verdict comes from; None while it waits for one."""
    return await t.one(
        DecisionRow,
        f"SELECT {_DECISION} FROM decisions WHERE pair_id=? AND undone_at IS NULL ORDER BY id DESC LIMIT 1",
        (pair_id,),
    )


async def newest_override(t: Store, run_id: int) -> DecisionRow | None:
    """Return the newest verdict of a person in a run that is in force, or None."""
    return await t.one(DecisionRow, _newest(_DECISION, "decisions", f"decided_by='{PERSON}'"), (run_id,))


async def newest_edit(t: Store, run_id: int) -> PairEdit | None:
    """Return the newest edit of a pair of a run that is in force, or None."""
    return await t.one(PairEdit, _newest(_EDIT, "pair_edits", "1"), (run_id,))


def _newest(columns: str, table: str, condition: str) -> str:
    # The few rows that people have made, newest first, by an index of their own: a run may have 100,000 pairs.
    return (
        f"SELECT {columns} FROM {table} AS done WHERE {condition} AND undone_at IS NULL"
        " AND (SELECT run_id FROM pairs WHERE pairs.id = done.pair_id) = ? ORDER BY at DESC, id DESC LIMIT 1"
    )


async def take_back_override(t: Store, decision: DecisionRow) -> DecisionRow | None:
    """Take a decision out of force and give the pair what was decided before; returns that, None where nothing was."""
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
    """Give a pair another text and keep the one it had."""
    await t.execute(
        "INSERT INTO pair_edits(pair_id, question, answer, question_key, at)"
        " SELECT id, question, answer, question_key, ? FROM pairs WHERE id=?",
        (time.time(), pair_id),
    )
    await _put_text(t, pair_id, question, answer, question_key)


async def take_back_edit(t: Store, done: PairEdit) -> None:
    """Give a pair the text it had before an edit."""
    await t.execute("UPDATE pair_edits SET undone_at=? WHERE id=?", (time.time(), done.id))
    await _put_text(t, done.pair_id, done.question, done.answer, done.question_key)


async def _put_text(t: Store, pair_id: int, question: str, answer: str, question_key: str) -> None:
    await t.execute(
        "UPDATE pairs SET question=?, answer=?, question_key=? WHERE id=?", (question, answer, question_key, pair_id)
    )


async def metrics_of_text(store: Store, pair_id: int) -> dict[str, float]:
    """Return the metrics of a pair by name; none where its text is another one than was measured."""
    return dict(
        await store.tuples(
            "SELECT name, value FROM pair_metrics WHERE pair_id=?1 AND NOT EXISTS"
            " (SELECT 1 FROM pair_edits WHERE pair_id=?1 AND undone_at IS NULL) ORDER BY name",
            (pair_id,),
        )
    )
