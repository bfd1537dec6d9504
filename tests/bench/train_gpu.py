"""The training step on a GPU: tokens/s, MFU and peak memory, with plain PEFT and TRL beside it, in one call.

    python -m tests.bench.train_gpu [--layers 28] [--rows 8] [--targets all-linear] [--sides ours peft trl]
    python -m tests.bench.train_gpu --check gradients   (or: profile)

The model has the architecture of deepseek-r1-distill-qwen-1.5b and random weights in bfloat16 (no download). Rows hold
4096 tokens of packed examples, half of them labels; LoRA has r 16 and no dropout. Useful work is counted as 4 FLOPs a
weight and token (forward and input gradient) in the layers and at label positions in the head, 6 for LoRA's weights;
MFU is held against the rate of an 8192³ bfloat16 product measured in the same call. With ``--tiny`` everything shrinks
so that the command itself can be tried on a CPU; its figures mean nothing.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

ROW = 4096
SIDES = ("ours", "peft", "trl")
CHECKS = ("gradients", "profile")


def new_base(arguments: argparse.Namespace) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    shape = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    }
    if arguments.tiny:
        shape |= {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 1000}
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**shape), dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def new_examples(arguments: argparse.Namespace, vocabulary: int) -> list[Any]:
    """Examples of 128 to 1024 tokens whose rows are full: the rest of a row goes to its last example."""
    from lora_tui.engine.training.packing import EncodedExample

    numbers = random.Random(0)
    row = 256 if arguments.tiny else ROW
    examples = []
    for _ in range(arguments.rows):
        left = row
        while left:
            length = min(left, numbers.randrange(row // 32, row // 4))
            length = left if left - length < 2 else length
            ids = tuple(numbers.randrange(vocabulary) for _ in range(length))
            examples.append(
                EncodedExample(ids, tuple(place >= length // 2 for place in range(length)), False, "made up")
            )
            left -= length
    return examples


def lora_settings(arguments: argparse.Namespace) -> Any:
    from lora_tui.config.models import Lora

    return Lora(r=16, alpha=32, dropout=arguments.dropout, target_modules=arguments.targets)


def our_step(arguments: argparse.Namespace) -> tuple[Any, list[Any], str]:
    """The step's mathematics as the program sets them up, the examples of a step, and what is recomputed."""
    from lora_tui.engine.training.lora import create_lora_model
    from lora_tui.engine.training.memory import apply_plan, plan_memory
    from lora_tui.engine.training.step import GradientStep

    base = new_base(arguments)
    model = create_lora_model(base, lora_settings(arguments)).train()
    examples = new_examples(arguments, base.config.vocab_size)
    gradient_step = GradientStep.of(model, 256 if arguments.tiny else ROW)
    plan = plan_memory("auto", gradient_step, examples)
    apply_plan(plan, gradient_step)
    if arguments.without_graphs:
        gradient_step.fallback.begin_at(replace(gradient_step.fallback.current, graphs=False))
    return gradient_step, examples, plan.recomputation.name


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    gradient_step, examples, activations = our_step(arguments)
    line = timed(lambda: gradient_step.accumulate(examples, 1), examples, gradient_step.model)
    way = [*gradient_step.slower_reasons(), *filter(None, [gradient_step.fallback.graphs_error])]
    return line | {"activations": activations, "graphs": gradient_step.fallback.current.graphs, "slower": way}


