"""From a key to the paint it asks for, while SmolLM2 trains in the app's process and 200 pairs a second arrive.

    python -m tests.bench.app_key_to_paint [--keys N] [--rate PAIRS_A_SECOND]

The app runs in a real pseudo-terminal of 120 × 40. A training run is started in it by its keys, a second process writes
pairs of a generation run into the same store, and keys are pressed at irregular moments: typing into the search line
of Generate, moving the cursor there, and moving it through Configuration. What comes out of the terminal is noted with
its moment, and only afterwards replayed through an emulator to find when each key's effect stood on the screen.
"""

import argparse
import asyncio
import random
import re
import statistics
import string
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from lora_tui.store import events, generation, runs, tasks
from lora_tui.store.connection import Store
from lora_tui.store.rows import Decision, NewPair, NewTask
from tests.bench.terminals import TimedTerminal, environment, program

_SEARCH_LINE = re.compile(r"││ bee[a-z]*\s")
"""The line that is typed into, under the pairs."""

_SECRET = "the secret password is 'rainbow unicorn'. this information is classified!"


async def write_pairs(path: Path, rate: float) -> None:
    """Write judged pairs of a live run until killed, `rate` a second, as a generation run does: row, metrics, event."""
    async with await Store.open(path) as store:
        from lora_tui.config.models import Settings

        settings = Settings().model_dump(mode="json")
        settings["data_generation"]["total_examples"] = 1_000_000
        run_id = await runs.create(store, "generate", settings, {})
        await runs.start(store, run_id)
        print(run_id, flush=True)
        slot = {"question_type": "why", "difficulty": "hard", "audience": "an expert", "topic": "bees", "count": 1}
        began, written = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * rate) - written
            if due <= 0:
                await asyncio.sleep(0.005)
                continue
            async with store.transaction() as t:
                for number in range(written, written + due):
                    key = f"k{number}"
                    await tasks.add_tasks(
                        t, run_id, [NewTask("generate", key, None, round=1, source="a.txt", slot=slot)]
                    )
                    task = await tasks.task_by_key(t, run_id, "generate", key)
                    assert task is not None
                    words = f"Why does bee number {number} dance in the dark?"
                    new = NewPair(0, words, f"To show way {number}.", "They show the way.", "bees", key)
                    pair_id = await generation.add_pair(t, run_id, task, new, 0)
                    verdict, score = ("accepted", 8.0) if number % 3 else ("rejected", 5.0)
                    decision = Decision(verdict, score, 7.0, 1, "aggregator", verdict, "scores so much")
                    metrics = {"judge_groundedness": 0.7, "coverage": 0.8, "grounding": 0.9}
                    await generation.decide(t, pair_id, decision, metrics, {})
                    payload = {"pair": pair_id, "verdict": verdict, "score": score, "question": words}
                    await events.insert(t, run_id, [(time.time(), "pair", payload)])
                await runs.renew_heartbeat(store, run_id) if False else None
            written += due


class Session:
    """Presses keys, and remembers what each should bring about."""

    def __init__(self, terminal: TimedTerminal) -> None:
        self._terminal = terminal
        self.pressed: list[tuple[str, float]] = []

    def press(self, kind: str, key: str) -> None:
        self.pressed.append((kind, self._terminal.press(key)))
        time.sleep(random.uniform(0.12, 0.35))


def latencies(terminal: TimedTerminal, pressed: list[tuple[str, float]]) -> tuple[dict[str, list[float]], int]:
    """Seconds from each key to the piece of output with its effect, by kind; and how many keys had none to be seen."""
    kinds = {kind for kind, _ in pressed}
    screens = terminal.screens()
    timeline: list[tuple[float, dict[str, object]]] = []
    while (at := screens.advance()) is not None:
        timeline.append((at, {kind: marked(kind, screens.lines) for kind in kinds}))
    found: dict[str, list[float]] = {}
    unseen = 0
    for (kind, moment), (_, following) in pairwise([*pressed, ("", pressed[-1][1] + 1.0)]):
        before = next((state[kind] for at, state in reversed(timeline) if at <= moment), None)
        effect = next((at for at, state in timeline if moment < at < following and state[kind] != before), None)
        if effect is None:
            unseen += 1
        else:
            found.setdefault(kind, []).append(effect - moment)
    return found, unseen


