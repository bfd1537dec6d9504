"""Our training step beside TRL's SFTTrainer: the same model, examples, order and LoRA settings, run in turn.

    pip install -e ".[bench]"
    python -m tests.bench.train_vs_trl MODEL_FOLDER alpaca.json [--steps 3] [--rounds 3] [--trl default nogc …]
    python -m tests.bench.train_vs_trl MODEL_FOLDER alpaca.json --losses

Each round runs every side in a process of its own, one after the other, so that none warms another up; between the
sides the machine's matrix rate is measured. Prints one JSON line a run and last the medians: tokens/s, ratios, peak
memory, and our share of the ceiling that the matrix rate sets. ``--losses`` compares the losses step by step instead:
float32, no dropout (the two draw different random numbers).
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
from typing import Any

EXAMPLES_PER_STEP = 32
LORA = {"r": 16, "alpha": 32, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
RATE = 3e-5
PEERS = ("default", "nogc", "packing", "default-bf16", "nogc-bf16", "packing-bf16")


def records(data: Path, steps: int) -> list[dict[str, str]]:
    """The Alpaca records of the run, in the order both sides keep."""
    everything = json.loads(data.read_text(encoding="utf-8"))
    random.Random(42).shuffle(everything)
    return everything[: EXAMPLES_PER_STEP * steps]


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    from lora_tui.engine.runtime.process import before_torch

    before_torch()
    from lora_tui.config.models import Settings
    from lora_tui.engine.data.read import read_examples
    from lora_tui.engine.models.base_model import load_base
    from lora_tui.engine.training.dataset import TextDataset
    from lora_tui.engine.training.hooks import Hooks
    from lora_tui.engine.training.loop import train_model
    from lora_tui.engine.training.lora import create_lora_model, trainable_parameters

    settings = Settings.model_validate(
        {
            "fine_tuning": {
                "model_name": str(arguments.model),
                "dtype": "float32" if arguments.losses else "auto",
                "gradient_checkpointing": "auto",
                "lora": {"dropout": arguments.dropout},
                "optimizer": {"lora_lr": RATE},
                "scheduler": {"warmup_steps": 0},
                "training": {"max_epochs": 1, "shuffle": False, "save_steps": 1000},
            }
        }
    )
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.json"
        data.write_text(json.dumps(records(arguments.data, arguments.steps)), encoding="utf-8")
        base = load_base(settings, lambda *_: None)
        dataset = TextDataset(read_examples(data).examples, base.tokenizer)
        model = create_lora_model(base.model, settings.fine_tuning.lora)
        began = time.perf_counter()
        hooks = Hooks(on_step=lambda report: losses.append(report.loss))
        train_model(model, dataset, settings.fine_tuning, Path(folder), hooks)
        seconds = time.perf_counter() - began
    head = base.model.get_output_embeddings().weight.numel()
    trained, everything = trainable_parameters(model)
    inner = everything - trained - head  # tied: the embedding is the head
    # Forward and input gradient of every frozen weight, head at label positions only; three products for LoRA's.
    flops = (4 * inner + 6 * trained) * dataset.tokens + 4 * head * dataset.label_tokens
    return {
        "tokens": dataset.tokens,
        "seconds": seconds,
        "losses": losses,
        "dtype": str(base.dtype).removeprefix("torch."),
        "gflop_per_token": flops / dataset.tokens / 1e9,
    }


def theirs(arguments: argparse.Namespace, variant: str) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    losses: list[float] = []
    kind, _, half = variant.partition("-")

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
            model=AutoModelForCausalLM.from_pretrained(
                arguments.model, dtype=torch.bfloat16 if half else torch.float32
            ),
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
                warmup_steps=0,
                gradient_checkpointing=kind == "default",
                packing=kind == "packing",
                max_length=1024,
                train_sampling_strategy="sequential",
                completion_only_loss=True,
                bf16=bool(half),
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
    return {"tokens": tokens, "seconds": seconds, "losses": losses}


def matrix_rate(dtype: str) -> float:
    """GFLOP/s of the product that most of a step consists of: 1024 tokens through the feed-forward (median of 30)."""
    code = (
        "import os; os.environ.setdefault('OMP_WAIT_POLICY', 'passive')\n"
        "import time, torch\n"
        f"x, w = (torch.randn(*s).to(torch.{dtype}) for s in ((1024, 576), (1536, 576)))\n"
        "def once():\n"
        "    began = time.perf_counter(); torch.nn.functional.linear(x, w); return time.perf_counter() - began\n"
        "times = sorted(once() for _ in range(40))\n"
        "print(2 * 1024 * 576 * 1536 / times[15] / 1e9)"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout)


def one_side(name: str) -> dict[str, Any]:
    """Run one side in a process of its own, print its line and return it."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", name]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    line: dict[str, Any] = json.loads([line for line in output.splitlines() if line.startswith("{")][-1])
    print(json.dumps(line), flush=True)
    return line


def compare_losses() -> None:
    mine, trl = one_side("ours")["losses"], one_side("nogc")["losses"]
    differences = [abs(a - b) / b for a, b in zip(mine, trl, strict=True)]
    print(json.dumps({"relative_loss_differences": [round(value, 6) for value in differences]}))


def compare_speed(arguments: argparse.Namespace) -> None:
    rounds = []
    for _ in range(arguments.rounds):
        lines = {"ours": one_side("ours")}
        rate = matrix_rate(lines["ours"]["dtype"])
        lines |= {name: one_side(name) for name in arguments.trl}
        rounds.append((rate, lines))
    speeds = {name: [lines[name]["tokens_per_s"] for _, lines in rounds] for name in ("ours", *arguments.trl)}
    ceilings = [rate / lines["ours"]["gflop_per_token"] for rate, lines in rounds]
    shares = [own / ceiling for own, ceiling in zip(speeds["ours"], ceilings, strict=True)]
    summary = {
        "tokens_per_s": {name: statistics.median(values) for name, values in speeds.items()},
        "ratio": {
            name: round(statistics.median(a / b for a, b in zip(speeds["ours"], speeds[name], strict=True)), 2)
            for name in arguments.trl
        },
        "peak_mb": {name: max(lines[name]["peak_mb"] for _, lines in rounds) for name in speeds},
        "gflop_per_s": [round(rate) for rate, _ in rounds],
        "share_of_matrix_ceiling": round(statistics.median(shares), 3),
    }
    print(json.dumps(summary))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--trl", nargs="+", choices=PEERS, default=["default", "nogc"])
    parser.add_argument("--losses", action="store_true")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.losses:
        arguments.dropout = 0.0
    if arguments.side:
        line = ours(arguments) if arguments.side == "ours" else theirs(arguments, arguments.side)
        line["side"] = arguments.side
        line["tokens_per_s"] = round(line["tokens"] / line["seconds"], 1)
        line["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6
        print(json.dumps(line))
    elif arguments.losses:
        compare_losses()
    else:
        compare_speed(arguments)


if __name__ == "__main__":
    main()
