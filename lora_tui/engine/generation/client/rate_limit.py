"""How many requests may be in flight: as many as are allowed, fewer while the server says that it is too many.

Additive increase, multiplicative decrease, as in TCP: a rate limit takes a quarter of the places away, once for all the
requests that hit it together; twenty answers bring one back. Servers with an unbounded queue never say so (vLLM's
default): for them the limit of the configuration is what counts.
"""

import asyncio

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
