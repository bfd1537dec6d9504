"""TRL's trainer on the same examples: the peer that our loss must agree with."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.hooks import Hooks, StepReport
from lora_tui.engine.training.loop import train_model
from lora_tui.engine.training.lora import create_lora_model
from tests.engine.tiny import PAIRS, make_model, tiny_settings
from tests.extras import needed

trl = needed("trl")


def test_the_losses_of_two_steps_are_those_of_trl(tokenizer: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback

    pairs = PAIRS[:8]
    losses: list[float] = []

    class Losses(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    rows = [{"prompt": f"Question: {q}\nAnswer:", "completion": f" {a}"} for q, a in pairs]
    common = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "task_type": "CAUSAL_LM"}
    theirs = make_model(tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        trainer = trl.SFTTrainer(
            model=theirs,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Losses()],
            peft_config=LoraConfig(target_modules=["q_proj", "v_proj"], **common),
            args=trl.SFTConfig(
                output_dir=str(tmp_path / "trl"),
                per_device_train_batch_size=2,
                gradient_accumulation_steps=2,
                num_train_epochs=1,
                learning_rate=1e-2,
                lr_scheduler_type="constant",
                train_sampling_strategy="sequential",
                completion_only_loss=True,
                gradient_checkpointing=False,
                max_length=128,
                bf16=False,
                use_cpu=True,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
        )
        trainer.train()

    settings = tiny_settings(
        {
            "lora.target_modules": ["q_proj", "v_proj"],
            "scheduler.type": "constant",
            "training.shuffle": False,
            "training.max_epochs": 1,
        }
    ).fine_tuning
    dataset = TextDataset([QuestionAnswer(q, a, "pairs") for q, a in pairs], tokenizer)
    reports: list[StepReport] = []
    model = create_lora_model(make_model(tokenizer), settings.lora)
    train_model(model, dataset, settings, tmp_path / "ours", Hooks(on_step=reports.append))
    assert len(losses) == len(reports) == 2
    found = [report.loss for report in reports]
    assert found[0] == pytest.approx(losses[0], rel=1e-4), "the untrained model: the same number"
    assert found == pytest.approx(losses, rel=0.01)
