"""The search for the knee of an endpoint: the fewest requests in flight at which it writes as fast as it can.

Most servers queue whatever comes and refuse nothing (vLLM's default), so refusals alone teach nothing about them. What
tells is goodput, the completion tokens/s of all requests together: by Little's law the mean number in flight times the
speed of one (tokens of its reply over its seconds). `KneeSearch` measures both over a window at each limit, with the
requests alone that were sent in it. It doubles the limit while goodput rises, then looks for the smallest limit that
keeps it, first where the speed of an undisturbed request says it should be, and later tries a little more or less now
and then. Speed is counted in tokens, because the time of a reply grows with its length.

A refusal (429, 503) names the number in flight that was too much: the limit is halved, climbs back with each answer,
and stays just below that number. Pure: the clock is handed in.
"""

import math
from dataclasses import dataclass
from typing import Literal

FIRST_LIMIT = 8
"""Requests in flight before anything is known of an endpoint."""

_GAIN = 0.1
"""Share of the expected rise of goodput that must be seen for a larger limit to be worth its latency."""

_ENOUGH = 0.97
"""Share of the best goodput that the limit which is kept must reach."""

_MARGIN = 1.06
"""How far above the knee that speeds suggest the limit is set: a place is empty between an answer and a request."""

_FILLED = 0.85
"""Mean share of the limit in flight from which a window says something about the limit."""

_MOST_PLACES = 1.5
_LEAST_ANSWERS = 4
_WINDOW = 0.4
"""A window ends when its answered requests make up this share of the time that all requests spent in flight."""

_OLD, _HANGING = 1.2, 8.0
"""A window waits for the oldest request until it is no older than 1.2 times the slowest reply; 8 times that at most."""

_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 300.0
"""Seconds until the limit that was found is questioned; twice as long each time that it holds."""

_FORGET = 0.7
"""What is left of the limit that is known to be too low, each time that the one found is questioned."""

_BURST = 2.0
"""Seconds within which refusals of a probe come together."""

_SOON = 15.0
"""Seconds after a refusal in which another one says that the limit is still too high."""

_ONCE_AGAIN, _AGAIN = 0.94, 0.75
"""What is left of a limit at which a refusal comes again soon after one; and where that does not help."""

_RACING = 50
"""One of so many places stays free where requests are refused: an answer's place is free here before it is there."""

_SLOW = 0.2
"""Share of the timeout from which replies are slow: a call that is overdue then tells of too many in flight."""

