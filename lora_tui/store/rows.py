"""What comes out of the store: one frozen dataclass a table, fields named like the columns.

Times are seconds since the epoch; scores and metrics lie in 0-1 unless a docstring says otherwise.
"""

from array import array
from dataclasses import dataclass, field
from typing import Any

LIVE_STATES = ("queued", "running", "stopping")
"""States in which a run has an owner; the others are `finished`, `stopped`, `failed` and `interrupted`."""

RESUMABLE_STATES = ("stopped", "failed", "interrupted")
"""States from which ``--resume`` goes on."""

RESUMABLE_MODES = ("generate", "train", "quickstart")
"""Modes whose runs ``--resume`` goes on with; the runs of the others are short and run again."""

TRAINING_MODES = ("train", "quickstart")
"""Modes whose runs leave an adapter."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one mode: its settings, its owner and how far it got."""

    id: int
    mode: str
    name: str
    state: str
    settings: dict[str, Any]
    options: dict[str, Any]
    folder: str | None
    device: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    heartbeat: float
    pid: int
    pid_started: float
    host: str
    result: dict[str, Any] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run; `id` is the cursor that readers go on from."""

    id: int
    run_id: int
    at: float
    kind: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """Something a watcher asks of the owner of a run, such as ``stop``."""

    id: int
    run_id: int
    kind: str
    payload: dict[str, Any]


def _integers() -> "array[int]":
    return array("q")


def _reals() -> "array[float]":
    return array("d")


@dataclass(frozen=True, slots=True)
class StepColumns:
    """Optimizer steps of a run in order, one array a column of the table; a loss or norm that was not finite is NaN.

    `tokens` counts all tokens of a step, `lr` is its learning rate, `memory_mb` the peak in MiB.
    """

    step: "array[int]" = field(default_factory=_integers)
    epoch: "array[float]" = field(default_factory=_reals)
    loss: "array[float]" = field(default_factory=_reals)
    lr: "array[float]" = field(default_factory=_reals)
    grad_norm: "array[float]" = field(default_factory=_reals)
    tokens: "array[int]" = field(default_factory=_integers)
    tokens_per_s: "array[float]" = field(default_factory=_reals)
    seconds: "array[float]" = field(default_factory=_reals)
    memory_mb: "array[float]" = field(default_factory=_reals)
    at: "array[float]" = field(default_factory=_reals)

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of one model (``tuned`` or ``base``) at one step.

    `held_out_loss` is the mean loss a label token on the examples that are not trained on; None where there are none.
    """

    id: int
    run_id: int
    step: int
    model: str
    score: float
    metrics: dict[str, float]
    weights: dict[str, float]
    weights_version: int
    at: float
    held_out_loss: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One test prompt of an evaluation. `kind` is ``expected``, ``avoid`` or ``control``."""

    id: int
    evaluation_id: int
    ordinal: int
    prompt: str
    kind: str
    reference: str
    answer: str
    metrics: dict[str, float]
    score: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with an adapter. `kind` is ``last`` (resumable) or ``best`` (highest evaluation score)."""

    id: int
    run_id: int
    step: int
    kind: str
    path: str
    score: float | None
    at: float


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """A judgement from outside: the metrics as they were and the target (0-1) that the score should have been."""

    id: int
    scope: str
    run_id: int | None
    subject: str
    subject_id: int
    metrics: dict[str, float]
    target: float
    given_by: str
    at: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; `role` is ``user`` or ``assistant``."""

    id: int
    conversation_id: int
    role: str
    text: str
    statistics: dict[str, Any]
    at: float
