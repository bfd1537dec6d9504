"""How long until something is on the screen: the app beside a bare Textual application, and on a very large store.

    python -m tests.bench.app_first_paint [--rounds N] [--store BIG.db]

Each round starts all of them in turn in a real pseudo-terminal, so that a busy machine is busy for all; told are the
medians and their ratios. With `--store` (see `tests.bench.big_store`) the app is also opened on it, and its memory is
compared with that of the app on an empty store, after both large runs have been looked at.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.terminals import TimedTerminal, environment, program

BARE = """
from textual.app import App
from textual.widgets import Static
class Bare(App):
    def compose(self):
        yield Static("a bare application")
Bare().run()
"""


def first_paint(command: list[str], text: str, folder: Path) -> float:
    """Seconds from the start of a command to the piece of output that completes `text`."""
    with TimedTerminal(command, folder, environment(folder)) as terminal:
        return terminal.wait_for(text) - terminal.began


def memory_after_looking(store: Path | None, folder: Path) -> float:
    """Resident MB of the app's process once it has shown runs 1 and 2 and the list of runs."""
    arguments = [] if store is None else ["--store", str(store)]
    most = 0.0
    for run in ("1", "2") if store is not None else ("",):
        attach = ["--attach", run] if run else []
        with TimedTerminal(program(*arguments, *attach), folder, environment(folder)) as terminal:
            terminal.wait_for("GENERATE" if store is None else "run ")
            time.sleep(4.0)
            for key in ("1", "end", "home", "pagedown", "2", "v", "4", "end"):
                terminal.press("escape")
                time.sleep(0.3)
                terminal.press(key)
                time.sleep(0.7)
            most = max(most, max(process.memory_info().rss for process in terminal.family()) / 1e6)
    return most


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--store", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        starts = {
            "bare Textual": ([sys.executable, "-c", BARE], "a bare application"),
            "lora-tui": (program(), "GENERATE"),
        }
        if given.store is not None:
            starts["lora-tui, large store"] = (program("--store", str(given.store)), "GENERATE")
        times: dict[str, list[float]] = {name: [] for name in starts}
        for _ in range(given.rounds):
            for name, (command, text) in starts.items():
                times[name].append(first_paint(command, text, folder))
        medians = {name: statistics.median(found) for name, found in times.items()}
        for name, median in medians.items():
            spread = f"{min(times[name]):.3f}-{max(times[name]):.3f}"
            print(f"first paint, {name:<22} median {median:.3f} s  ({spread}, {given.rounds} starts)")
        print(f"lora-tui / bare Textual: {medians['lora-tui'] / medians['bare Textual']:.2f}")
        if given.store is not None:
            print(f"large store / empty store: {medians['lora-tui, large store'] / medians['lora-tui']:.2f}")
            empty = memory_after_looking(None, folder)
            large = memory_after_looking(given.store, folder)
            print(f"memory: {empty:.0f} MB on an empty store, {large:.0f} MB on the large one: {large - empty:+.0f} MB")


if __name__ == "__main__":
    main()
