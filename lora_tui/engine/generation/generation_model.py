"""The protocol of generation's models: requests for pairs and judgements, their replies, and the record of attempts.

The pipeline knows models by `GenerationModel` alone, whether they answer over a network (`RemoteModel`) or in this
process (`BuiltinModel`). A model reports every attempt to a `CallRecord`: it is stored before its request leaves and
again when it ends, so that nothing that may have cost money is forgotten. The attempt that was answered is stored in
the same transaction as what follows from the answer; the record remembers it until then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from lora_tui.errors import UnreachableError
from lora_tui.secrets import redact
from lora_tui.store.rows import AttemptEnd
from lora_tui.store.texts import NewText


class CallFailed(Exception):  # noqa: N818  # the end of one task, not of the run
    """A call got no usable answer in all its tries; the text is the reason.

    `transient`: the last failure was the server's or the network's (5xx, 429, time-out, no connection), and the same
    call may succeed another time.
    """

    def __init__(self, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient

    def __str__(self) -> str:
        return redact(super().__str__())  # what a server or a model said may be part of the reason, keys and all


class EndpointGoneError(UnreachableError):
    """The endpoint answered at first and no longer does; the run can be resumed when it is back."""


class EndpointAway(Exception):  # noqa: N818  # a finding about one endpoint of several
    """One endpoint of several is not to be asked now: the call goes to another. `busy`: it only has too much to do."""

    def __init__(self, reason: str, *, busy: bool = False) -> None:
        super().__init__(reason)
        self.busy = busy


class CallStopped(Exception):  # noqa: N818  # a request that was honoured, not an error
    """A call was given up because the run is stopping; its task stays pending."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The kind of pair to write: one cell of topic x question type x difficulty x audience.

    `area` is the number of the passage's topic in the topic tree, as text; empty where there is none.
    """

    topic: str
    question_type: str
    difficulty: str
    audience: str
    area: str = ""


@dataclass(frozen=True, slots=True)
class ProposedPair:
    """A pair as the model wrote it; `evidence` should be a verbatim quotation from the passage.

    `question_type` is the type that its writer takes it for; what counts is told from the question
    (`lora_tui.engine.generation.question_types`). `doubts` are numbers of the answer that its judge is to work out.
    """

    question: str
    answer: str
    evidence: str
    topic: str
    question_type: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Steering:
    """What the newest batch analysis asks of a writer that is a program: bounded, and the same as its directives.

    `is_on`: the writer minds what has been asked before, besides. `openings` begin too many questions (two words, lower
    case), `types` are question types that lag, the rarest first, `words` are what too many questions name.
    """

    openings: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    is_on: bool = True


UNSTEERED = Steering(is_on=False)
"""Nothing is asked of the writer."""


@dataclass(frozen=True, slots=True)
class PairRequest:
    """Request for `count` pairs about `passage`, of the kind `slot`, unlike the questions in `avoid`.

    `further_topics` are other topics of the set, `directives` advice that the last batch analysis gave, `steering` the
    same for a program. `opening` is the first passage of the document, where this is a later one; `beginnings` are
    those of the folder's documents. `focus` are sentences of the passage that nothing was asked about yet; pairs about
    them are wanted first.
    """

    passage: str
    slot: Slot
    count: int
    further_topics: tuple[str, ...]
    directives: tuple[str, ...]
    avoid: tuple[str, ...]
    opening: str = ""
    beginnings: tuple[str, ...] = ()
    focus: tuple[str, ...] = ()
    steering: Steering = UNSTEERED


@dataclass(frozen=True, slots=True)
class Proposals:
    """Reply to a `PairRequest`; `refused` has a reason for each item that was no pair.

    `form_changed`: the model is asked in another form from now on, so calls before this one say nothing about the text.
    """

    pairs: tuple[ProposedPair, ...]
    refused: tuple[str, ...] = ()
    form_changed: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A model's rating of a pair: metrics in 0-1 such as ``judge_groundedness``, and how they were measured.

    `mode` is ``logprob`` (expectation over the judge's token probabilities), ``single`` (the digits it wrote) or a name
    of the model's own; it is stored beside the metrics, because the scales differ.
    """

    metrics: dict[str, float]
    note: str
    mode: str


