"""A generation run: its pairs as a list that can be filtered and one by one, its files, scores and calls."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lora_tui.store import generation
from lora_tui.store.connection import Store, to_json
from lora_tui.store.reviews import DECISIONS, run_of_pair
from lora_tui.store.rows import DecisionRow, PairEdit, PairRow

_CUT = 300
"""Characters of a question or reason that a list shows at most."""

WINDOW_SECONDS = 30.0
"""Speeds are over the calls that ended in so many seconds."""

_LATENCIES = 200
"""Answered calls, the newest, that latencies are taken from."""


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


@dataclass(frozen=True, slots=True)
class MetricLine:
    """A metric of a pair (0-1), and how it was measured where that is known."""

    name: str
    value: float
    detail: str | None


@dataclass(frozen=True, slots=True)
class PairDetail:
    """A pair with its passage (empty where there is none), metrics by name, decisions and edits, the newest first."""

    pair: PairRow
    run_id: int
    heading: str
    passage: str
    metrics: tuple[MetricLine, ...]
    decisions: tuple[DecisionRow, ...]
    edits: tuple[PairEdit, ...]


@dataclass(frozen=True, slots=True)
class CallFailures:
    """Calls that failed in one way; `retried` of them were followed by another call for the same task."""

    status: str
    http_status: int | None
    calls: int
    retried: int


@dataclass(frozen=True, slots=True)
class CallFigures:
    """The calls of a run. `by_status` counts all of them, those in flight as ``sent``; latencies are in seconds."""

    by_status: dict[str, int]
    in_flight: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    failures: tuple[CallFailures, ...]
    calls_per_s: float
    tokens_per_s: float
    median_latency: float | None
    p95_latency: float | None

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return sum(self.by_status.values())

    @property
    def failed(self) -> int:
        """How many calls failed, retried or not."""
        return sum(failure.calls for failure in self.failures)

    @property
    def retried(self) -> int:
        """How many failed calls were followed by another one."""
        return sum(failure.retried for failure in self.failures)


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


async def pair_detail(store: Store, pair_id: int) -> PairDetail | None:
    """Return everything about a pair, or None where it does not exist."""
    pair = await generation.pair(store, pair_id)
    if pair is None:
        return None
    run_id = await run_of_pair(store, pair_id)
    chunk = await store.tuples("SELECT heading, text FROM chunks WHERE id=?", (pair.chunk_id,))
    heading, passage = chunk[0] if chunk else ("", "")
    metrics = await store.all(
        MetricLine, "SELECT name, value, detail FROM pair_metrics WHERE pair_id=? ORDER BY name", (pair_id,)
    )
    decisions = await store.all(DecisionRow, f"{DECISIONS} WHERE pair_id=? ORDER BY done.id DESC", (pair_id,))
    edits = await store.all(PairEdit, "SELECT * FROM pair_edits WHERE pair_id=? ORDER BY id DESC", (pair_id,))
    return PairDetail(pair, run_id, heading, passage, tuple(metrics), tuple(decisions), tuple(edits))


# Read from an index alone, in its order: a row of `attempts` carries its whole reply.
_ENDS = """
SELECT status, http_status, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(cached_tokens)
FROM attempts WHERE run_id=? GROUP BY status, http_status"""

_RETRIED = """
SELECT COUNT(*) FROM attempts AS one WHERE run_id=? AND status=? AND http_status IS ?
    AND EXISTS (SELECT 1 FROM attempts AS later WHERE later.task_id = one.task_id AND later.id > one.id)"""

_RECENT = """
SELECT COUNT(*), COALESCE(SUM(prompt_tokens + completion_tokens), 0), MIN(sent_at)
FROM attempts WHERE run_id=? AND ended_at>? AND ended_at<=?"""

_LATENCY = """
SELECT ended_at - sent_at FROM attempts WHERE run_id=? AND ended_at IS NOT NULL AND status='ok'
ORDER BY ended_at DESC LIMIT ?"""


async def call_figures(store: Store, run_id: int, now: float) -> CallFigures:
    """Return the figures of a run's calls; `now` is the time (seconds since the epoch) that speeds are taken at."""
    ends = await store.tuples(_ENDS, (run_id,))
    by_status: dict[str, int] = {}
    failures = []
    for status, http_status, calls, *_ in ends:
        by_status[status] = by_status.get(status, 0) + calls
        if status not in ("ok", "sent"):
            retried = int(await store.value(_RETRIED, (run_id, status, http_status)))
            failures.append(CallFailures(status, http_status, calls, retried))
    begin = now - WINDOW_SECONDS
    ((recent, tokens, first),) = await store.tuples(_RECENT, (run_id, begin, now))
    older = await store.value("SELECT 1 FROM attempts WHERE run_id=? AND ended_at<=? LIMIT 1", (run_id, begin))
    seconds = WINDOW_SECONDS if older or first is None else min(WINDOW_SECONDS, max(1.0, now - first))
    latencies = sorted(latency for (latency,) in await store.tuples(_LATENCY, (run_id, _LATENCIES)))
    return CallFigures(
        by_status=by_status,
        in_flight=by_status.get("sent", 0),
        prompt_tokens=sum(end[3] for end in ends),
        completion_tokens=sum(end[4] for end in ends),
        cached_tokens=sum(end[5] for end in ends),
        failures=tuple(sorted(failures, key=lambda failure: -failure.calls)),
        calls_per_s=recent / seconds,
        tokens_per_s=tokens / seconds,
        median_latency=_quantile(latencies, 0.5),
        p95_latency=_quantile(latencies, 0.95),
    )


def _quantile(ascending: list[float], share: float) -> float | None:
    """Return the value below which this share lies (nearest rank), or None where there is nothing."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else None
