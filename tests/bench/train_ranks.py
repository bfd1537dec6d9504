"""Several ranks beside one: the same losses and adapter, the same on repetition, how fast; killed; and by simulation.

    python -m tests.bench.train_ranks [--ranks 2] [--parallel ddp] [--model MODEL --data alpaca.json] [--steps 12]
    python -m tests.bench.train_ranks --killed 20 [--seed 1]
    python -m tests.bench.train_ranks --balance alpaca.json
    python -m tests.bench.train_ranks --simulate alpaca.json [--tokens-per-s 14500]

The first prints one JSON line: `largest_relative_difference` of losses and of the adapter's tensors (the norm of the
difference by the norm) against one process with as many threads as all ranks together, `identical_on_repetition`, and
`efficiency`, tokens/s of the ranks by those of the one process. Without `--model` a tiny random one is trained. Dropout
is on, the base in float32.

With `--killed` a run of the headless command on two ranks is killed again and again, any rank of it, and resumed: its
adapter against that of such a run left alone. `--balance` divides steps of real examples: tokens of the busiest rank by
the mean. `--simulate` adds the network: a step takes what its busiest rank computes, at `--tokens-per-s` each, and what
values and gradients of Qwen2.5-7B's adapters (r 16, all-linear) take to arrive, and the processor time of packing its
message, 16,384 tokens a rank.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
import timeit
from pathlib import Path
from typing import Any

import psutil

ADAPTER_PARAMETERS = 40_370_176
"""Of Qwen2.5-7B with r 16 on every linear layer."""

LATENCY = 20e-6
"""Seconds from one rank to the next: of a fast network within a building."""

RANKS = (2, 4, 8, 16, 32, 64)
NETWORKS = (25, 100, 400, 900, 3200)
"""Gbit/s of each rank: ordinary and fast networks between machines, PCIe and NVLink within one."""


def settings_for(arguments: argparse.Namespace, model: str, steps: int) -> Any:
    from tests.engine.tiny import tiny_settings

    tiny = arguments.model is None
    return tiny_settings(
        {
            "model_name": model,
            "dtype": "float32",
            "gradient_checkpointing": arguments.checkpointing,
            "lora.r": 16,
            "lora.alpha": 32,
            "lora.dropout": 0.05,
            "lora.target_modules": "all-linear",
            "optimizer.lora_lr": 1e-3 if tiny else 2e-4,
            "training.batch_size": 4,
            "training.gradient_accumulation_steps": 2 if tiny else 4,
            "training.max_steps": steps,
            "training.max_epochs": 0,
            "training.max_length": 128 if tiny else 512,
            "training.tokens_per_micro_batch": 64 if tiny else 1024,
        }
    )


def train(arguments: argparse.Namespace, model_name: str, folder: Path, ranks: int, threads: int) -> dict[str, Any]:
    """Train here, with other processes where there are several ranks; losses, adapter, and tokens/s after two steps."""
    import torch

    from lora_tui.engine.data.examples import QuestionAnswer
    from lora_tui.engine.models.adapters import adapter_weights
    from lora_tui.engine.models.base_model import load_base
    from lora_tui.engine.training.dataset import TextDataset
    from lora_tui.engine.training.hooks import Hooks, StepReport
    from lora_tui.engine.training.launch import ParallelPlan, RankProcesses
    from lora_tui.engine.training.loop import train_model
    from lora_tui.engine.training.lora import create_lora_model
    from tests.engine.tiny import PAIRS

    torch.set_num_threads(threads)
    settings = settings_for(arguments, model_name, arguments.steps)
    tuning, processes, group = settings.fine_tuning, None, None
    if ranks > 1:
        plan = ParallelPlan(arguments.parallel, ("cpu",) * ranks, ranks, max(1, threads // ranks))
        processes = RankProcesses(plan, settings)
    try:
        base = load_base(settings, lambda phase, done, total: None)
        pairs = alpaca(arguments.data)[:256] if arguments.data else PAIRS
        examples = [QuestionAnswer(question, answer, f"pair {n}") for n, (question, answer) in enumerate(pairs)]
        dataset = TextDataset(examples, base.tokenizer, tuning.training.max_length)
        model = create_lora_model(base.model, tuning.lora, tuning.training.seed)
        if processes is not None:
            group = processes.connect(model)
        reports: list[StepReport] = []
        waits: list[list[float]] = []
        hooks = Hooks(
            on_step=reports.append,
            on_ranks=lambda step, loads: waits.append([load.wait / (load.wait + load.seconds) for load in loads]),
        )
        train_model(model, dataset, tuning, folder, hooks, ranks=group)
        timed = reports[2:] or reports
        return {
            "losses": [report.loss for report in reports],
            "adapter": {name: value.clone() for name, value in adapter_weights(model).items()},
            "tokens_per_s": sum(one.tokens for one in timed) / sum(one.seconds for one in timed),
            "waits": [sum(column) / len(waits) for column in zip(*waits, strict=True)],
        }
    finally:
        if processes is not None:
            processes.close()


def compare(arguments: argparse.Namespace) -> None:
    import torch

    from tests.engine.tiny import save_base

    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as place:
        model = arguments.model or str(save_base(Path(place) / "tiny"))
        several = [train(arguments, model, Path(place) / f"run{n}", arguments.ranks, threads) for n in range(2)]
        one = train(arguments, model, Path(place) / "one", 1, threads)
    first, second = several
    losses = max(abs(a - b) / abs(b) for a, b in zip(first["losses"], one["losses"], strict=True))
    tensors = one["adapter"]
    adapter = max(float((first["adapter"][name] - value).norm() / value.norm()) for name, value in tensors.items())
    same = first["losses"] == second["losses"] and all(
        torch.equal(value, second["adapter"][name]) for name, value in first["adapter"].items()
    )
    print(
        json.dumps(
            {
                "ranks": arguments.ranks,
                "parallel": arguments.parallel,
                "model": arguments.model or "tiny",
                "checkpointing": arguments.checkpointing,
                "steps": len(one["losses"]),
                "largest_relative_difference": max(losses, adapter),
                "of_losses": losses,
                "of_adapter": adapter,
                "identical_on_repetition": same,
                "efficiency": round(max(run["tokens_per_s"] for run in several) / one["tokens_per_s"], 3),
                "tokens_per_s": [round(run["tokens_per_s"], 1) for run in (first, second, one)],
                "waits": [round(wait, 3) for wait in first["waits"]],
            }
        )
    )


def alpaca(path: Path) -> list[tuple[str, str]]:
    records = json.loads(path.read_text(encoding="utf-8"))
    return [
        (" ".join(filter(None, (record["instruction"], record.get("input")))), record["output"]) for record in records
    ]


# --- divided and simulated -----------------------------------------------------------------------------------------


def lengths_of(path: Path) -> list[int]:
    """Tokens of each record as it is trained on, by the built-in model's tokenizer."""
    from transformers import AutoTokenizer

    from lora_tui.engine.models.builtin import ensure_builtin

    tokenizer = AutoTokenizer.from_pretrained(ensure_builtin(lambda phase, done, total: None))
    texts = [f"Question: {question}\nAnswer: {answer}" for question, answer in alpaca(path)]
    return [len(ids) + 1 for ids in tokenizer(texts)["input_ids"]]


