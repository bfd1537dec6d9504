"""Typed rows of the store: one frozen dataclass a table, its fields named like the columns.

`New…` and `…End` are what goes in, the others what comes out. Times are seconds since the epoch; scores and metrics
lie in 0-1 unless a docstring says otherwise.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

LIVE_STATES = ("queued", "running", "stopping")
"""States in which a run has an owner; the others are `waiting`, `finished`, `stopped`, `failed` and `interrupted`."""

WAITING = "waiting"
"""The state of a run that is in the queue and has not begun: it has no owner yet."""

RESUMABLE_STATES = ("stopped", "failed", "interrupted")
"""States from which ``--resume`` goes on."""

RESUMABLE_MODES = ("generate", "train", "quickstart")
"""Modes whose runs ``--resume`` goes on with; the runs of the others are short and run again."""

QUEUED_MODES = ("generate", "train", "probe", "evaluate", "export", "quickstart")
"""Modes whose runs can wait in the queue: those that come to an end by themselves, and ask nothing."""

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
    written: list[str] | None
    """The dotted keys of `settings` that somebody wrote; None for all of them, as in runs of older versions."""
    idle_seconds: float
    """The seconds from its ends to its resumptions."""


class Timed(Protocol):
    """What tells how long a run was worked on."""

    @property
    def started_at(self) -> float | None:
        """When it was begun first; None for one that was not."""

    @property
    def idle_seconds(self) -> float:
        """How much of the time since then nobody worked on it."""


def worked_seconds(run: Timed, until: float | None) -> float | None:
    """Return how long a run was worked on until a time, in seconds; None for one that has not begun, or no time."""
    if run.started_at is None or until is None:
        return None
    return max(0.0, until - run.started_at - run.idle_seconds)


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


@dataclass(frozen=True, slots=True)
class StepColumns:
    """Optimizer steps of a run in order, one array a column of the table; a loss or norm that was not finite is NaN.

    `tokens` counts all tokens of a step, `lr` is its learning rate, `memory_mb` what the process used (10**6 bytes).
    """

    step: "array[int]" = field(default_factory=lambda: array("q"))
    epoch: "array[float]" = field(default_factory=lambda: array("d"))
    loss: "array[float]" = field(default_factory=lambda: array("d"))
    lr: "array[float]" = field(default_factory=lambda: array("d"))
    grad_norm: "array[float]" = field(default_factory=lambda: array("d"))
    tokens: "array[int]" = field(default_factory=lambda: array("q"))
    tokens_per_s: "array[float]" = field(default_factory=lambda: array("d"))
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    memory_mb: "array[float]" = field(default_factory=lambda: array("d"))
    at: "array[float]" = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of one model (``tuned`` or ``base``) at one step.

    `held_out_loss` is the mean loss a label token on the examples that are not trained on; None where there are none.
    `score` is the mean of the expected answers; of the `controls` prompts with something to avoid, `controls_kept` were
    answered without it, and `overall` is the mean of both. Older evaluations have None there, and one score of all.
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
    controls: int | None = None
    controls_kept: int | None = None
    overall: float | None = None

    @property
    def rank(self) -> float:
        """What makes an evaluation the best of its run: the mean over answers and controls."""
        return self.score if self.overall is None else self.overall


@dataclass(frozen=True, slots=True)
class Sample:
    """One test prompt of an evaluation. `kind`: ``expected``, or a control's ``avoid``, ``control``, ``unrelated``"""

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
class PlannedRun:
    """A training run that got as far as its plan.

    `data` is the training file as the run was given it, empty where the run made its own; `plan` is what its ``plan``
    event says; `tokens` and `seconds` are sums over its optimizer steps.
    """

    id: int
    state: str
    host: str
    data: str
    max_length: int
    planned_at: float
    plan: dict[str, Any]
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk: characters ``first_character:last_character`` of its document, and the heading above them.

    `context` is what models are shown before its text: all headings above it, and the head of a table that goes on.
    `content_id` is the same for the same context and text, in whichever document, version or place; empty in chunks of
    older versions.
    """

    id: str
    document_id: str
    position: int
    first_character: int
    last_character: int
    tokens: int
    heading: str
    text: str
    context: str = ""
    content_id: str = ""

    @property
    def passage(self) -> str:
        """The text with its context: what pairs are written about, and judged by."""
        return f"{self.context}\n\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a run. `document_id` is None, and `skipped` the reason, where it was not used."""

    path: str
    document_id: str | None
    bytes: int
    chunks: int
    skipped: str | None


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be planned. `key` names it within its kind and run: planning it twice adds it once."""

    kind: str
    key: str
    chunk_id: str | None = None
    pair_id: int | None = None
    round: int = 0
    source: str = ""
    slot: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task that is to be done. `round` counts the passes over the folder from 1."""

    id: int
    kind: str
    key: str
    chunk_id: str | None
    pair_id: int | None
    round: int
    source: str
    slot: dict[str, Any]


