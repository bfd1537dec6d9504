"""Training tokens/s and memory against the length of the examples and the size of a row, on made-up tokens.

    python -m tests.bench.train_lengths MODEL_FOLDER [--tokens 4096] [--lengths 128 256 …] [--dtype bfloat16]

One line for each length, in a process of its own: half of every example's tokens are labels, the settings are the
contract's (LoRA r 16 on q, k, v, o, dropout 0.05), activations are kept. `kept_mb` is what a row keeps for its backward
pass, `peak_mb` the largest the process has been.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

LENGTHS = (128, 256, 512, 1024, 2048, 4096)


def measure(
    model_folder: Path, length: int, tokens: int, row: int, dtype: str, *, long_alone: bool
) -> dict[str, float]:
    from lora_tui.engine.runtime.process import before_torch, keep_freed_memory

    before_torch()
    from lora_tui.config.models import Settings
    from lora_tui.engine.models.base_model import load_base
    from lora_tui.engine.training.lora import create_lora_model
    from lora_tui.engine.training.memory import kept_bytes, plan_memory
    from lora_tui.engine.training.packing import EncodedExample
    from lora_tui.engine.training.step import GradientStep, tokens_in

    keep_freed_memory()
    settings = Settings.model_validate({"fine_tuning": {"model_name": str(model_folder), "dtype": dtype}})
    base = load_base(settings, lambda *_: None)
    model = create_lora_model(base.model, settings.fine_tuning.lora).train()
    numbers = random.Random(length)
    labels = tuple(place >= length // 2 for place in range(length))
    vocabulary = base.model.config.vocab_size
    examples = [
        EncodedExample(tuple(numbers.randrange(vocabulary) for _ in range(length)), labels, False, "made up")
        for _ in range(max(1, tokens // length))
    ]
    gradient_step = GradientStep.of(model, row)
    if not long_alone:
        long_rows = plan_memory(False, gradient_step, examples).rows_that_fit()
        gradient_step.fallback.begin_at(replace(gradient_step.fallback.current, long_rows=long_rows))
    first = gradient_step.assign_rows(examples)[0]
    kept = kept_bytes(gradient_step, first, examples)
    gradient_step.accumulate(examples[: max(2, row // length)], 1)  # the first row pays for what later ones find ready
    began = time.perf_counter()
    gradient_step.accumulate(examples, 2)
    seconds = time.perf_counter() - began
    return {
        "length": length,
        "row": tokens_in(examples, first),
        "tokens_per_s": round(sum(len(example.input_ids) for example in examples) / seconds, 1),
        "kept_mb": round(kept / 1e6),
        "kept_kb_per_token": round(kept / tokens_in(examples, first) / 1e3, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rows", type=int, nargs="+", default=[1024])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--long-alone", action="store_true", help="examples longer than their share take all cores")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        length, row = arguments.one
        figures = measure(
            arguments.model, length, arguments.tokens, row, arguments.dtype, long_alone=arguments.long_alone
        )
        print(json.dumps(figures))
        return
    for row in arguments.rows:
        for length in arguments.lengths:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", str(length), str(row)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            print(output.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
