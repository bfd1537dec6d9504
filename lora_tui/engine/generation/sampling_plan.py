"""Which kind of pair is asked for next: slots drawn against what there is already.

Each dimension (topic, question type, difficulty, audience) is drawn for itself, with p(value) proportional to
max(0, target - observed) + epsilon: `target` is the value's fair share, `observed` its share of what has been accepted
or asked for. A value that lags is drawn more often, one that leads is not quite forbidden. The same seed and the same
counts draw the same slot.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from lora_tui.engine.generation.generation_model import Slot

QUESTION_TYPES: Mapping[str, str] = {
    "fact": "a fact: who, what, when, where or how much",
    "definition": "what a term means, or how to tell it from a similar one",
    "reason": "why something is so",
    "procedure": "how something works or is done, step by step",
    "comparison": "how two things the passage names differ or agree",
    "consequence": "what follows if something happens or is left out",
    "application": "how to use what the passage says in a concrete situation",
    "exception": "a limit, an exception or a common mistake",
}
"""The kinds of question and how the prompt describes them."""

DIFFICULTIES: Mapping[str, str] = {
    "easy": "answered by one sentence of the passage",
    "medium": "answered by putting two or three sentences of the passage together",
    "hard": "needs the connection between several statements of the passage",
}

AUDIENCES: Mapping[str, str] = {
    "a beginner": "use plain words",
    "a student": "be precise and explain terms",
    "a practitioner": "be concrete and to the point",
    "an expert": "use the field's terms",
}

_EPSILON = 0.02


class SlotCounts:
    """How often each value of each dimension has been accepted or asked for."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {
            "topic": Counter(),
            "question_type": Counter(),
            "difficulty": Counter(),
            "audience": Counter(),
        }

    def add(self, slot: Slot, count: int = 1) -> None:
        """Count `count` more pairs of a slot; negative for those that came to nothing."""
        for dimension, value in asdict(slot).items():
            self._counts[dimension][value] += count

    def of(self, dimension: str) -> Mapping[str, int]:
        """Return the counts of one dimension."""
        return self._counts[dimension]

    def draw(self, topics: Sequence[str], rng: random.Random) -> Slot:
        """Draw a slot; `topics` are those that the passage can serve (at least one)."""
        return Slot(
            topic=pick(topics, self._counts["topic"], rng),
            question_type=pick(tuple(QUESTION_TYPES), self._counts["question_type"], rng),
            difficulty=pick(tuple(DIFFICULTIES), self._counts["difficulty"], rng),
            audience=pick(tuple(AUDIENCES), self._counts["audience"], rng),
        )


def pick(values: Sequence[str], observed: Mapping[str, int], rng: random.Random) -> str:
    """Draw one of `values` with p proportional to max(0, fair share - observed share) + epsilon."""
    total = sum(max(0, observed.get(value, 0)) for value in values)
    share = 1 / len(values)
    weights = [
        max(0.0, share - max(0, observed.get(value, 0)) / total) + _EPSILON if total else 1.0 for value in values
    ]
    return rng.choices(values, weights)[0]


def further_topics(all_topics: Iterable[str], own: Iterable[str], rng: random.Random, most: int = 6) -> tuple[str, ...]:
    """Return up to `most` topics that are not the passage's own, in a random order."""
    own_folded = {topic.casefold() for topic in own}
    others = sorted({topic for topic in all_topics if topic.casefold() not in own_folded})
    return tuple(rng.sample(others, min(most, len(others))))