def steps_of(lengths: list[int], per_step: int, steps: int) -> list[list[int]]:
    """The lengths of each step's examples, drawn in epochs."""
    numbers, drawn = random.Random(1), []
    while len(drawn) < per_step * steps:
        drawn += numbers.sample(lengths, len(lengths))
    return [drawn[start : start + per_step] for start in range(0, per_step * steps, per_step)]


def balance(path: Path) -> None:
    from lora_tui.engine.training.ranks import share_examples

    lengths = lengths_of(path)
    for per_rank in (4, 8, 16, 32):
        for ranks in RANKS:
            worst = []
            for step in steps_of(lengths, per_rank * ranks, 100):
                loads = [sum(step[item] for item in share) for share in share_examples(step, ranks)]
                worst.append(max(loads) * ranks / sum(loads))
            mean = sum(worst) / len(worst)
            line = {"ranks": ranks, "examples_per_rank": per_rank, "worst_by_mean": round(mean, 4)}
            print(json.dumps({**line, "of_the_worst_step": round(max(worst), 4)}))


def simulate(path: Path, tokens_per_s: float) -> None:
    from lora_tui.engine.training.packing import EncodedExample
    from lora_tui.engine.training.ranks import pack_examples, share_examples

    lengths = lengths_of(path)
    per_rank = round(16_384 / (sum(lengths) / len(lengths)))
    for ranks in RANKS:
        steps = steps_of(lengths, per_rank * ranks, 20)
        shares = [share_examples(step, ranks) for step in steps]
        busiest = [
            max(sum(step[i] for i in share) for share in found) for step, found in zip(steps, shares, strict=True)
        ]
        examples = [EncodedExample((7,) * length, (True,) * length, False, "") for length in steps[0]]
        content = len(pack_examples(examples))
        timer = timeit.Timer(lambda examples=examples: pack_examples(examples), timer=time.process_time)
        packing = min(timer.repeat(number=1, repeat=9))
        for network in NETWORKS:
            # Pipelined broadcast and sum: each byte passes a rank's line once in, once out, for either.
            messages = (2 * 4 * ADAPTER_PARAMETERS + content) / (network * 1e9 / 8) + 3 * LATENCY * (ranks - 1)
            took = sum(tokens / tokens_per_s + messages + packing for tokens in busiest)
            ideal = sum(sum(step) / ranks / tokens_per_s for step in steps)
            line = {"ranks": ranks, "gbit_per_s": network, "efficiency": round(ideal / took, 4)}
            line["busiest_by_mean"] = round(sum(busiest) * ranks / sum(map(sum, steps)), 4)
            line |= {"packing_ms": round(1e3 * packing, 1), "messages_ms": round(1e3 * messages, 1)}
            print(json.dumps(line))


