"""Our training step beside TRL's SFTTrainer: the same model, examples, order and LoRA settings, run in turn.

    pip install -e ".[bench]"
    python tests/bench/train_vs_trl.py MODEL_FOLDER alpaca.json [--steps 3] [--rounds 3] [--dropout 0] [--trl default]

Each round runs both sides in processes of their own, so that neither warms the other up. Prints one JSON line a run and
last the medians: tokens/s, their ratio, and the largest relative difference between the losses step by step (which only
means something with ``--dropout 0``: the two draw different random numbers). Before its first step TRL's warm-up has a
learning rate of 0 and ours has not, so from step 2 on the losses differ by that, too.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLES_PER_STEP = 32
LORA = {"r": 16, "alpha": 32, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
RATE, WARMUP = 3e-5, 1


def records(data: Path, steps: int) -> list[dict[str, str]]:
    """The Alpaca records of the run, in the order both sides keep."""
    everything = json.loads(data.read_text(encoding="utf-8"))
    random.Random(42).shuffle(everything)
    return everything[: EXAMPLES_PER_STEP * steps]


def ours(arguments: argparse.Namespace) -> dict[str, object]:
    from lora_tui.engine.process import before_torch

    before_torch()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lora_tui.config import Settings
    from lora_tui.engine.data.read import read_examples
    from lora_tui.engine.training.dataset import TextDataset
    from lora_tui.engine.training.loop import Hooks, train_model
    from lora_tui.engine.training.lora import create_lora_model

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="float32", attn_implementation="sdpa").eval()
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.json"
        data.write_text(json.dumps(records(arguments.data, arguments.steps)), encoding="utf-8")
        dataset = TextDataset(read_examples(data).examples, tokenizer)
        settings = Settings.model_validate(
            {
                "fine_tuning": {
                    "gradient_checkpointing": False,
                    "lora": {"dropout": arguments.dropout},
                    "optimizer": {"lora_lr": RATE},
                    "scheduler": {"warmup_steps": WARMUP},
                    "training": {"max_epochs": 1, "shuffle": False, "save_steps": 1000},
                }
            }
        ).fine_tuning
        adapted = create_lora_model(model, settings.lora)
        began = time.perf_counter()
        train_model(adapted, dataset, settings, Path(folder), Hooks(on_step=lambda report: losses.append(report.loss)))
        seconds = time.perf_counter() - began
    return {"side": "lora-tui", "tokens": dataset.tokens, "seconds": seconds, "losses": losses}


def theirs(arguments: argparse.Namespace) -> dict[str, object]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    losses: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    rows = [
        {
            "prompt": f"Question: {record['instruction']} {record['input']}".rstrip() + "\nAnswer:",
            "completion": f" {record['output']}",
        }
        for record in records(arguments.data, arguments.steps)
    ]
    tokens = sum(len(tokenizer(row["prompt"] + row["completion"]).input_ids) + 1 for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Losses()],
            peft_config=LoraConfig(
                r=LORA["r"],
                lora_alpha=LORA["alpha"],
                lora_dropout=arguments.dropout,
                task_type="CAUSAL_LM",
                target_modules=LORA["targets"],
            ),
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=2,
                gradient_accumulation_steps=EXAMPLES_PER_STEP // 2,
                num_train_epochs=1,
                learning_rate=RATE,
                lr_scheduler_type="cosine",
                warmup_steps=WARMUP,
                gradient_checkpointing=arguments.trl == "default",
                packing=arguments.trl == "packing",
                max_length=1024,
                train_sampling_strategy="sequential",
                completion_only_loss=True,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
        )
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    return {"side": f"trl {arguments.trl}", "tokens": tokens, "seconds": seconds, "losses": losses}


def one_side(name: str) -> dict[str, object]:
    """Run one side in a process of its own and return its line."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", name]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads([line for line in output.splitlines() if line.startswith("{")][-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--trl", choices=["default", "nogc", "packing"], default="default")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        line = ours(arguments) if arguments.side == "ours" else theirs(arguments)
        line["tokens_per_s"] = round(line["tokens"] / line["seconds"], 1)
        line["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(line))
        return
    pairs = []
    for _ in range(arguments.rounds):
        pair = one_side("ours"), one_side("theirs")
        for line in pair:
            print(json.dumps(line), flush=True)
        pairs.append(pair)
    first, second = pairs[0]
    difference = max(abs(a - b) / b for a, b in zip(first["losses"], second["losses"], strict=True))
    speeds = [[line["tokens_per_s"] for line in side] for side in zip(*pairs, strict=True)]
    print(
        json.dumps(
            {
                "ours_tokens_per_s": statistics.median(speeds[0]),
                "trl_tokens_per_s": statistics.median(speeds[1]),
                "ratio": round(statistics.median(a / b for a, b in zip(*speeds, strict=True)), 2),
                "largest_relative_loss_difference": round(difference, 5),
            }
        )
    )


if __name__ == "__main__":
    main()
