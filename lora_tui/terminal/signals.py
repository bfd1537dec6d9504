"""Signal handlers: stop and save, leave at once, or go on without a terminal.

The handlers only note the request; the loop that follows the run acts on it. A signal that was ignored when the
program started (``nohup``, a script's background job) stays ignored.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
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
    """Install the handlers of a chat: ctrl+c belongs to the chat itself, SIGTERM and SIGHUP end it."""

    handled: list[int] = []  # and no `threading.Event`: its lock could be held when the handler comes a second time

    def end(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            streams.hang_up()
        if number in handled:  # sent again a moment too late
            return
        handled.append(number)
        # A reply under way is not worth waiting for: turns are stored as they end.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
        signal.setitimer(signal.ITIMER_REAL, _CHAT_DEADLINE_SECONDS)
        raise SystemExit(128 + number)

    with _installed({signal.SIGTERM: end, signal.SIGHUP: end}), _repeated(handled):
        yield


@contextmanager
def _repeated(handled: list[int]) -> Iterator[None]:
    """Send the main thread a signal again until its handler has run.

    Python runs handlers between two instructions of the main thread. A signal that comes just before it blocks in a
    read, or on another thread, does not interrupt that read: the handler would wait for the next line of input.
    """
    main_thread, over = threading.get_ident(), False
    reader, writer = socket.socketpair()

    def repeat() -> None:
        while number := reader.recv(1):
            time.sleep(_REPEAT_SECONDS)
            while number[0] in (signal.SIGTERM, signal.SIGHUP) and not handled and not over:
                signal.pthread_kill(main_thread, number[0])
                time.sleep(_REPEAT_SECONDS)

    writer.setblocking(False)
    repeater = threading.Thread(target=repeat, name="signals", daemon=True)
    repeater.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over = True
        writer.close()
        repeater.join()
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
