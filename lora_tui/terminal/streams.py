"""The standard streams: which are terminals, who may write to stdout, and what happens when the line breaks.

stdout is data. Libraries print to it all the same, from Python and from C, so the descriptor that our data goes to is a
private copy, and descriptor 1 is pointed at stderr for everybody else.
"""

import contextlib
import errno
import io
import os
import select
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from lora_tui.glyphs import ERRORS

STDIN, STDOUT, STDERR = 0, 1, 2

_SHOW_CURSOR = b"\x1b[?25h\r\x1b[K"


class Streams:
    """The three streams of this process: `out` for data, `err` for narration."""

    def __init__(self) -> None:
        _open_closed_descriptors()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8 must not end a run
                stream.reconfigure(errors=ERRORS)
        # Asked once: the answer for a terminal that has hung up is no, but its descriptor must still be replaced.
        self._terminals = {descriptor for descriptor in (STDIN, STDOUT, STDERR) if os.isatty(descriptor)}
        if STDOUT in self._terminals:
            sys.stdout = self._terminal_stream(sys.stdout)
        if STDERR in self._terminals:
            sys.stderr = self._terminal_stream(sys.stderr)
        self.out: TextIO = sys.stdout
        self.err: TextIO = sys.stderr
        self.in_is_terminal = STDIN in self._terminals
        self.out_is_terminal = STDOUT in self._terminals
        self.err_is_terminal = STDERR in self._terminals
        self.hung_up = False
        self._lent: int | None = None
        self._set_aside: dict[int, int] = {}
        self._saved_mode: list[Any] | None = None
        if self.in_is_terminal:
            with contextlib.suppress(termios.error):
                self._saved_mode = termios.tcgetattr(STDIN)

    @property
    def cannot_draw(self) -> str | None:
        """Why the full-screen app cannot be shown here; None where it can."""
        if not (self.in_is_terminal and self.out_is_terminal):
            return f"the {'output' if self.in_is_terminal else 'input'} is no terminal"
        term = os.environ.get("TERM", "")
        return f"TERM is {term!r}" if term in ("", "dumb", "unknown") else None

    def _terminal_stream(self, stream: TextIO) -> TextIO:
        """Return the like of `stream` on its descriptor, a terminal that may be lost."""
        if not isinstance(stream, io.TextIOWrapper):  # somebody's own, a test's say
            return stream
        raw = io.BufferedWriter(TerminalFile(stream.fileno(), self.hang_up))
        return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)

    def keep_stdout_private(self) -> None:
        """Move our data to a private copy of descriptor 1 and point descriptor 1 at stderr."""
        private = os.dup(STDOUT)
        encoding = self.out.encoding or "utf-8"
        self.out = open(private, "w", encoding=encoding, errors=ERRORS, buffering=1)  # noqa: PTH123, SIM115
        if self.out_is_terminal:
            self._terminals.add(private)
        sys.stdout.flush()
        os.dup2(STDERR, STDOUT)
        sys.stdout = sys.stderr

    def lend_terminal(self, log_file: Path | None) -> int:
        """Return a private descriptor of the terminal for an app that draws on it, until `take_terminal_back`.

        Meanwhile descriptors 1 and 2 lead to the log file: what libraries print, from C too, must not land on the
        screen.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        private = os.dup(STDOUT)
        self._terminals.add(private)
        self._lent = private
        path = os.devnull if log_file is None else str(log_file)
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for descriptor in (STDOUT, STDERR):
            self._set_aside[descriptor] = os.dup(descriptor)
            os.dup2(log, descriptor)
            if descriptor in self._terminals:
                self._terminals.add(self._set_aside[descriptor])
        os.close(log)
        return private

    def take_terminal_back(self) -> None:
        """Write to the terminal again, and give it the mode it had."""
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, kept in self._set_aside.items():
            os.dup2(kept, descriptor)
            self._terminals.discard(kept)
            os.close(kept)
        self._set_aside = {}
        if self._lent is not None:
            self._terminals.discard(self._lent)
            os.close(self._lent)
            self._lent = None
        self.restore_terminal()

    def hang_up(self) -> None:
        """Let go of a terminal that is gone; files and pipes stay as they are. Safe inside a signal handler."""
        self.hung_up = True
        for descriptor in self._terminals:
            _redirect_to_null(descriptor)

    def survive(self, problem: OSError) -> bool:
        """Let go of what a failed write was for; returns whether the reader left (and not the terminal).

        A reader that has gone (``| head -1``) means stop. A terminal that has gone, or a pipe into a program that the
        same hang-up ended, means go on without. Raises `problem` when it is neither.
        """
        if problem.errno not in (errno.EPIPE, errno.EIO):
            raise problem
        for stream in (self.out, self.err):
            try:
                stream.flush()
            except OSError:
                _redirect_to_null(stream.fileno())
        if problem.errno == errno.EIO:
            self.hang_up()
        return not self.hung_up

    def write_unbuffered(self, data: str, narration: str) -> None:
        """Write past all buffers what can be written without waiting: for a process that leaves at once."""
        self.restore_terminal()
        for stream, text in ((self.out, data), (self.err, narration)):
            if text:
                _write_if_ready(stream.fileno(), text.encode("ascii", "backslashreplace"))

    def restore_terminal(self) -> None:
        """Show the cursor again and give the terminal back the mode it had."""
        if self.hung_up:
            return
        if self.err_is_terminal:
            _write_if_ready(STDERR, _SHOW_CURSOR)
        if self._saved_mode is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(STDIN, termios.TCSANOW, self._saved_mode)

    def close(self) -> bool:
        """Flush both streams; returns whether a reader had gone before it got everything."""
        broken = False
        for stream in (self.out, self.err):
            try:
                stream.flush()
            except OSError as problem:
                if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # a full disk, of which was told before
                    _redirect_to_null(stream.fileno())
                    continue
                broken |= self.survive(problem)
        return broken


class TerminalFile(io.FileIO):
    """Descriptor of a terminal that takes what is written after the line was lost, and calls `on_lost` then.

    The first write may come before SIGHUP is handled, and be a library's on a job's thread: it must not end the run.
    """

    def __init__(self, descriptor: int, on_lost: Callable[[], None]) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._on_lost = on_lost

    def write(self, data: Any) -> int:
        """Write bytes; returns how many were taken."""
        try:
            return super().write(data)
        except OSError as problem:
            if problem.errno != errno.EIO:
                raise
            self._on_lost()
            return memoryview(data).nbytes


def _open_closed_descriptors() -> None:
    """Open what the caller has closed (``>&-``), so that the next file we open does not become stdout."""
    for descriptor, name in ((STDIN, "stdin"), (STDOUT, "stdout"), (STDERR, "stderr")):
        if getattr(sys, name) is None:
            _redirect_to_null(descriptor)
            stream = open(descriptor, "r" if descriptor == STDIN else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _redirect_to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def _write_if_ready(descriptor: int, data: bytes) -> None:
    """Write a short message where that cannot block (a ready pipe takes 4,096 bytes)."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, data)
