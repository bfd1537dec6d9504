"""The round trip: the question is put back to the model with the passage in view, and the answer should follow.

The model does not rate, which a model of this size cannot. It is measured how probable it finds the question after the
passage, and the answer after the question; the difference that the question makes is what it tells about the answer
(pointwise mutual information, in nats). Together with how the pair was made (`questions.signs`) that gives its level:
a logistic sum with the weights of `pair_weights`, fitted on pairs that a strict reader marked, so that of pairs with
0.8 about eight in ten are sensible and right, as long as a text is like those. On new ones the level tells wrong from
right less well (AUROC .68, ``tests/bench/README.md``): what keeps pairs right are the rules first.

Of what is measured the question's end tells most: of 944 marked pairs those whose question mark the model expects
(above -0.2 nats) are right 92 times in a hundred, those where it would go on (below -4) 39 times.

A pair that no rule made (a person's, a judge's check) is held against its rivals besides (`contrasts`): the same answer
denied, or with another number or name of the passage. Where the model finds one of them more probable, the level falls.

Whether the question points at its own answer among the others of its passage was measured too, for a long time: in the
marked pairs it tells nothing, because what is wrong with them is seldom another answer.

Pure arithmetic: `builtin_model` has the log-probabilities computed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_tui.engine.generation.pair_weights import BIAS, WEIGHTS

_DOUBTS = {
    "vague noun": "the question names something that only its text explains",
    "anybody": "it does not say whose people or things are meant",
    "subject doubtful": "a pronoun could mean something else",
    "subject bare": "what it asks about is not named in full",
    "subject several": "what it asks about could be several things",
    "rule completed": "the model completed the question, no rule made it",
    "code": "it asks about a piece of code",
    "light verb": "the question may lack its object",
    "few words": "the question says little",
    "part of a sentence": "it was cut out of a sentence of several statements",
    "long sentence": "its sentence is long",
    "long question": "the question is long",
    "clause in question": "the question holds a second statement",
    "comma in question": "the question holds a comma",
    "fluency": "the model finds the wording of the question unlikely",
    "answer": "the model finds the answer unlikely",
    "end": "the question seems to lack something at its end",
    "gain": "the question makes the answer little more likely",
}
"""What a sign that lowers the level means, in words."""


_FOREIGN = -4.5
"""Nats a token below which an answer is not drawn from its passage: of labelled pairs, right ones have -3.8 to -1.5,
those about something else -5 and less."""


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-min(max(value, -30.0), 30.0)))


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What was measured of a question and its answer, in nats (natural logarithms of probabilities).

    `asked` and `unasked` are the answer's log-probability with the question and without it, `first` that of its first
    token (with it), `tokens` how many it has, `fluency` the mean of the question's tokens, `end` that of its question
    mark where it stands: a question that lacks something would go on. `signs` tell how the pair was made. `rival` is
    the log-probability of the most probable rival with the question, None where none was scored.
    """

    asked: float
    unasked: float
    first: float
    tokens: int
    fluency: float
    end: float = -1.0
    signs: Mapping[str, float] = field(default_factory=dict)
    rival: float | None = None

    @property
    def contrast(self) -> float | None:
        """Nats by which the answer is more probable than its most probable rival."""
        return None if self.rival is None else self.asked - self.rival

    @property
    def gain(self) -> float:
        """Nats a token that the question adds to the answer."""
        return (self.asked - self.unasked) / max(1, self.tokens)

    @property
    def measured(self) -> dict[str, float]:
        """What the model measured, by the names of `pair_weights`: each about 0 for an ordinary pair."""
        return {
            "gain": min(max(self.gain, -1.0), 4.0) - 1,
            "fluency": max(self.fluency, -4.0) + 2,
            "answer": max(self.asked / max(1, self.tokens), -6.0) + 2,
            "end": 1 - math.sqrt(min(max(-self.end, 0.0), 9.0)),
            "first word": max(self.first, -10.0) / 3 + 1,
        }

    @property
    def level(self) -> float:
        """How probable it is that a strict reader finds the pair sensible and right, 0-1: a logistic sum of signs.

        Of a pair with a rival times two probabilities: that of the answer beside its rival, half where both are as
        probable, and that its words come from such a passage, half at `_FOREIGN` nats a token.
        """
        level = _logistic(BIAS + sum(self._parts().values()))
        if self.contrast is None:
            return level
        return level * _logistic(self.contrast) * _logistic(2 * (self.asked / max(1, self.tokens) - _FOREIGN))

    def _parts(self) -> dict[str, float]:
        return {name: WEIGHTS.get(name, 0.0) * value for name, value in {**self.signs, **self.measured}.items()}

    def metrics(self) -> dict[str, float]:
        """Return it as the judge's metrics."""
        return {"judge_correctness": self.level, "judge_usefulness": self.level, "judge_probability": self.level}

    def note(self) -> str:
        """Return in words what was measured, and what lowers the level most."""
        measured = (
            f"with the passage in view, the question makes each token of the answer {math.exp(self.gain):.1f} times"
        )
        costs = sorted((part, name) for name, part in self._parts().items() if part < -0.2 and name in _DOUBTS)
        doubts = "; ".join(_DOUBTS[name] for _, name in costs[:2])
        if self.contrast is not None and self.contrast < 0:
            doubts = "the model finds another number or name, or the opposite, more likely" + (doubts and f"; {doubts}")
        return f"{measured} as likely" + (f". What speaks against it: {doubts}" if doubts else "")
