"""Queries on what a generation run writes beside pairs: documents, conversations, and further wordings of pairs.

    texts     waiting -> accepted | rejected | review

A text belongs to the task that it was written for, as a pair does, and to the passage that it is about. Functions whose
first parameter is `t` work inside the caller's transaction.
"""

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.events import NewEvent
from lora_tui.store.rows import TaskRow
from lora_tui.store.values import to_json

VERDICTS = ("accepted", "rejected", "review", "waiting")
"""The states of a text; ``waiting`` is one that is not judged yet."""


@dataclass(frozen=True, slots=True)
class NewText:
    """A text as it was written: `form` is ``rewrite``, ``summary``, ``dialogue`` or ``phrasing``.

    Of a further wording `title` is the question and `body` the answer; of a conversation `body` is the transcript and
    `messages` has each turn with ``role`` and ``content``.
    """

    ordinal: int
    form: str
    title: str
    body: str
    messages: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True, slots=True)
class TextRow:
    """A text; `score` is 0-10, `cause` the short name of what `reason` says in words, metrics are 0-1."""

    id: int
    run_id: int
    task_id: int
    form: str
    chunk_id: str | None
    pair_id: int | None
    source: str
    title: str
    body: str
    messages: list[dict[str, str]]
    state: str
    score: float | None
    cause: str
    reason: str
    metrics: dict[str, float]
    note: str


@dataclass(frozen=True, slots=True)
class TextVerdict:
    """A verdict on a text with what it rests on; `score` is 0-10, None where nothing was judged."""

    verdict: str
    score: float | None
    cause: str
    reason: str
    metrics: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True, slots=True)
class TextLine:
    """A text as a list row; title and reason are cut to 300 characters."""

    id: int
    form: str
    state: str
    score: float | None
    title: str
    words: int
    reason: str


@dataclass(frozen=True, slots=True)
class PairWithPassage:
    """An accepted pair with the passage that it is about, "" where it has none."""

    id: int
    question: str
    answer: str
    evidence: str
    source: str
    passage: str


@dataclass(frozen=True, slots=True)
class TextSource:
    """What an accepted text asks or says, and the document that it is about; `body` is that of documents alone."""

    form: str
    title: str
    body: str
    source: str
    first_question: str


async def add(t: Store, run_id: int, task: TaskRow, text: NewText) -> int:
    """Store a text, in state ``waiting``; returns its id."""
    columns = {**asdict(text), "messages": [dict(message) for message in text.messages]}
    about: dict[str, Any] = {"chunk_id": task.chunk_id, "pair_id": task.pair_id, "source": task.source}
    now = time.time()
    return await t.insert("texts", run_id=run_id, task_id=task.id, **about, **columns, state="waiting", created_at=now)


async def decide(t: Store, text_id: int, verdict: TextVerdict) -> None:
    """Move a text to its verdict, with the metrics and the judge's words that it rests on."""
    await t.execute(
        "UPDATE texts SET state=?, score=?, cause=?, reason=?, metrics=?, note=?, decided_at=? WHERE id=?",
        (
            *(verdict.verdict, verdict.score, verdict.cause, verdict.reason),
            *(to_json(dict(verdict.metrics)), verdict.note, time.time(), text_id),
        ),
    )


async def get(store: Store, text_id: int) -> TextRow | None:
    """Return one text, or None."""
    return await store.one(TextRow, "SELECT * FROM texts WHERE id=?", (text_id,))


async def of_task(store: Store, task_id: int) -> list[TextRow]:
    """Return the texts that were written for a task, in order."""
    return await store.all(TextRow, "SELECT * FROM texts WHERE task_id=? ORDER BY ordinal", (task_id,))


async def accepted(store: Store, run_id: int, after: int, limit: int) -> list[TextRow]:
    """Return up to `limit` accepted texts of a run whose id is above `after`, in order.

    Wordings of a pair that a person has rejected since are left out.
    """
    sql = (
        "SELECT * FROM texts WHERE run_id=? AND state='accepted' AND id>? AND (pair_id IS NULL"
        " OR (SELECT state FROM pairs WHERE pairs.id = pair_id) = 'accepted') ORDER BY id LIMIT ?"
    )
    return await store.all(TextRow, sql, (run_id, after, limit))


