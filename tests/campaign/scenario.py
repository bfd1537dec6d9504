"""A scenario of the campaign: one way in which machines, endpoints, files or people misbehave, tried with random cases.

    @scenario("log-on-a-full-disk", tries=40, short=2)
    def log_on_a_full_disk(random: Random, folder: Path) -> Try: ...

A try gets randomness of its own and an empty folder, which is also the current one. It answers whether the promises
held: no pair lost or doubled, nothing hung, no traceback, nothing that a user can cause called the program's fault, no
key stored, nothing unclean written, and a message that says what, where and what to do. An exception is a try that
was lost. Everything that is random comes from the try's own randomness, so that one try can be repeated alone.
"""

import importlib
import os
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Try:
    """What became of one try."""

    survived: bool
    """False: something was lost, doubled, hung, blamed on the program, or shown raw."""
    faults: int = 1
    """Faults that were injected."""
    detail: str = ""
    """What went wrong, in one line."""


Scenario = Callable[[random.Random, Path], Try]
"""From the randomness of a try and an empty folder to its outcome."""


@dataclass(frozen=True)
class Registered:
    """A scenario, how many tries it has in the full campaign and in CI, and the seconds a try may take."""

    function: Scenario
    tries: int
    short: int
    seconds: float


SCENARIOS: dict[str, Registered] = {}
"""By name, in the order in which the modules are imported."""


def scenario(name: str, *, tries: int, short: int, seconds: float = 60.0) -> Callable[[Scenario], Scenario]:
    """Register a scenario: `tries` for each seed of a full campaign, `short` in CI (0: not in the short form)."""

    def register(function: Scenario) -> Scenario:
        if name in SCENARIOS:
            raise ValueError(f"two scenarios are called {name}")
        SCENARIOS[name] = Registered(function, tries, short, seconds)
        return function

    return register


def load_scenarios() -> None:
    """Import every module of the package, which registers its scenarios."""
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        if not path.stem.startswith("test_"):
            importlib.import_module(f"tests.campaign.{path.stem}")


def attempt(name: str, seed: int, number: int, folder: Path) -> Try:
    """Run one try in the empty `folder`; an exception is a try that was lost, and says where it was raised."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return SCENARIOS[name].function(random.Random(f"{seed}/{name}/{number}"), folder)
    except Exception as problem:  # noqa: BLE001 whatever a scenario raises, the others go on
        last = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        said = " ".join(str(problem).split())
        return Try(False, detail=f"{type(problem).__name__} at {where}: {said[:300]}")
    finally:
        os.chdir(before)
