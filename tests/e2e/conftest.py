"""An environment of its own for each test of the installed command: empty folders, no keys, no network by accident."""

import json
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.warm_command import WarmCommand
from tests.engine.compiled import share_compiled

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCommand]:
    """The command with torch and all jobs imported, to be forked."""
    with WarmCommand(tmp_path_factory.mktemp("command"), os.environ) as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables for a child process: the caller's keys and settings do not reach it."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH"))))
    own = {f"LORA_TUI_{name}": str(tmp_path / name.lower()) for name in ("CACHE", "CONFIG", "LOGS")}
    share_compiled(tmp_path / "cache")
    return {**kept, **own, "PYTHONPATH": path, "TERM": "xterm-256color", "LANG": "C.UTF-8"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The empty folder that the command is started in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def builtin_cache() -> Path:
    """The user's cache folder with the built-in model in it, fetched if need be.

    Without a network the tests that need it are skipped; in CI that is a failure.
    """
    from lora_tui.config.paths import cache_folder
    from lora_tui.engine.models.builtin import ensure_builtin
    from lora_tui.errors import UnreachableError

    try:
        ensure_builtin(lambda phase, done, total: None)
    except UnreachableError as problem:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the built-in model is neither cached nor reachable: {problem}")
    return cache_folder()


@pytest.fixture(scope="session")
def quickstart(builtin_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> "Quickstart":
    """One quickstart run of the installed command in a terminal, which the tests of the other modes go on from."""
    from tests.e2e.terminal import Terminal, installed_command

    folder = tmp_path_factory.mktemp("quickstart")
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"LORA_TUI_CACHE": str(builtin_cache), "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    environment |= {f"LORA_TUI_{name}": str(folder / name.lower()) for name in ("CONFIG", "LOGS")}
    began = time.monotonic()
    data = folder / "stdout.txt"
    with data.open("wb") as stdout:
        command = [*installed_command(), "--run", "quickstart", "--json"]
        command += ["--set", "data_generation.total_examples=6"]  # half of its own dozen, which is half a minute
        with Terminal(command, cwd=folder, env=environment, stdout=stdout) as terminal:
            status = terminal.wait(timeout=900)
            narration = terminal.output
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Quickstart(folder, environment, status, data.read_text(), narration, time.monotonic() - began, peak)


@dataclass(frozen=True)
class Quickstart:
    """What a quickstart run left behind: where, how it ended, what it said, how long it took and its peak memory."""

    folder: Path
    environment: dict[str, str]
    status: int
    stdout: str
    narration: str
    seconds: float
    peak_mb: float

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Its events of one kind."""
        return [event for event in self.events if event["event"] == kind]
