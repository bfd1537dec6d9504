"""A trainer that is killed with SIGKILL in the middle of an epoch, and another process that goes on where it was."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lora_tui.engine.models.adapter_source import step_folders
from lora_tui.engine.models.adapters import adapter_weights
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.hooks import Hooks
from lora_tui.engine.training.loop import train_model
from tests.engine.tiny import make_model, tiny_settings

ROOT = Path(__file__).parents[3]

CHANGES = {"lora.dropout": 0.2, "training.max_epochs": 3, "training.save_steps": 2}

CHILD = f"""
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.engine.training.hooks import Hooks
from lora_tui.engine.training.loop import train_model
from tests.engine.tiny import PAIRS, make_model, make_tokenizer, tiny_settings

settings = tiny_settings({CHANGES!r}).fine_tuning
tokenizer = make_tokenizer()
dataset = TextDataset([QuestionAnswer(q, a, "pairs") for q, a in PAIRS], tokenizer)
model = create_lora_model(make_model(tokenizer), settings.lora, seed=7)

def on_step(report):
    print(report.step, report.loss.hex(), flush=True)
    if report.step == 5:
        time.sleep(60)

train_model(model, dataset, settings, Path(sys.argv[1]), Hooks(on_step=on_step))
"""


def test_a_run_that_was_killed_goes_on_bit_for_bit(
    new_model: Callable[..., Any], tokenizer: Any, dataset: TextDataset, tmp_path: Path
) -> None:
    settings = tiny_settings(CHANGES).fine_tuning

    def train(folder: Path, *, resume: bool) -> tuple[dict[int, str], dict[str, torch.Tensor]]:
        losses: dict[int, str] = {}
        model = new_model(base=make_model(tokenizer), targets=settings.lora.target_modules, dropout=0.2, stirred=False)
        hooks = Hooks(on_step=lambda report: losses.update({report.step: report.loss.hex()}))
        train_model(model, dataset, settings, folder, hooks, resume=resume)
        return losses, adapter_weights(model)

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "killed")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        whole, wanted = train(tmp_path / "whole", resume=False)  # meanwhile, here
        assert child.stdout is not None
        before: dict[int, str] = {}
        for line in child.stdout:
            step, loss = line.split()
            before[int(step)] = loss
            if int(step) == 5:
                break
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert [path.name for path in step_folders(tmp_path / "killed")] == ["step-2", "step-4"]

    after, found = train(tmp_path / "killed", resume=True)
    assert sorted(after) == [5, 6, 7, 8, 9], "step 5 was taken, but not saved: it is taken again"
    assert before | after == whole
    assert after[5] == before[5]
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
