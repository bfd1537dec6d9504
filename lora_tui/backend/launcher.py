"""Two processes for the full-screen app: the child works and draws, the parent is what the shell waits for.

Leaving the app while a run goes on must give the shell its prompt back, and a process cannot leave its shell while its
threads train. So the program forks before anything heavy is loaded: the child is everything, the parent waits, passes
signals on, and ends early when the child says that it goes on without a terminal. Before it waits it does what the
child would otherwise have to do before the first paint.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

_RELEASE = b"r"
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_PR_SET_PDEATHSIG = 1


class ParentLink:
    """The child's two pipes to its parent: what it has prepared comes in, the word that it may end goes out."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer: int | None = writer

    def receive(self) -> bytes | None:
        """Wait for what the parent has prepared; None where it failed, and reports that itself."""
        with open(self._reader, "rb") as pipe:  # noqa: PTH123  # a descriptor, not a path
            return pipe.read() or None

    def release(self) -> None:
        """Let the parent end, with status 0, and belong to no terminal any more. The child goes on."""
        if self._writer is None:
            return
        _end_with_parent(0)
        # A session of its own: the terminal's hang-up, or ctrl+c for whatever runs in it next, is not for this process.
        with contextlib.suppress(OSError):
            os.setsid()
        os.write(self._writer, _RELEASE)
        os.close(self._writer)
        self._writer = None


def with_parent(child: Callable[[ParentLink], int], prepare: Callable[[], bytes]) -> int:
    """Run `child` in a process of its own and return its status, or 0 as soon as it has been released.

    Meanwhile the parent, which has nothing else to do, runs `prepare` and sends its result to the child. When that
    raises, the child is to end at once, and the exception is raised here. Call it while there is one thread and no open
    store.
    """
    from_parent, to_child = os.pipe()
    from_child, to_parent = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(to_child)
        os.close(from_child)
        # A parent that is killed takes nobody with it, but nobody would give the terminal back: go on without.
        _end_with_parent(signal.SIGHUP)
        return child(ParentLink(from_parent, to_parent))
    os.close(from_parent)
    os.close(to_parent)
    with _forwarded_signals(process):
        try:
            with open(to_child, "wb") as pipe:  # noqa: PTH123  # a descriptor, not a path
                pipe.write(prepare())
        except BaseException:
            os.waitpid(process, 0)
            raise
        return _wait_for_child(process, from_child)


@contextlib.contextmanager
def _forwarded_signals(process: int) -> Iterator[None]:
    """Forward signals to the child for the block."""

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_child(process: int, reader: int) -> int:
    """Wait for the child to end, and return its status; end with 0 when it no longer needs us."""
    try:
        if os.read(reader, 1) == _RELEASE:
            os._exit(0)  # nothing of this process is to be cleaned up: the terminal and the streams are the child's
    finally:
        os.close(reader)
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _end_with_parent(number: int) -> None:
    """Have the kernel send this signal when the parent ends (Linux; elsewhere the terminal's own hang-up must do)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
