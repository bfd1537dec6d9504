"""A run's length, the examples of each optimizer step, and its learning rate: pure functions, planned in advance.

An epoch's order is a function of (seed, epoch, sampling weights) alone, and steps are cut by examples before anything
is packed. So packing changes no mathematics, and a run resumes by its step number. torch, whose generator draws the
order, is imported only then: a forecast counts steps without it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_EPOCH_STRIDE = 1_000_003
"""A prime, so that (seed, epoch) pairs of neighbouring runs do not share a generator."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One optimizer step: its number from 1, the epoch it lies in (from 0), and its examples in order."""

    step: int
    epoch: int
    examples: tuple[int, ...]
    ends_epoch: bool


def steps_per_epoch(count: int, examples_per_step: int) -> int:
    """Optimizer steps of one epoch; the last may hold fewer examples."""
    return math.ceil(count / examples_per_step)


def total_steps(count: int, examples_per_step: int, max_epochs: int, max_steps: int) -> int:
    """Optimizer steps of the run: those of its epochs, or `max_steps` where that is set (more epochs if needed)."""
    return max_steps or max_epochs * steps_per_epoch(count, examples_per_step)


def evaluation_count(steps: int, per_epoch: int, eval_steps: int, eval_frequency: int) -> int:
    """Evaluations of a run that nothing ends early: every `eval_steps` steps or `eval_frequency` epochs, and the last.

    `per_epoch` is the steps of an epoch. The same rule as the loop's, which applies it step by step.
    """
    return math.ceil(steps / (eval_steps or eval_frequency * per_epoch))


def checkpoint_count(steps: int, save_steps: int) -> int:
    """Checkpoints of a run that stopped runs resume from: every `save_steps` steps, and after the last.

    Slow steps bring more: at least one a minute.
    """
    return math.ceil(steps / save_steps)


def epoch_order(count: int, weights: Sequence[float], seed: int, epoch: int, *, shuffle: bool) -> list[int]:
    """The example indices of one epoch, `count` of them.

    With equal weights each example comes once. Otherwise example i comes `count * w_i / sum(w)` times, rounded to one
    of its neighbours by systematic resampling: the expected share is exact and no heavy example is left out by chance,
    as drawing with replacement would.
    """
    import torch

    generator = torch.Generator().manual_seed(seed * _EPOCH_STRIDE + epoch)
    if len(set(weights)) <= 1:
        indices = list(range(count))
    else:
        offset = float(torch.rand((), generator=generator, dtype=torch.float64))
        indices = _systematic(count, weights, offset)
    if not shuffle:
        return indices
    return [indices[i] for i in torch.randperm(count, generator=generator).tolist()]


def _systematic(count: int, weights: Sequence[float], offset: float) -> list[int]:
    """Draw `count` indices at equal distances along the cumulated weights, starting at `offset` (0-1) of a distance."""
    distance = math.fsum(weights) / count
    drawn: list[int] = []
    cumulated = 0.0
    for index, weight in enumerate(weights):
        cumulated += weight
        while len(drawn) < count and (len(drawn) + offset) * distance < cumulated:
            drawn.append(index)
    drawn += [len(weights) - 1] * (count - len(drawn))  # the last distance may fall to rounding
    return drawn


def plan_epoch(order: Sequence[int], examples_per_step: int, epoch: int) -> list[StepPlan]:
    """Cut one epoch's order into optimizer steps. The remainder is a step of its own, normalised by its own labels."""
    per_epoch = steps_per_epoch(len(order), examples_per_step)
    return [
        StepPlan(
            step=epoch * per_epoch + number + 1,
            epoch=epoch,
            examples=tuple(order[number * examples_per_step : (number + 1) * examples_per_step]),
            ends_epoch=number == per_epoch - 1,
        )
        for number in range(per_epoch)
    ]


def lr_factor(kind: str, step: int, steps: int, warmup_steps: int) -> float:
    """The share (0-1) of the peak learning rate at optimizer step `step`, counted from 1.

    Warm-up rises linearly and is never zero: step 1 takes ``1 / warmup_steps``. Cosine and linear then fall towards
    zero at the end of the run; constant stays at one.
    """
    if step <= warmup_steps:
        return step / warmup_steps
    if kind == "constant":
        return 1.0
    progress = (step - warmup_steps - 1) / max(1, steps - warmup_steps)
    if kind == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