async def bodies_about(store: Store, run_id: int, chunk_id: str | None, form: str) -> list[str]:
    """Return the texts of a form about a passage that were accepted or wait for the judge."""
    sql = "SELECT body FROM texts WHERE run_id=? AND chunk_id IS ? AND form=? AND state IN ('accepted', 'waiting')"
    return [body for (body,) in await store.tuples(sql, (run_id, chunk_id, form))]


async def counts(store: Store, run_id: int) -> dict[str, dict[str, int]]:
    """Return how many texts there are by form and state, with every state; nothing where none were written."""
    found: dict[str, dict[str, int]] = {}
    sql = "SELECT form, state, COUNT(*) FROM texts WHERE run_id=? GROUP BY form, state ORDER BY form"
    for form, state, number in await store.tuples(sql, (run_id,)):
        found.setdefault(form, dict.fromkeys(VERDICTS, 0))[state] = number
    return found


async def ids(store: Store, run_id: int, states: Sequence[str] = VERDICTS) -> "array[int]":
    """Return the ids of a run's texts in any of `states`, in the order they were written."""
    sql = f"SELECT id FROM texts WHERE run_id=? AND state IN ({', '.join('?' * len(states))}) ORDER BY id"
    return array("q", (text_id for (text_id,) in await store.tuples(sql, (run_id, *states))))


async def lines(store: Store, text_ids: Sequence[int]) -> list[TextLine]:
    """Return texts as list rows."""
    return await store.all(
        TextLine,
        "SELECT id, form, state, score, substr(title, 1, 300) AS title,"
        " length(body) - length(replace(replace(body, ' ', ''), char(10), '')) + 1 AS words,"
        f" substr(reason, 1, 300) AS reason FROM texts WHERE id IN ({', '.join('?' * len(text_ids))})",
        text_ids,
    )


async def passages_with_pairs(store: Store, run_id: int) -> list[tuple[str, str]]:
    """Return id and file of every passage of a run about which a pair was accepted, in the order of the first."""
    rows = await store.tuples(
        "SELECT chunk_id, source FROM pairs WHERE run_id=? AND state='accepted' AND chunk_id IS NOT NULL"
        " GROUP BY chunk_id ORDER BY MIN(id)",
        (run_id,),
    )
    return [(str(chunk), str(source)) for chunk, source in rows]


async def pairs_about(store: Store, run_id: int, chunk_id: str) -> list[tuple[int, str, str, str]]:
    """Return id, question, answer and evidence of the accepted pairs of a run about a passage, in order."""
    rows = await store.tuples(
        "SELECT id, question, answer, evidence FROM pairs WHERE run_id=? AND chunk_id=? AND state='accepted'"
        " ORDER BY id",
        (run_id, chunk_id),
    )
    return [(pair_id, question, answer, evidence) for pair_id, question, answer, evidence in rows]


async def accepted_with_passages(store: Store, run_id: int, after: int, limit: int) -> list[PairWithPassage]:
    """Return up to `limit` accepted pairs of a run with ids above `after`, each with its passage, in order."""
    return await store.all(
        PairWithPassage,
        "SELECT pairs.id AS id, question, answer, evidence, source, COALESCE(chunks.text, '') AS passage FROM pairs"
        " LEFT JOIN chunks ON chunks.id = chunk_id WHERE run_id=? AND state='accepted' AND pairs.id>?"
        " ORDER BY pairs.id LIMIT ?",
        (run_id, after, limit),
    )


async def sources(store: Store) -> list[TextSource]:
    """Return what each accepted text of every run asks or says, and its document, oldest first."""
    return await store.all(
        TextSource,
        "SELECT form, title, CASE WHEN form IN ('rewrite', 'summary') THEN body ELSE '' END AS body, source,"
        " COALESCE(CASE WHEN form='dialogue' THEN (SELECT json_extract(value, '$.content') FROM json_each(messages)"
        " WHERE json_extract(value, '$.role')='user' LIMIT 1) END, '') AS first_question"
        " FROM texts WHERE state='accepted' ORDER BY id",
    )


def document_text(title: str, body: str) -> str:
    """Return a document as it is trained on: under its title, unless it begins with it."""
    return body if not title or body.startswith(title) else f"{title}\n\n{body}"


def text_event(row: TextRow) -> NewEvent:
    """Return the ``text`` event of a text as it is now."""
    payload: dict[str, Any] = {
        "text": row.id,
        "form": row.form,
        "verdict": row.state,
        "score": row.score,
        "title": row.title,
        "body": row.body,
        "messages": row.messages,
        "reason": row.reason,
        "source": row.source,
    }
    return time.time(), "text", payload