AttemptStatus = Literal[
    "ok", "malformed", "truncated", "empty", "filtered", "http_error", "timeout", "unreached", "connection", "cancelled"
]
"""How an attempt ended: `unreached` never left this machine, with `connection` the connection broke on the way.

In the table there are also ``sent`` (still open) and ``lost`` (the process ended before the answer was stored)."""


UNKNOWN_OUTCOMES = ("lost", "cancelled", "timeout", "connection")
"""Ends of calls that may have been answered, and charged for, though no answer came here."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How a call ended; token counts are 0 where the server did not answer.

    Cached tokens are among those of the prompt, reasoning tokens among those of the completion. `model` is who was
    asked, where tokens were counted.
    """

    status: AttemptStatus
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    http_status: int | None = None
    request_id: str | None = None
    reply: str = ""
    error: str = ""
    reasoning_tokens: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True)
class AttemptTotals:
    """The calls to one model that ended in one way: how many, and their tokens; `model` is "" where it is not known."""

    status: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    estimated_tokens: int
    reasoning_tokens: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True)
class NewPair:
    """A proposed pair; `question_key` is the form in which the same question is always the same."""

    ordinal: int
    question: str
    answer: str
    evidence: str
    topic: str
    question_key: str


@dataclass(frozen=True, slots=True)
class PairRow:
    """A question and its answer; `score` is 0-10, `cause` the short name of what `reason` says in words."""

    id: int
    task_id: int
    chunk_id: str | None
    source: str
    question: str
    answer: str
    evidence: str
    topic: str
    slot: dict[str, Any]
    state: str
    score: float | None
    cause: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict on a pair; `score` and `threshold` are 0-10, `weights_version` is a row of `weight_versions`.

    `decided_by` is ``gate`` (a check before the judge), ``aggregator``, or ``person``.
    """

    verdict: str
    score: float | None
    threshold: float | None
    weights_version: int
    decided_by: str
    cause: str
    reason: str


@dataclass(frozen=True, slots=True)
class DecisionRow(Decision):
    """A decision as it is stored, with the weights of the aggregator that it was made with.

    `feedback_id` is the feedback that a person's override gave; `undone_at` is set where the decision was taken back.
    """

    id: int
    pair_id: int
    weights: dict[str, float] | None
    at: float
    feedback_id: int | None
    undone_at: float | None


@dataclass(frozen=True, slots=True)
class PairEdit:
    """An edit of a pair: its text as it was before."""

    id: int
    pair_id: int
    question: str
    answer: str
    question_key: str
    at: float
    undone_at: float | None


@dataclass(frozen=True, slots=True)
class AnalysisRow:
    """A batch analysis: local statistics, the model's comment on them, and directives for the prompts that follow."""

    version: int
    at_accepted: int
    statistics: dict[str, Any]
    directives: list[str]
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class TopicRow:
    """A topic of a run's folder. `key` finds it again when the folder is read again, `parent` is the number above it.

    `passages` are its own, without those of the topics beneath it. `origin` is ``folder``, ``file``, ``heading`` or
    ``model``. `weight` multiplies its quota of pairs: 1 by default, 0 leaves it out.
    """

    number: int
    key: str
    parent: int | None
    name: str
    origin: str
    passages: int
    weight: float


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """A judgement from outside: the metrics as they were and the target (0-1) that the score should have been.

    `asked` is ``audit`` where the rating queue asked for it at random (statistics about all pairs or answers may use
    these alone), ``active`` where it asked because this one teaches most, ``free`` where a person chose what to rate.
    """

    id: int
    scope: str
    run_id: int | None
    subject: str
    subject_id: int
    metrics: dict[str, float]
    target: float
    given_by: str
    at: float
    asked: str = "free"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; `role` is ``user`` or ``assistant``."""

    id: int
    conversation_id: int
    role: str
    text: str
    statistics: dict[str, Any]
    at: float