def profile(arguments: argparse.Namespace) -> None:
    """Print where a step's time goes, kernel by kernel and call by call."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    gradient_step, examples, _ = our_step(arguments)
    for _ in range(3):
        gradient_step.accumulate(examples, 1)
    with recorded(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        gradient_step.accumulate(examples, 1)
        wait()
    averages = record.key_averages()
    for order in ("self_cuda_time_total", "self_cpu_time_total"):
        print(averages.table(sort_by=order, row_limit=60, max_name_column_width=90))


def gradients(arguments: argparse.Namespace) -> None:
    """Print how far gradients are from plain PEFT's in float32: ours, PEFT's own in bfloat16, ours in smaller rows.

    And how far ours with dropout are from those by graphs, and from those with low ranks and dropout apart.
    """
    from unittest.mock import patch

    import torch

    from lora_tui.engine.training.fast import gpu_ops
    from lora_tui.engine.training.lora import create_lora_model
    from lora_tui.engine.training.step import GradientStep

    arguments.layers, arguments.rows = 4, 2
    parts: list[int] = []

    def gradient(way: str, tokens: int = ROW, dropout: float = 0.0) -> torch.Tensor:
        base = new_base(arguments)
        if way == "float32":
            base = base.float()
        model = create_lora_model(base, lora_settings(arguments).model_copy(update={"dropout": dropout})).train()
        numbers = torch.Generator(base.device).manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.02, generator=numbers)
        examples = new_examples(arguments, base.config.vocab_size)
        times = {"ours": 1, "apart": 1, "recording": 2, "graphs": 3}.get(
            way, 0
        )  # the second records, the third replays
        if times:
            with patch.object(
                gpu_ops,
                "low_rank_kernels_usable",
                (lambda *_: False) if way == "apart" else gpu_ops.low_rank_kernels_usable,
            ):
                gradient_step = GradientStep.of(model, tokens)
            if times > 1:
                gradient_step.record_graphs()
            for _ in range(times):
                gradient_step.accumulate(examples, 1)
            assert times == 1 or gradient_step.graphs is not None, gradient_step.fallback.graphs_error
        labels = sum(example.labels for example in examples)
        for example in [] if times else examples:
            ids = torch.tensor([example.input_ids], device=base.device)
            marked = torch.where(torch.tensor([example.is_label]), torch.tensor([example.input_ids]), -100)[0, 1:]
            logits = model(input_ids=ids).logits[0, :-1].float()
            aim = marked.to(base.device)
            (torch.nn.functional.cross_entropy(logits, aim, reduction="sum") / labels).backward()
        parts[:] = [p.grad.numel() for p in model.parameters() if p.grad is not None]
        return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])

    def worst(found: torch.Tensor, exact: torch.Tensor) -> float:
        return max(error(one, other) for one, other in zip(found.split(parts), exact.split(parts), strict=True))

    def error(found: torch.Tensor, exact: torch.Tensor) -> float:
        return float((found - exact).norm() / exact.norm())

    exact = gradient("float32")
    by_graphs = ("recording", "graphs") if torch.cuda.is_available() else ()
    for way in ("ours", *by_graphs, "peft"):
        found = gradient(way)
        print(json.dumps({"way": way, "error": error(found, exact), "of the worst matrix": worst(found, exact)}))
    whole = gradient("ours", ROW, 0.05)
    for way in (*by_graphs, "apart"):
        print(json.dumps({f"dropout 0.05, {way} against not": error(gradient(way, ROW, 0.05), whole)}))
    smaller = error(gradient("ours", ROW // 4, 0.05), whole)
    print(json.dumps({"dropout 0.05, rows a quarter as long, against whole rows": smaller}))


def peft(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plain PEFT: padded batches of eight examples, transformers' own loss, bfloat16 autocast, nothing recomputed."""
    import torch

    from lora_tui.engine.training.lora import create_lora_model

    base = new_base(arguments)
    model = create_lora_model(base, lora_settings(arguments)).train()
    examples = new_examples(arguments, base.config.vocab_size)
    device = base.device

    def step() -> None:
        model.zero_grad()
        for start in range(0, len(examples), 8):
            batch = examples[start : start + 8]
            longest = max(len(example.input_ids) for example in batch)
            ids, labels = torch.zeros(len(batch), longest, dtype=torch.int64), torch.full((len(batch), longest), -100)
            mask = torch.zeros_like(ids)
            for place, example in enumerate(batch):
                tokens = torch.tensor(example.input_ids)
                ids[place, : len(tokens)], mask[place, : len(tokens)] = tokens, 1
                labels[place, : len(tokens)] = torch.where(torch.tensor(example.is_label), tokens, -100)
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss
            (loss / len(examples)).backward()

    return timed(step, examples, model, warm=1, rounds=3)


