"""Rate limits: how many requests may be in flight, and how long to wait before one is tried again.

`AdaptiveLimit` gives out the places for requests in flight, judging before writing; how many there are is found by
`knee`. `RateHold` is the time for which nothing may leave.

Waits are what the server asks for, else exponential backoff with jitter. The official client honours Retry-After up to
120 s and gives up above (openai 3.54, `_base_client.py`), and it sleeps inside the call. Rate limits of small accounts
ask for more, and a sleeping call must not count as in flight: hence our own loop.
"""

import asyncio
import email.utils
import math
import random
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from lora_tui.engine.generation.client.knee import KneeSearch
from lora_tui.engine.generation.generation_model import CallStopped
from lora_tui.engine.runtime.context import Emit
from lora_tui.secrets import redact
from lora_tui.text import one_line

MOST_SECONDS = 900.0
"""The longest wait that is honoured. A server that asks for more is tried again after this."""

_LONGEST_BACKOFF = 60.0
_LONGEST_HOLD = 20.0
"""Seconds: the longest hold after a rate limit that does not say how long it lasts."""

_SECONDS_BETWEEN_REPORTS, _SHORTEST_TOLD = 2.0, 0.5

_LONG = 20.0
"""Seconds: people are told of holds that are longer."""


class TransientFailure(Exception):  # noqa: N818  # an end of one attempt, which the client deals with
    """An attempt failed in a way that may pass; `wait` are the seconds that the server asks for.

    `rate_limited`: the server has too much to do. `overdue`: it did not answer in time. `unreachable`: no connection
    came about.
    """

    def __init__(
        self,
        reason: str,
        wait: float | None = None,
        *,
        rate_limited: bool = False,
        unreachable: bool = False,
        overdue: bool = False,
    ) -> None:
        super().__init__(reason)
        self.wait = wait
        self.rate_limited = rate_limited
        self.unreachable = unreachable
        self.overdue = overdue


@dataclass(slots=True)
class Place:
    """One request's place: when it left (0: not yet), and the how-manieth in flight it then was (`rank`)."""

    number: int
    rank: int = 0
    sent: float = 0.0