# --- killed --------------------------------------------------------------------------------------------------------


def killed(kills: int, seed: int) -> None:
    """Kill any rank of a run at random moments; the others must end by themselves, and the run go on exactly."""
    from tests.bench.train_killed import newest_step, prepare, start

    moments = random.Random(seed)
    options = ("--set", "fine_tuning.parallel=ddp", "--set", "fine_tuning.devices=2")
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        whole, folder = prepare(Path(place) / "whole"), prepare(Path(place) / "killed")
        steps = 20 * kills
        for one in (whole, folder):
            config = (one / "config.toml").read_text()
            config = config.replace("max_steps = 1200", f"max_steps = {steps}").replace(
                "eval_steps = 250", "eval_steps = 50"
            )
            (one / "config.toml").write_text(config)
        print(json.dumps({"undisturbed": start(whole, "--run", "train", *options).wait()}), flush=True)
        process = start(folder, "--run", "train", *options)
        for number in range(kills):
            before = newest_step(folder)
            while newest_step(folder) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.3))
            if process.poll() is not None:
                break
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            ranks = [one for one in family if one.pid == process.pid or "rank_worker" in " ".join(one.cmdline())]
            victim = moments.choice(ranks)
            os.kill(victim.pid, signal.SIGKILL)
            began = time.monotonic()
            process.wait()
            left = psutil.wait_procs([one for one in ranks if one.pid != process.pid], 20)[1]
            ends.append(time.monotonic() - began)
            line = {"kill": number + 1, "rank": ranks.index(victim), "at_step": newest_step(folder)}
            print(json.dumps({**line, "all_ended_after_s": round(ends[-1], 2), "left": len(left)}), flush=True)
            process = start(folder, "--resume")
        status = process.wait()
        last = f"checkpoints/run-1/step-{steps}/adapter_model.safetensors"
        same = (whole / last).read_bytes() == (folder / last).read_bytes()
        print(
            json.dumps(
                {"ended": status, "kills": len(ends), "slowest_end_s": round(max(ends), 2), "byte_identical": same}
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--model", help="a model's name, folder, or builtin")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--killed", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--balance", type=Path)
    parser.add_argument("--simulate", type=Path)
    parser.add_argument("--tokens-per-s", type=float, default=14_500)
    arguments = parser.parse_args()
    if arguments.killed:
        killed(arguments.killed, arguments.seed)
    elif arguments.balance:
        balance(arguments.balance)
    elif arguments.simulate:
        simulate(arguments.simulate, arguments.tokens_per_s)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
