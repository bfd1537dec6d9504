"""Drives the program the way people do: in a terminal of its own, with keys, signals and a line that can break."""

import array
import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from tests.e2e.warm_command import WarmCommand, WarmProcess


def installed_command() -> list[str]:
    """The console script beside this interpreter, or the same program as a module where none is installed."""
    script = shutil.which("lora-tui", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-m", "lora_tui"]


class LineTerminal:
    """A pseudo-terminal, for a process that is started elsewhere on its `name`."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.name = os.ttyname(self._slave)
        self.output = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._slave)
        os.close(self._master)

    def send(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def read_until(self, text: str, times: int = 1, timeout: float = 60.0) -> str:
        """Wait until `text` has appeared so many times; returns the output so far."""
        deadline = time.monotonic() + timeout
        while self.output.count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} did not appear; the terminal shows:\n{self.output}"
            if select.select([self._master], [], [], 0.2)[0]:
                self.output += os.read(self._master, 65536).decode(errors="replace")
        return self.output


class Terminal:
    """A process in a pseudo-terminal that it is the leader of, so that closing the line hangs it up."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        columns: int = 80,
        rows: int = 24,
        stdout: IO[bytes] | int | None = None,
        stderr: IO[bytes] | int | None = None,
        warm: WarmCommand | None = None,
        jobs: str = "",
    ) -> None:
        """Start a command; with `warm` it has the arguments alone, and that starts it, with fake `jobs` if need be."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._slave_name = os.ttyname(slave)
        self._received = b""
        self._open = True
        self.process: WarmProcess | subprocess.Popen[bytes]
        if warm is not None:
            self.process = warm.start(tuple(command), cwd=cwd, env=env, terminal=self._slave_name, jobs=jobs)
            os.close(slave)
            return

        def own_the_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave if stderr is None else stderr,
            preexec_fn=own_the_terminal,  # noqa: PLW1509  # the tests start terminals from one thread
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.hang_up()

    @property
    def output(self) -> str:
        """Everything the terminal has been sent so far, escape codes included."""
        return self._received.decode(errors="replace")

    def read_until(self, text: str, timeout: float = 60.0) -> str:
        """Wait until `text` has appeared; returns the output so far."""
        deadline = time.monotonic() + timeout
        while text not in self.output:
            if time.monotonic() > deadline or not self._read(deadline - time.monotonic()):
                if text in self.output:
                    break
                raise AssertionError(f"{text!r} did not appear; the terminal shows:\n{self.output}")
        return self.output

    def send(self, keys: str) -> None:
        """Type; ``\\x03`` is ctrl+c, which the terminal turns into SIGINT."""
        os.write(self._master, keys.encode())

    def wait_until_read(self, timeout: float = 60.0) -> None:
        """Wait until the program has read all that was typed, which a busy one does late."""
        deadline = time.monotonic() + timeout
        waiting = array.array("i", [1])
        slave = os.open(self._slave_name, os.O_RDWR | os.O_NOCTTY)
        try:
            while waiting[0] and self.process.poll() is None:
                assert time.monotonic() < deadline, f"{waiting[0]} bytes are not read"
                self._read(0.01)
                fcntl.ioctl(slave, termios.FIONREAD, waiting)
        finally:
            os.close(slave)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def hang_up(self) -> None:
        """Break the line, as a lost SSH connection does."""
        if self._open:
            self._open = False
            os.close(self._master)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for the end, reading what is still said; returns the exit status, -N for a death by signal N."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"still running; the terminal shows:\n{self.output}")
            if not self._read(0.05):
                time.sleep(0.02)
        while self._read(0.05):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        """Read what has come; False where nothing did or the other end is closed."""
        if not self._open or not select.select([self._master], [], [], max(0.0, seconds))[0]:
            return False
        data = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            data = os.read(self._master, 65536)
        self._received += data
        return bool(data)
