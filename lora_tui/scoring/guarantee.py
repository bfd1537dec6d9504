"""What ratings guarantee of things that nobody rated: the mean of their quality, and the precision above a threshold.

Both hold for things of the kind that was rated, if those that were rated are a random draw of it. A queue that asks
first what teaches most is no random draw: only its random share may come in here. Pure functions, without numpy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from lora_tui.scoring.agreement import Interval

_BISECTIONS = 60
_FEWEST_OF_A_KIND = 5


@dataclass(frozen=True, slots=True)
class PrecisionBound:
    """At `threshold`, at least the share `low` of what is accepted is good, at confidence `level`.

    `good` of `rated` rated things at or above the threshold were good.
    """

    threshold: float
    good: int
    rated: int
    low: float
    level: float = 0.95


def prediction_powered_mean(
    targets: Sequence[float],
    scores: Sequence[float],
    other_scores: Sequence[float],
    level: float = 0.95,
    weight: float | None = None,
) -> Interval | None:
    """Return the mean target (0-1) of a kind of thing, from few that are rated and many that are only scored.

    Prediction-powered inference (Angelopoulos, Bates, Fannjiang, Jordan and Zrnic 2023, Science 382) corrects the mean
    score by what it is off on the rated ones. With Y the n targets, f their scores, f' the N scores of the others::

        λ = Cov(Y, f) / ((1 + n/N) · Var(f, f')), held within 0-1
        θ = mean(Y) + λ · (mean(f') - mean(f))
        θ ± z · √(Var(Y - λ·f)/n + λ²·Var(f')/N)

    λ is the tuning of PPI++ (Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453, section 6): the interval is, for
    large n, never wider than that of the rated ones alone, however bad the scores. With no other scores λ is 0. That
    takes the rated ones for a random draw of the very things whose mean is wanted. Where they are a draw of others, a
    `weight` of 1 (the λ of the first paper) carries over what the scores are off, and not how good those others were.

    `scores` must come from weights that have not seen the targets (`cross_validated_scores`). Returns None while fewer
    than five targets lie on either side of the middle, or a given weight rests on fewer than five other scores: the
    normal approximation, whose interval would shrink to a point where all are equal, does not hold there.
    """
    n, others = len(targets), len(other_scores)
    if len(scores) != n:
        raise ValueError(f"{n} targets and {len(scores)} scores; there must be as many")
    if min(sum(y > 0.5 for y in targets), sum(y < 0.5 for y in targets)) < _FEWEST_OF_A_KIND:
        return None
    if weight and others < _FEWEST_OF_A_KIND:
        return None
    tuned = weight or 0.0
    pooled = [*scores, *other_scores]
    spread = _covariance(pooled, pooled)
    if weight is None and others and spread > 0:
        tuned = min(1.0, max(0.0, _covariance(targets, scores) / ((1 + n / others) * spread)))
    estimate, variance = fmean(targets), 0.0
    if tuned:
        estimate += tuned * (fmean(other_scores) - fmean(scores))
        variance = tuned**2 * _covariance(other_scores, other_scores) / others
    rest = [y - tuned * f for y, f in zip(targets, scores, strict=True)]
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance + _covariance(rest, rest) / n)
    estimate = min(1.0, max(0.0, estimate))
    return Interval(estimate, max(0.0, estimate - half), min(1.0, estimate + half), level)


def precision_bound(
    threshold: float, scores: Sequence[float], labels: Sequence[bool], level: float = 0.95
) -> PrecisionBound:
    """Return what is guaranteed of the things at or above a threshold: the exact lower bound of their good share.

    The one-sided bound of Clopper and Pearson 1934: the smallest share under which as many good ones, or more, would be
    drawn with a probability of 1 - `level`. It is 0 where nothing, or nothing good, was rated there. The threshold must
    not have been chosen by looking at the labels; `threshold_for_precision` is for that.
    """
    chosen = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
    good = sum(chosen)
    return PrecisionBound(threshold, good, len(chosen), lower_bound(good, len(chosen), level), level)


def threshold_for_precision(
    precision: float,
    scores: Sequence[float],
    labels: Sequence[bool],
    thresholds: Sequence[float],
    level: float = 0.95,
) -> PrecisionBound | None:
    """Return the lowest threshold at which at least `precision` of what is accepted is good, at confidence `level`.

    Fixed-sequence testing (Bauer 1991; Angelopoulos, Bates, Candès, Jordan and Lei 2021, "Learn then test",
    arXiv 2110.01052, section 3): thresholds are tried from the strictest downward, each by the exact binomial test at
    the full error rate, until one fails; the last that passed holds, however many were tried. The sequence begins at
    the strictest threshold where enough is rated to pass at all, which is known without looking at a label.
    `thresholds` must not depend on the labels either. Returns None where the first test fails already.
    """
    needed = ratings_needed(precision, level)
    found = None
    for threshold in sorted(thresholds, reverse=True):
        bound = precision_bound(threshold, scores, labels, level)
        if bound.rated < needed:
            continue
        if _upper_tail(bound.good, bound.rated, precision) > 1 - level:
            break
        found = bound
    return found


def ratings_needed(precision: float, level: float = 0.95) -> int:
    """Return how many rated things, all of them good, guarantee a precision (0-1): 29 for 0.9 at a level of 0.95.

    Raises:
        ValueError: The precision is not above 0 and below 1: no number of ratings guarantees that all are good.
    """
    if not 0 < precision < 1:
        raise ValueError(f"a precision of {precision} cannot be guaranteed; it must lie between 0 and 1")
    return math.ceil(math.log(1 - level) / math.log(precision))


def lower_bound(good: int, rated: int, level: float = 0.95) -> float:
    """Return the one-sided exact lower bound (Clopper and Pearson 1934) of the share that `good` of `rated` shows."""
    if good == 0:
        return 0.0
    low, high = 0.0, good / rated
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _upper_tail(good, rated, middle) < 1 - level else (low, middle)
    return low


def _upper_tail(good: int, rated: int, share: float) -> float:
    """The probability of `good` or more good ones among `rated`, where `share` of all are good."""
    if good == 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    log_share, log_rest, all_ways = math.log(share), math.log1p(-share), math.lgamma(rated + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(
                all_ways - math.lgamma(k + 1) - math.lgamma(rated - k + 1) + k * log_share + (rated - k) * log_rest
            )
            for k in range(good, rated + 1)
        ),
    )


def _covariance(one: Sequence[float], other: Sequence[float]) -> float:
    """Covariance with n - 1 below; 0 for a single pair."""
    mean_one, mean_other = fmean(one), fmean(other)
    products = ((x - mean_one) * (y - mean_other) for x, y in zip(one, other, strict=True))
    return math.fsum(products) / max(1, len(one) - 1)
