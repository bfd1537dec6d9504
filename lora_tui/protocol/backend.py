"""What the app asks of the engine, and the plain data that comes back.

The app never imports the engine: the command line hands in an object that fits `Backend`, and the tests another.
Methods are awaited on the app's loop and never block it; what a user can fix is raised as `LoraTuiError`.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lora_tui.protocol.agreement import ScoreAgreement
from lora_tui.protocol.choice import Choice
from lora_tui.protocol.rating import RatingItem, RatingQueue, RatingTotals, Subject
from lora_tui.protocol.reply import Decoding, ReplyItem, Side

if TYPE_CHECKING:
    from lora_tui.config.models import Settings

LoadProgress = Callable[[str, int, int], None]
"""Progress of loading a model: the phase, and how much of how much is done; a total of 0 or 1 has no figure."""


@dataclass(frozen=True, slots=True)
class ChatTarget:
    """The model to chat with: a run's checkpoint, or the base model alone."""

    run_id: int | None = None
    checkpoint: Literal["best", "last"] = "best"
    base_only: bool = False


class Conversation(Protocol):
    """A loaded model and the conversation with it."""

    @property
    def title(self) -> str:
        """The model, and the adapter on it."""

    @property
    def sides(self) -> Sequence[Side]:
        """The sides that can answer, the default one first."""

    def reply(self, text: str, sides: Sequence[Side]) -> AsyncIterator[ReplyItem]:
        """Answer `text`, streaming; one `Reply` for each side ends it."""

    def regenerate(self, sides: Sequence[Side]) -> AsyncIterator[ReplyItem]:
        """Take the last reply back and answer the same text anew."""

    def continue_reply(self, sides: Sequence[Side]) -> AsyncIterator[ReplyItem]:
        """Go on with the last replies of these sides where they were cut or stopped; each `Reply` is the whole one."""

    def stop(self) -> None:
        """End the reply that is being decoded at its next token."""

    def set_decoding(self, decoding: Decoding) -> None:
        """Decode like this from the next reply on."""

    async def clear(self) -> None:
        """Begin a new conversation with the same model."""

    async def close(self) -> None:
        """Unload the model."""


@dataclass(frozen=True, slots=True)
class ReviewResult:
    """What a rating or a decision did: a sentence for people, and the score's weights before and after.

    `scores` are those of what was rated, by the weights before and after (pairs 0-10, answers 0-1); `pairs` are the ids
    of the pairs that have changed.
    """

    message: str
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    scores: tuple[float, float] | None = None
    pairs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Blocker:
    """A fact that ends a run before it has begun, such as a file that does not exist, and what to do about it.

    `form` names the form that asks for what is missing: ``files`` for text, ``data`` for examples; empty: none does.
    """

    what: str
    why: str
    remedy: str
    form: Literal["", "files", "data"] = ""


@dataclass(frozen=True, slots=True)
class ForecastText:
    """What a configuration will do: lines of (what, figure), what to be warned of, and what keeps it from beginning.

    `choices` are the values that will be chosen for what nobody has written, in the order in which they are shown.
    `charge` is what whoever begins should know of the price first; empty where there is nothing to pay.
    """

    lines: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()
    blocker: Blocker | None = None
    choices: tuple[Choice, ...] = ()
    charge: str = ""


