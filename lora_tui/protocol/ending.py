"""The end of a run or of the queue, as it is told: in words, in a command's environment, as JSON, to the terminal."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_tui.text import clean, count, duration, one_line

_TITLE = "lora-tui"
_LONGEST = 200
"""Characters of a message; terminals cut or drop longer ones."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What has ended, and how. `score` is 0-1; of a queue, `runs` ended and `failed` of them failed."""

    status: str
    run: int | None = None
    mode: str = "queue"
    name: str = ""
    score: float | None = None
    seconds: float | None = None
    error: str = ""
    runs: int = 1
    failed: int = 0
    store: str = ""

    @property
    def message(self) -> str:
        """What has ended, on one line."""
        took = "" if self.seconds is None else f" in {duration(self.seconds)}"
        if self.run is None:
            failed = f", {self.failed} of them failed" if self.failed else ""
            return f"The queue is done: {count(self.runs, 'run')}{failed}{took}"
        name = f' "{one_line(self.name, 40)}"' if self.name else ""
        score = "" if self.score is None else f", score {self.score:.2f}"
        why = f": {one_line(self.error, 100)}" if self.error else ""
        return f"Run {self.run} ({self.mode}){name} {self.status}{took}{score}{why}"

    def environment(self) -> dict[str, str]:
        """Return the variables of a command that is told; text of others has no control characters in it."""
        values: dict[str, Any] = {
            "RUN": self.run,
            "MODE": self.mode,
            "NAME": one_line(self.name, _LONGEST),
            "STATUS": self.status,
            "SCORE": None if self.score is None else f"{self.score:.4f}",
            "SECONDS": None if self.seconds is None else round(self.seconds),
            "ERROR": one_line(self.error, _LONGEST),
            "RUNS": self.runs,
            "FAILED": self.failed,
            "MESSAGE": self.message,
            "STORE_FILE": self.store,
        }
        return {f"LORA_TUI_{name}": "" if value is None else str(value) for name, value in values.items()}

    def as_json(self) -> dict[str, Any]:
        """Return the body that a webhook is sent; ``text`` and ``content`` are what chat services show."""
        return {
            "event": "run" if self.run is not None else "queue",
            "run": self.run,
            "mode": self.mode,
            "name": one_line(self.name, _LONGEST),
            "status": self.status,
            "score": self.score,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "error": clean(self.error, 1000),
            "runs": self.runs,
            "failed": self.failed,
            "text": self.message,
            "content": self.message,
        }


def terminal_signal(message: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return what rings the terminal's bell and has it show a message; the bell alone where more would be drawn.

    OSC 777 is foot's, rxvt's and VTE's, OSC 9 that of iTerm2, kitty, WezTerm, Ghostty, Windows Terminal; others ignore
    both. tmux (with ``allow-passthrough on``) and screen hand on what is wrapped for them.
    """
    term = environment.get("TERM", "")
    if term in ("", "dumb") or term.startswith("linux"):
        return "" if term in ("", "dumb") else "\a"
    text = one_line(message, _LONGEST).replace(";", ",")
    text = "".join(letter for letter in text if letter.isprintable())
    if "VTE_VERSION" in environment or term.startswith(("foot", "rxvt")):
        sequence = f"\x1b]777;notify;{_TITLE};{text}\x1b\\"
    else:
        sequence = f"\x1b]9;{_TITLE}: {text}\x1b\\"
    if "TMUX" in environment:
        return "\a\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    if term.startswith("screen"):
        return "\a\x1bP" + sequence.replace("\x1b\\", "\a") + "\x1b\\"  # its strings end at the first ESC \
    return "\a" + sequence
