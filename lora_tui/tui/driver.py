"""Textual's terminal driver, made to survive a slow link, a dead one, bytes that are no text, and large pastes.

Four things differ. Writing never waits: frames that a stalled link cannot take are dropped and the screen is painted
anew when it can (Textual's own queue holds 30 writes and then blocks the event loop). A terminal that has gone, seen as
an end of input or a failed write, is reported to the app once instead of being read from for ever. Input that is not
UTF-8, such as the mouse bytes a tmux re-attach can send, becomes replacement characters, not a crash (textual#6668).
What is pasted is one event however large it is, also with escape sequences in it, which Textual's parser would take for
keys (`InputParser`); and no more is read while the app has keys to work off, so that a storm of them cannot starve it.
"""

import codecs
import contextlib
import os
import re
import selectors
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from textual import events
from textual._parser import ParseError
from textual._xterm_parser import XTermParser
from textual.app import ScreenStackError
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

_MAX_QUEUED = 1 << 19
"""Bytes that may be queued for a slow terminal before frames are dropped: a few full screens."""

_FRAME_BYTES = 256
"""Bytes from which a write is a frame; shorter ones set terminal modes and are never dropped."""

_DRAIN_SECONDS = 1.0
"""Seconds that the last sequences (leaving the alternate screen, mouse off) get to reach a slow terminal."""

_EMPTY_SCREEN = "\x1b[H\x1b[2J"

_READ_BYTES = 4096
_SELECT_SECONDS = 0.1

_MOST_WAITING = 50
"""Messages that the app, or the part of it with the focus, may have to work off before more input is read."""

_BACKLOG_SECONDS = 0.01

_PASTE_BEGIN, _PASTE_END = "\x1b[200~", "\x1b[201~"

_TYPED_AT_ONCE = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]{64,}(?<!\r)")
"""Text that nobody types between two reads: a paste in a terminal that does not say where one begins and ends."""