@dataclass(frozen=True, slots=True)
class KnownPair:
    """An accepted pair of a run, as texts about its passage are told of it."""

    id: int
    question: str
    answer: str
    evidence: str


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Request for one text about `passage`: a ``rewrite``, a ``summary``, a ``dialogue``, or ``phrasing`` of a pair.

    `pairs` are the questions it is to be written around; `topic` is what the passage stands under. `variant` counts
    from 0 and asks for another kind of text each time; of a phrasing, `count` wordings are wanted. `opening` is the
    first passage of the document, where this is a later one.
    """

    form: str
    passage: str
    topic: str
    pairs: tuple[KnownPair, ...]
    variant: int
    count: int = 1
    opening: str = ""


@dataclass(frozen=True, slots=True)
class WrittenTexts:
    """Reply to a `TextRequest`; what is made `by_rule` consists of the passage's own sentences.

    `why_none` says why there is no text, where rules can make none of the passage.
    """

    texts: tuple[NewText, ...]
    by_rule: bool = False
    why_none: str = ""


@dataclass(frozen=True, slots=True)
class EndpointLoad:
    """How busy an endpoint is: requests in flight, how many it is given at most, and what it writes, in tokens/s.

    `found`: the limit is the result of the search for the number at which it writes fastest, and no longer moves.
    """

    in_flight: int
    limit: int
    tokens_per_s: float
    found: bool


EndpointState = Literal["works", "tried", "away", "left out"]
"""Of one endpoint of several: it is asked; it answers again and gets one call to prove it; nothing is sent to it until
something answers there; it is not asked any more in this run."""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """One endpoint of several as it is shown: its address, how busy it is, what it has answered, why it is not asked.

    `roles` are ``writes`` and ``judges``; `answers` are tasks that it has done in this process.
    """

    url: str
    roles: Sequence[str]
    state: EndpointState
    load: EndpointLoad
    answers: int
    reason: str = ""

    def fields(self) -> dict[str, object]:
        """Return it as a progress event has it."""
        return {
            "url": self.url,
            "roles": list(self.roles),
            "state": self.state,
            "in_flight": self.load.in_flight,
            "limit": self.load.limit,
            "limit_found": self.load.found,
            "tokens_per_s": round(self.load.tokens_per_s, 1),
            "answers": self.answers,
            "reason": self.reason,
        }


class CallRecord(Protocol):
    """Record of one call's attempts. Every `begin_attempt` is followed by one `end_attempt`, or by `leave_open`.

    `batch_task` is the id of the task where its requests may wait for a batch, None where somebody waits for them.
    """

    batch_task: int | None

    async def begin_attempt(self, estimated_tokens: int = 0) -> int:
        """Store that a request is about to leave; returns the attempt's id. Nothing may be sent before it returns."""
        ...

    async def end_attempt(self, attempt: int, end: AttemptEnd) -> None:
        """Record how an attempt ended: ``ok`` is kept until its task is completed, anything else is stored now."""
        ...

    async def take_up(self, attempt: int, estimated_tokens: int) -> None:
        """Go on with an attempt that an earlier process has begun, in place of beginning one."""
        ...

    def leave_open(self, attempt: int) -> None:
        """Leave an attempt as it is: the endpoint keeps its answer for a later process."""
        ...


class Judge(Protocol):
    """A model that judges pairs, by its name."""

    name: str

    @property
    def check_key(self) -> str:
        """Under which its check on canary pairs is remembered; empty where it is not asked about them."""
        ...

    async def judge(self, passage: str, pair: ProposedPair, call: CallRecord) -> Judgement:
        """Judge a pair with the passage in view. Raises as `GenerationModel.propose` does."""
        ...


class TextModel(Protocol):
    """Writes texts about passages, and judges whether they keep to them."""

    async def write(self, request: TextRequest, call: CallRecord) -> WrittenTexts:
        """Return the texts that are asked for. Raises as `GenerationModel.propose` does."""
        ...

    async def judge(self, passage: str, text: NewText, call: CallRecord) -> Judgement:
        """Judge a document or a conversation with its passage in view. Raises as `GenerationModel.propose` does."""
        ...


class GenerationModel(Protocol):
    """A model that writes pairs, and the judges beside it."""

    name: str

    @property
    def concurrency(self) -> int:
        """Calls that should be under way now, those that wait for their turn or their next try among them."""
        ...

    @property
    def endpoint_load(self) -> EndpointLoad | None:
        """How busy its endpoint is, all together where there are several; None where it has none."""
        ...

    @property
    def endpoints(self) -> Sequence[EndpointStatus]:
        """Its endpoints, where there are several; else none."""
        ...

    @property
    def judges(self) -> Sequence[Judge]:
        """Who judges the pairs: the first two every one, the others where these disagree."""
        ...

    @property
    def texts(self) -> TextModel:
        """Who writes documents and conversations about the passages, and judges them."""
        ...

    async def propose(self, request: PairRequest, call: CallRecord) -> Proposals:
        """Write pairs about a passage. Raises `CallFailed` for this call, `UnreachableError` for the run."""
        ...

    async def analyse(self, statistics: str, call: CallRecord) -> str:
        """Interpret the statistics (JSON) of the accepted pairs in a few sentences. Raises as `propose` does."""
        ...

    async def group_topics(self, outline: str, call: CallRecord) -> str:
        """Group the numbered topics of an outline: lines of a name, a colon and numbers. Raises as `propose` does."""
        ...

    async def pair_from_statement(self, statement: str) -> tuple[str, str]:
        """Turn a plain statement into a question and its answer. Raises as `propose` does."""
        ...

    async def close(self) -> None:
        """Release connections and background tasks."""
        ...


class UnrecordedCall:
    """A `CallRecord` that stores nothing, for calls outside a run's tasks."""

    batch_task: int | None = None

    async def take_up(self, attempt: int, estimated_tokens: int) -> None:
        """Go on with nothing."""

    def leave_open(self, attempt: int) -> None:
        """Leave nothing."""

    async def begin_attempt(self, estimated_tokens: int = 0) -> int:
        """Allow the attempt."""
        return 0

    async def end_attempt(self, attempt: int, end: AttemptEnd) -> None:
        """Forget the attempt."""
