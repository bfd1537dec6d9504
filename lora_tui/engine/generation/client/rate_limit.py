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
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime

MOST_SECONDS = 900.0
"""The longest wait that is honoured. A server that asks for more is tried again after this."""

_LONGEST_BACKOFF = 60.0
_LONGEST_HOLD = 20.0
"""Seconds: the longest hold after a rate limit that does not say how long it lasts."""

_LONG = 20.0
"""Seconds: people are told of holds that are longer."""

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

    def answered(self) -> None:
        """Take note of an answer: the limit is over."""
        self._since = None


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


_RESET = re.compile(r"(?i)^(?:x-|anthropic-)?rate-?limit(?:-[a-z-]+)?-reset(?:-[a-z-]+)?$|^(?:x-)?rate-?limit-reset$")
_RETRY_INFO = re.compile(r'"?retry[_-]?(?:delay|after)(?:_seconds)?"?\s*[:=]\s*"?(?P<wait>[\d.]+ ?[a-z]*)')
_RETRY_IN = re.compile(
    r"(?:re)?try(?: again| your request)? (?:in|after) (?:about )?(?P<wait>\d[\d.]*\s?[a-z]*(?: ?\d[\d.]*\s?[a-z]+)*)"
)
_HEADER_IN_BODY = re.compile(r'"((?:x-)?ratelimit-reset[a-z-]*)"\s*:\s*"?([\w.:+-]+)')
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|milli\w*|s\w*|m\w*|h\w*|d\w*)?")
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