class AdaptiveLimit:
    """The places for requests in flight: as many as `KneeSearch` finds, `most` at most.

    Those who wait get a place in the order in which they came, but for the ones that go `ahead`. `on_overdue` is called
    with the limit before and after calls that were not answered in time have lowered it.
    """

    def __init__(
        self,
        most: int,
        timeout: float = math.inf,
        on_overdue: Callable[[int, int], None] = lambda before, after: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._on_overdue = on_overdue
        self.search = KneeSearch(most, timeout, clock())
        self._waiting: tuple[deque[asyncio.Future[None]], deque[asyncio.Future[None]]] = (deque(), deque())
        self._numbers = 0
        self._flying: dict[int, Place] = {}  # in the order in which they left
        self._decreased_at = 0  # the number of the last place that was given before the last decrease
        self._taken = 0
        self.in_flight = 0

    @property
    def limit(self) -> int:
        """Requests that may be in flight."""
        return self.search.limit

    @asynccontextmanager
    async def place(self, *, ahead: bool = False) -> AsyncIterator[Place]:
        """Hold a place for one request; wait until there is one. A `TransientFailure` of it may lower the limit."""
        await self._acquire(ahead)
        self._numbers += 1
        place = Place(self._numbers)
        self.search.count(self._taken, self.in_flight, self._clock())
        try:
            yield place
        except TransientFailure as failure:
            if failure.rate_limited:
                self.search.refused(place.rank, self._clock(), same_burst=self._same_burst(place))
            elif failure.overdue:
                before = self.limit
                if self.search.overdue(self._clock(), same_burst=self._same_burst(place)):
                    self._on_overdue(before, self.limit)
            raise
        finally:
            self._taken -= 1
            self.in_flight -= self._flying.pop(place.number, None) is not None
            self.search.count(self._taken, self.in_flight, self._clock())
            self._admit()

    def leaves_now(self, place: Place) -> None:
        """Count a request as in flight from now on: what came before was our own."""
        self.in_flight += 1
        place.sent, place.rank = self._clock(), self.in_flight
        self._flying[place.number] = place
        self.search.count(self._taken, self.in_flight, place.sent)

    async def _acquire(self, ahead: bool) -> None:
        if self._taken < self.limit and not any(self._waiting):
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting[0 if ahead else 1]
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # taken out already
                    queue.remove(turn)
            else:  # it had its place
                self._taken -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        """Give free places to those who wait."""
        for queue in self._waiting:
            while queue and self._taken < self.limit:
                turn = queue.popleft()
                if not turn.done():
                    self._taken += 1
                    turn.set_result(None)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return sum(len(queue) for queue in self._waiting)

    def answered(self, place: Place, tokens: int) -> None:
        """Take note of a reply of so many tokens."""
        now, alone = self._clock(), place.rank == 1 and self._numbers == place.number
        oldest = next((other.sent for other in self._flying.values() if other is not place), now)
        self.search.answered(place.sent, tokens, now, oldest=oldest, alone=alone)
        self._admit()

    def _same_burst(self, place: Place) -> bool:
        same = place.number <= self._decreased_at
        if not same:
            self._decreased_at = self._numbers
        return same


class RateHold:
    """The time for which no request may leave after a rate limit: it is the account's, and not one request's."""

    def __init__(self, initial_delay: float) -> None:
        self._initial_delay = initial_delay
        self._until = 0.0
        self._since: float | None = None  # the first limit since the last answer

    @property
    def seconds(self) -> float:
        """Seconds for which the server still wants no request."""
        return self._until - time.monotonic()

    @property
    def limited_for(self) -> float:
        """Seconds since the first limit that no answer has followed; 0 without one."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def limit(self, asked: float | None) -> bool:
        """Hold requests back for the seconds that were asked for; returns whether that is long, and news.

        Where nothing was asked for, the holds grow with the time that the limit lasts, to `_LONGEST_HOLD`.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        wait = min(_LONGEST_HOLD, max(self._initial_delay, 0.5 * self.limited_for)) if asked is None else asked
        news = min(wait, now + wait - self._until) > _LONG
        self._until = max(self._until, now + wait)
        return news

    def heed(self, headers: Mapping[str, str]) -> None:
        """Hold requests back where an answer says that it was the last for now, before one is refused."""
        spent = [kind for kind in _COUNTED if _number(headers.get(f"x-ratelimit-remaining-{kind}")) == 0]
        waits = [_until(headers.get(f"x-ratelimit-reset-{kind}", ""), time.time()) for kind in spent]
        if known := [wait for wait in waits if wait is not None]:
            self._until = max(self._until, time.monotonic() + min(MOST_SECONDS, max(known)))

    def answered(self) -> None:
        """Take note of an answer: the limit is over."""
        self._since = None


class RetryWaits:
    """The waits of calls between their tries: `sleeping` is how many wait, `tries` how many each has."""

    def __init__(self, stop: asyncio.Event, emit: Emit, tries: int) -> None:
        self._stop = stop
        self._emit = emit
        self._tries = tries
        self._reported_at = 0.0
        self.sleeping = 0

    async def sleep(self, seconds: float) -> None:
        """Wait; raises `CallStopped` as soon as the run is to stop."""
        if seconds > 0:
            self.sleeping += 1
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), seconds)
            finally:
                self.sleeping -= 1
        if self._stop.is_set():
            raise CallStopped

    def report(self, failure: TransientFailure, wait: float, tries: int) -> None:
        """Report that a call failed and is tried again: now and then, not each of them."""
        now = time.monotonic()
        if now - self._reported_at < _SECONDS_BETWEEN_REPORTS or wait < _SHORTEST_TOLD:
            return
        self._reported_at = now
        of = {} if failure.rate_limited else {"try": tries, "tries": self._tries}
        self._emit("retry", reason=one_line(redact(str(failure)), 160), seconds=round(wait, 1), **of)


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


