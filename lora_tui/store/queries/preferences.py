"""Read queries on what people have said of answers: verdicts on pairs, edits, ratings of answers and of replies.

What it amounts to, which of two answers is better, is decided in `lora_tui.engine.review.preferences`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.feedback import PERSON
from lora_tui.store.values import to_json


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair's text as a person judged it, and the verdict: ``accepted`` or ``rejected``."""

    id: int
    question: str
    answer: str
    verdict: str
    at: float


@dataclass(frozen=True, slots=True)
class EditedPair:
    """A pair that a person worded anew: its first text and the one it has now."""

    id: int
    question: str
    answer: str
    new_question: str
    new_answer: str
    state: str
    at: float


@dataclass(frozen=True, slots=True)
class RatedSample:
    """An answer to a test prompt, what it was compared with (`reference`, of a `kind`), and a person's rating (0-1)."""

    id: int
    prompt: str
    kind: str
    reference: str
    answer: str
    target: float
    at: float


@dataclass(frozen=True, slots=True)
class RatedReply:
    """A reply in a conversation and a person's rating (0-1); `adapter` is the folder of the model's, if it had one."""

    id: int
    conversation_id: int
    statistics: dict[str, Any]
    text: str
    target: float
    adapter: str | None
    at: float


# What a person judged is the text of that time: an edit that came after has kept it.
_JUDGED_PAIRS = f"""
SELECT pairs.id AS id, COALESCE(was.question, pairs.question) AS question, COALESCE(was.answer, pairs.answer) AS answer,
    decisions.verdict AS verdict, decisions.at AS at
FROM decisions JOIN pairs ON pairs.id = decisions.pair_id
LEFT JOIN pair_edits AS was ON was.id = (SELECT MIN(id) FROM pair_edits
    WHERE pair_id = pairs.id AND undone_at IS NULL AND pair_edits.at > decisions.at)
WHERE decided_by = '{PERSON}' AND decisions.undone_at IS NULL AND decisions.verdict IN ('accepted', 'rejected')
    AND decisions.id = (SELECT MAX(id) FROM decisions AS newer
        WHERE newer.pair_id = pairs.id AND newer.undone_at IS NULL)
ORDER BY decisions.at, pairs.id"""


async def judged_pairs(store: Store) -> list[JudgedPair]:
    """Return the pairs whose verdict is a person's, in the order in which they were judged."""
    return await store.all(JudgedPair, _JUDGED_PAIRS)


async def judged_alike(store: Store, question_keys: Collection[str]) -> list[JudgedPair]:
    """Return the pairs on these questions that the program judged itself: accepted, or rejected by their score."""
    sql = (
        "SELECT id, question, answer, state AS verdict, COALESCE(decided_at, created_at) AS at FROM pairs"
        " WHERE question_key IN (SELECT value FROM json_each(?)) AND state IN ('accepted', 'rejected')"
        f" AND score IS NOT NULL AND '{PERSON}' <> COALESCE((SELECT decided_by FROM decisions"
        " WHERE pair_id = pairs.id AND undone_at IS NULL ORDER BY id DESC LIMIT 1), '') ORDER BY at, id"
    )
    return await store.all(JudgedPair, sql, (to_json(sorted(question_keys)),))


async def edited_pairs(store: Store) -> list[EditedPair]:
    """Return the pairs that were worded anew, with their first text, in the order of their newest edit."""
    sql = (
        "SELECT pairs.id AS id, first.question AS question, first.answer AS answer, pairs.question AS new_question,"
        " pairs.answer AS new_answer, pairs.state AS state, MAX(done.at) AS at"
        " FROM pair_edits AS done JOIN pairs ON pairs.id = done.pair_id JOIN pair_edits AS first ON first.id ="
        " (SELECT MIN(id) FROM pair_edits WHERE pair_id = pairs.id AND undone_at IS NULL)"
        " WHERE done.undone_at IS NULL GROUP BY pairs.id ORDER BY at, pairs.id"
    )
    return await store.all(EditedPair, sql)


async def rated_samples(store: Store) -> list[RatedSample]:
    """Return the answers to test prompts that a person has rated, in the order in which they were."""
    sql = (
        "SELECT samples.id AS id, prompt, kind, reference, answer, target, feedback.at AS at FROM feedback"
        " JOIN samples ON samples.id = subject_id WHERE subject='sample' AND given_by=? AND undone_at IS NULL"
        " ORDER BY feedback.at, feedback.id"
    )
    return await store.all(RatedSample, sql, (PERSON,))


async def rated_replies(store: Store) -> list[RatedReply]:
    """Return the replies in conversations that a person has rated, in the order in which they were."""
    sql = (
        "SELECT turns.id AS id, conversation_id, statistics, text, target, adapter, feedback.at AS at FROM feedback"
        " JOIN turns ON turns.id = subject_id JOIN conversations ON conversations.id = conversation_id"
        " WHERE subject='turn' AND role='assistant' AND given_by=? AND undone_at IS NULL"
        " ORDER BY feedback.at, feedback.id"
    )
    return await store.all(RatedReply, sql, (PERSON,))


async def preferences_state(store: Store) -> tuple[Any, ...]:
    """Return what changes whenever a person says something of an answer, or takes it back; it costs little."""
    sql = (
        "SELECT (SELECT COUNT(*) || ':' || COALESCE(SUM(id), 0) FROM feedback WHERE undone_at IS NULL),"
        f" (SELECT COUNT(*) || ':' || COALESCE(SUM(id), 0) FROM decisions WHERE decided_by='{PERSON}'"
        " AND undone_at IS NULL), (SELECT COUNT(*) FROM pair_edits WHERE undone_at IS NULL)"
    )
    return (await store.tuples(sql))[0]
