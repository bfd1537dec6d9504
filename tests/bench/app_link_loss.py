"""Lost links: the terminal of the app is closed at a random moment of a real training run, again and again.

    python -m tests.bench.app_link_loss [--runs N] [--seed N]

Each round starts the app in a pseudo-terminal, begins a training run of a tiny random model by keys, closes the
terminal at a random moment, opens another app to see whether the run can be attached to while it is live, closes that
one, and waits for the run to finish in the process it was begun in. Told is how many finished, and how many could be
attached to.
"""

import argparse
import contextlib
import random
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.terminals import TimedTerminal, environment, program
from tests.engine import tiny


def row(store: Path) -> dict[str, Any] | None:
    """The newest run; None while the store is being made."""
    if not store.exists():
        return None
    with contextlib.suppress(sqlite3.OperationalError):
        return _newest(store)
    return None


def _newest(store: Path) -> dict[str, Any] | None:
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as file:
        file.row_factory = sqlite3.Row
        found = file.execute("SELECT * FROM runs ORDER BY id DESC LIMIT 1").fetchone()
    return dict(found) if found is not None else None


def one(folder: Path, moment: float, steps: int) -> tuple[bool, bool, str]:
    """Lose a link `moment` seconds after the start; whether the run finished, could be attached to, and how it went."""
    folder.mkdir()
    tiny.save_base(folder / "tiny")
    (folder / "train.txt").write_text(tiny.training_text())
    values = {
        "fine_tuning.recipe": "as written",
        "fine_tuning.model_name": str(folder / "tiny"), "fine_tuning.train_data_file": "train.txt",
        "fine_tuning.training.max_steps": str(steps), "fine_tuning.training.save_steps": "50",
        "fine_tuning.training.target_score": "2.0", "fine_tuning.training.patience": "100000",
        "fine_tuning.training.eval_steps": "100000", "fine_tuning.device": "cpu",
        "fine_tuning.training.batch_size": "4", "fine_tuning.training.gradient_accumulation_steps": "1",
    }  # fmt: skip
    sets = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    store = folder / "training_data.db"
    env = environment(folder)
    terminal = TimedTerminal(program(*sets), folder, env)
    try:
        terminal.wait_for("No pairs yet")
        time.sleep(0.4)
        terminal.press("2")
        time.sleep(0.4)
        terminal.press("s")
        deadline = time.monotonic() + 60
        while (begun := row(store)) is None:
            assert time.monotonic() < deadline, "the run has not begun"
            time.sleep(0.02)
        time.sleep(moment)
        terminal.hang_up()
        with TimedTerminal(program(), folder, env) as again:
            attached = False
            try:
                again.wait_for("run 1", timeout=20)
                time.sleep(0.3)
                now = row(store)
                attached = now is not None and now["state"] == "running"
            except AssertionError:
                attached = False
        while (now := row(store)) is not None and now["state"] in ("queued", "running", "stopping"):
            assert time.monotonic() < deadline + 120, "the run has not ended"
            time.sleep(0.05)
        assert now is not None
        terminal.process.wait(20)
        finished = now["state"] == "finished" and now["pid"] == begun["pid"] and terminal.process.returncode == 0
        return finished, attached, f"{now['state']}, status {terminal.process.returncode}"
    finally:
        for process in terminal.family():
            process.kill()


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    finished = attached = 0
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.runs):
            moment = chance.uniform(0.0, 6.0)
            did_finish, was_attached, how = one(Path(scratch) / str(number), moment, given.steps)
            finished += did_finish
            attached += was_attached
            print(f"run {number + 1:2}: lost after {moment:.2f} s, attached {was_attached}, {how}", flush=True)
    print(f"{finished} of {given.runs} finished in their own process, {attached} could be attached to while live")


if __name__ == "__main__":
    main()
