"""An environment of its own for each test of the installed command: empty folders, no keys, no network by accident."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables for a child process: the caller's keys and settings do not reach it."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH"))))
    own = {f"LORA_TUI_{name}": str(tmp_path / name.lower()) for name in ("CACHE", "CONFIG", "LOGS")}
    return {**kept, **own, "PYTHONPATH": path, "TERM": "xterm-256color", "LANG": "C.UTF-8"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The empty folder that the command is started in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder
