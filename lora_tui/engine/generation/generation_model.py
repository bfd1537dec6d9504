"""What generation asks of a model, whether it answers over a network or in this process.

The pipeline knows models by `GenerationModel` alone. A model tells a `CallRecord` of every attempt it makes: the
attempt is stored before its request leaves, and how it ended is stored when it ends, so that nothing that may have cost
money is ever forgotten. The attempt that answered is stored together with what follows from the answer, in one
transaction: the record only remembers it until then.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from lora_tui.errors import UnreachableError

AttemptStatus = Literal[
    "ok", "malformed", "truncated", "empty", "filtered", "http_error", "timeout", "unreached", "connection", "cancelled"
]
"""How an attempt ended, in the model's words: `unreached` never left, with `connection` the way broke on the way.

The store adds ``sent`` (open) and ``lost`` (the process ended before the answer was stored)."""


class CallFailed(Exception):  # noqa: N818  # the end of one task, not of the run
    """A call got no usable answer in all the tries it had; the text is the reason.

    `transient` is true where the last failure was the server's or the network's (5xx, 429, time-out, no connection) and
    the same call may succeed another time.
    """

    def __init__(self, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient


class EndpointGoneError(UnreachableError):
    """The endpoint answered at first and does so no more; the run can be resumed when it is back."""


class CallStopped(Exception):  # noqa: N818  # a request that was honoured, not an error
    """A call was given up because the run is stopping; its task stays to be done."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What kind of pair is asked for: one cell of topic x question type x difficulty x audience."""

    topic: str
    question_type: str
    difficulty: str
    audience: str


@dataclass(frozen=True, slots=True)
class ProposedPair:
    """A pair as the model gave it; `evidence` is meant to be a verbatim quotation from the passage."""

    question: str
    answer: str
    evidence: str
    topic: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the server counted them or, where it does not, estimated."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PairRequest:
    """One call for pairs: `count` of them about `passage`, of the kind `slot`, unlike those in `avoid`."""

    passage: str
    slot: Slot
    count: int
    further_topics: tuple[str, ...]
    directives: tuple[str, ...]
    avoid: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proposals:
    """What came of a `PairRequest`; `refused` has a reason for each item that was no pair."""

    pairs: tuple[ProposedPair, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A model's view of a pair: metrics in 0-1 such as ``judge_groundedness``, and how they were measured.

    `mode` is ``logprob`` (expectation over the judge's own probabilities), ``single`` (the digits it wrote) or a name
    of the model's own; it is stored beside the metrics, because the scales differ.
    """

    metrics: dict[str, float]
    note: str
    mode: str


class CallRecord(Protocol):
    """Where a model accounts for its attempts. Every `sent` is followed by exactly one `ended`, whatever happens."""

    async def sent(self, estimated_tokens: int = 0) -> int:
        """Store that a request is about to leave and return the attempt's id. Nothing may be sent before it returns."""
        ...

    async def ended(
        self,
        attempt: int,
        status: AttemptStatus,
        *,
        usage: Usage | None = None,
        reply: str = "",
        error: str = "",
        http_status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        """Say how an attempt ended. ``ok`` is kept until the task that asked is completed, all else is stored now."""
        ...


class GenerationModel(Protocol):
    """A model that writes and judges pairs. Its calls may run `concurrency` at a time; more may wait inside it."""

    name: str
    concurrency: int

    async def propose(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Write pairs about a passage. Raises `CallFailed` for this task, `UnreachableError` for the run."""
        ...

    async def judge(self, passage: str, pair: ProposedPair, call: CallRecord) -> Judgement:
        """Judge a pair with the passage in view. Raises as `propose` does."""
        ...

    async def analyse(self, statistics: str, call: CallRecord) -> str:
        """Say in a few sentences what the statistics of the accepted pairs mean. Raises as `propose` does."""
        ...

    async def pair_from_statement(self, statement: str) -> tuple[str, str]:
        """Turn a plain statement into a question and its answer. Raises as `propose` does."""
        ...

    async def close(self) -> None:
        """Free what the model holds."""
        ...


@dataclass
class Unrecorded:
    """A `CallRecord` for calls outside a run's tasks: it counts, and stores nothing."""

    attempts: list[AttemptStatus] = field(default_factory=list)
    _open: int = 0

    async def sent(self, estimated_tokens: int = 0) -> int:
        """Count an attempt."""
        self._open += 1
        return self._open

    async def ended(
        self,
        attempt: int,
        status: AttemptStatus,
        *,
        usage: Usage | None = None,
        reply: str = "",
        error: str = "",
        http_status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        """Note how an attempt ended."""
        self.attempts.append(status)
