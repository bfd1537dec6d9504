"""A run's pairs as a list that can be filtered, the files they come from, and how their scores are spread."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store, to_json

_CUT = 300
"""Characters of a question or reason that a list shows at most."""


@dataclass(frozen=True, slots=True)
class PairFilter:
    """Which pairs: a state, a file (as `run_documents` has it), a text that occurs in them; None and "" leave it open.

    The search is for a part of question, answer, topic or reason, whatever the case.
    """

    state: str | None = None
    source: str | None = None
    search: str = ""


@dataclass(frozen=True, slots=True)
class PairLine:
    """A pair in a list; `score` is 0-10, question and reason are cut to 300 characters."""

    id: int
    state: str
    score: float | None
    question_type: str
    difficulty: str
    topic: str
    question: str
    cause: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A file of a run, what became of its pairs, and why it was skipped where it was."""

    path: str
    bytes: int
    chunks: int
    skipped: str | None
    accepted: int
    rejected: int
    review: int
    waiting: int


@dataclass(frozen=True, slots=True)
class ScoreHistogram:
    """How many pairs have a score in each of the equal parts of 0-10: the accepted ones, and all others."""

    accepted: tuple[int, ...]
    others: tuple[int, ...]


async def pair_ids(store: Store, run_id: int, wanted: PairFilter, after: int = 0) -> "array[int]":
    """Return the ids above `after` of the pairs that match, in order: 8 bytes each, for lists of any length."""
    condition, parameters = _condition(wanted)
    # A file's few pairs are found by their file; the + keeps SQLite from walking the whole run in the order of ids.
    column = "id" if wanted.source is None else "+id"
    # They come as one text: for a hundred thousand ids half as long as rows would take.
    written = await store.value(
        "SELECT group_concat(id) FROM"
        f" (SELECT id FROM pairs WHERE run_id=? AND {column}>? AND {condition} ORDER BY {column})",
        (run_id, after, *parameters),
    )
    return array("q", map(int, written.split(",")) if written else ())


async def pairs_matching(store: Store, run_id: int, wanted: PairFilter, ids: Iterable[int]) -> set[int]:
    """Return which of these pairs match as they are now."""
    condition, parameters = _condition(wanted)
    # The + keeps SQLite from walking the run's whole index: the ids are the few rows to look at.
    rows = await store.tuples(
        f"SELECT id FROM pairs WHERE id IN (SELECT value FROM json_each(?)) AND +run_id=? AND {condition}",
        (to_json(list(ids)), run_id, *parameters),
    )
    return {pair_id for (pair_id,) in rows}


async def pair_lines(store: Store, ids: Iterable[int]) -> dict[int, PairLine]:
    """Return the lines of these pairs by id; those that do not exist are left out."""
    rows = await store.all(
        PairLine,
        "SELECT id, state, score, COALESCE(json_extract(slot, '$.question_type'), '') AS question_type,"
        " COALESCE(json_extract(slot, '$.difficulty'), '') AS difficulty, topic,"
        f" substr(question, 1, {_CUT}) AS question, cause, substr(reason, 1, {_CUT}) AS reason, source"
        " FROM pairs WHERE id IN (SELECT value FROM json_each(?))",
        (to_json(list(ids)),),
    )
    return {line.id: line for line in rows}


async def source_lines(store: Store, run_id: int) -> list[SourceLine]:
    """Return the files of a run, used and skipped, by path, each with what became of its pairs."""
    counts: dict[str, dict[str, int]] = {}
    for source, state, number in await store.tuples(
        "SELECT source, state, COUNT(*) FROM pairs WHERE run_id=? GROUP BY source, state", (run_id,)
    ):
        counts.setdefault(source, {})[state] = number
    files = await store.tuples(
        "SELECT path, bytes, chunks, skipped FROM run_documents WHERE run_id=? ORDER BY path", (run_id,)
    )
    states = ("accepted", "rejected", "review", "waiting")
    return [SourceLine(*file, *(counts.get(file[0], {}).get(state, 0) for state in states)) for file in files]


async def score_histogram(store: Store, run_id: int, bins: int = 20) -> ScoreHistogram:
    """Return how the scores of a run are spread over `bins` equal parts of 0-10; pairs without a score are left out."""
    counted: dict[bool, list[int]] = {True: [0] * bins, False: [0] * bins}
    for part, is_accepted, number in await store.tuples(
        "SELECT MAX(0, MIN(? - 1, CAST(score * ? / 10 AS INTEGER))), state='accepted', COUNT(*) FROM pairs"
        " WHERE run_id=? AND score IS NOT NULL GROUP BY 1, 2",
        (bins, bins, run_id),
    ):
        counted[bool(is_accepted)][part] += number
    return ScoreHistogram(tuple(counted[True]), tuple(counted[False]))


def _condition(wanted: PairFilter) -> tuple[str, list[Any]]:
    """Return a filter as SQL and its parameters."""
    terms, parameters = ["1"], list[Any]()
    if wanted.state is not None:
        terms.append("state=?")
        parameters.append(wanted.state)
    if wanted.source is not None:
        terms.append("source=?")
        parameters.append(wanted.source)
    if wanted.search:
        likes = []
        for pattern in _patterns(wanted.search):
            for column in ("question", "answer", "topic", "reason"):
                likes.append(f"{column} LIKE ? ESCAPE '\\'")
                parameters.append(pattern)
        terms.append(f"({' OR '.join(likes)})")
    return " AND ".join(terms), parameters


def _patterns(search: str) -> set[str]:
    """Return what LIKE has to find: it folds the case of ASCII letters alone, so others are looked for in both."""
    wordings = {search} if search.isascii() else {search, search.lower(), search.upper()}
    escape = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})
    return {f"%{wording.translate(escape)}%" for wording in wordings}
