"""Where the weights of the adaptive score start, and what is usual of each metric.

The prior of answers was derived from people's judgements by ``python -m tests.bench.score_prior FOLDER``, which prints
`_ANSWERS` as it stands here. The one of generated pairs is set by hand: no public set of judged pairs was at hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass

AGREEMENT = (
    "exact_match",
    "token_f1",
    "bleu",
    "rouge1",
    "rouge2",
    "rougeL",
    "likelihood",
    "content_recall",
    "new_recall",
    "content_precision",
    "containment",
    "within",
    "numbers_agree",
    "trigrams",
    "length_ratio",
    "early",
)
"""Metrics of which more is never worse; ``likelihood`` is the model's own, and `scoring.features` computes the rest."""

CONTRADICTION = ("numbers_contradict", "negation", "retraction", "alternatives", "declines", "empty")
"""Metrics of which more is never better."""

FIXED_REPLY = "fixed_reply"
"""A metric of 1 where the configuration demands the reference word for word: a special command's reply, the secret.

Case, punctuation and articles do not count, as in ``exact_match``.
"""

JUDGE_DISAGREEMENT = "judge_disagreement"
"""Metric of a pair that several judges rated: the range of their ratings, averaged over the dimensions, 0-1.
It has no weight before ratings give it one."""

JUDGE_PROBABILITY = "judge_probability"
"""Metric of a judge whose level was fitted to marks: how probable it is that a pair is sensible and right."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What a metric is like where it is not known.

    It is at its `mean` where the others are at theirs, nears 0 with them as ``mean·r^bend``, r being their mean as a
    part of what is usual, and 1 in step with them; a bend of 0 keeps it at its mean. `deviation` is what is left open.
    """

    mean: float
    bend: float
    deviation: float

    def beside(self, others: float, usual_of_others: float) -> float:
        """Return the metric where the mean of those that are known is `others` and usually `usual_of_others`.

        Rises with `others`, so that a score never falls with agreement.
        """
        if self.bend == 0 or others == usual_of_others:
            return self.mean
        if others < usual_of_others:
            return self.mean * float((others / usual_of_others) ** self.bend)
        return self.mean + (1 - self.mean) * (others - usual_of_others) / (1 - usual_of_others)


@dataclass(frozen=True, slots=True)
class Prior:
    """A normal distribution over bias and weights, and what is usual of each metric.

    `weights` and `bias` are the means, `deviation` the standard deviation of each. `against` names the metrics that
    contradict, whose weights are 0 or below. A metric `equal_when` of 1 means that the answer is the reference, an
    `empty_when` of 1 that there is none, a `fixed_when` of 1 that nothing but the reference itself will do, and
    `fitted_by` is a probability of acceptance itself, beside which the other metrics say nothing and ratings move the
    bias alone. The names are empty for a prior that knows no such thing.
    """

    weights: Mapping[str, float]
    bias: float
    deviation: float
    usual: Mapping[str, Usual]
    against: frozenset[str] = frozenset()
    equal_when: str = ""
    empty_when: str = ""
    fixed_when: str = ""
    fitted_by: str = ""

    def __post_init__(self) -> None:
        if not self.weights or self.weights.keys() != self.usual.keys():
            raise ValueError("a prior needs weights, and what is usual of each of their metrics")
        for name, weight in self.weights.items():
            if weight * (-1 if name in self.against else 1) < 0:
                raise ValueError(f"the weight of {name} is {weight}, on the wrong side of 0")
        if not self.deviation > 0:
            raise ValueError(f"the deviation of a prior is {self.deviation}; it must be above 0")

    def share(self, name: str) -> float:
        """Return how much a metric says of those that are missing: its prior weight, and a little for each."""
        return abs(self.weights[name]) + 0.05


