"""Starting the real program with fake jobs, in a pipe or in a terminal."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.models import Settings
from lora_tui.store import runs
from lora_tui.store.connection import Store
from tests.e2e.terminal import Terminal
from tests.e2e.warm_command import WarmCommand

LAUNCHER = str(Path(__file__).with_name("launcher.py"))

_ROOT = str(Path(__file__).parents[2])
_IMPORTED = (
    *("lora_tui.cli.run", "lora_tui.cli.runs", "lora_tui.cli.doctor", "lora_tui.engine.jobs.preflight"),
    *("lora_tui.tui.app", "lora_tui.backend.engine_backend"),
)


@dataclass(frozen=True)
class Ended:
    """A program that has ended, and what it wrote."""

    status: int
    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        """stdout, each line parsed; fails on anything that is not strict JSON."""
        return [json.loads(line, parse_constant=_refuse) for line in self.out.splitlines()]


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


class Process(subprocess.Popen[bytes]):
    """A process that does not outlive its test, and whose output is not waited for without end."""

    def __exit__(self, *exception: Any) -> None:
        if self.poll() is None and exception[0] is not None:
            self.kill()
        super().__exit__(*exception)

    def rest(self, timeout: float = 60.0) -> list[bytes]:
        """The lines that are still to come, to the end."""
        return self.communicate(timeout=timeout)[0].splitlines()


@dataclass(frozen=True)
class Program:
    """The program in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    warm: WarmCommand | None = None
    """Runs it without the imports, which are half a second of processor time each."""

    def command(self, jobs: str, *arguments: str) -> list[str]:
        """The command line that starts it with these jobs, or with its own where `jobs` is empty."""
        return [sys.executable, *([LAUNCHER, jobs] if jobs else ["-m", "lora_tui"]), *arguments]

    def start(self, jobs: str, *arguments: str, **more: Any) -> Process:
        """Start it on pipes."""
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return Process(self.command(jobs, *arguments), cwd=self.folder, env=self.environment, **more)

    def run(self, jobs: str, *arguments: str, **more: Any) -> Ended:
        """Run it to its end; its streams are files or pipes."""
        if self.warm is None or more:
            return self.run_anew(jobs, *arguments, **more)
        done = self.warm.run(arguments, cwd=self.folder, env=self.environment, jobs=jobs)
        return Ended(done.returncode, done.stdout, done.stderr)

    def run_anew(self, jobs: str, *arguments: str, **more: Any) -> Ended:
        """Run it on pipes to its end, from the interpreter's start."""
        with self.start(jobs, *arguments, **more) as process:
            out, err = process.communicate(timeout=60)
            return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())

    def terminal(self, jobs: str, *arguments: str, **more: Any) -> Terminal:
        """Start it in a terminal."""
        return Terminal(self.command(jobs, *arguments), cwd=self.folder, env=self.environment, **more)

    def warm_terminal(self, jobs: str, *arguments: str, **more: Any) -> Terminal:
        """Start it in a terminal without the imports; nothing of a module's may be replaced but jobs."""
        return Terminal(arguments, cwd=self.folder, env=self.environment, warm=self.warm, jobs=jobs, **more)

    def past_run(self, mode: str, state: str) -> None:
        """Put a run that has ended into the store."""

        async def put() -> None:
            async with await Store.open(self.folder / "training_data.db") as store:
                number = await runs.create(store, mode, Settings().model_dump(mode="json"), {})
                await runs.set_folder(store, number, self.folder / "checkpoints" / f"run-{number}")
                await runs.end(store, number, state, {}, None)

        asyncio.run(put())

    def shell(self, line: str) -> Ended:
        """Run a line of bash with ``$LORA`` as the program."""
        environment = {**self.environment, "LORA": f"{sys.executable} {LAUNCHER}"}
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60
        )
        return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCommand]:
    """The program with what every mode imports, to be forked."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))}
    with WarmCommand(tmp_path_factory.mktemp("warm"), environment, _IMPORTED) as command:
        yield command


@pytest.fixture
def program(tmp_path: Path, warm: WarmCommand) -> Program:
    """The program in an empty folder, with no keys and no configuration but its defaults."""
    return new_program(tmp_path, warm)


def new_program(place: Path, warm: WarmCommand | None = None) -> Program:
    """Return the program in an empty folder below `place`."""
    folder = place / "work"
    folder.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH", "TMPDIR") if name in os.environ}
    path = os.pathsep.join(filter(None, (_ROOT, kept.get("PYTHONPATH"))))
    own = {f"LORA_TUI_{name}": str(place / name.lower()) for name in ("CACHE", "CONFIG", "LOGS")}
    environment = {**kept, **own, "PYTHONPATH": path, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    return Program(folder, environment, warm)


@pytest.fixture
def started(program: Program) -> Callable[..., Terminal]:
    """Start a mode in a terminal and wait until its run has begun."""

    def start(jobs: str, *arguments: str, **more: Any) -> Terminal:
        terminal = program.warm_terminal(jobs, *arguments, **more)
        terminal.read_until("run 1")
        return terminal

    return start
