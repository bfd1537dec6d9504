"""What comes out of a conversation while a reply is being written, in plain data: no model is needed to look at it.

A reply is a stream of items: at most one `Note`, then for each side that answers its `Piece`s (from a beam search
`Progress` and one `Piece`), and its `Reply` when it has ended. Texts are the model's own, unfiltered: whoever shows
them cleans them.
"""

from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["tuned", "base"]
"""Who answers: the model with its adapter, or the same model without it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next piece of a side's text."""

    side: Side
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign of life from a beam search, whose text comes at its end: how many tokens it has gone through."""

    side: Side
    tokens: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something about the conversation that a person should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A side's finished reply.

    For a special command: the predefined answer, and how far the reply agrees with it (0-1). `seconds` were spent on
    this side alone, `first_token_s` passed between question and first token (None for a beam search). `seed` repeats a
    sampled reply; `turn_id` is its row in the store.
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

    @property
    def tokens_per_s(self) -> float:
        """How fast this side wrote, in tokens a second; 0 where it wrote nothing."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def statistics(self) -> dict[str, Any]:
        """What is stored with the turn."""
        return {
            "side": self.side,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_s": self.tokens_per_s,
            "first_token_s": self.first_token_s,
            "agreement": self.agreement,
            "seed": self.seed,
            "step": self.step,
            "stopped": self.stopped,
        }


Item = Note | Piece | Progress | Reply
"""One item of a reply's stream."""
