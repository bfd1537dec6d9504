"""Progress of long blocking work, as events that a person can follow and a store can hold."""

import time
from collections.abc import Callable
from typing import Protocol

_SECONDS_BETWEEN = 0.25


class Emit(Protocol):
    """`RunContext.emit`."""

    def __call__(self, kind: str, /, **payload: object) -> None:
        """Say that something happened."""


def progress_events(emit: Emit) -> Callable[[str, int, int], None]:
    """Return a callback (phase, done, total) that emits at most four ``progress`` events a second.

    The first and the last of a phase always come through. Callable from any thread.
    """
    last: dict[str, float] = {}

    def progress(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase in last and done < total and now - last[phase] < _SECONDS_BETWEEN:
            return
        last[phase] = now
        emit("progress", phase=phase, done=done, total=total)

    return progress
