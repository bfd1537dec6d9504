"""The interpreter's settings while hundreds of calls are under way: when threads change, and garbage is looked for.

Two threads share the work of a call, the loop and the store's. SQLite gives the interpreter up at each statement and
gets it back when the loop is done, or after 5 ms: twenty statements of a pair then take a tenth of a second, and no
request leaves meanwhile. With 0.5 ms a generation run writes twice as many pairs a second where the processor is
busy. Garbage in circles is rare, and looking for it takes a tenth of the run's processor time at Python's usual 700
new objects. Small, because both are one concern and nobody else's.
"""

import gc
import sys

_SWITCH_SECONDS = 0.0005
_NEW_OBJECTS = 20_000


class _Settings:
    """How many need the settings now, and what they were before."""

    users = 0
    switch_seconds = 0.005
    thresholds = (700, 10, 10)


def begin_many_calls() -> None:
    """Set the interpreter up for many short pieces of work in two threads; to be followed by `end_many_calls`."""
    if not _Settings.users:
        _Settings.switch_seconds, _Settings.thresholds = sys.getswitchinterval(), gc.get_threshold()
        sys.setswitchinterval(min(_SWITCH_SECONDS, _Settings.switch_seconds))
        if _Settings.thresholds[0]:  # else somebody has switched it off
            gc.set_threshold(_NEW_OBJECTS, *_Settings.thresholds[1:])
    _Settings.users += 1


def end_many_calls() -> None:
    """Give back the settings, once nobody needs them any more."""
    _Settings.users -= 1
    if not _Settings.users:
        sys.setswitchinterval(_Settings.switch_seconds)
        gc.set_threshold(*_Settings.thresholds)