Phase = Literal["grow", "refine", "settled", "probe", "recover"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a window told about its limit: mean number in flight, and tokens/s of all requests together."""

    limit: int
    in_flight: float
    goodput: float


class KneeSearch:
    """Finds `limit`, the requests in flight, between 1 and `most`; replies are given up after `timeout` seconds.

    `found` is whether the limit is the result of a search, `goodput` the newest measurement in tokens/s.
    """

    def __init__(self, most: int, timeout: float, now: float) -> None:
        self._most = most
        self._timeout = timeout
        self.limit = min(most, FIRST_LIMIT)
        self.phase: Phase = "grow"
        self.goodput = 0.0
        self._settled = self.limit
        self._target = self.limit  # where a recovery ends
        self._before: Measured | None = None  # the window that the next one is compared with
        self._low, self._high, self._best, self._tries = 0, self.limit, 0.0, 0
        self._alone = 0.0  # tokens/s of a request that no other disturbs: the fastest ever seen
        self._latency = 0.0  # slowest answer of the last window
        self._pause, self._question_at = _FIRST_PAUSE, math.inf
        self._decreased = self._probed = -math.inf
        self._bounded = False  # whether anything was refused
        self._again = 0  # refusals that came soon after one
        self._taken = self._in_flight = 0
        self._at = self._began = now
        self._answers = 0  # of requests that left in this window, with their tokens and seconds
        self._tokens = self._seconds = self._slowest = 0.0
        self._area = 0.0  # seconds that all requests together were in flight
        self._taken_area = 0.0  # the same of places
        self._places = 1.0  # places that a request in flight takes, with what comes before and after it

    @property
    def found(self) -> bool:
        """Whether the limit is where it stays, until it is questioned again."""
        return self.phase in ("settled", "probe")

    def count(self, taken: int, in_flight: int, now: float) -> None:
        """Take note of the places that are taken and of the requests in flight, whenever either changes.

        A place is taken before its request leaves: in between, the attempt is stored.
        """
        self._taken_area += self._taken * (now - self._at)
        self._area += self._in_flight * (now - self._at)
        self._taken, self._in_flight, self._at = taken, in_flight, now
        if taken > self.limit:  # lowered, and not there yet
            self._begin(now)

    def answered(self, sent: float, tokens: int, now: float, *, oldest: float, alone: bool = False) -> None:
        """Take note of a reply of so many tokens to a request that left at `sent`.

        `oldest` is when the oldest request left that is still in flight; `alone`: no other was there.
        """
        seconds = max(now - sent, 1e-6)
        if alone:
            self._alone = max(self._alone, tokens / seconds)
        if self.phase == "recover":
            self.limit = min(self._target, self.limit + 1)
            if self.limit == self._target:
                self._settle(self.limit, now)
            return
        if sent < self._began:
            return
        self._answers += 1
        self._tokens += tokens
        self._seconds += seconds
        self._slowest = max(self._slowest, seconds)
        self.count(self._taken, self._in_flight, now)
        # Short replies come first: the window waits for the long ones, if they do not hang.
        age, slowest = now - oldest, max(self._slowest, self._latency)
        whole = age <= _OLD * self._slowest or now - self._began > _HANGING * slowest
        if whole and self._answers >= max(_LEAST_ANSWERS, self.limit // 4) and self._seconds >= _WINDOW * self._area:
            self._end_window(max(self._slowest, age), now)

    def refused(self, in_flight: int, now: float, *, same_burst: bool) -> None:
        """Lower the limit after a refusal of the request that was the `in_flight`-th; once for each burst of them."""
        served = max(1, in_flight - 1)
        self._bounded = True
        if same_burst:
            self._target = max(1, min(self._target, served))
            self.limit = min(self.limit, self._target)
            self._settled = min(self._settled, self._target)
            return
        if self.phase == "probe" and served >= self._settled:
            self._probed = now
            self._settle(self._settled, now)
            return
        again = now - self._decreased < _SOON or (self.phase in ("settled", "recover") and served < self._target)
        self._again = self._again + 1 if again else 0
        below = served - served // _RACING
        lower = below if not again else int((_ONCE_AGAIN if self._again == 1 else _AGAIN) * self._target)
        self._target = max(1, min(below, lower))
        self._recover(max(1, min(self.limit, served) // 2), now)

    def was_probe(self, now: float) -> bool:
        """Tell whether a refusal only says that one more than was known to be served is one too many."""
        return self.phase == "probe" or now - self._probed < _BURST

    def overdue(self, now: float, *, same_burst: bool) -> bool:
        """Lower the limit after a call that was not answered in time; returns whether there were too many in flight.

        Where replies are quick otherwise, one that never came says little: the limit goes down by one.
        """
        if same_burst:
            return False
        slow = self._latency == 0.0 or max(self._latency, self._slowest) > _SLOW * self._timeout
        if slow:
            self.limit = self._target = max(1, self.limit // 2)
            self._settle(self.limit, now)
        elif self.phase in ("settled", "probe", "recover"):
            self._target = self._settled
            self._recover(max(1, self.limit - 1), now)
        self._decreased = now
        return slow

    # Windows

    def _begin(self, now: float) -> None:
        self._began = self._at = now
        self._area = self._taken_area = self._tokens = self._seconds = self._slowest = 0.0
        self._answers = 0

    def _end_window(self, latency: float, now: float) -> None:
        in_flight = self._area / max(now - self._began, 1e-6)
        speed = self._tokens / self._seconds
        self._alone = max(self._alone, speed)
        self._latency = latency
        self.goodput = in_flight * speed
        measured = Measured(self.limit, in_flight, self.goodput)
        filled = self._taken_area / max(now - self._began, 1e-6) >= _FILLED * self.limit
        self._places = min(_MOST_PLACES, self._taken_area / max(self._area, 1e-6))
        self._begin(now)
        if filled:  # else there is too little work, or we are too slow ourselves: nothing is learned about the limit
            self._learn(measured, now)

    def _learn(self, measured: Measured, now: float) -> None:
        match self.phase:
            case "grow":
                self._grow(measured, now)
            case "refine":
                enough = measured.goodput >= _ENOUGH * self._best
                self._low, self._high = (self._low, measured.limit) if enough else (measured.limit, self._high)
                between = round(math.sqrt(max(1, self._low) * self._high))
                self._refine(max(between, self._suggested(self._best)), now)
            case "probe":
                if self._rises(measured):
                    self.phase, self._pause = "grow", _FIRST_PAUSE
                    self._grow(measured, now)
                else:
                    self._settle(self._settled, now)
            case "settled":
                self._before = measured
                if now >= self._question_at:
                    self._question(measured, now)

    def _rises(self, measured: Measured) -> bool:
        """Tell whether goodput has risen since the window before as a larger limit should make it, or a tenth of it."""
        before = self._before
        if before is None:
            return True
        return measured.goodput >= before.goodput * (1 + _GAIN * max(0.3, measured.limit / before.limit - 1))

    def _grow(self, measured: Measured, now: float) -> None:
        if self._rises(measured):
            larger = min(self._most, 2 * measured.limit)
            if larger == measured.limit or 2 * self._latency > 0.7 * self._timeout:
                self._settle(measured.limit, now)
                return
            self._before = measured
            self._set(larger, now)
            return
        before = self._before
        assert before is not None, "without a window before, goodput rises"
        self._best = max(before.goodput, measured.goodput)
        kept = before.goodput >= _ENOUGH * self._best
        self._low, self._high = (0, before.limit) if kept else (before.limit, measured.limit)
        self._tries = 0
        self._refine(self._suggested(self._best), now)

    def _suggested(self, goodput: float) -> int:
        """Return the limit at which undisturbed requests would bring a goodput: that is the knee, if they stay so."""
        return math.ceil(_MARGIN * self._places * goodput / self._alone)

    def _refine(self, limit: int, now: float) -> None:
        limit = max(self._low + 1, limit)
        if self._tries == 3 or limit >= 0.95 * self._high:
            self._settle(self._high, now)
            return
        self._tries += 1
        self.phase = "refine"
        self._set(limit, now)

    def _settle(self, limit: int, now: float) -> None:
        if self.phase == "probe":
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        self.phase = "settled"
        self._settled = self._target = limit
        self._before = None
        self._question_at = now + self._pause
        self._set(limit, now)

    def _question(self, measured: Measured, now: float) -> None:
        """Try a smaller limit where speeds suggest one, else a larger one."""
        self._low = int(_FORGET * self._low)
        suggested = max(self._low + 1, self._suggested(measured.goodput))
        if suggested < 0.8 * measured.limit:
            self._high, self._best, self._tries = measured.limit, measured.goodput, 1
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
            self._refine(suggested, now)
            return
        larger = min(self._most, measured.limit + max(1, measured.limit // (32 if self._bounded else 8)))
        if larger == measured.limit or self._latency > 0.5 * self._timeout:
            self._question_at = now + self._pause
            return
        self.phase = "probe"
        self._set(larger, now)

    def _recover(self, limit: int, now: float) -> None:
        self.phase = "recover"
        self._decreased = now
        self._set(limit, now)
        if limit >= self._target:
            self._settle(self._target, now)

    def _set(self, limit: int, now: float) -> None:
        self.limit = limit
        self._begin(now)