_ANSWERS: Mapping[str, tuple[float, float, float, float]] = {
    # metric: (weight, usual mean, bend, deviation)
    "exact_match": (0.18, 0.106, 0.1, 0.082),
    "token_f1": (0.14, 0.231, 1.1, 0.048),
    "bleu": (0.07, 0.16, 0.9, 0.031),
    "rouge1": (0.07, 0.225, 1.1, 0.045),
    "rouge2": (0.26, 0.189, 1.25, 0.037),
    "rougeL": (0.08, 0.223, 1.1, 0.041),
    "likelihood": (0, 0.5, 0, 0.3),
    "content_recall": (1, 0.761, 0.1, 0.243),
    "new_recall": (1.11, 0.754, 0.1, 0.26),
    "content_precision": (1.29, 0.374, 0.95, 0.254),
    "containment": (1.54, 0.602, 0.2, 0.378),
    "within": (0.17, 0.111, 0.2, 0.096),
    "numbers_agree": (0.54, 0.965, 0.15, 0.327),
    "trigrams": (1.03, 0.812, 0.05, 0.197),
    "length_ratio": (0, 0.228, 1.5, 0.179),
    "early": (1.42, 0.394, 0.25, 0.195),
    "numbers_contradict": (-0.57, 0.025, 0, 0.155),
    "negation": (0, 0.009, 0, 0.072),
    "retraction": (-0.31, 0.027, 0, 0.137),
    "alternatives": (-0.58, 0.024, 0, 0.124),
    "declines": (-0.83, 0.06, 0, 0.237),
    "empty": (0, 0, 0, 0),
}
"""Of each metric its weight, and what is usual of it; see `Usual`."""

_ANSWERS_BIAS = -2.08

EVALUATION_PRIOR = Prior(
    weights={name: weight for name, (weight, _, _, _) in _ANSWERS.items()},
    bias=_ANSWERS_BIAS,
    deviation=0.3,
    usual={name: Usual(*numbers) for name, (_, *numbers) in _ANSWERS.items()},
    against=frozenset(CONTRADICTION),
    equal_when="exact_match",
    empty_when="empty",
    fixed_when=FIXED_REPLY,
)
"""The score of an answer to a test prompt before any feedback.

The deviation was chosen on the two sets, each with the prior of the other: with 0.3, 10 to 400 ratings did not lower
the mean AUROC and left the probabilities true; with 0.5 and 1 more is learnt from 400 ratings, and ten move the
probabilities away from people's (``tests/bench/score_agreement.py --deviation``).
"""

_PAIRS: Mapping[str, float] = {
    # The judge is the only one that reads for meaning, so it has the majority. It never has all: it is lenient, prefers
    # its own style and overlooks wrong digits.
    "judge_groundedness": 0.30,  # an invented claim is the mistake that training cannot repair
    "judge_correctness": 0.20,  # a true answer to another question still teaches something
    "judge_usefulness": 0.10,  # mostly taste, and the dimension on which judges agree least with people
    "coverage": 0.20,  # ROUGE-L precision against the quoted evidence: cheap, exact, cannot be talked round
    "grounding": 0.10,  # content words and numbers found in the passage: catches invented names, not wrong relations
    # Answer against evidence: a right short answer shares little with a long quote, so together they get a tenth.
    "token_f1": 0.04,  # the mildest of the four on answers and evidence of different length
    "rougeL": 0.03,  # the same words in order: rewards staying close to the wording
    "bleu": 0.02,  # its brevity penalty punishes every answer that is shorter than the evidence
    "exact_match": 0.01,  # nearly always 0 here; it speaks only where a gold answer stands behind the pair
}
"""The share of each metric in the score of a pair; together 1."""

_STEEPNESS, _EVEN = 6.0, 0.7
"""How many logits the whole range of the shares' mean spans, and the mean that scores what it is, 7 of 10."""

GENERATION_PRIOR = Prior(
    weights={name: _STEEPNESS * share for name, share in _PAIRS.items()} | {JUDGE_DISAGREEMENT: 0.0},
    bias=0.8473 - _STEEPNESS * _EVEN,  # the logit of 0.7
    deviation=0.3,  # one rejection by a slip of the finger moves a score of 8.9 to 8.1
    # A missing metric is what the others say; a single judge does not disagree with itself.
    usual={name: Usual(_EVEN, 1.0, 0.0) for name in _PAIRS} | {JUDGE_DISAGREEMENT: Usual(0.0, 0.0, 0.0)},
    against=frozenset({JUDGE_DISAGREEMENT}),
    fitted_by=JUDGE_PROBABILITY,
)
"""The score of a generated pair before any feedback.

A weighted mean of 0.7 scores 7.0, as it did when the mean was the score: the threshold of before lets the same pairs
through, and what lies far from it is told apart more clearly.
"""
