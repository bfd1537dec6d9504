"""Read queries on a generation run: pairs that match a filter, one pair in detail, source files, scores, calls."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lora_tui.store import generation
from lora_tui.store.connection import Store
from lora_tui.store.reviews import DECISIONS
from lora_tui.store.rows import UNKNOWN_OUTCOMES, DecisionRow, PairEdit, PairRow
from lora_tui.store.values import to_json

_MAX_CHARS = 300
"""Characters of a question or reason that a list row has at most."""

_WINDOW_SECONDS = 30.0
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


_SORTED_BY = {
    "proposed": "id",
    "score": "score",
    "question": "question COLLATE NOCASE",
    "answer": "answer COLLATE NOCASE",
    "why not": "reason COLLATE NOCASE",
    "type": "json_extract(slot, '$.question_type')",
    "topic": "topic COLLATE NOCASE",
    "verdict": "state",
}
"""What pairs can be sorted by, as SQL."""


@dataclass(frozen=True, slots=True)
class PairOrder:
    """How to sort pairs: by which column of the list, or ``proposed`` (the order they were proposed in)."""

    by: str = "proposed"
    descending: bool = False


@dataclass(frozen=True, slots=True)
class PairLine:
    """A pair as a list row; `score` is 0-10; question, answer and reason are cut to 300 characters."""

    id: int
    state: str
    score: float | None
    question_type: str
    topic: str
    question: str
    answer: str
    reason: str


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A source file of a run as a list row: its accepted and rejected pairs, and why it was skipped where it was."""

    path: str
    bytes: int
    chunks: int
    skipped: str | None
    accepted: int
    rejected: int


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
class ModelTokens:
    """Tokens that the calls to one model used; `model` is "" where it is not known."""

    model: str
    prompt: int
    completion: int
    cached: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class CallStatistics:
    """Statistics of a run's calls. `calls` counts all, those in flight too; latencies are in seconds."""

    calls: int
    in_flight: int
    prompt_tokens: int
    completion_tokens: int
    failures: tuple[CallFailures, ...]
    tokens_per_s: float
    median_latency: float | None
    p95_latency: float | None
    by_model: tuple[ModelTokens, ...] = ()

    @property
    def failed(self) -> int:
        """Failed calls, retried or not."""
        return sum(failure.calls for failure in self.failures)

    @property
    def unknown(self) -> int:
        """Calls that may have been answered and charged for, though the answer never came here."""
        return sum(failure.calls for failure in self.failures if failure.status in UNKNOWN_OUTCOMES)

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


async def sorted_pair_ids(store: Store, run_id: int, pair_filter: PairFilter, order: PairOrder) -> "array[int]":
    """Return the ids of the pairs that match, sorted; equal ones in the order they were proposed, nothing last."""
    condition, parameters = _condition(pair_filter)
    value = _SORTED_BY[order.by]
    direction = "DESC" if order.descending else "ASC"
    joined = await store.value(
        "SELECT group_concat(id) FROM (SELECT id FROM pairs"
        f" WHERE run_id=? AND {condition} ORDER BY {value} IS NULL OR {value} = '', {value} {direction}, id)",
        (run_id, *parameters),
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
        "SELECT id, state, score, COALESCE(json_extract(slot, '$.question_type'), '') AS question_type, topic,"
        f" substr(question, 1, {_MAX_CHARS}) AS question, substr(answer, 1, {_MAX_CHARS}) AS answer,"
        f" substr(reason, 1, {_MAX_CHARS}) AS reason"
        " FROM pairs WHERE id IN (SELECT value FROM json_each(?))",
        (to_json(list(ids)),),
    )
    return {line.id: line for line in rows}


async def source_lines(store: Store, run_id: int) -> list[SourceLine]:
    """Return the source files of a run, used and skipped, in the order of their paths."""
    pairs = await store.tuples(
        "SELECT source, state, COUNT(*) FROM pairs WHERE run_id=? GROUP BY source, state", (run_id,)
    )
    counts = {(source, state): number for source, state, number in pairs}
    files = await store.tuples(
        "SELECT path, bytes, chunks, skipped FROM run_documents WHERE run_id=? ORDER BY path", (run_id,)
    )
    states = ("accepted", "rejected")
    return [SourceLine(*file, *(counts.get((file[0], state), 0) for state in states)) for file in files]


async def score_histogram(store: Store, run_id: int, bins: int) -> tuple[list[int], list[int]]:
    """Return how many pairs of a run, accepted ones and all others, have a score in each of `bins` equal parts of 0-10.

    Pairs without a score are left out.
    """
    accepted, others = [0] * bins, [0] * bins
    for part, is_accepted, number in await store.tuples(
        "SELECT MAX(0, MIN(? - 1, CAST(score * ? / 10 AS INTEGER))), state='accepted', COUNT(*) FROM pairs"
        " WHERE run_id=? AND score IS NOT NULL GROUP BY 1, 2",
        (bins, bins, run_id),
    ):
        (accepted if is_accepted else others)[part] = number
    return accepted, others


