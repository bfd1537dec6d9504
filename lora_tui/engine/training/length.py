"""How long a run is, in optimizer steps, and what comes how often on the way: pure arithmetic, without torch.

The schedule and the loop live by these numbers; whoever shows a run before it begins asks here as well.
"""

import math


def steps_per_epoch(count: int, examples_per_step: int) -> int:
    """Optimizer steps of one epoch; the last may hold fewer examples."""
    return math.ceil(count / examples_per_step)


def total_steps(count: int, examples_per_step: int, max_epochs: int, max_steps: int) -> int:
    """Optimizer steps of the whole run.

    Those of the epochs, or `max_steps` where that is set (more epochs if needed).
    """
    return max_steps or max_epochs * steps_per_epoch(count, examples_per_step)


def evaluations(steps: int, per_epoch: int, eval_steps: int, eval_frequency: int) -> int:
    """Evaluations of a run that nothing ends early: every `eval_steps` steps or `eval_frequency` epochs, and the last.

    `per_epoch` is the steps of an epoch. The same rule as the loop's own, counted instead of asked step by step.
    """
    every = eval_steps or eval_frequency * per_epoch
    return math.ceil(steps / every)


def checkpoints(steps: int, save_steps: int) -> int:
    """Checkpoints of a run that stopped runs resume from: every `save_steps` steps, and after the last.

    Slow steps bring more: at least one a minute.
    """
    return math.ceil(steps / save_steps)
