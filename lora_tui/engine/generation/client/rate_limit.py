"""Rate limits: how many requests may be in flight, and how long to wait before one is tried again.

The limit grows additively and shrinks multiplicatively, as in TCP congestion control: a rate limit takes a quarter
away, once for all the requests that hit it together; twenty answers give one request back. Servers with an unbounded
queue never send one (vLLM's default): for them the configured limit is what counts.

Waits are what the server asks for, else exponential backoff with jitter. The official client honours Retry-After up to
120 s and gives up above (openai 3.54, `_base_client.py`), and it sleeps inside the call. Rate limits of small accounts
ask for more, and a sleeping call must not count as in flight: hence our own loop.
"""

import asyncio
import email.utils
import math
import random
from collections.abc import Mapping

MOST_SECONDS = 900.0
"""The longest wait that is honoured. A server that asks for more is tried again after this."""

_LONGEST_BACKOFF = 60.0
_DECREASE = 0.75
_ANSWERS_PER_INCREASE = 20


class AdaptiveLimit:
    """A semaphore whose size moves between 1 and `most`; an async context manager for one request in flight."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._semaphore = asyncio.Semaphore(most)
        self._to_withhold = 0  # releases to swallow, so that the semaphore shrinks to `limit`
        self._in_flight = 0
        self._sent_before_decrease = 0  # requests in flight that left before the last decrease
        self._answers = 0
        self.limit = most

    async def __aenter__(self) -> None:
        await self._semaphore.acquire()
        self._in_flight += 1

    async def __aexit__(self, *exception: object) -> None:
        self._in_flight -= 1
        self._sent_before_decrease = max(0, self._sent_before_decrease - 1)
        self._release()

    def decrease(self) -> None:
        """Lower the limit after a rate limit, unless it hit a request that left before the last decrease."""
        self._answers = 0
        if self._sent_before_decrease > 0:
            return
        smaller = max(1, int(self.limit * _DECREASE))
        self._to_withhold += self.limit - smaller
        self.limit = smaller
        self._sent_before_decrease = self._in_flight

    def record_success(self) -> None:
        """Count an answer; every twentieth raises the limit by one."""
        self._answers += 1
        if self.limit < self._most and self._answers >= _ANSWERS_PER_INCREASE:
            self._answers = 0
            self.limit += 1
            self._release()

    def _release(self) -> None:
        if self._to_withhold:
            self._to_withhold -= 1
        else:
            self._semaphore.release()


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a response asks to wait, 0 to `MOST_SECONDS`, or None; `now` is the time since the epoch.

    It reads ``retry-after-ms``, and ``retry-after`` in seconds or as an HTTP date.
    """
    milliseconds, written = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    seconds = _number(written) if milliseconds is None else milliseconds / 1000
    if seconds is None and written is not None:
        parsed = email.utils.parsedate_tz(written)
        try:
            seconds = None if parsed is None else email.utils.mktime_tz(parsed) - now
        except (ValueError, OverflowError):
            return None
    return None if seconds is None else min(MOST_SECONDS, max(0.0, seconds))


def backoff(attempt: int, initial_delay: float, rng: random.Random) -> float:
    """Return the seconds to wait after failed try `attempt` (from 0): uniform in 0 to initial_delay * 2^attempt.

    Full jitter spreads the calls that failed together (Brooker 2015, "Exponential backoff and jitter").
    """
    return rng.uniform(0, min(_LONGEST_BACKOFF, initial_delay * 2 ** min(attempt, 30)))


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
