"""Adaptive aggregator: one score out of many metrics, by a weighted mean whose weights learn from feedback.

The score is the weighted mean of the metrics that are available, S = Σ w_i·s_i / Σ w_i, with weights on the simplex
that start from documented priors. Feedback is an ordered log of (metrics, target), and the weights are a pure function
of the priors, the hyper-parameters and that log: same log, same weights, bit for bit; undo is a replay without a row.
This module keeps no log and stores nothing.

A weighted mean has no veto, because good metrics pay for a bad one: hard rules (no evidence, an invented number) belong
before it, not into it. And where the judge gives the feedback on scores it took part in, there is no outside view.
"""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

GENERATION_PRIORS: Mapping[str, float] = {
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
"""Weights that judge a generated pair before any feedback."""

EVALUATION_PRIORS: Mapping[str, float] = {
    "exact_match": 0.20,  # the aim of a fixed reply, and the only one that a wrong digit cannot pass
    "token_f1": 0.20,  # partial credit for the right words: tells "nearly" from "not at all" early in training
    "rougeL": 0.20,  # partial credit for the right order
    "likelihood": 0.15,  # moves before the generated text does; held low because it never sees what was generated
    "bleu": 0.10,  # pairs of words and longer, with a penalty for stopping early
    "rouge2": 0.10,  # pairs of words without that penalty; says much the same as BLEU, so both are small
    "rouge1": 0.05,  # token F1 over again, but for the articles
}
"""Weights that score the answer to a test prompt before any feedback."""

_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Feedback:
    """One outside judgement: the metrics (0-1) of the thing judged, and the score it should have had (0-1)."""

    metrics: Mapping[str, float]
    target: float


class AdaptiveAggregator:
    """Weighted mean of metrics whose weights follow feedback by exponentiated gradient.

    An update is one gradient step on ½·(S-y)², taken in the geometry of the simplex (mirror descent with the entropy as
    mirror map; Kivinen and Warmuth 1997, "Exponentiated gradient versus gradient descent for linear predictors"). With
    A the metrics that are available, p and p⁰ the weights and priors rescaled to sum to 1 over A, η the learning rate,
    λ the pull and σ the share::

        g_i   = (S - y)·(s_i - S)
        log p_i ← (log p_i - η·g_i + η·λ·log p⁰_i) / (1 + η·λ) - log Z
        p_i   ← (1 - η·σ)·p_i + η·σ·p⁰_i
        w_i   ← p_i · Σ_A w

    The pull is the proximal step on λ·KL(p‖p⁰), a ridge for probabilities: without feedback to the contrary, weights
    drift back. The share is the fixed share of Herbster and Warmuth 1998 ("Tracking the best expert"): a floor of
    η·σ·p⁰ from which a weight near zero recovers. Both are scaled by η so that they forget at the pace at which
    feedback teaches; a share of 1 % for each rating would, at η = 0.01, undo in a hundred ratings what they had moved.

    Weight is only exchanged among the metrics of A (Freund, Schapire, Singer and Warmuth 1997, "Using and combining
    predictors that specialize"), hence a missing metric keeps its weight exactly. The loss is convex in p for a given
    A. With λ = σ = 0, all metrics present, n of them and T ratings, η = √(8·ln n / T) from uniform priors keeps the
    total loss within √(T·ln n / 2) of the best fixed weights: little for small T, which is why priors matter.

    Plain gradient descent is not used because it leaves the simplex, and descent on softmax logits is not because its
    Jacobian all but freezes weights near zero.

    How fast ratings show at the default rate of 0.01: one moves log-weights by at most 0.01·|S-y|·|s_i-S|, in practice
    by 0.001 to 0.003. Where a metric with a prior of 0.30 mostly says what people say and the others do not, it stands
    at 0.302 after 10 ratings, 0.31 after 50, 0.35 after 200 and 0.5 after 1000; a rate of 0.1 is ten times as fast
    (0.41 after 50). Nothing is frozen below some number of labels: the small rate alone keeps a first slip of the
    finger from deciding anything.

    Args:
        priors: Weight of each metric before feedback; each above 0, together 1.
        learning_rate: η; 0 keeps the priors.
        prior_pull: λ; the larger, the closer the weights stay to the priors.
        share: σ; with λ = 0 and σ = 0 the update is plain exponentiated gradient.

    Raises:
        ValueError: The priors are no point inside the simplex, or a hyper-parameter is negative or not finite.
    """

    def __init__(
        self, priors: Mapping[str, float], learning_rate: float = 0.01, prior_pull: float = 0.02, share: float = 0.01
    ) -> None:
        if not priors or not all(math.isfinite(prior) and prior > 0 for prior in priors.values()):
            raise ValueError("every metric needs a prior weight above 0")
        total = math.fsum(priors.values())
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"prior weights sum to {total:.6g}, not to 1")
        for name, value in (("learning_rate", learning_rate), ("prior_pull", prior_pull), ("share", share)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be a finite number, 0 or more")
        self._priors = {name: prior / total for name, prior in priors.items()}
        self._weights = dict(self._priors)
        self._learning_rate = learning_rate
        self._prior_pull = prior_pull
        self._share = min(1.0, learning_rate * share)
        self._version = 0

    @classmethod
    def replay(
        cls,
        priors: Mapping[str, float],
        feedback: Iterable[Feedback],
        learning_rate: float = 0.01,
        prior_pull: float = 0.02,
        share: float = 0.01,
    ) -> Self:
        """Return the aggregator that results from a log of feedback, in its order.

        Raises:
            ValueError: As the constructor and `update`; the message names the entry of the log, counted from 1.
        """
        aggregator = cls(priors, learning_rate, prior_pull, share)
        for number, item in enumerate(feedback, start=1):
            try:
                aggregator.update(item.metrics, item.target)
            except ValueError as error:
                raise ValueError(f"feedback {number}: {error}") from error
        return aggregator

    @property
    def priors(self) -> dict[str, float]:
        """The weights before any feedback."""
        return dict(self._priors)

    @property
    def weights(self) -> dict[str, float]:
        """The weights now: each above 0, together 1, in the order of the priors."""
        return dict(self._weights)

    @property
    def version(self) -> int:
        """How many feedback items the weights have seen."""
        return self._version

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the weighted mean of the available metrics, in [0, 1].

        A metric that is missing is left out, and the others share its weight; a name without a prior is ignored.

        Raises:
            ValueError: A metric is not a number in [0, 1], or none has a weight.
        """
        return self._mean(self._available(metrics))

    def update(self, metrics: Mapping[str, float], target: float) -> None:
        """Move the weights by one step towards giving these metrics the score `target` (0-1).

        Raises:
            ValueError: As `score`, or the target is not a number in [0, 1]. Nothing has changed then.
        """
        if not 0 <= target <= 1:
            raise ValueError(f"the target is {target}; it must lie in 0-1")
        available = self._available(metrics)
        score = self._mean(available)
        mass = math.fsum(self._weights[name] for name in available)
        prior_mass = math.fsum(self._priors[name] for name in available)
        pull = self._learning_rate * self._prior_pull
        logits: dict[str, float] = {}
        for name, value in available.items():
            gradient = (score - target) * (value - score)
            step = math.log(self._weights[name]) - self._learning_rate * gradient
            logits[name] = (step + pull * math.log(self._priors[name])) / (1 + pull)  # up to a constant, as softmax is
        for name, moved in _softmax(logits).items():
            shared = (1 - self._share) * moved + self._share * self._priors[name] / prior_mass
            self._weights[name] = max(shared * mass, sys.float_info.min)  # 0 has no logarithm
        self._version += 1

    def _available(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics that have a weight, checked, in the order of the priors."""
        available = {name: metrics[name] for name in self._weights if name in metrics}
        for name, value in available.items():
            if not 0 <= value <= 1:  # NaN fails every comparison
                raise ValueError(f"metric {name} is {value}; it must lie in 0-1")
        if not available:
            raise ValueError(
                f"none of the metrics ({', '.join(sorted(metrics)) or 'no metric at all'}) has a weight;"
                f" known are {', '.join(self._weights)}"
            )
        return available

    def _mean(self, available: Mapping[str, float]) -> float:
        total = math.fsum(self._weights[name] for name in available)
        mean = math.fsum(self._weights[name] * value for name, value in available.items()) / total
        return min(max(mean, min(available.values())), max(available.values()))  # rounding must not leave their range


def update_aggregator(
    aggregator: AdaptiveAggregator, metrics: Mapping[str, float], target: float
) -> AdaptiveAggregator:
    """Give an aggregator outside feedback: the metrics of a thing judged, and the score (0-1) it should have had.

    Returns the same aggregator, updated in place.

    Raises:
        ValueError: As `AdaptiveAggregator.update`.
    """
    aggregator.update(metrics, target)
    return aggregator


def _softmax(logits: Mapping[str, float]) -> dict[str, float]:
    highest = max(logits.values())
    powers = {name: math.exp(logit - highest) for name, logit in logits.items()}
    total = math.fsum(powers.values())
    return {name: power / total for name, power in powers.items()}
