"""Readers-writer lock between training steps and model builds: one model is built at a time, and no step meanwhile.

While transformers and PEFT build a model they change the whole process for a moment: torch's default dtype becomes the
model's, functions of ``torch.nn.init`` and methods of their own classes are replaced, and put back as they were found.
Two threads that build at once can put back each other's replacements for good, and a training step beside a building
thread can compute in the wrong precision. So both take this lock. Waiting costs a trainer the seconds that a
conversation takes to load its model from the disk; the arithmetic of a run stays its own.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class BuildLock:
    """Readers-writer lock: many training steps may run, or one model build; a waiting build goes first.

    Otherwise a trainer, which starts its next step within microseconds, would keep a build waiting for hours. Not
    reentrant on either side.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._steps = 0
        self._building = False
        self._waiting_builds = 0

    @contextmanager
    def constructing(self) -> Iterator[None]:
        """Hold the lock for a build, alone, once the steps under way have ended."""
        with self._changed:
            self._waiting_builds += 1
            try:
                self._changed.wait_for(lambda: not self._building and not self._steps)
                self._building = True
            finally:
                self._waiting_builds -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._building = False
                self._changed.notify_all()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold the lock for a step, beside others, once no build holds it or waits for it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._building and not self._waiting_builds)
            self._steps += 1
        try:
            yield
        finally:
            with self._changed:
                self._steps -= 1
                self._changed.notify_all()


_LOCK = BuildLock()
"""The process has one of each of the things that building changes, so it has one lock."""

constructing = _LOCK.constructing
computing = _LOCK.computing
