"""A training run that is killed with SIGKILL again and again, and resumed: is its adapter that of a run left alone?

    python -m tests.bench.train_killed [--kills 20] [--seed 1]

A tiny random model with dropout is trained by the headless command, once undisturbed and once killed at random moments,
each time resumed by ``--resume``. The last line says whether the adapters are equal byte for byte.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.terminals import environment
from tests.e2e.terminal import installed_command
from tests.engine import tiny

STEPS = 1200
CONFIG = f"""
[fine_tuning]
recipe = "as written"
model_name = "tiny"
train_data_file = "train.txt"
device = "cpu"
gradient_checkpointing = "auto"
[fine_tuning.lora]
dropout = 0.1
[fine_tuning.optimizer]
lora_lr = 1e-3
[fine_tuning.scheduler]
warmup_steps = 20
[fine_tuning.training]
max_steps = {STEPS}
max_epochs = 0
batch_size = 3
gradient_accumulation_steps = 1
save_steps = 7
eval_steps = 250
target_score = 2.0
patience = 1000
[fine_tuning.evaluation]
max_new_tokens = 4
"""


def prepare(folder: Path) -> Path:
    folder.mkdir()
    tiny.save_base(folder / "tiny")
    (folder / "train.txt").write_text(tiny.training_text())
    (folder / "config.toml").write_text(CONFIG)
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*installed_command(), *arguments], cwd=folder, env=environment(folder), **quiet)


def newest_step(folder: Path) -> int:
    return max(
        (int(path.name[5:]) for path in folder.glob("checkpoints/run-1/step-*") if path.name[5:].isdigit()), default=0
    )


def digest(folder: Path) -> str:
    return hashlib.sha256(
        (folder / f"checkpoints/run-1/step-{STEPS}/adapter_model.safetensors").read_bytes()
    ).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, killed = prepare(Path(place) / "whole"), prepare(Path(place) / "killed")
        status = start(whole, "--run", "train").wait()
        print(json.dumps({"undisturbed": status}), flush=True)
        process = start(killed, "--run", "train")
        for number in range(arguments.kills):
            before = newest_step(killed)
            while newest_step(killed) == before and process.poll() is None:  # it has begun, or gone on
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.4))
            if process.poll() is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            print(json.dumps({"kill": number + 1, "at_step": newest_step(killed)}), flush=True)
            process = start(killed, "--resume")
        status = process.wait()
        print(json.dumps({"ended": status, "byte_identical": digest(whole) == digest(killed)}))


if __name__ == "__main__":
    main()
