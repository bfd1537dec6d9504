"""A conversation as plain data: how a reply is decoded, and the items of the stream that it arrives as.

A reply is a stream of `ReplyItem`s: at most one `Notice`, then for each side that answers its `TextDelta`s (a beam
search: `TokenCount`s and one `TextDelta`), and its `Reply` when it has ended. Texts are the model's own, unfiltered:
whoever shows them cleans them. Light: no model, no torch, no pydantic.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lora_tui.config.models import Settings

Side = Literal["tuned", "base"]
"""Who answers: the model with its adapter, or the same model without it."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen. Temperature 0 is greedy; `num_beams` above 1 searches and ignores the temperature.

    Without a `seed` every sample is new. A reply also ends after a token whose text contains one of `until`.
    """

    max_new_tokens: int = 50
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    seed: int | None = None
    until: tuple[str, ...] = ()

    @classmethod
    def of_settings(cls, settings: "Settings") -> "Decoding":
        """The decoding that ``[fine_tuning.chat]`` asks for; replies stream where `num_beams` is left to the recipe."""
        from lora_tui.config.written import left_to_recipe

        chat = settings.fine_tuning.chat
        beams = 1 if left_to_recipe(settings, "fine_tuning.chat.num_beams") else chat.num_beams
        return cls(chat.max_new_tokens, chat.temperature, chat.top_p, chat.repetition_penalty, beams)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The text that a side has gained since its last delta; raw, as it is decoded."""

    side: Side
    text: str


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Progress of a beam search, whose text comes at its end: the number of tokens searched so far."""

    side: Side
    tokens: int


@dataclass(frozen=True, slots=True)
class Notice:
    """A message about the conversation, such as that its oldest part no longer fits into the context."""

    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A side's finished reply.

    For a special command: the predefined answer, and how far the reply agrees with it (0-1). `seconds` were spent on
    this side alone, `first_token_s` passed between question and first token (None for a beam search). `seed` repeats a
    sampled reply; `turn_id` is its row in the store; `step` is the adapter's optimizer step. A reply that was
    `stopped`, or `cut` at ``max_new_tokens``, can be continued: the `Reply` of that holds the whole text, and the sums.
    """

    text: str
    tokens: int
    seconds: float
    predefined: str | None = None
    agreement: float | None = None
    side: Side = "tuned"
    turn_id: int = 0
    stopped: bool = False
    first_token_s: float | None = None
    seed: int | None = None
    step: int | None = None
    cut: bool = False

    @property
    def can_go_on(self) -> bool:
        """Whether the model had more to say."""
        return self.cut or self.stopped

    @property
    def tokens_per_s(self) -> float:
        """Speed of this side in tokens a second; 0 where it wrote nothing."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def statistics(self) -> dict[str, Any]:
        """What is stored with the turn, as JSON."""
        names = "side tokens seconds tokens_per_s first_token_s agreement seed step stopped cut"
        return {name: getattr(self, name) for name in names.split()}


ReplyItem = Notice | TextDelta | TokenCount | Reply
"""One item of a reply's stream."""
