"""A learning-rate probe on the real data: a few optimizer steps of rising rate on an adapter that is thrown away.

It takes the steps that training would take (same examples a step, same gradient, clipping and AdamW), each at a higher
rate, and stops where the loss comes apart. What its points say is in `lora_tui.protocol.rate_probe`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_tui.config.models import FineTuning
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.fallback import RowTooLargeError
from lora_tui.engine.training.memory import apply_plan, plan_memory
from lora_tui.engine.training.optimizer import make_optimizer
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.schedule import epoch_order, plan_epoch
from lora_tui.engine.training.step import GradientStep
from lora_tui.engine.training.validation import held_out_loss
from lora_tui.errors import LoraTuiError
from lora_tui.protocol.rate_probe import STEPS, RatePoint, has_diverged, probe_rate


def probe_rates(
    model: PeftModel,
    dataset: TextDataset,
    settings: FineTuning,
    on_point: Callable[[RatePoint], None] = lambda point: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    steps: int = STEPS,
) -> list[RatePoint]:
    """Take up to `steps` optimizer steps of rising rate with the adapters of `model`, which are of no use afterwards.

    Ends early where the loss has come apart, or when asked to. Raises `LoraTuiError` where memory runs out.
    """
    torch.manual_seed(settings.training.seed)
    gradient_step = GradientStep.of(model, settings.training.tokens_per_micro_batch, settings.training.seed)
    optimizer, _ = make_optimizer(model, settings)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    untrained = [parameter.detach().clone() for parameter in parameters]
    _plan_memory(gradient_step, dataset, settings)
    points: list[RatePoint] = []
    try:
        for step, examples in zip(range(steps), _batches(dataset, settings), strict=False):
            if should_stop():
                break
            rate = probe_rate(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["peak_lr"] / settings.optimizer.lora_lr
            with _as_before(parameters, untrained):
                before = held_out_loss(gradient_step, examples)
            model.train()
            loss = gradient_step.accumulate(examples, step + 1)
            norm = nn.utils.clip_grad_norm_(parameters, settings.optimizer.max_grad_norm, foreach=True)
            point = RatePoint(rate, float(loss), float(loss) - before)
            points.append(point)
            on_point(point)
            if not math.isfinite(float(norm)) or has_diverged([one.change for one in points]):
                break
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    except RowTooLargeError as problem:
        raise LoraTuiError(
            f"Memory ran out for one example of {problem.tokens:,} tokens. Lower fine_tuning.training.max_length, or "
            "take a smaller model."
        ) from problem
    finally:
        gradient_step.row_workers.close()
    return points


@contextmanager
def _as_before(parameters: Sequence[Tensor], untrained: Sequence[Tensor]) -> Iterator[None]:
    """Put the parameters back to what they were before the first step, for the block."""
    now = [parameter.detach().clone() for parameter in parameters]
    values = [parameter.detach() for parameter in parameters]
    torch._foreach_copy_(values, list(untrained))
    try:
        yield
    finally:
        torch._foreach_copy_(values, now)


def _plan_memory(gradient_step: GradientStep, dataset: TextDataset, settings: FineTuning) -> None:
    """Decide what is recomputed, as training would."""
    examples = settings.training.batch_size * settings.training.gradient_accumulation_steps
    longest = sorted(dataset, key=lambda example: -len(example.input_ids))[:examples]
    plan, ladder = plan_memory(settings.gradient_checkpointing, gradient_step, longest), gradient_step.fallback
    apply_plan(plan, gradient_step)
    ladder.begin_at(replace(ladder.current, long_rows=plan.rows_that_fit()))


def _batches(dataset: TextDataset, settings: FineTuning) -> Iterator[list[EncodedExample]]:
    """Yield the examples of one step after the other, epoch after epoch, in the order in which training draws them."""
    training = settings.training
    weights = [settings.sampling.keyword_weight if example.has_keyword else 1.0 for example in dataset]
    for epoch in count():
        order = epoch_order(len(dataset), weights, training.seed, epoch, shuffle=training.shuffle)
        for plan in plan_epoch(order, training.batch_size * training.gradient_accumulation_steps, epoch):
            yield [dataset.as_read(index, epoch) for index in plan.examples]
