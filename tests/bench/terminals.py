"""A pseudo-terminal for measuring: every piece of output with the moment it came, read while keys go in."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil
import pyte

from tests.e2e.screen import _PRIVATE, KEYS


class TimedTerminal:
    """A command in a terminal of its own. `pieces` holds (monotonic time, bytes) in order."""

    def __init__(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], columns: int = 120, rows: int = 40
    ) -> None:
        self.columns, self.rows = columns, rows
        self.pieces: list[tuple[float, bytes]] = []
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

        def own_the_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=own_the_terminal,  # noqa: PLW1509
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:
                return
            if not data:
                return
            self.pieces.append((time.monotonic(), data))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._master)

    def family(self) -> list[psutil.Process]:
        """The process and what it has started."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def press(self, key: str) -> float:
        """Press a key; returns the moment before it went in."""
        now = time.monotonic()
        os.write(self._master, KEYS.get(key, key).encode())
        return now

    def hang_up(self) -> None:
        """Close the line."""
        os.close(self._master)

    def wait_for(self, text: str, timeout: float = 60.0) -> float:
        """Wait until the output has held a text since the beginning; returns when its last byte came."""
        wanted = text.encode()
        deadline = time.monotonic() + timeout
        while True:
            seen = b""
            for at, data in list(self.pieces):
                seen += data
                if wanted in seen:
                    return at
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} did not come: {seen[-1500:]!r}")
            time.sleep(0.02)

    def screens(self) -> "Screens":
        """What stood on the screen after each piece."""
        return Screens(self)


class Screens:
    """Replays the pieces through an emulator, after the fact: looking must not cost what is measured."""

    def __init__(self, terminal: TimedTerminal) -> None:
        self._pieces = terminal.pieces
        self._screen = pyte.Screen(terminal.columns, terminal.rows)
        self._stream = pyte.ByteStream(self._screen)
        self._next = 0

    def advance(self) -> float | None:
        """Show the next piece; returns when it came, None at the end."""
        if self._next >= len(self._pieces):
            return None
        at, data = self._pieces[self._next]
        self._next += 1
        self._stream.feed(_PRIVATE.sub("", data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"))
        return at

    @property
    def lines(self) -> list[str]:
        """The screen now."""
        return list(self._screen.display)


def program(*arguments: str) -> list[str]:
    """The installed program, or the module where none is installed."""
    script = Path(sys.executable).with_name("lora-tui")
    return [*([str(script)] if script.exists() else [sys.executable, "-m", "lora_tui"]), *arguments]


def environment(folder: Path) -> dict[str, str]:
    """An environment with logs and configuration of its own; the cache, with the built-in model, stays the user's."""
    kept = {
        name: os.environ[name]
        for name in ("PATH", "HOME", "TMPDIR", "PYTHONPATH", "LORA_TUI_CACHE")
        if name in os.environ
    }
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH"))))
    own = {f"LORA_TUI_{name}": str(folder / name.lower()) for name in ("CONFIG", "LOGS")}
    return {**kept, **own, "PYTHONPATH": path, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
