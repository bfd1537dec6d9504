"""The round trip: the question is put back to the model with the passage in view, and must point at its own answer.

The model does not rate, which a model of this size cannot. It is measured how probable it finds the answer beside the
other candidate answers of the passage, those of the same kind first, each corrected by how probable it is without the
question (pointwise mutual information, in nats). Wrong answers lose against their rivals; a question that makes no
sense does not make any answer more probable; and a question that is no English is improbable itself. So much for the
idea: with the weights below, set by hand, the level does not tell wrong pairs from right ones yet (AUROC .54 and .44 on
two texts, ``tests/bench/README.md``). What keeps pairs right are the rules that they come from.

Pure arithmetic: `builtin_model` has the log-probabilities computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lora_tui.engine.generation.questions.answer_spans import AnswerSpan

MAX_RIVALS = 9
_MIN_RIVALS = 3
_ALIKE = (
    frozenset(("time", "duration", "frequency")),
    frozenset(("quantity", "duration")),
    frozenset(("person", "name")),
    frozenset(("place", "name")),
    frozenset(("thing", "name", "list", "person")),
    frozenset(("clause", "means", "purpose")),
)
_BIAS, _OF_POINTING, _OF_GAIN, _OF_FLUENCY = 1.0, 0.5, 0.4, 2.0
"""Weights of the logit of the level. Sensible questions have some -1.5 nats a token, odd ones -2.5 and less."""

_MOST_POINTING = 3.0
"""Log-odds of the share are cut here: what is beyond says more about the rivals than about the pair."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate answer: its log-probability in nats with the question and without it, and its number of tokens."""

    asked: float
    unasked: float
    tokens: int

    @property
    def information(self) -> float:
        """What the question tells about it, in nats."""
        return self.asked - self.unasked


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A question's own answer, the rivals of its passage, and how probable a token the question is itself (nats)."""

    own: Candidate
    rivals: Sequence[Candidate]
    fluency: float

    @property
    def share(self) -> float:
        """The answer's part of what the question tells about all candidates, 0-1: the softmax of their information."""
        informations = [self.own.information, *(rival.information for rival in self.rivals)]
        highest = max(informations)
        total = sum(math.exp(information - highest) for information in informations)
        return math.exp(self.own.information - highest) / total

    @property
    def gain(self) -> float:
        """Nats a token that the question adds to the answer."""
        return self.own.information / max(1, self.own.tokens)

    @property
    def level(self) -> float:
        """How sure the round trip makes us that the pair is right, 0-1: a logistic sum of what it measures."""
        share = min(max(self.share, 1e-6), 1 - 1e-6)
        pointing = min(max(math.log(share / (1 - share)), -_MOST_POINTING), _MOST_POINTING)
        logit = _BIAS + _OF_POINTING * pointing + _OF_GAIN * (self.gain - 1) + _OF_FLUENCY * (self.fluency + 2)
        return 1 / (1 + math.exp(-logit))

    def metrics(self) -> dict[str, float]:
        """Return it as the judge's metrics."""
        return {"judge_correctness": self.level, "judge_usefulness": self.level}

    def note(self) -> str:
        """Return in words what was measured."""
        return (
            f"asked with the passage in view, the question points at this answer with {self.share:.0%} against "
            f"{len(self.rivals)} others, and makes each of its tokens {math.exp(self.gain):.1f} times as likely"
        )


def rivals_of(answer: str, kind: str, spans: Sequence[AnswerSpan]) -> list[str]:
    """Return the candidates of a passage that an answer has to beat, none that overlaps with it.

    Those of its kind come first, then those of kinds that the same question word asks for; others only where there are
    fewer than `_MIN_RIVALS` of these: a number is no rival to an answer to "What".
    """
    bare = answer.casefold().strip(" .")
    near = next((group for group in _ALIKE if kind in group), frozenset())
    texts: dict[str, str] = {}
    for distance, wanted in enumerate((frozenset((kind,)), near, None)):
        for span in spans:
            other = span.text.casefold().strip(" .")
            overlaps = other in bare or bare in other
            enough = distance == 2 and len(texts) >= _MIN_RIVALS
            if (wanted is None or span.kind in wanted) and other and not overlaps and not enough:
                texts.setdefault(other, span.text)
    return list(texts.values())[:MAX_RIVALS]