def asked_wait(headers: Mapping[str, str], details: str, now: float) -> float | None:
    """Return the seconds after which a refused request may be sent again, as far as the answer says, or None.

    Beside ``retry-after`` it reads when limits of requests and tokens begin anew (``x-ratelimit-reset-*`` of OpenAI
    and Groq, ``x-ratelimit-reset`` of OpenRouter, ``ratelimit-reset``, Anthropic's times of day) and what the body
    says (Google's RetryInfo, OpenRouter's headers inside it, "try again in 6m0s"). `details` is the body in lower case,
    `now` the time since the epoch.
    """
    if (seconds := retry_after(headers, now)) is not None:
        return seconds
    if (written := _RETRY_INFO.search(details) or _RETRY_IN.search(details)) is not None:
        seconds = _duration(written["wait"])
        if seconds is not None:
            return min(MOST_SECONDS, seconds)
    resets = dict(_resets(headers, now))
    inside = {name.replace("_", "-"): value for name, value in _HEADER_IN_BODY.findall(details)}
    resets |= dict(_resets(inside, now))
    if not resets:
        return None
    spent = [wait for name, wait in resets.items() if _number(headers.get(name.replace("reset", "remaining"))) == 0]
    return min(MOST_SECONDS, max(spent or resets.values()))


_COUNTED = ("requests", "tokens")
_RESET = re.compile(r"(?i)^(?:x-|anthropic-)?rate-?limit(?:-[a-z-]+)?-reset(?:-[a-z-]+)?$|^(?:x-)?rate-?limit-reset$")
_RETRY_INFO = re.compile(r'"?retry[_-]?(?:delay|after)(?:_seconds)?"?\s*[:=]\s*"?(?P<wait>[\d.]+ ?[a-z]*)')
_RETRY_IN = re.compile(
    r"(?:re)?try(?: again| your request)? (?:in|after) (?:about )?(?P<wait>\d[\d.]*\s?[a-z]*(?: ?\d[\d.]*\s?[a-z]+)*)"
)
_HEADER_IN_BODY = re.compile(r'"((?:x-)?ratelimit-reset[a-z-]*)"\s*:\s*"?([\w.:+-]+)')
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|milli[a-z]*|s[a-z]*|m[a-z]*|h[a-z]*|d[a-z]*)?")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _resets(headers: Mapping[str, str], now: float) -> Iterator[tuple[str, float]]:
    """Yield the seconds until each limit that an answer names begins anew."""
    for name, value in headers.items():
        if _RESET.match(name) and (seconds := _until(value, now)) is not None:
            yield name.lower(), seconds


def _until(value: str, now: float) -> float | None:
    """Return the seconds until a reset: written as a duration, as a time since the epoch (s or ms), or as a date."""
    number = _number(value)
    if number is not None:
        if number > 1e11:  # milliseconds since the epoch
            number /= 1000
        return max(0.0, number - now if number > 1e8 else number)
    if re.match(r"\d{4}-\d\d-\d\d", value):
        try:
            return max(0.0, datetime.fromisoformat(value).timestamp() - now)
        except (ValueError, OverflowError):
            return None
    return _duration(value)


def _duration(text: str) -> float | None:
    """Return the seconds of a duration such as "1m30.5s", "350ms", "2 minutes" or "38.1s"; a bare number is seconds."""
    text = text.strip().rstrip(".").lower()
    found = list(_DURATION.finditer(text))
    if not found or len(text) > 40 or _DURATION.sub("", text).strip():
        return None
    total = 0.0
    for part in found:
        unit = part[2] or "s"
        scale = 1e-3 if unit == "ms" or unit.startswith("milli") else _UNITS[unit[0]]
        total += float(part[1]) * scale
    return total


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
