"""How many requests may be in flight: as many as are allowed, fewer while the server says that it is too many.

Additive increase, multiplicative decrease, as in TCP: a rate limit takes a quarter of the places away, once for all the
requests that hit it together; twenty answers bring one back. Servers with an unbounded queue never say so (vLLM's
default): for them the limit of the configuration is what counts.

How long to wait before a request is tried again: what the server asks for, else exponential backoff with jitter.

The official client honours Retry-After up to 120 s and gives up above (openai 3.54, `_base_client.py`), and it sleeps
inside the call. Rate limits of small accounts ask for more, and a sleeper must not occupy a place: hence our own loop.
"""

import asyncio
import email.utils
import math
import random
from collections.abc import Mapping

_KEPT = 0.75
_ANSWERS_A_PLACE = 20


class AdaptiveLimit:
    """A semaphore whose size moves between 1 and `most`; an async context manager for one place."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = asyncio.Semaphore(most)
        self._owed = 0  # places to be withheld when they are given back
        self._in_flight = 0
        self._before = 0  # requests in flight that left before the last decrease
        self._answers = 0
        self.limit = most

    async def __aenter__(self) -> None:
        await self._free.acquire()
        self._in_flight += 1

    async def __aexit__(self, *exception: object) -> None:
        self._in_flight -= 1
        self._before = max(0, self._before - 1)
        self._give()

    def too_many(self) -> None:
        """Take places away, unless this complaint belongs to those that were answered by the last decrease."""
        self._answers = 0
        if self._before > 0:
            return
        smaller = max(1, int(self.limit * _KEPT))
        self._owed += self.limit - smaller
        self.limit = smaller
        self._before = self._in_flight

    def answered(self) -> None:
        """Count an answer; enough of them bring a place back."""
        self._answers += 1
        if self.limit < self._most and self._answers >= _ANSWERS_A_PLACE:
            self._answers = 0
            self.limit += 1
            self._give()

    def _give(self) -> None:
        if self._owed:
            self._owed -= 1
        else:
            self._free.release()


MOST_SECONDS = 900.0
"""The longest wait that is honoured. A server that asks for more is tried again after this."""

_LONGEST_BACKOFF = 60.0


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a response asks to wait, or None; `now` is the time since the epoch.

    Read are ``retry-after-ms``, ``retry-after`` in seconds and as an HTTP date. The result lies in 0 to `MOST_SECONDS`.
    """
    seconds = _number(headers.get("retry-after-ms"))
    if seconds is not None:
        return _bounded(seconds / 1000)
    written = headers.get("retry-after")
    seconds = _number(written)
    if seconds is None and written is not None:
        parsed = email.utils.parsedate_tz(written)
        try:
            seconds = None if parsed is None else email.utils.mktime_tz(parsed) - now
        except (ValueError, OverflowError):
            return None
    return None if seconds is None else _bounded(seconds)


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


def _bounded(seconds: float) -> float:
    return min(MOST_SECONDS, max(0.0, seconds))