class Backend(Protocol):
    """The engine of this process as the app sees it. It is started by the first call that needs it."""

    async def start(
        self, mode: str, settings: "Settings", options: Mapping[str, Any], resume: int | None = None
    ) -> int:
        """Begin a run, or go on with one; returns its id."""

    async def stop(self, run_id: int) -> None:
        """Ask a run of any process to save its work and end."""

    async def send_command(self, run_id: int, command: str) -> None:
        """Ask the owner of a live run for ``checkpoint``, ``pause`` or ``continue``."""

    async def queue_run(self, mode: str, settings: "Settings", options: Mapping[str, Any]) -> int:
        """Add a run to the queue, which this process works through from now on; returns its id."""

    async def queue_copy(self, run_id: int) -> int:
        """Add a run with the settings of another to the queue, as `queue_run` does."""

    async def queue_sweep(self, spec: str, settings: "Settings", options: Mapping[str, Any]) -> list[int]:
        """Add a training run for each value of ``KEY=VALUE,VALUE`` or each point of a file, as `queue_run` does."""

    async def move_in_queue(self, run_id: int, by: int) -> None:
        """Move a run of the queue by one place, towards the front where `by` is below zero."""

    async def take_out(self, run_id: int) -> bool:
        """Take a run out of the queue; False where it has begun."""

    async def work_queue(self, *, on: bool) -> None:
        """Work through the queue from now on, or begin nothing more of it."""

    @property
    def works_queue(self) -> bool:
        """Whether this process begins the runs of the queue."""

    def own_live_runs(self) -> list[int]:
        """The runs of this process that have not ended."""

    async def open_chat(self, target: ChatTarget, settings: "Settings", progress: LoadProgress) -> Conversation:
        """Load a model and open a conversation with it."""

    async def rate_sample(self, sample_id: int, rating: int) -> ReviewResult:
        """Rate (1-5) the answer to a test prompt: it moves the aggregator's weights."""

    async def undo_sample_rating(self, sample_id: int) -> ReviewResult | None:
        """Take back the rating of an answer to a test prompt; None where there is none."""

    async def rate_turn(self, turn_id: int, rating: int, settings: "Settings") -> ReviewResult:
        """Rate (1-5) a reply of a conversation."""

    async def undo_turn_rating(self, turn_id: int, settings: "Settings") -> ReviewResult | None:
        """Take back the rating of a reply of a conversation; None where there is none."""

    async def rating_queue(self, run_id: int, subject: Subject | None = None) -> RatingQueue:
        """Return what of a run can be rated one after the other: its pairs, or its answers."""

    async def next_to_rate(self, queue: RatingQueue, skipped: Collection[int]) -> RatingItem | None:
        """Return what to ask about next, but for what was skipped; None where nothing is left."""

    async def rate_item(self, item: RatingItem, *, good: bool) -> ReviewResult:
        """Rate an item of the queue: a pair is accepted or rejected by that."""

    async def undo_rating(self, item: RatingItem) -> ReviewResult | None:
        """Take back the rating of an item of the queue; None where it has none."""

    async def rating_totals(self, queue: RatingQueue) -> RatingTotals:
        """Return how many ratings there are, and how much of the queue is left."""

    async def override_pairs(self, pair_ids: Sequence[int], verdict: str) -> ReviewResult:
        """Accept or reject pairs of one run, whatever their score."""

    async def override_text(self, text_id: int, verdict: str) -> ReviewResult:
        """Accept or reject a text of a run, whatever its score."""

    async def edit_pair(self, pair_id: int, question: str, answer: str) -> ReviewResult:
        """Rewrite a pair's question and answer."""

    async def undo(self, run_id: int) -> ReviewResult | None:
        """Take back the newest thing that a person did to a pair of the run; None when there is nothing."""

    async def weigh_topic(self, run_id: int, number: int, weight: float) -> None:
        """Set how much is asked about a topic of a run's folder, 0-8: 0 leaves it out, 1 is its share of the text."""

    async def accepted_file(self, run_id: int, *, with_earlier: bool = False) -> Path:
        """Return the file with the accepted pairs of a run that has ended, written anew where it is gone.

        `with_earlier`: one that also has those of the earlier runs of the same model about the same text.
        """

    async def pairs_agreement(self, run_id: int) -> ScoreAgreement:
        """What ratings of pairs say of their score, and what the threshold of this run of generation guarantees."""

    async def answers_agreement(self, run_id: int) -> ScoreAgreement:
        """What ratings of answers say of their score, and of the means of this run's evaluations."""

    async def rename(self, run_id: int, name: str) -> None:
        """Name a run."""

    async def delete(self, run_id: int, *, with_files: bool) -> str:
        """Delete a run that has ended, and its folder where this program made it; returns what became of the folder."""

    async def count_said(self, settings: "Settings") -> tuple[int, int]:
        """How many preferences (two answers to one question), and how many single verdicts, people have given."""

    async def forecast_training(self, settings: "Settings", data_file: Path | None = None) -> ForecastText:
        """What a training run with these settings will be: examples, steps, time, memory."""

    async def forecast_generation(self, settings: "Settings") -> ForecastText:
        """What a generation run with these settings will be: files, calls, tokens, money."""
