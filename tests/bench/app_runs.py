"""What Runs and a plot of 100,000 steps cost: processor time from a key to its screen, on a store of 1,000 runs.

    python -m tests.bench.app_runs BIG.db

The store is made by ``python -m tests.bench.big_store BIG.db --pairs 20000 --events 120000 --runs 1000``. The app runs
under Textual's pilot at 140 × 42, over a backend that does nothing.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from tests.tui.app_harness import AppHarness, screen_text, wait_until

SIZE = (140, 42)


async def timed(pilot: Pilot[Any], what: str, key: str, shown: Callable[[], object] = lambda: True) -> None:
    """Press a key, wait for what it shows, and print what that took."""
    before = time.process_time()
    await pilot.press(key)
    await wait_until(shown, 60)
    print(f"{what:<44} {1000 * (time.process_time() - before):6.0f} ms of processor")


async def measure(path: Path) -> None:
    """Go through Runs: the list, its orders, a comparison with the long run, and that run on Train."""
    async with AppHarness(path).app(SIZE) as (app, pilot):
        await timed(pilot, "Runs opened", "4", lambda: "Runs (1,000)" in screen_text(app))
        screen: Any = app.screen
        await timed(pilot, "the figures of all runs", "k", lambda: len(screen._figures) == 1000)
        for what, key in (("sorted", "o"), ("sorted again", "o"), ("a kind", "f"), ("a row down", "down")):
            await timed(pilot, what, key)
        await timed(pilot, "all again", "escape")
        for run_id in (2, 3):
            screen.query_one("#runs").cursor = screen._list.index_of(run_id)
            shown = (lambda: "examples seen" in screen_text(app)) if run_id == 3 else (lambda: True)
            await timed(pilot, "marked" if run_id == 2 else "compared with one of 100,000 steps", "space", shown)
        for what, key in (("cursor", "left"), ("over tokens", "a"), ("zoom", "z"), ("logarithmic", "l")):
            await timed(pilot, what, key)


def main() -> None:
    """Measure on the store that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LORA_TUI_CONFIG"] = os.environ["LORA_TUI_LOGS"] = scratch
        asyncio.run(measure(parser.parse_args().store))


if __name__ == "__main__":
    main()