class TerminalWriter:
    """Thread that writes to a descriptor; `write` only queues.

    `on_recovered` is called from that thread when frames were dropped and the terminal takes them again, `on_gone` when
    it fails.
    """

    def __init__(self, descriptor: int, on_recovered: Callable[[], None], on_gone: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_recovered = on_recovered
        self._on_gone = on_gone
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._dropped = False
        self._gone = False
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="terminal-writer", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue text; never waits."""
        data = text.encode("utf-8", "replace")
        with self._changed:
            if self._gone or not data:
                return
            if self._queued_bytes > _MAX_QUEUED and len(data) >= _FRAME_BYTES:
                self._dropped = True
                return
            self._queue.append(data)
            self._queued_bytes += len(data)
            self._changed.notify_all()

    def end(self) -> None:
        """Write what is queued, as far as the terminal takes it within a second, and end the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._gone or not self._queued_bytes, _DRAIN_SECONDS)
            self._ended = True
            self._changed.notify_all()
        self._thread.join(_DRAIN_SECONDS)  # a write that blocks on a dead link ends with the process

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            try:
                _write_all(self._descriptor, batch)
            except OSError:
                with self._changed:
                    self._gone = True
                    self._changed.notify_all()
                self._on_gone()
                return
            with self._changed:
                self._queued_bytes -= len(batch)
                recovered = self._dropped and not self._queued_bytes
                self._dropped = self._dropped and not recovered
                self._changed.notify_all()
            if recovered:
                self._on_recovered()

    def _next(self) -> bytes | None:
        """Wait for something to write; None when the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended)
            if not self._queue:
                return None
            batch = b"".join(self._queue)
            self._queue.clear()
            return batch


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class InputParser:
    """Textual's parser of keys and mouse, with pastes kept from it.

    It looks for escape sequences in what is pasted and answers them with keys: 36 kB of a coloured listing are 33,000
    of them. Here it sees an empty paste, whose event gets the text.
    """

    def __init__(self, *, debug: bool = False) -> None:
        self._parser = XTermParser(debug)
        self._pasted: list[str] | None = None
        """Pieces of the paste that is under way."""
        self._end = ""
        """The last characters that were read, in which a mark may have begun."""

    def feed(self, text: str) -> Iterator[Message]:
        """Return what a piece of input means; a mark may be split over two."""
        while text:
            mark = _PASTE_BEGIN if self._pasted is None else _PASTE_END
            kept = len(self._end)
            at = (self._end + text).find(mark)
            length = len(text) if at < 0 else at + len(mark) - kept
            piece, text = text[:length], text[length:]
            self._end = "" if at >= 0 else (self._end + piece)[1 - len(mark) :]
            if self._pasted is None:
                yield from self._typed(piece)
                self._pasted = None if at < 0 else []
            else:
                self._pasted.append(piece)
                if at >= 0:
                    yield from self._parser_without_paste(_PASTE_END)
                    pasted = "".join(self._pasted)
                    self._pasted = None
                    yield events.Paste(pasted[: -len(mark)].replace("\0", ""))

    def tick(self) -> Iterable[Message]:
        """Return what time alone has decided: that an escape was the key."""
        return self._parser.tick()

    def end(self) -> None:
        """Take note that no more comes."""
        with contextlib.suppress(EOFError, ParseError):
            for _ in self._parser.feed(""):
                pass

    def _typed(self, text: str) -> Iterator[Message]:
        done = 0
        for run in _TYPED_AT_ONCE.finditer(text):
            yield from self._parser.feed(text[done : run.start()]) if run.start() > done else ()
            yield events.Paste(run[0].replace("\r", "\n"))
            done = run.end()
        if done < len(text):
            yield from self._parser.feed(text[done:])

    def _parser_without_paste(self, text: str) -> Iterator[Message]:
        for message in self._parser.feed(text):
            if not isinstance(message, events.Paste):
                yield message


class SteadyDriver(LinuxDriver):
    """Textual's driver for Linux and macOS with the differences above.

    `terminal` is the descriptor to draw on: descriptors 1 and 2 belong to the log while the app runs, so that what
    libraries print from C cannot land on the screen.
    """

    terminal: int | None = None

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        descriptor = self.terminal if self.terminal is not None else sys.__stderr__.fileno()  # type: ignore[union-attr]
        self._out = TerminalWriter(descriptor, self._repaint, self._gone)
        self._reported_gone = False

    def write(self, data: str) -> None:
        """Queue data for the terminal."""
        self._out.write(data)

    def stop_application_mode(self) -> None:
        """Empty the alternate screen before it is left: tmux keeps rows of one that was enlarged among the shell's."""
        self.write(_EMPTY_SCREEN)
        super().stop_application_mode()

    def close(self) -> None:
        """Write what is queued and end the threads."""
        self._out.end()
        super().close()

    def _get_terminal_size(self) -> tuple[int, int]:
        """Return columns and rows of the terminal that is drawn on."""
        for descriptor in (self.terminal, self.fileno):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    size = os.get_terminal_size(descriptor)
                    return size.columns or 80, size.lines or 24
        return super()._get_terminal_size()

    def run_input_thread(self) -> None:
        """Read keys and mouse until the app exits or the terminal is gone."""
        parser = InputParser(debug=self._debug)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(_SELECT_SECONDS):
                    data = b""  # as at the end of the input: an error says that the terminal is gone
                    with contextlib.suppress(OSError):
                        data = os.read(self.fileno, _READ_BYTES)
                    if not data:
                        self._gone()
                        return
                    # Half a character decodes to nothing, which the parser would take for the end of input.
                    if text := decoder.decode(data):
                        for message in parser.feed(text):
                            self._take(message)
                for message in parser.tick():
                    self._take(message)
        parser.end()

    def _take(self, message: Message) -> None:
        """Hand a message to the app, once it has worked off most of the earlier ones."""
        while self._waiting_messages() > _MOST_WAITING and not self.exit_event.wait(_BACKLOG_SECONDS):
            pass
        self.process_message(message)

    def _waiting_messages(self) -> int:
        """Messages that wait in the app, or in the part of it that takes keys."""
        with contextlib.suppress(ScreenStackError, AttributeError):
            pumps = (self._app, self._app.screen, self._app.screen.focused)
            return max(pump._message_queue.qsize() for pump in pumps if pump is not None)
        return 0  # there is no screen yet, or any more

    def _repaint(self) -> None:
        """Paint everything again: frames were dropped, and Textual does not know."""
        self._loop.call_soon_threadsafe(self._paint)

    def _paint(self) -> None:
        self._app.screen.refresh()

    def _gone(self) -> None:
        """Report once to the app that the terminal is gone."""
        if not self._reported_gone:
            self._reported_gone = True
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._app.terminal_gone)  # type: ignore[attr-defined]
