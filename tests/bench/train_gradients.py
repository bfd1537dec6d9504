"""Gradients of the fast step against transformers and PEFT in float32: relative errors on a real model and real text.

    python -m tests.bench.train_gradients MODEL_FOLDER alpaca.json [--records 8] [--first 0] [--emulated]

Weights are rounded to bfloat16 first, so that both precisions have the same ones; LoRA's second matrices are stirred.
Prints the loss and the relative error of all gradients together: ours in float32, ours and PEFT's own in bfloat16. With
`--emulated`, products of bfloat16 are computed in float32 and rounded once, as instructions for them do: many times
faster on a CPU that has none.
"""

import argparse
import contextlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_tui.config.models import Lora
from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.engine.training.step import GradientStep


class Emulated(TorchDispatchMode):
    """Products of bfloat16 matrices by float32 ones."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten, kwargs = torch.ops.aten, kwargs or {}
        if function in (aten.mm.default, aten.bmm.default, aten.addmm.default) and args[-1].dtype == torch.bfloat16:
            return function(*(x.float() for x in args), **kwargs).bfloat16()
        if function in (aten.mm.out, aten.addmm.out) and kwargs["out"].dtype == torch.bfloat16:
            product = aten.mm.default if function is aten.mm.out else aten.addmm.default
            return kwargs["out"].copy_(product(*(x.float() for x in args)))
        if function is aten.addmm_.default and args[0].dtype == torch.bfloat16:
            return args[0].copy_(aten.addmm.default(*(x.float() for x in args), **kwargs))
        return function(*args, **kwargs)


def gradient(folder: Path, examples: list[Any], dtype: torch.dtype, *, fast: bool) -> tuple[float, torch.Tensor]:
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(dtype)
    model = create_lora_model(base, Lora(dropout=0.0)).train()
    numbers = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.02, generator=numbers)
    labels, total = sum(example.labels for example in examples), 0.0
    if fast:
        gradient_step = GradientStep.of(model, 1024)
        gradient_step.fallback.begin_at(
            replace(gradient_step.fallback.current, one_at_a_time=True)
        )  # on this thread, where products may be emulated
        total = float(gradient_step.accumulate(examples))
    for example in [] if fast else examples:
        ids = torch.tensor([example.input_ids])
        marked = torch.where(torch.tensor([example.is_label]), ids, -100)[0, 1:]
        logits = model(input_ids=ids).logits[0, :-1].double()  # torch's softmax is off by 1e-5 in float32
        loss = torch.nn.functional.cross_entropy(logits, marked, reduction="sum", ignore_index=-100) / labels
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--records", type=int, default=8, help="how many examples the gradient is that of")
    parser.add_argument("--first", type=int, default=0, help="the place of the first of them in the shuffled file")
    parser.add_argument("--emulated", action="store_true", help="bfloat16 products by float32 ones")
    arguments = parser.parse_args()
    records = json.loads(arguments.data.read_text(encoding="utf-8"))
    random.Random(42).shuffle(records)
    chosen = records[arguments.first : arguments.first + arguments.records]
    pairs = [QuestionAnswer(f"{r['instruction']} {r['input']}".strip(), r["output"], "x") for r in chosen]
    examples = list(TextDataset(pairs, AutoTokenizer.from_pretrained(arguments.model)))
    loss, exact = gradient(arguments.model, examples, torch.float32, fast=False)
    print(json.dumps({"reference_loss": loss}))
    for dtype, fast in ((torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)):
        with Emulated() if arguments.emulated else contextlib.nullcontext():
            loss, found = gradient(arguments.model, examples, dtype, fast=fast)
        error = float((found - exact).norm() / exact.norm())
        print(json.dumps({"step": "ours" if fast else "peft", "dtype": str(dtype), "loss": loss, "error": error}))


if __name__ == "__main__":
    main()