def trl(arguments: argparse.Namespace) -> dict[str, Any]:
    """TRL's trainer with its packing; rows of tokens as they are, so nothing is tokenised."""
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from lora_tui.engine.training.lora import create_lora_model
    from tests.engine.tiny import make_tokenizer

    base = new_base(arguments)
    model = create_lora_model(base, lora_settings(arguments))
    examples = new_examples(arguments, base.config.vocab_size)
    tokenizer: PreTrainedTokenizerFast = make_tokenizer()
    columns = [
        {"input_ids": list(example.input_ids), "completion_mask": [int(label) for label in example.is_label]}
        for example in examples
    ]
    steps = 4  # of which the first warms up
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait()
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            train_dataset=Dataset.from_list(columns * steps),
            processing_class=tokenizer,
            callbacks=[Clock()],
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=arguments.rows,
                max_steps=steps,
                packing=True,
                max_length=256 if arguments.tiny else ROW,
                gradient_checkpointing=False,
                bf16=torch.cuda.is_available(),
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
        )
        reset_peak()
        trainer.train()
    tokens = sum(len(example.input_ids) for example in examples)
    seconds = statistics.median(after - before for before, after in pairwise(ends))
    return {"tokens_per_s": tokens / seconds, "peak_gb": peak_gigabytes(), **work(model, examples)}


def timed(step: Any, examples: list[Any], model: Any, warm: int = 3, rounds: int = 7) -> dict[str, Any]:
    """Median of a few steps after some that warm up, and record what is recorded."""
    for _ in range(warm):
        step()
    reset_peak()
    times = []
    for _ in range(rounds):
        wait()
        began = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - began)
    tokens = sum(len(example.input_ids) for example in examples)
    return {"tokens_per_s": tokens / statistics.median(times), "peak_gb": peak_gigabytes(), **work(model, examples)}


def work(model: Any, examples: list[Any]) -> dict[str, float]:
    head = model.get_base_model().get_output_embeddings().weight.numel()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    inner = sum(p.numel() for p in model.parameters()) - trained - 2 * head  # the embedding is no product
    labels = sum(example.labels for example in examples) / sum(len(example.input_ids) for example in examples)
    return {"gflop_per_token": (4 * inner + 6 * trained + 4 * head * labels) / 1e9}


def matrix_tflops() -> float:
    import torch

    size = 8192 if torch.cuda.is_available() else 256
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        wait()
        began = time.perf_counter()
        a @ b
        wait()
        times.append(time.perf_counter() - began)
    return float(2 * size**3 / statistics.median(times) / 1e12)


def wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gigabytes() -> float:
    import torch

    """What the allocator has taken from the device at most: a graph's memory counts, and so do gaps."""
    return torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--targets", nargs="+", default=["q_proj", "k_proj", "v_proj", "o_proj"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--without-graphs", action="store_true", help="ask for each of our kernels by itself")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--check", choices=CHECKS, help="instead: gradients against float32, or a profile of our step")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.targets == ["all-linear"]:
        arguments.targets = "all-linear"
    if arguments.check:
        {"gradients": gradients, "profile": profile}[arguments.check](arguments)
        return
    if arguments.side:
        line = {"ours": ours, "peft": peft, "trl": trl}[arguments.side](arguments)
        rate = matrix_tflops()
        mfu = line["tokens_per_s"] * line["gflop_per_token"] / 1e3 / rate
        print(json.dumps({"side": arguments.side, **line, "matrix_tflops": rate, "mfu": round(mfu, 3)}))
        return
    for side in arguments.sides:
        command = [sys.executable, "-m", "tests.bench.train_gpu", *sys.argv[1:], "--side", side]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print([line for line in output.splitlines() if line.startswith("{")][-1], flush=True)


if __name__ == "__main__":
    main()
