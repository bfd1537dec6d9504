"""A simulated endpoint for the search of its knee: processor sharing in virtual time, with endless work to do."""

import heapq
import itertools
import random
from collections.abc import Callable

from lora_tui.engine.generation.client.knee import KneeSearch

TOKENS_PER_SECOND = 40.0

Goodput = Callable[[int], float]
"""Tokens/s of all requests together, by the number in flight."""


def shared(knee: int) -> Goodput:
    """What a server writes that is full at `knee` requests."""
    return lambda n: TOKENS_PER_SECOND * min(n, knee)


def saturating(most: float, half_at: int) -> Goodput:
    """What a server writes whose requests disturb each other from the first on: half of `most` at `half_at`."""
    return lambda n: most * n / (n + half_at)


class Simulation:
    """Requests of `lengths` tokens in turn, as many as the search allows, for as long as asked.

    `refuses_beyond`: the endpoint refuses what comes while so many are in flight; `hold` are the seconds for which
    nothing leaves then. `idle` are the seconds between an answer and the request in its place.
    """

    def __init__(
        self,
        goodput: Goodput,
        *,
        most: int = 512,
        timeout: float = 120.0,
        refuses_beyond: int = 10**9,
        hold: float = 1.0,
        idle: float = 0.02,
        lengths: tuple[int, ...] = (100, 110, 6, 90, 6, 105, 6, 6),
    ) -> None:
        self.goodput, self.refuses_beyond, self.hold, self.idle = goodput, refuses_beyond, hold, idle
        self.search = KneeSearch(most, timeout, 0.0)
        self.now = 0.0
        self.refused = self.overdue = self.most_in_flight = 0
        self.written: list[tuple[float, int]] = []
        self._timeout = timeout
        self._lengths = itertools.cycle(lengths)
        self._random = random.Random(1)
        self._served = 0.0  # tokens that a request has got that was there from the beginning
        self._flying: list[tuple[float, int, float, int]] = []  # end by `_served`, number, when it left, tokens
        self._free: list[float] = []  # when places become free again
        self._number = self._decreased_at = 0
        self._held_until = 0.0

    def run(self, seconds: float) -> None:
        """Go on for so many seconds."""
        end = self.now + seconds
        while self.now < end:
            self._send()
            self._advance(end)

    def share(self, seconds: float, ceiling: float) -> float:
        """Return the share of a ceiling that was used in the last `seconds`."""
        return sum(tokens for at, tokens in self.written if at > self.now - seconds) / seconds / ceiling

    def _send(self) -> None:
        while self._free and self._free[0] <= self.now:
            heapq.heappop(self._free)
        while self.now >= self._held_until and len(self._flying) + len(self._free) < self.search.limit:
            self._number += 1
            rank = len(self._flying) + 1
            if rank > self.refuses_beyond:
                self.refused += 1
                burst = self._number <= self._decreased_at
                self._decreased_at = self._decreased_at if burst else self._number
                self.search.refused(rank, self.now, same_burst=burst)
                self._held_until = self.now + self.hold
                return
            tokens = next(self._lengths) * self._random.uniform(0.8, 1.2)
            heapq.heappush(self._flying, (self._served + tokens, self._number, self.now, int(tokens)))
            self.most_in_flight = max(self.most_in_flight, rank)
            self.search.count(rank + len(self._free), rank, self.now)

    def _advance(self, end: float) -> None:
        """Go on to the next answer, place or end."""
        n = len(self._flying)
        rate = self.goodput(n) / n if n else 0.0
        due = self.now + (self._flying[0][0] - self._served) / rate if n else end
        until = min(
            [due, end, *(at for at in (self._free[0] if self._free else end, self._held_until) if at > self.now)]
        )
        self._served += rate * (until - self.now)
        self.now = until
        if n and until == due:
            _, number, left, tokens = heapq.heappop(self._flying)
            heapq.heappush(self._free, self.now + self.idle * self._random.random())
            self.search.count(n - 1 + len(self._free), n - 1, self.now)
            if self.now - left > self._timeout:
                self.overdue += 1
                burst = number <= self._decreased_at
                self._decreased_at = self._decreased_at if burst else self._number
                self.search.overdue(self.now, same_burst=burst)
            else:
                self.written.append((self.now, tokens))
                oldest = min((sent for _, _, sent, _ in self._flying), default=self.now)
                self.search.answered(left, tokens, self.now, oldest=oldest)
