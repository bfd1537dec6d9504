"""What a run has asked of its model: how calls ended, what they cost, and how fast it goes."""

from dataclasses import dataclass

from lora_tui.store.connection import Store

WINDOW_SECONDS = 30.0
"""Speeds are over the calls that ended in so many seconds."""

_LATENCIES = 200
"""Answered calls, the newest, that latencies are taken from."""


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
