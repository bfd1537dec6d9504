"""Adaptive aggregator: one score out of many metrics, the probability that a person would accept what was measured.

A weighted sum of metrics and a bias, through the logistic function. The weights start from a documented prior
(`priors`) and learn from feedback, an ordered log of (metrics, target). They are a pure function of the prior, the
learning rate and that log: same log, same weights, bit for bit; undo is a replay without a row. Nothing is stored here.

Why not a weighted mean, which this was once: it has neither intercept nor scale. Where people accept 73 % of answers
whose mean is 0.06, every gradient feeds the metric that is numerically largest and not the one that tells right from
wrong, and no learning rate repairs that. Hard rules (no evidence, an invented number) still belong before a score and
not into it. And where the judge gives the feedback on scores it took part in, there is no outside view.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from lora_tui.scoring.logistic import Fit, fit
from lora_tui.scoring.priors import Prior

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_LEARNING_RATE = 0.01
"""The rate at which a rating counts as one; at 0.1 it counts as ten, at 0 not at all."""

_DIGITS = 9
"""Decimals of a weight: more depend on how a machine adds, and same log must mean same weights."""

_SURE, _HOPELESS = 0.99, 0.02
"""What an answer equal to its reference scores at least, and an empty one at most."""

_SLIGHT = 1e-4
"""How near to 0 and 1 a fitted probability is taken at most; at 1 no rating could move it."""

_INEXACT = 0.5
"""What an answer is worth at most that must be its reference word for word and is not."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One outside judgement: the metrics (0-1) of the thing judged, and the score it should have had (0-1)."""

    metrics: Mapping[str, float]
    target: float


@dataclass(frozen=True, slots=True)
class _State:
    """What a log has made of the prior: bias and weights, and their covariance (None while it is the prior's)."""

    bias: float
    weights: dict[str, float]
    covariance: "NDArray[np.float64] | None" = field(default=None, compare=False)


