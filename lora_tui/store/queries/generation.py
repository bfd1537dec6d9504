"""A generation run: its pairs as a list that can be filtered and one by one, its files, scores and calls."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lora_tui.store import generation
from lora_tui.store.connection import Store, to_json
from lora_tui.store.reviews import DECISIONS, run_of_pair
from lora_tui.store.rows import DecisionRow, PairEdit, PairRow

_MAX_CHARS = 300
"""Characters of a question or reason that a list row has at most."""

WINDOW_SECONDS = 30.0
"""Rates are over the calls that ended in the last so many seconds."""

_LATENCY_CALLS = 200
"""Latencies are over the newest so many answered calls."""


@dataclass(frozen=True, slots=True)
class PairFilter:
    """Which pairs to list: by state, by file (as in `run_documents`), by text; None and "" match all.

    The text is searched for in question, answer, topic and reason, whatever the case.
    """

    state: str | None = None
    source: str | None = None
    search: str = ""


@dataclass(frozen=True, slots=True)
class PairLine:
    """A pair as a list row; `score` is 0-10, question and reason are cut to 300 characters."""

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
    """A source file of a run as a list row: its pairs by state, and why it was skipped where it was."""

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
    """Numbers of pairs by score, in bins of equal width over 0-10: accepted ones, and all others."""

    accepted: tuple[int, ...]
    others: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MetricLine:
    """A metric of a pair (0-1), with an explanation where there is one."""

    name: str
    value: float
    detail: str | None


@dataclass(frozen=True, slots=True)
class PairDetail:
    """A pair with its passage (empty where it has none), metrics by name, decisions and edits, the newest first."""

    pair: PairRow
    run_id: int
    heading: str
    passage: str
    metrics: tuple[MetricLine, ...]
    decisions: tuple[DecisionRow, ...]
    edits: tuple[PairEdit, ...]


@dataclass(frozen=True, slots=True)
class CallFailures:
    """Failed calls of one status; `retried` of them were followed by another call for the same task."""

    status: str
    http_status: int | None
    calls: int
    retried: int


@dataclass(frozen=True, slots=True)
class CallStatistics:
    """Statistics of a run's calls. `by_status` counts all, those in flight as ``sent``; latencies are in seconds."""

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
        """Calls made."""
        return sum(self.by_status.values())

    @property
    def failed(self) -> int:
        """Failed calls, retried or not."""
        return sum(failure.calls for failure in self.failures)

    @property
    def retried(self) -> int:
        """Failed calls that were followed by another one."""
        return sum(failure.retried for failure in self.failures)


async def pair_ids(store: Store, run_id: int, pair_filter: PairFilter, after: int = 0) -> "array[int]":
    """Return the ids above `after` of the pairs that match, in order, 8 bytes each."""
    condition, parameters = _condition(pair_filter)
    # The few pairs of a file are found by their file; the + keeps SQLite from scanning the whole run by id.
    column = "id" if pair_filter.source is None else "+id"
    # As one text: for a hundred thousand ids that takes half as long as rows.
    joined = await store.value(
        "SELECT group_concat(id) FROM"
        f" (SELECT id FROM pairs WHERE run_id=? AND {column}>? AND {condition} ORDER BY {column})",
        (run_id, after, *parameters),
    )
    return array("q", map(int, joined.split(",")) if joined else ())


async def pairs_matching(store: Store, run_id: int, pair_filter: PairFilter, ids: Iterable[int]) -> set[int]:
    """Return which of these pairs match the filter now."""
    condition, parameters = _condition(pair_filter)
    # The + keeps SQLite from scanning the index of the run: the ids are few.
    rows = await store.tuples(
        f"SELECT id FROM pairs WHERE id IN (SELECT value FROM json_each(?)) AND +run_id=? AND {condition}",
        (to_json(list(ids)), run_id, *parameters),
    )
    return {pair_id for (pair_id,) in rows}


async def pair_lines(store: Store, ids: Iterable[int]) -> dict[int, PairLine]:
    """Return these pairs as list rows by id; those that do not exist are left out."""
    rows = await store.all(
        PairLine,
        "SELECT id, state, score, COALESCE(json_extract(slot, '$.question_type'), '') AS question_type,"
        " COALESCE(json_extract(slot, '$.difficulty'), '') AS difficulty, topic,"
        f" substr(question, 1, {_MAX_CHARS}) AS question, cause, substr(reason, 1, {_MAX_CHARS}) AS reason, source"
        " FROM pairs WHERE id IN (SELECT value FROM json_each(?))",
        (to_json(list(ids)),),
    )
    return {line.id: line for line in rows}


async def source_lines(store: Store, run_id: int) -> list[SourceLine]:
    """Return the source files of a run, used and skipped, in the order of their paths."""
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
    """Return a histogram of a run's scores in `bins` bins over 0-10; pairs without a score are left out."""
    counts: dict[bool, list[int]] = {True: [0] * bins, False: [0] * bins}
    for bin_index, is_accepted, number in await store.tuples(
        "SELECT MAX(0, MIN(? - 1, CAST(score * ? / 10 AS INTEGER))), state='accepted', COUNT(*) FROM pairs"
        " WHERE run_id=? AND score IS NOT NULL GROUP BY 1, 2",
        (bins, bins, run_id),
    ):
        counts[bool(is_accepted)][bin_index] += number
    return ScoreHistogram(tuple(counts[True]), tuple(counts[False]))


def _condition(pair_filter: PairFilter) -> tuple[str, list[Any]]:
    """Return a filter as an SQL condition with its parameters."""
    terms, parameters = ["1"], list[Any]()
    if pair_filter.state is not None:
        terms.append("state=?")
        parameters.append(pair_filter.state)
    if pair_filter.source is not None:
        terms.append("source=?")
        parameters.append(pair_filter.source)
    if pair_filter.search:
        likes = []
        for pattern in _patterns(pair_filter.search):
            for column in ("question", "answer", "topic", "reason"):
                likes.append(f"{column} LIKE ? ESCAPE '\\'")
                parameters.append(pattern)
        terms.append(f"({' OR '.join(likes)})")
    return " AND ".join(terms), parameters


def _patterns(search: str) -> set[str]:
    """Return the LIKE patterns of a search: LIKE folds the case of ASCII letters alone, others are searched in both."""
    spellings = {search} if search.isascii() else {search, search.lower(), search.upper()}
    escape = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})
    return {f"%{spelling.translate(escape)}%" for spelling in spellings}


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


# Read from an index alone, in its order: a row of `attempts` holds its whole reply.
_BY_STATUS = """
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


async def call_statistics(store: Store, run_id: int, now: float) -> CallStatistics:
    """Return the statistics of a run's calls; rates are over the `WINDOW_SECONDS` before `now` (since the epoch)."""
    groups = await store.tuples(_BY_STATUS, (run_id,))
    by_status: dict[str, int] = {}
    failures = []
    for status, http_status, calls, *_ in groups:
        by_status[status] = by_status.get(status, 0) + calls
        if status not in ("ok", "sent"):
            retried = int(await store.value(_RETRIED, (run_id, status, http_status)))
            failures.append(CallFailures(status, http_status, calls, retried))
    begin = now - WINDOW_SECONDS
    ((recent, tokens, first),) = await store.tuples(_RECENT, (run_id, begin, now))
    older = await store.value("SELECT 1 FROM attempts WHERE run_id=? AND ended_at<=? LIMIT 1", (run_id, begin))
    seconds = WINDOW_SECONDS if older or first is None else min(WINDOW_SECONDS, max(1.0, now - first))
    latencies = sorted(latency for (latency,) in await store.tuples(_LATENCY, (run_id, _LATENCY_CALLS)))
    return CallStatistics(
        by_status=by_status,
        in_flight=by_status.get("sent", 0),
        prompt_tokens=sum(group[3] for group in groups),
        completion_tokens=sum(group[4] for group in groups),
        cached_tokens=sum(group[5] for group in groups),
        failures=tuple(sorted(failures, key=lambda failure: -failure.calls)),
        calls_per_s=recent / seconds,
        tokens_per_s=tokens / seconds,
        median_latency=_quantile(latencies, 0.5),
        p95_latency=_quantile(latencies, 0.95),
    )


def _quantile(ascending: list[float], share: float) -> float | None:
    """Return the value below which this share lies (nearest rank), or None where there is nothing."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else None
