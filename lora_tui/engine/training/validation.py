"""Validation loss, on the held-out examples, and the warning of overfitting that follows from it.

The loss is computed through the very forward pass of training, without gradients and in evaluation mode, so nothing of
the run changes: no weight, no moment, no random state.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch

from lora_tui.engine.models.build_lock import computing
from lora_tui.engine.training.fallback import in_halves
from lora_tui.engine.training.packing import PackableExample, lay_out
from lora_tui.engine.training.step import GradientStep

MOST_TOKENS = 32_768
"""Tokens of held-out examples that one evaluation reads at most: half a minute for a small model on two CPU cores."""

_RISES = 2
"""Evaluations in a row after which a rising loss is no accident."""

_LEAST_RISE = 0.01
"""Share of the loss by which it must have risen over those evaluations: less is noise."""


def within_budget(held_out: Sequence[PackableExample], most_tokens: int = MOST_TOKENS) -> Sequence[PackableExample]:
    """Return the leading examples that hold at most `most_tokens`; always the same ones, so that losses compare."""
    ends = list(accumulate(len(example.input_ids) for example in held_out))
    return held_out[: max(1, bisect_right(ends, most_tokens))]


def held_out_loss(gradient_step: GradientStep, held_out: Sequence[PackableExample]) -> float:
    """Return the mean loss over the `within_budget` examples: a label token's, or what the objective divides by.

    The model is left in evaluation mode. Where memory runs out, a row is computed in halves; raises `RowTooLargeError`
    when a single example does not fit.
    """
    examples = within_budget(held_out)
    gradient_step.model.eval()
    baseline = gradient_step.baseline(examples)

    def compute_row(items: Sequence[int]) -> float:
        row = lay_out(examples, items, gradient_step.device)
        return float(gradient_step.row_sums(row, [examples[item] for item in items], baseline)[0])

    with torch.no_grad(), computing(), gradient_step.ready():
        gradient_step.fast.set_dropout_rng(None)
        rows = gradient_step.assign_rows(examples)
        total = math.fsum(loss for items in rows for _, loss in in_halves(compute_row, items, examples))
    return total / gradient_step.divisor(examples)


def overfitting_warning(held_out: Sequence[tuple[int, float]], training: Sequence[tuple[int, float]]) -> str | None:
    """Return what to say when the held-out loss rises while the training loss falls; None while all is well.

    `held_out` holds (step, loss) of the evaluations, `training` of the optimizer steps, both in order. The last
    `_RISES` evaluations must each be worse than the one before, while the mean training loss up to each is better.
    """
    recent = held_out[-_RISES - 1 :]
    if len(recent) <= _RISES or not all(math.isfinite(loss) for _, loss in recent):
        return None
    # The first of them is compared as well: its training loss goes back to the evaluation before it.
    edges = [0, *(step for step, _ in held_out)][-_RISES - 2 :]
    means = [_mean(training, after, step) for after, step in pairwise(edges)]
    rises = all(later[1] > earlier[1] for earlier, later in pairwise(recent))
    first, last = recent[0], recent[-1]
    falls = all(later < earlier for earlier, later in pairwise(means))
    if not rises or not falls or last[1] < first[1] * (1 + _LEAST_RISE):
        return None
    return (
        f"overfitting: the loss on the held-out examples rose from {first[1]:.3f} (step {first[0]}) to {last[1]:.3f} "
        f"(step {last[0]}) while the training loss fell from {means[0]:.3f} to {means[-1]:.3f}."
        " What is learned now is the examples themselves: stop here, add examples, or set a smaller"
        " fine_tuning.training.max_epochs or fine_tuning.optimizer.lora_lr. The adapter with the best score is kept."
    )


def _mean(losses: Sequence[tuple[int, float]], after: int, until: int) -> float:
    """The mean of the finite losses of the steps after `after` up to `until`; NaN, which no loss is below, of none."""
    found = [loss for step, loss in losses if after < step <= until and math.isfinite(loss)]
    return math.fsum(found) / len(found) if found else math.nan
