"""Signal handlers: stop and save, leave at once, or go on without a terminal.

The handlers only note the request; the loop that follows the run acts on it. A signal that was ignored when the
program started (``nohup``, a script's background job) stays ignored.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from lora_tui.terminal.streams import Streams

BROKEN_PIPE_STATUS = 128 + signal.SIGPIPE
"""The exit status when the reader of stdout left early (141)."""

DEADLINE_SECONDS = 30.0
"""How long SIGTERM leaves a run for saving its work."""

_CHAT_DEADLINE_SECONDS = 5.0
_REPEAT_SECONDS = 0.1
_NUDGED_SECONDS = 60.0

_NUDGE = signal.SIGURG
"""Nothing here uses it, and where it has no handler it is ignored."""

Handler = Callable[[int, FrameType | None], Any]


class Interrupts:
    """The stop that signals have asked for so far, while they are `handled`."""

    def __init__(self, streams: Streams, final_output: Callable[[int], tuple[str, str]]) -> None:
        """`final_output` turns an exit status into the last text for stdout and for stderr."""
        self._streams = streams
        self._final_output = final_output
        self.stopped_by: int | None = None

    @contextmanager
    def handled(self) -> Iterator[Self]:
        """Install the handlers for the block."""
        with _installed(
            {
                signal.SIGINT: self._stop,
                signal.SIGTERM: self._stop,
                signal.SIGHUP: lambda *_: self._streams.hang_up(),
                signal.SIGALRM: lambda *_: self._leave(128 + signal.SIGTERM),
            }
        ):
            try:
                yield self
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def note(self, number: int) -> None:
        """Count a signal that came before these handlers were installed."""
        self._stop(number, None)

    @property
    def exit_status(self) -> int | None:
        """The status of a run that a signal has stopped; None when none has."""
        return None if self.stopped_by is None else 128 + self.stopped_by

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.stopped_by is not None:
            self._leave(128 + number)
        if number == signal.SIGTERM:
            signal.setitimer(signal.ITIMER_REAL, DEADLINE_SECONDS)
        if self.stopped_by is None:
            self.stopped_by = number

    def _leave(self, status: int) -> None:
        self._streams.write_unbuffered(*self._final_output(status))
        os._exit(status)


@contextmanager
def chat_signals(streams: Streams) -> Iterator[None]:
    """Install the handlers of a chat: ctrl+c is a `KeyboardInterrupt` for it to catch, SIGTERM and SIGHUP end it."""

    handled: list[int] = []  # and no `threading.Event`: its lock could be held when the handler comes a second time

    def interrupt(number: int, _frame: FrameType | None) -> None:
        handled.append(number)
        raise KeyboardInterrupt

    def end(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            streams.hang_up()
        if number in handled:
            return
        handled.append(number)
        # A reply under way is not worth waiting for: turns are stored as they end.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
        signal.setitimer(signal.ITIMER_REAL, _CHAT_DEADLINE_SECONDS)
        raise SystemExit(128 + number)

    handlers: dict[int, Handler] = {signal.SIGINT: interrupt, signal.SIGTERM: end, signal.SIGHUP: end}
    with _installed({**handlers, _NUDGE: lambda *_: None}), _nudged(handlers.keys(), handled):
        yield


@contextmanager
def _nudged(awaited: Set[int], handled: Sequence[int]) -> Iterator[None]:
    """Nudge the main thread after one of these signals until its handler has run, and so one more is in `handled`.

    Python runs handlers between two instructions of the main thread. A signal that comes just before it blocks in a
    read, or on another thread, does not interrupt that read: the handler would wait for the next line of input. The
    nudge is a signal of its own that does nothing but interrupt, so that one too many is nobody's ctrl+c.
    """
    main_thread, over = threading.get_ident(), False
    reader, writer = socket.socketpair()

    def nudge() -> None:
        known = 0
        while number := reader.recv(1):
            if number[0] not in awaited:
                continue
            end = time.monotonic() + _NUDGED_SECONDS  # two signals at once have their handler run once
            while len(handled) == known and not over and time.monotonic() < end:
                time.sleep(_REPEAT_SECONDS)
                signal.pthread_kill(main_thread, _NUDGE)
            known = len(handled)

    writer.setblocking(False)
    nudging = threading.Thread(target=nudge, name="signals", daemon=True)
    nudging.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over = True
        writer.close()
        nudging.join()
        reader.close()


@contextmanager
def _installed(handlers: dict[int, Handler]) -> Iterator[None]:
    """Install handlers for the block, save for signals that are ignored."""
    wanted = {number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
