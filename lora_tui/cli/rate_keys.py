"""The keys of a rating in lines: single ones at a terminal, without enter; words, a line each, on a pipe."""

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from lora_tui.text import one_line

GOOD, BAD, SKIP, UNDO, END = "good", "bad", "skip", "undo", "quit"

HINT: Final = "g good   b bad   s skip   u undo   q end"
"""All keys, on a line."""

_KEYS: Mapping[str, str] = {word[0]: word for word in (GOOD, BAD, SKIP, UNDO, END)} | {"\x04": END}
_WORDS = {word: word for word in _KEYS.values()} | {"end": END, "exit": END}

_SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|O.|.)?")
"""What an arrow or a function key sends: none of ours."""

_SIGNAL_SECONDS = 0.2


class AnswerKeys:
    """Reads the answer to one question after the other. `descriptor` is that of the terminal; None on a pipe."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._typed: list[str] = []
        """Keys that were pressed ahead."""
        self._went_on = False
        """Whether the process was stopped (ctrl+z) and goes on: the shell has given the terminal its own mode."""

    def __call__(self, prompt: Callable[[], None], say: Callable[[str], None]) -> str | None:
        """Return `GOOD`, `BAD`, `SKIP`, `UNDO` or `END`; None at the end of the input.

        At a terminal `prompt` is called before each key; `say` gets a remark on one that is none of these.
        """
        at_terminal = self._descriptor is not None
        while True:
            given = self._next_key(self._descriptor, prompt) if self._descriptor is not None else _next_line()
            if given is None:
                return None
            if word := _KEYS.get(given.lower()) or _WORDS.get(given.lower()):
                if at_terminal:
                    print(word if word != END else "", file=sys.stderr, flush=True)
                return word
            if given.strip():
                if at_terminal:
                    print(file=sys.stderr)
                say(f"«{one_line(given, 20)}» is none of the keys: {HINT}")

    def forget_ratings(self) -> None:
        """Drop ratings that were typed already: the next question has not been seen. Other keys typed ahead stay."""
        if self._descriptor is not None:
            while select.select([self._descriptor], [], [], 0)[0] and (given := os.read(self._descriptor, 64)):
                self._typed += _keys_in(given)
            self._typed = [key for key in self._typed if _KEYS.get(key.lower()) not in (GOOD, BAD)]

    def _next_key(self, descriptor: int, prompt: Callable[[], None]) -> str | None:
        prompt()
        while not self._typed:
            # With a limit: a signal that another thread has taken does not interrupt this, and its handler waits.
            ready = select.select([descriptor], [], [], _SIGNAL_SECONDS)[0]
            if self._went_on:
                self._went_on = False
                self.take_keys()
                prompt()
            if ready:
                given = os.read(descriptor, 64)
                if not given:
                    return None
                self._typed = _keys_in(given)
        return self._typed.pop(0)

    def take_keys(self, *_: object) -> None:
        """Have the terminal hand over each key at once; what was typed ahead stays, and so do ctrl+c and ctrl+z."""
        if self._descriptor is not None:
            tty.setcbreak(self._descriptor, termios.TCSADRAIN)

    def go_on(self, *_: object) -> None:
        """Handler of SIGCONT: only notes it, since it may come in the middle of a write."""
        self._went_on = True


def _keys_in(given: bytes) -> list[str]:
    return list(_SEQUENCE.sub("", given.decode(errors="replace")))


def _next_line() -> str | None:
    line = sys.stdin.readline()
    return line.strip() if line else None


@contextlib.contextmanager
def answer_keys() -> Iterator[AnswerKeys]:
    """Hand out the keys of the terminal for the block, or the lines of stdin where it is none."""
    if not sys.stdin.isatty():
        yield AnswerKeys(None)
        return
    descriptor = sys.stdin.fileno()
    mode = termios.tcgetattr(descriptor)
    keys = AnswerKeys(descriptor)
    keys.take_keys()
    before = signal.signal(signal.SIGCONT, keys.go_on)
    try:
        yield keys
    finally:
        signal.signal(signal.SIGCONT, before)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
