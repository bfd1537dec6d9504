"""The app in a terminal of its own: keys go in, and what stands on the screen is read as a person would."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyte

from tests.e2e.terminal import Terminal
from tests.e2e.warm_command import WarmCommand

_PRIVATE = re.compile(r"\x1b\[[<>=][0-9;]*[A-Za-z]|\x1b\[\?[0-9;]*\$[A-Za-z]")
"""Sequences that the emulator does not know and would print in part: the keyboard protocol, questions about modes."""

KEYS = {
    "enter": "\r", "escape": "\x1b", "tab": "\t", "space": " ", "up": "\x1b[A", "down": "\x1b[B", "right": "\x1b[C",
    "left": "\x1b[D", "home": "\x1b[H", "end": "\x1b[F", "pagedown": "\x1b[6~", "f2": "\x1bOQ",
    **{f"ctrl+{letter}": chr(ord(letter) - 96) for letter in "abcdefghijklmnopqrstuvwxyz"},
}  # fmt: skip


class AppTerminal(Terminal):
    """A terminal that keeps a screen."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        columns: int = 100,
        rows: int = 30,
        warm: WarmCommand | None = None,
        jobs: str = "",
    ) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self._screen)
        self._fed = 0
        env = {**env, "TERM": "xterm-256color"}
        super().__init__(command, cwd=cwd, env=env, columns=columns, rows=rows, warm=warm, jobs=jobs)

    @property
    def text(self) -> str:
        """The screen, line by line."""
        # Whole characters and whole sequences only: the rest comes with the next piece.
        data = self._received.decode(errors="ignore")
        cut = data.rfind("\x1b")
        end = len(data) if cut < 0 or len(data) - cut > 40 else cut
        self._stream.feed(_PRIVATE.sub("", data[self._fed : end]))
        self._fed = max(self._fed, end)
        return "\n".join(self._screen.display)

    def shows(self, *texts: str, timeout: float = 60.0) -> str:
        """Wait until all of these are on the screen at once; returns it."""
        deadline = time.monotonic() + timeout
        while True:
            self._read(0.05)
            screen = self.text
            missing = [text for text in texts if text not in screen]
            if not missing:
                return screen
            if self.process.poll() is not None and not self._read(0.05):
                raise AssertionError(
                    f"it has ended ({self.process.returncode}) without {missing}:\n{self.output[-2000:]}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(f"{missing} are not on the screen:\n{screen}")

    def hides(self, text: str, timeout: float = 60.0) -> None:
        """Wait until this is not on the screen any more."""
        deadline = time.monotonic() + timeout
        while text in self.text:
            assert time.monotonic() < deadline, f"{text!r} is still on the screen:\n{self.text}"
            self._read(0.05)

    def listen(self, seconds: float) -> int:
        """Read for so long; returns how much came, in bytes."""
        before, deadline = len(self._received), time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)
        return len(self._received) - before

    def press(self, *keys: str) -> None:
        """Press keys by name, or type text."""
        for key in keys:
            self.send(KEYS.get(key, key))
            if key == "escape":  # else it would be the beginning of a sequence
                self.wait_until_read()
                time.sleep(0.2)
