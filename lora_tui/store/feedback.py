"""Queries on feedback (ratings by people, levels by the judge) and on the aggregator's weights that follow from it.

Feedback is only ever appended or marked as undone; the weights are a pure function of what is in force, so an undo is a
recomputation. `weight_versions` keeps what each version was, because decisions name the version they were made with.

Subjects are what was judged: a ``pair``, a ``sample`` of an evaluation, a ``turn`` of a conversation, by its row's id.
Functions whose first parameter is `t` work inside the caller's transaction.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from lora_tui.store.connection import Store
from lora_tui.store.rows import FeedbackRow
from lora_tui.store.values import to_json

PERSON = "person"
"""Who gave the feedback, and who decided, where it was a person."""

AUDIT, ACTIVE, FREE = "audit", "active", "free"
"""How a rating came about: asked for at random, asked for because it teaches most, or chosen by the person."""


async def add(
    t: Store,
    scope: str,
    run_id: int | None,
    subject: str,
    subject_id: int,
    metrics: Mapping[str, float],
    target: float,
    given_by: str,
    at: float | None = None,
    asked: str = FREE,
) -> int:
    """Store one judgement; `scope` is ``generation`` or ``evaluation``, `target` lies in 0-1. Returns its id.

    In scope ``chat``, which no aggregator replays, it is only kept. `at` is in seconds since the epoch, now by default;
    `asked` is one of `AUDIT`, `ACTIVE` and `FREE`.
    """
    return await t.insert(
        "feedback",
        scope=scope,
        run_id=run_id,
        subject=subject,
        subject_id=subject_id,
        metrics=dict(metrics),
        target=target,
        given_by=given_by,
        at=time.time() if at is None else at,
        asked=asked,
    )


async def withdraw(t: Store, subject: str, subject_id: int, at: float | None = None) -> int:
    """Mark a person's feedback on a subject as undone (`at`, now by default); returns how many judgements that were."""
    return await t.execute(
        "UPDATE feedback SET undone_at=? WHERE subject=? AND subject_id=? AND given_by=? AND undone_at IS NULL",
        (time.time() if at is None else at, subject, subject_id, PERSON),
    )


async def asked_before(t: Store, subject: str, subject_id: int, asked: str = FREE) -> str:
    """Return how a new rating of a subject counts as asked: as the one that it replaces, where nothing asked for it.

    A person who thinks again of what was drawn at random has not drawn it anew.
    """
    if asked != FREE:
        return asked
    former = await t.value(
        "SELECT asked FROM feedback WHERE subject=? AND subject_id=? AND given_by=? AND undone_at IS NULL"
        " ORDER BY id DESC LIMIT 1",
        (subject, subject_id, PERSON),
    )
    return asked if former is None else str(former)


async def replaced_by(t: Store, subject: str, subject_id: int) -> tuple[int | None, int | None]:
    """Return the ids of a person's feedback in force on a subject, and of the one that it took the place of.

    What was replaced was undone at the very moment at which its successor was given.
    """
    row = await t.tuples(
        "SELECT id, (SELECT MAX(id) FROM feedback AS older WHERE older.subject = feedback.subject"
        " AND older.subject_id = feedback.subject_id AND older.undone_at = feedback.at) FROM feedback"
        " WHERE subject=? AND subject_id=? AND given_by=? AND undone_at IS NULL ORDER BY id DESC LIMIT 1",
        (subject, subject_id, PERSON),
    )
    return row[0] if row else (None, None)


async def reinstate(t: Store, feedback_id: int) -> None:
    """Put a judgement back in force, in its old place of the log: what had replaced it was taken back."""
    await t.execute("UPDATE feedback SET undone_at=NULL WHERE id=?", (feedback_id,))


async def ratings(store: Store, run_id: int) -> dict[int, int]:
    """Return people's ratings (1-5) of the evaluation samples of a run, by sample id."""
    rows = await store.tuples(
        "SELECT subject_id, target FROM feedback"
        " WHERE subject='sample' AND undone_at IS NULL AND given_by=? AND run_id=? ORDER BY id",
        (PERSON, run_id),
    )
    return {sample_id: rating_of(target) for sample_id, target in rows}


def rating_of(target: float) -> int:
    """Return the rating (1-5) that a target (0-1) stands for."""
    return round(4 * target) + 1


async def in_force(store: Store, scope: str) -> list[FeedbackRow]:
    """Return the judgements of a scope that are in force, in the order they were given.

    Those of controls are left out: an older version stored them as if the answer had been compared with a reference.
    """
    sql = (
        "SELECT * FROM feedback WHERE scope=? AND undone_at IS NULL AND NOT (subject='sample' AND subject_id IN"
        " (SELECT id FROM samples WHERE kind <> 'expected')) ORDER BY id"
    )
    return await store.all(FeedbackRow, sql, (scope,))


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """A judgement of an answer that something was expected of, with the texts that its metrics were made from."""

    id: int
    metrics: dict[str, float]
    prompt: str
    reference: str
    answer: str


async def answers_without(store: Store, metric: str) -> list[RatedAnswer]:
    """Return the judgements of answers whose metrics lack one: they are older than it."""
    sql = (
        "SELECT feedback.id, feedback.metrics, samples.prompt, samples.reference, samples.answer FROM feedback"
        " JOIN samples ON samples.id = feedback.subject_id WHERE feedback.subject='sample'"
        " AND samples.kind='expected' AND json_type(feedback.metrics, ?) IS NULL"
    )
    return await store.all(RatedAnswer, sql, (f'$."{metric}"',))


async def add_metrics(t: Store, feedback_id: int, metrics: Mapping[str, float]) -> None:
    """Put further metrics beside those of a judgement; the ones it has stay as they are."""
    await t.execute(
        "UPDATE feedback SET metrics=json_patch(?, metrics) WHERE id=?", (to_json(dict(metrics)), feedback_id)
    )


async def record_weights(t: Store, scope: str, version: int, weights: Mapping[str, float]) -> int:
    """Record the weights of a version inside the caller's transaction, unless they are the newest already.

    Returns the row's id, which is what a decision or evaluation names as its weights version.
    """
    written = to_json(dict(weights))
    newest = await t.tuples(
        "SELECT id, version, CAST(weights AS TEXT) FROM weight_versions WHERE scope=? ORDER BY id DESC LIMIT 1",
        (scope,),
    )
    if newest and newest[0][1] == version and newest[0][2] == written:
        return int(newest[0][0])
    return await t.insert("weight_versions", scope=scope, version=version, weights=written, at=time.time())
