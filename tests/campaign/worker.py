"""Processes in which tries run: each in a folder and an environment of its own, killed when it takes too long.

A module apart: a process that is spawned imports the module of its function by name, and ``__main__`` has none.
"""

import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.campaign.scenario import SCENARIOS, attempt, load_scenarios

_STARTING_S = 120.0
"""Seconds that a process may take to import every scenario."""

_OUTPUT = "output.txt"
"""What a try wrote to its streams, beside its folder."""


@dataclass(frozen=True)
class Case:
    """One try of one scenario."""

    name: str
    seed: int
    number: int

    @property
    def repeat(self) -> str:
        """Command that repeats it."""
        return f"python -m tests.campaign --seed {self.seed} --only {shlex.quote(self.name)} --try {self.number}"


@contextmanager
def own_environment(place: Path) -> Iterator[None]:
    """Configuration and log of the try's own, no key of the user's, and no network by accident."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.endswith(("_KEY", "_TOKEN", "_SECRET"))]:
        del os.environ[name]
    own = {f"LORA_TUI_{name}": str(place / name.lower()) for name in ("CONFIG", "LOGS")}
    os.environ.update(own, HF_HUB_OFFLINE="1", PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# In a process of its own


def _work(pipe: Any) -> None:
    """Run the tries that come through the pipe, and answer each with its outcome."""
    os.setsid()
    load_scenarios()
    pipe.send(None)
    while (task := pipe.recv()) is not None:
        case, place = task
        with (place / _OUTPUT).open("ab", buffering=0) as output, own_environment(place):
            for descriptor in (1, 2):
                os.dup2(output.fileno(), descriptor)
            outcome = attempt(case.name, case.seed, case.number, place / "work")
            sys.stdout.flush()
            sys.stderr.flush()
        pipe.send(outcome)


class Worker:
    """A process that runs one try after the other, and what it is at."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,))
        self._process.start()
        theirs.close()
        self.case: Case | None = None
        self.place = Path()
        self.since = time.monotonic()
        self.limit = _STARTING_S
        self.is_ready = False

    def give(self, case: Case) -> None:
        """Begin a try."""
        self.place = Path(tempfile.mkdtemp(prefix=f"campaign-{case.name}-"))
        (self.place / "work").mkdir()
        self.case, self.since, self.limit = case, time.monotonic(), SCENARIOS[case.name].seconds
        self.pipe.send((case, self.place))

    @property
    def is_late(self) -> bool:
        """Whether it takes longer than it may."""
        return (self.case is not None or not self.is_ready) and time.monotonic() - self.since > self.limit

    def kill(self) -> str:
        """End it and what it started; returns how it ended."""
        try:
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.join()
        return f"the process ended with {self._process.exitcode}"

    def close(self) -> None:
        """End it, when it is idle."""
        self.pipe.send(None)
        self._process.join()