def _condition(pair_filter: PairFilter) -> tuple[str, list[Any]]:
    """Return a filter as an SQL condition with its parameters."""
    terms, parameters = ["1"], list[Any]()
    for column, wanted in (("state", pair_filter.state), ("source", pair_filter.source)):
        if wanted is not None:
            terms.append(f"{column}=?")
            parameters.append(wanted)
    if search := pair_filter.search:
        # LIKE folds the case of ASCII letters alone, others are searched in both.
        spellings = {search} if search.isascii() else {search, search.lower(), search.upper()}
        escape = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})
        columns = [f"{name} LIKE ? ESCAPE '\\'" for name in ("question", "answer", "topic", "reason")]
        terms.append(f"({' OR '.join(columns * len(spellings))})")
        parameters += [f"%{spelling.translate(escape)}%" for spelling in spellings for _ in columns]
    return " AND ".join(terms), parameters


async def pair_detail(store: Store, pair_id: int) -> PairDetail | None:
    """Return everything about a pair, or None where it does not exist."""
    pair = await generation.pair(store, pair_id)
    if pair is None:
        return None
    chunk = await store.tuples("SELECT heading, context, text FROM chunks WHERE id=?", (pair.chunk_id,))
    heading, context, text = chunk[0] if chunk else ("", "", "")
    passage = f"{context}\n\n{text}" if context else text
    metrics = await store.all(
        MetricLine, "SELECT name, value, detail FROM pair_metrics WHERE pair_id=? ORDER BY name", (pair_id,)
    )
    decisions = await store.all(DecisionRow, f"{DECISIONS} WHERE pair_id=? ORDER BY done.id DESC", (pair_id,))
    edits = await store.all(PairEdit, "SELECT * FROM pair_edits WHERE pair_id=? ORDER BY id DESC", (pair_id,))
    return PairDetail(pair, heading, passage, tuple(metrics), tuple(decisions), tuple(edits))


# Read from an index alone, in its order: a row of `attempts` holds its whole reply.
_BY_STATUS = """
SELECT status, http_status, model, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(cached_tokens),
    SUM(reasoning_tokens)
FROM attempts WHERE run_id=? GROUP BY status, http_status, model"""

_USED = ("prompt", "completion", "cached", "reasoning")

_RETRIED = """
SELECT COUNT(*) FROM attempts AS one WHERE run_id=? AND status=? AND http_status IS ?
    AND EXISTS (SELECT 1 FROM attempts AS later WHERE later.task_id = one.task_id AND later.id > one.id)"""

_RECENT = """
SELECT COALESCE(SUM(prompt_tokens + completion_tokens), 0), MIN(sent_at)
FROM attempts WHERE run_id=? AND ended_at>? AND ended_at<=?"""

_LATENCY = """
SELECT ended_at - sent_at FROM attempts WHERE run_id=? AND ended_at IS NOT NULL AND status='ok'
ORDER BY ended_at DESC LIMIT ?"""


async def call_statistics(store: Store, run_id: int, now: float) -> CallStatistics:
    """Return the statistics of a run's calls; rates are over the `_WINDOW_SECONDS` before `now` (since the epoch)."""
    groups = await store.tuples(_BY_STATUS, (run_id,))
    ended: Counter[tuple[str, int | None]] = Counter()
    tokens_of: dict[str, Counter[str]] = {}
    for status, http_status, model, calls, *used in groups:
        ended[status, http_status] += calls
        tokens_of.setdefault(model, Counter()).update(dict(zip(_USED, used, strict=True)))
    failures = [
        CallFailures(status, http_status, calls, int(await store.value(_RETRIED, (run_id, status, http_status))))
        for (status, http_status), calls in ended.items()
        if status not in ("ok", "sent")
    ]
    begin = now - _WINDOW_SECONDS
    ((tokens, first),) = await store.tuples(_RECENT, (run_id, begin, now))
    older = await store.value("SELECT 1 FROM attempts WHERE run_id=? AND ended_at<=? LIMIT 1", (run_id, begin))
    seconds = _WINDOW_SECONDS if older or first is None else min(_WINDOW_SECONDS, max(1.0, now - first))
    latencies = sorted(latency for (latency,) in await store.tuples(_LATENCY, (run_id, _LATENCY_CALLS)))
    # The values below which these shares lie (nearest rank).
    median, p95 = (latencies[int(share * len(latencies))] if latencies else None for share in (0.5, 0.95))
    return CallStatistics(
        calls=ended.total(),
        in_flight=ended["sent", None],
        prompt_tokens=sum(used["prompt"] for used in tokens_of.values()),
        completion_tokens=sum(used["completion"] for used in tokens_of.values()),
        failures=tuple(sorted(failures, key=lambda failure: -failure.calls)),
        tokens_per_s=tokens / seconds,
        median_latency=median,
        p95_latency=p95,
        by_model=tuple(ModelTokens(model, *(used[name] for name in _USED)) for model, used in tokens_of.items()),
    )
