"""One model is built at a time, and no training step is computed meanwhile.

While transformers and PEFT build a model they change the whole process for a moment: torch's default dtype becomes the
model's, functions of ``torch.nn.init`` and methods of their own classes are replaced, and put back as they were found.
Two threads that build at once can put back each other's replacements for good, and a training step beside a building
thread can compute in the wrong precision. So both pass through here. Waiting costs a trainer the seconds that a
conversation takes to load its model from the disk; the arithmetic of a run stays its own.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class BuildLock:
    """Any number may compute at once, or one may construct. Whoever waits to construct goes first.

    Otherwise a trainer, which starts its next step within microseconds, would keep everybody out for hours. Neither
    side may be entered again from inside.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._computing = 0
        self._constructing = False
        self._waiting = 0

    @contextmanager
    def constructing(self) -> Iterator[None]:
        """Hold the process alone, once the steps under way have ended."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._constructing and not self._computing)
                self._constructing = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._constructing = False
                self._changed.notify_all()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute undisturbed, once nobody constructs or waits to."""
        with self._changed:
            self._changed.wait_for(lambda: not self._constructing and not self._waiting)
            self._computing += 1
        try:
            yield
        finally:
            with self._changed:
                self._computing -= 1
                self._changed.notify_all()


_GATE = BuildLock()
"""The process has one of each of the things that building changes, so it has one gate."""

constructing = _GATE.constructing
computing = _GATE.computing
