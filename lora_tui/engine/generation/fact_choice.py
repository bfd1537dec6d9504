"""Which facts of a passage the built-in writer asks about first: what directives are to a model, by code.

A fact is crowded where its question resembles one that was asked, begins or names what too many questions do; it is
wanted where its question is of the type that the slot asks for or that lags. Among good facts the least crowded come
first; how good a fact is decides among equals. Without steering, nothing but how good it is counts.

Small and apart because it is pure functions of text: `builtin_model` is about the torch thread.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from lora_tui.engine.generation.diversity import ALIKE, opening_of
from lora_tui.engine.generation.generation_model import PairRequest
from lora_tui.engine.generation.near_duplicates import grams, jaccard
from lora_tui.engine.generation.question_types import question_type_of
from lora_tui.engine.generation.questions.passage_facts import Fact
from lora_tui.scoring.words import tokens

_REMEMBERED = 300
"""Questions that a fact is compared with: the newest of the run."""


class AskedQuestions:
    """The newest questions that were handed out, and how crowded another one is beside them."""

    def __init__(self) -> None:
        self._grams: deque[frozenset[str]] = deque(maxlen=_REMEMBERED)

    def add(self, question: str) -> None:
        """Remember a question that was handed out."""
        self._grams.append(grams(question))

    def crowding(self, fact: Fact, request: PairRequest) -> float:
        """Return how crowded a fact is for a request: 0 where nothing is against it or there is no steering."""
        steering = request.steering
        if not steering.is_on:
            return 0.0
        question = fact.pair.question
        kind = question_type_of(question, fact.pair.answer, fact.pair.type)
        crowded = 2.0 * self._resembles(question, request.avoid)
        crowded += opening_of(question) in steering.openings
        crowded += 0.5 * bool(set(tokens(question)) & set(steering.words))
        return crowded - (kind == request.slot.question_type) - 0.5 * (kind in steering.types)

    def _resembles(self, question: str, others: Iterable[str]) -> bool:
        own = grams(question)
        return any(jaccard(own, known) >= ALIKE for known in self._grams) or any(
            jaccard(own, grams(other)) >= ALIKE for other in others
        )


def by_promise(facts: Sequence[Fact], request: PairRequest, asked: AskedQuestions) -> list[Fact]:
    """Order facts that wait for a score: the least crowded, else the type asked for; one of each sentence in turn."""
    turns: dict[str, int] = {}
    order = []
    for fact in facts:
        turns[fact.evidence] = turns.get(fact.evidence, 0) + 1
        wanted = fact.pair.type == request.slot.question_type
        order.append((asked.crowding(fact, request), not wanted, turns[fact.evidence], fact))
    return [fact for *_, fact in sorted(order, key=lambda item: item[:3])]
