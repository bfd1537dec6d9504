"""What the open app costs a training run: tokens a second with it, beside the same run without any interface.

    python -m tests.bench.app_training_cost [--pairs N] [--steps N]

Both train the built-in model on the same examples in the same order. The one is `--run train --json` into a pipe that
is read and thrown away, the other is begun by keys in the app in a pseudo-terminal of 120 × 40, with Train on the
screen for the whole run. They take turns, and which goes first changes from pair to pair. Told are the median of each
side's steps, each pair's ratio, and the median of the ratios.
"""

import argparse
import sqlite3
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.terminals import TimedTerminal, environment, program

_WARM_UP = 3
"""Steps at the beginning that are not counted: caches fill, the allocator learns."""


def options(steps: int) -> list[str]:
    """The run, as options."""
    values = {
        "fine_tuning.recipe": "as written",
        "fine_tuning.model_name": "builtin", "fine_tuning.train_data_file": "train.txt",
        "fine_tuning.training.max_steps": str(steps), "fine_tuning.training.batch_size": "8",
        "fine_tuning.training.gradient_accumulation_steps": "1", "fine_tuning.training.eval_steps": "100000",
        "fine_tuning.training.save_steps": "100000", "fine_tuning.gradient_checkpointing": "false",
        "fine_tuning.dtype": "float32",
    }  # fmt: skip
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def speed(store: Path) -> float:
    """The median tokens a second of the newest run's steps."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as file:
        rows = file.execute(
            "SELECT tokens_per_s FROM steps WHERE run_id=(SELECT MAX(id) FROM runs) AND step>? ORDER BY step",
            (_WARM_UP,),
        ).fetchall()
    return statistics.median(value for (value,) in rows)


def prepare(folder: Path) -> None:
    """The training file."""
    folder.mkdir()
    words = "The quick brown fox jumps over the lazy dog while the moon watches from behind a thin cloud. " * 3
    lines = (f"Question: what happened on day {n}?\nAnswer: {words}It was day {n}.\n\n" for n in range(64))
    (folder / "train.txt").write_text("".join(lines))


def without(folder: Path, steps: int) -> float:
    """Tokens a second without an interface."""
    prepare(folder)
    subprocess.run(
        program("--run", "train", "--no-chat", "--json", *options(steps)),
        cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    return speed(folder / "training_data.db")


def with_app(folder: Path, steps: int) -> float:
    """Tokens a second with Train on the screen."""
    prepare(folder)
    with TimedTerminal(program(*options(steps)), folder, environment(folder)) as terminal:
        terminal.wait_for("No pairs yet")
        time.sleep(0.5)
        terminal.press("2")
        time.sleep(0.5)
        terminal.press("s")
        store = folder / "training_data.db"
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            time.sleep(1.0)
            if store.exists() and _finished(store):
                return speed(store)
    raise AssertionError("the run did not end")


def _finished(store: Path) -> bool:
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as file:
        row = file.execute("SELECT state FROM runs ORDER BY id DESC LIMIT 1").fetchone()
    return row is not None and row[0] == "finished"


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    given = parser.parse_args()
    ratios, headless, shown = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for pair in range(given.pairs):
            sides = [("without", without), ("with", with_app)]
            found = {
                name: run(Path(scratch) / f"{pair}-{name}", given.steps)
                for name, run in (sides if pair % 2 else sides[::-1])
            }
            headless.append(found["without"])
            shown.append(found["with"])
            ratios.append(found["with"] / found["without"])
            print(
                f"pair {pair + 1}: {found['without']:.1f} without, {found['with']:.1f} with the app: {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"medians: {statistics.median(headless):.1f} and {statistics.median(shown):.1f} tokens/s")
    print(f"median ratio: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
