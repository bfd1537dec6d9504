"""A queue of training runs whose process is killed with SIGKILL again and again: does each run exactly once?

    python -m tests.bench.queue_killed [--runs 8] [--kills 10] [--seed 1]

A tiny random model with dropout is trained by `--run queue`, each run at another learning rate; once left alone, once
killed at random moments and started anew. Each run must have ended once, as finished, with every step once and the
adapter of the queue that was left alone, byte for byte.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.bench.train_killed import CONFIG, STEPS, prepare, start

RUN_STEPS = 150


def prepare_queue(folder: Path, number: int) -> Path:
    """A folder with a configuration and `number` runs in the queue."""
    prepare(folder)
    (folder / "config.toml").write_text(
        CONFIG.replace(f"max_steps = {STEPS}", f"max_steps = {RUN_STEPS}").replace(
            "eval_steps = 250", "eval_steps = 75"
        )
    )
    for index in range(number):
        rate = f"fine_tuning.optimizer.lora_lr={(index + 1) * 1e-3}"
        assert start(folder, "--run", "train", "--queue", "--set", rate).wait() == 0
    return folder


def asked(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "training_data.db", timeout=30)) as store:
        return store.execute(sql).fetchall()


def progress(folder: Path) -> int:
    return int(asked(folder, "SELECT COUNT(*) FROM steps")[0][0])


def digests(folder: Path, number: int) -> list[str]:
    names = [
        folder / f"checkpoints/run-{run}/step-{RUN_STEPS}/adapter_model.safetensors" for run in range(1, number + 1)
    ]
    return [hashlib.sha256(name.read_bytes()).hexdigest() for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, killed = (prepare_queue(Path(place) / name, arguments.runs) for name in ("whole", "killed"))
        print(json.dumps({"left_alone": start(whole, "--run", "queue").wait()}), flush=True)
        process, kills = start(killed, "--run", "queue"), 0
        for number in range(arguments.kills):
            before = progress(killed)
            while progress(killed) == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 3.0))
            if process.poll() is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            states = dict(asked(killed, "SELECT state, COUNT(*) FROM runs GROUP BY state"))
            print(json.dumps({"kill": number + 1, "states": states}), flush=True)
            process = start(killed, "--run", "queue")
        status = process.wait()
        ended = asked(killed, "SELECT run_id, COUNT(*) FROM events WHERE kind='done' GROUP BY run_id")
        finished = asked(killed, "SELECT COUNT(*) FROM runs WHERE state='finished'")[0][0]
        steps = asked(killed, "SELECT run_id, COUNT(*), MAX(step) FROM steps GROUP BY run_id")
        once = [count for _, count in ended] == [1] * arguments.runs and finished == arguments.runs
        result = {
            "runs": arguments.runs,
            "kills": kills,
            "status": status,
            "each_exactly_once": once,
            "every_step_once": [row[1:] for row in steps] == [(RUN_STEPS, RUN_STEPS)] * arguments.runs,
            "byte_identical": digests(whole, arguments.runs) == digests(killed, arguments.runs),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
