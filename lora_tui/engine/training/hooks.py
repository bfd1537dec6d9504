"""What a training run tells its caller and asks of it: a step's report, an evaluation's verdict, callbacks, result.

Plain data between `loop` and whoever has a store and a screen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_tui.engine.training.ranks import RankLoad


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step: loss per label token, learning rate, gradient norm before clipping, speed, memory, time left.

    `epoch` counts fractions, `memory_mb` is in 10**6 bytes, `seconds` and `eta_s` in seconds. In preference training
    the loss is a preference's, and `figures` has rewards, by name (`objective`).
    """

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_s: float
    seconds: float
    memory_mb: float
    eta_s: float
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an evaluation says of a model: its score, by what evaluations are ranked, and if the target may end the run.

    `rank` decides which is the best. `may_end` is false where reaching the target proves nothing: a control was lost,
    or the base model reaches it too.
    """

    score: float
    rank: float
    may_end: bool = True


@dataclass(frozen=True)
class Hooks:
    """Callbacks of `train_model`: what the caller is told, and what it decides. All are called on the training thread.

    `begin` is called before the first step of a run that is not resumed, with the model as it came.
    `evaluate` scores the model (already in evaluation mode) after a step, and returns its score, or a `Verdict` where
    more than the score decides; `write_best` writes the best adapter's
    folder, `write_metadata` what belongs beside the adapter of a step; `should_stop` is asked between steps,
    `should_save` after each of them. `note` is told how the steps are computed, `warn` what goes wrong, and
    `on_held_out_loss` a step and its loss on the held-out examples, before `evaluate`. `on_ranks` is told what every
    rank did in a step, where there are several; `on_progress` what is done before the first step, how much of it, and
    of how much: what it raises ends that.
    """

    begin: Callable[[], None] = lambda: None
    on_step: Callable[[StepReport], None] = lambda report: None
    evaluate: Callable[[int], float | Verdict] | None = None
    write_best: Callable[[Path], None] | None = None
    write_metadata: Callable[[Path, int], None] = lambda target, step: None
    on_checkpoint: Callable[[str, int, Path, float | None], None] = lambda kind, step, path, score: None
    should_stop: Callable[[], bool] = lambda: False
    warn: Callable[[str], None] = lambda message: None
    should_save: Callable[[], bool] = lambda: False
    note: Callable[[str], None] = lambda message: None
    on_held_out_loss: Callable[[int, float], None] = lambda step, loss: None
    on_ranks: Callable[[int, Sequence[RankLoad]], None] = lambda step, loads: None
    on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How training ended. `stopped_by` is ``steps``, ``target_score``, ``patience`` or ``request``."""

    steps: int
    tokens: int
    last_loss: float | None
    best_score: float | None
    best_step: int
    stopped_by: str
    best_folder: Path | None
