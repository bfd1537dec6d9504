"""Looking often where looking is cheap, and seldom where it is not."""

import time

_LEAST_SECONDS = 1.0
_COST = 0.04
"""Share of one core's time that a repeated question may take."""


class Throttle:
    """Says when it is time to ask again, from how long the last answer took: summaries of a large store wait longer."""

    def __init__(self, least_seconds: float = _LEAST_SECONDS) -> None:
        self._least = least_seconds
        self._next = 0.0
        self._began = 0.0

    def due(self) -> bool:
        """Tell whether to ask now; the answer's time is then taken until `done`."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._began = now
        return True

    def done(self) -> None:
        """Note that the answer has come."""
        now = time.monotonic()
        self._next = now + max(self._least, (now - self._began) / _COST)

    def reset(self) -> None:
        """Ask at the next opportunity: something else is looked at."""
        self._next = 0.0