class AdaptiveAggregator:
    """The probability that a person accepts: ``p = σ(bias + Σ weight·metric)``, learnt from feedback.

    Feedback moves bias and weights to their most probable values given all of it (`logistic.fit`): the log-loss of the
    ratings, each counted ``learning_rate / 0.01`` times, under the prior's normal distribution. Against one gradient
    step a rating in the prior's metric (which the same prior makes well scaled) this was better on people's judgements:
    as good an order, and probabilities nearer to the truth (`tests/bench/README.md` has both).

    Weights keep their sign: more of a metric that agrees never lowers the score, more of one that contradicts never
    raises it, whatever the ratings say. An answer equal to its reference scores 0.99 or more, an empty one 0.02 or
    less, and where the reply is fixed (`priors.FIXED_REPLY`) any other than the reference half of what it would.

    A metric that is missing is integrated out rather than punished: it is taken to be where it usually is
    beside those that are there, and what is left uncertain moves the score towards a half (MacKay 1992, "The
    evidence framework applied to classification networks": ``p = σ(z / √(1 + π·variance/8))``).

    Args:
        prior: Where bias and weights start, how far feedback moves them, and what is usual of each metric.
        learning_rate: How much a rating counts, in hundredths; 0 keeps the prior.

    Raises:
        ValueError: The learning rate is negative or not finite.
    """

    def __init__(self, prior: Prior, learning_rate: float = DEFAULT_LEARNING_RATE) -> None:
        if not (math.isfinite(learning_rate) and learning_rate >= 0):
            raise ValueError(f"learning_rate is {learning_rate}; it must be a finite number, 0 or more")
        self._prior = prior
        self._learning_rate = learning_rate
        self._log: list[Feedback] = []
        self._learnt: _State | None = None

    @classmethod
    def replay(cls, prior: Prior, feedback: Iterable[Feedback], learning_rate: float = DEFAULT_LEARNING_RATE) -> Self:
        """Return the aggregator that results from a log of feedback.

        Raises:
            ValueError: As the constructor and `update`; the message names the entry of the log, counted from 1.
        """
        aggregator = cls(prior, learning_rate)
        for number, item in enumerate(feedback, start=1):
            try:
                aggregator.update(item.metrics, item.target)
            except ValueError as error:
                raise ValueError(f"feedback {number}: {error}") from error
        return aggregator

    @property
    def prior(self) -> Prior:
        """What bias and weights were before any feedback."""
        return self._prior

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each metric now, in the order of the prior; below 0 for those that contradict."""
        return dict(self._state().weights)

    @property
    def bias(self) -> float:
        """The logit of a score whose metrics are all 0."""
        return self._state().bias

    @property
    def version(self) -> int:
        """How many feedback items the weights have seen."""
        return len(self._log)

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the probability, between 0 and 1, that a person would accept what has these metrics.

        A metric that is missing is integrated out; a name that the prior does not know is ignored.

        Raises:
            ValueError: A metric is not a number in [0, 1], or the prior knows none of them.
        """
        state = self._state()
        row, offset = self._row(metrics)
        logit = offset + math.fsum(a * b for a, b in zip(row, (*state.weights.values(), state.bias), strict=True))
        unsure = 0.0
        if self._prior.fitted_by not in metrics:
            unsure = math.fsum(
                (weight * self._prior.usual[name].deviation) ** 2
                for name, weight in state.weights.items()
                if name not in metrics
            )
        p = _sigmoid(logit / math.sqrt(1 + math.pi * unsure / 8))
        if metrics.get(self._prior.equal_when, 0.0) == 1.0:
            return _SURE + (1 - _SURE) * p
        if metrics.get(self._prior.empty_when, 0.0) == 1.0:
            return _HOPELESS * p
        return _INEXACT * p if metrics.get(self._prior.fixed_when, 0.0) == 1.0 else p

    def uncertainty(self, metrics: Mapping[str, float]) -> float:
        """Return the standard deviation of the score's logit: how little the feedback so far says of such metrics.

        Raises:
            ValueError: As `score`.
        """
        row, _ = self._row(metrics)
        covariance = self._state().covariance
        if covariance is None:
            variance = self._prior.deviation**2 * math.fsum(value * value for value in row)
        else:
            variance = math.fsum(
                a * b * float(covariance[i, j]) for i, a in enumerate(row) for j, b in enumerate(row) if a and b
            )
        return math.sqrt(max(0.0, variance))

    def update(self, metrics: Mapping[str, float], target: float) -> None:
        """Learn that what has these metrics should score `target` (0-1).

        Raises:
            ValueError: As `score`, or the target is not a number in [0, 1]. Nothing has changed then.
        """
        if not 0 <= target <= 1:
            raise ValueError(f"the target is {target}; it must lie in 0-1")
        self._row(metrics)
        self._log.append(Feedback(dict(metrics), target))
        self._learnt = None

    def _completed(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return every metric of the prior, checked; those that are missing at what is usual beside the others.

        They follow the mean of the metrics that agree, weighed as the prior weighs them (`priors.Usual.beside`).
        """
        prior = self._prior
        known = {name: metrics[name] for name in prior.weights if name in metrics}
        for name, value in known.items():
            if not 0 <= value <= 1:  # NaN fails every comparison
                raise ValueError(f"metric {name} is {value}; it must lie in 0-1")
        if not known:
            raise ValueError(
                f"none of the metrics ({', '.join(sorted(metrics)) or 'no metric at all'}) has a weight;"
                f" known are {', '.join(prior.weights)}"
            )
        if len(known) == len(prior.weights):
            return known
        agreeing = {name: prior.share(name) for name in known if name not in prior.against}
        mass = math.fsum(agreeing.values())
        mean = math.fsum(share * known[name] for name, share in agreeing.items()) / mass if mass else 0.0
        usual = math.fsum(share * prior.usual[name].mean for name, share in agreeing.items()) / mass if mass else 0.0
        return {name: known[name] if name in known else prior.usual[name].beside(mean, usual) for name in prior.weights}

    def _row(self, metrics: Mapping[str, float]) -> tuple[list[float], float]:
        """Return what weights and bias are multiplied with, and what is added to their sum."""
        prior, values = self._prior, self._completed(metrics)
        fitted = metrics.get(prior.fitted_by)
        if fitted is None:
            return [*(values[name] for name in prior.weights), 1.0], 0.0
        if not 0 <= fitted <= 1:
            raise ValueError(f"metric {prior.fitted_by} is {fitted}; it must lie in 0-1")
        fitted = min(max(fitted, _SLIGHT), 1 - _SLIGHT)
        return [*(0.0 for _ in prior.weights), 1.0], math.log(fitted / (1 - fitted)) - prior.bias

    def _state(self) -> _State:
        """Return what the log makes of the prior; worked out from the whole log, when it is first asked for."""
        if self._learnt is None:
            self._learnt = self._fitted() if self._log and self._learning_rate else self._at_the_prior()
        return self._learnt

    def _at_the_prior(self) -> _State:
        return _State(self._prior.bias, dict(self._prior.weights))

    def _fitted(self) -> _State:
        import numpy as np

        prior = self._prior
        mean = np.array([*prior.weights.values(), prior.bias])
        rows = [self._row(item.metrics) for item in self._log]
        result: Fit = fit(
            np.array([row for row, _ in rows]),
            np.array([item.target for item in self._log]),
            np.full(len(self._log), self._learning_rate / DEFAULT_LEARNING_RATE),
            np.array([offset for _, offset in rows]),
            mean,
            np.full(len(mean), prior.deviation**-2),
            [*(-1 if name in prior.against else 1 for name in prior.weights), 0],
        )
        *weights, bias = (round(float(value), _DIGITS) + 0.0 for value in result.coefficients)
        return _State(bias, dict(zip(prior.weights, weights, strict=True)), result.covariance)


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


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
