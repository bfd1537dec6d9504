"""Two processes for the full-screen app: one that works and draws, and one that the shell waits for.

Leaving the app while a run goes on must give the shell its prompt back, and a process cannot leave its shell while its
threads train. So the program forks before anything heavy is loaded: the child is everything, the parent waits, passes
signals on, and ends early when the child says that it goes on without a terminal.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_RELEASE = b"r"
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_PR_SET_PDEATHSIG = 1


class Leash:
    """What the child holds of its parent."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let the parent end, with status 0, and belong to no terminal any more. The child goes on."""
        if self._descriptor is None:
            return
        _end_with_parent(0)
        # A session of its own: the terminal's hang-up, or ctrl+c for whatever runs in it next, is not for this process.
        with contextlib.suppress(OSError):
            os.setsid()
        os.write(self._descriptor, _RELEASE)
        os.close(self._descriptor)
        self._descriptor = None


def with_parent(child: Callable[[Leash], int]) -> int:
    """Run `child` in a process of its own and return its status, or 0 as soon as it has been released.

    Call it while there is one thread and no open store.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(reader)
        # A parent that is killed takes nobody with it, but nobody would give the terminal back: go on without.
        _end_with_parent(signal.SIGHUP)
        return child(Leash(writer))
    os.close(writer)
    return _stand_by(process, reader)


def _stand_by(process: int, reader: int) -> int:
    """Wait for the child to end or to be released; signals are passed on to it."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        if os.read(reader, 1) == _RELEASE:
            os._exit(0)  # nothing of this process is to be cleaned up: the terminal and the streams are the child's
        _, status = os.waitpid(process, 0)
    finally:
        os.close(reader)
        for number, handler in before.items():
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _end_with_parent(number: int) -> None:
    """Have the kernel send this signal when the parent ends (Linux; elsewhere the terminal's own hang-up must do)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