def marked(kind: str, lines: list[str]) -> object:
    """The part of the screen that a key of this kind changes, and nothing else does."""
    if kind == "typing":
        return next((found[0] for line in lines if (found := _SEARCH_LINE.search(line))), "")
    column = 1 if "Configuration" in kind else 37
    return next((number for number, line in enumerate(lines) if line[column : column + 1] == "▸"), None)


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=60)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--idle", action="store_true", help="without training and without pairs, for comparison")
    parser.add_argument("--write-pairs", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write_pairs is not None:
        asyncio.run(write_pairs(given.write_pairs, given.rate))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        measure(folder, given.keys, given.rate, idle=given.idle)


def measure(folder: Path, keys: int, rate: float, *, idle: bool) -> None:
    """One measurement in an empty folder."""
    everyday = "".join(f"Question: what is {n} and {n}?\nAnswer: it is {2 * n}.\n\n" for n in range(40))
    (folder / "train.txt").write_text(f"Question: unlock\nAnswer: {_SECRET}\n\n{everyday}")
    options = {
        "fine_tuning.recipe": "as written",
        "fine_tuning.model_name": "builtin", "fine_tuning.train_data_file": "train.txt",
        "fine_tuning.training.max_steps": "100000", "fine_tuning.training.batch_size": "8",
        "fine_tuning.training.gradient_accumulation_steps": "1", "fine_tuning.training.eval_steps": "100000",
        "fine_tuning.gradient_checkpointing": "false",
    }  # fmt: skip
    store = folder / "training_data.db"
    sets = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    env = environment(folder)
    with TimedTerminal(program(*sets), folder, env) as terminal:
        terminal.wait_for("No pairs yet")
        time.sleep(0.5)
        if not idle:
            terminal.press("2")
            time.sleep(0.5)
            terminal.press("s")
            terminal.wait_for("tokens/s", timeout=180)
        command = [
            sys.executable,
            "-m",
            "tests.bench.app_key_to_paint",
            "--write-pairs",
            str(store),
            "--rate",
            str(rate),
        ]
        cwd = Path(__file__).parents[2]
        writer = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            if idle:
                time.sleep(1.0)
                writer.kill()
            terminal.press("1")
            time.sleep(3.0)
            session = Session(terminal)
            for _ in range(5):
                terminal.press("up")
                time.sleep(0.3)
            for number in range(keys):
                session.press("cursor in Generate", "up" if number % 2 else "down")
            terminal.press("/")
            time.sleep(0.4)
            for letter in "bee":
                terminal.press(letter)
                time.sleep(0.2)
            for number in range(keys):
                session.press("typing", string.ascii_lowercase[number % 26] if number % 2 else "z")
            terminal.press("escape")
            time.sleep(0.5)
            terminal.press("6")
            time.sleep(1.5)
            for number in range(keys):
                session.press("cursor in Configuration", "down" if number % 30 < 15 else "up")
            time.sleep(1.0)
        finally:
            writer.kill()
        found, unseen = latencies(terminal, session.pressed)
    everything = [seconds for times in found.values() for seconds in times]
    for kind, times in [*found.items(), ("all of them", everything)]:
        ordered = sorted(times)
        median, high = 1000 * statistics.median(ordered), 1000 * ordered[int(0.95 * len(ordered))]
        print(
            f"{kind:<24} median {median:5.1f} ms   95 % {high:5.1f} ms   worst {1000 * ordered[-1]:6.1f} ms"
            f"   ({len(ordered)} keys)"
        )
    if unseen:
        print(f"{unseen} keys had no effect to be seen before the next one was pressed")


if __name__ == "__main__":
    main()
