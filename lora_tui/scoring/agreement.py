"""How well scores agree with people's ratings: ranking, calibration, and cross-validation of a log of ratings.

Scores are probabilities in [0, 1] that a person would accept something; a label is whether a person did. A rating of
the middle (3 of 5, a target of 0.5) says neither and is no label (`labels_of`). Where one question was answered, or one
passage asked about, several times, its ratings are not independent: `groups` names what belongs together, so that
intervals are as wide as they must be and no question stands on both sides of a cross-validation.

Pure functions, without numpy because a running app computes them too; about ``n log n`` in the number of ratings. What
follows for the mean of many scores and for a threshold is in `guarantee`.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

CUT = 0.5
"""A score is read as "a person would accept it" at or above this: the probability says that acceptance is likelier."""

ENOUGH = 10
"""Ratings of each kind, good and bad, below which no agreement is stated: with ten of each an AUROC of 0.8 is known to
about ±0.2 (`auroc_interval`); with five, to ±0.3, which leaves open whether the score is any better than a coin."""

_BISECTIONS = 60

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its confidence interval; `level` is the interval's coverage, such as 0.95."""

    estimate: float
    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Ratings with about the same score: their mean score, and the share (0-1) of good ones with its interval."""

    score: float
    good: Interval
    count: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How scores agree with labels (all 0-1, kappa -1 to 1); `curve` is the reliability curve."""

    good: int
    bad: int
    auroc: Interval
    kappa: float
    accuracy: float
    calibration_error: float
    curve: tuple[ReliabilityBin, ...]


def labels_of(targets: Sequence[float]) -> list[bool | None]:
    """Return a label for each target (0-1): good above the middle, bad below it, None in the middle itself."""
    return [None if target == CUT else target > CUT for target in targets]


def count_labels(targets: Sequence[float]) -> tuple[int, int]:
    """Return how many targets (0-1) are good ones and how many bad ones; those in the middle are neither."""
    labels = labels_of(targets)
    return labels.count(True), labels.count(False)


def missing_ratings(good: int, bad: int, enough: int = ENOUGH) -> tuple[int, int]:
    """Return how many good and how many bad ratings are missing before agreement can be stated."""
    return max(0, enough - good), max(0, enough - bad)


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Return the probability that a good one scores above a bad one, ties counted half.

    The area under the receiver operating characteristic is the Mann-Whitney statistic (Hanley and McNeil 1982).

    Raises:
        ValueError: Good ones or bad ones are missing.
    """
    good, _ = _placements(scores, labels)
    return math.fsum(good) / len(good)


def auroc_interval(
    scores: Sequence[float],
    labels: Sequence[bool],
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Interval:
    """Return the AUROC with a confidence interval: the wider one, at each end, of two that err in different cases.

    The first is DeLong, DeLong and Clarke-Pearson 1988, in the form for clusters of Obuchowski 1997 ("Nonparametric
    analysis of clustered ROC curve data"), on the logit scale; it shrinks to a point where nothing is ranked wrongly.
    The second is method 5 of Newcombe 2006 ("Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic, part 2"), which does not, and keeps its coverage for ten of each kind, but knows no clusters.

    Raises:
        ValueError: Good ones or bad ones are missing.
    """
    good, bad = _placements(scores, labels)
    estimate = math.fsum(good) / len(good)
    z = NormalDist().inv_cdf((1 + level) / 2)
    ends = [_newcombe(estimate, len(good), len(bad), z, side) for side in (-1, 1)]
    variance = _clustered_variance(good, bad, labels, groups or range(len(labels)), estimate)
    if 0 < estimate < 1:
        centre = math.log(estimate / (1 - estimate))
        spread = z * math.sqrt(variance) / (estimate * (1 - estimate))
        ends = [min(ends[0], _sigmoid(centre - spread)), max(ends[1], _sigmoid(centre + spread))]
    return Interval(estimate, ends[0], ends[1], level)


def _placements(scores: Sequence[float], labels: Sequence[bool]) -> tuple[list[float], list[float]]:
    """Each good one's share of bad ones below it, and each bad one's share of good ones above it, in their order."""
    _check(scores, labels)
    good = sorted(score for score, label in zip(scores, labels, strict=True) if label)
    bad = sorted(score for score, label in zip(scores, labels, strict=True) if not label)
    if not good or not bad:
        raise ValueError(f"a ranking needs good and bad ones; there are {len(good)} and {len(bad)}")

    def below(values: list[float], score: float) -> float:
        return (bisect_left(values, score) + bisect_right(values, score)) / (2 * len(values))

    pairs = list(zip(scores, labels, strict=True))
    return [below(bad, score) for score, label in pairs if label], [
        1 - below(good, score) for score, label in pairs if not label
    ]


def _clustered_variance(
    good: Sequence[float], bad: Sequence[float], labels: Sequence[bool], groups: Sequence[Hashable], estimate: float
) -> float:
    """Variance of the AUROC by Obuchowski 1997: with a group for each rating, it is nearly DeLong's."""
    sums: dict[Hashable, list[float]] = {}
    of_good, of_bad = iter(good), iter(bad)
    for label, group in zip(labels, groups, strict=True):
        entry = sums.setdefault(group, [0.0, 0.0])
        entry[not label] += (next(of_good) if label else next(of_bad)) - estimate
    count, m, n = len(sums), len(good), len(bad)
    if count < 2:
        return 0.25  # one cluster tells nothing; a half is the largest deviation that a share can have
    with_good = len({group for label, group in zip(labels, groups, strict=True) if label})
    with_bad = len({group for label, group in zip(labels, groups, strict=True) if not label})
    s_good = math.fsum(entry[0] ** 2 for entry in sums.values()) * _correction(with_good) / m**2
    s_bad = math.fsum(entry[1] ** 2 for entry in sums.values()) * _correction(with_bad) / n**2
    s_both = math.fsum(entry[0] * entry[1] for entry in sums.values()) * _correction(count) / (m * n)
    return max(0.0, s_good + s_bad + 2 * s_both)


def _correction(count: int) -> float:
    return count / (count - 1) if count > 1 else 1.0


def _newcombe(estimate: float, good: int, bad: int, z: float, side: int) -> float:
    """One end of Newcombe's interval: the θ at which the estimate lies z standard errors of θ away, by bisection."""
    half = (good + bad) / 2 - 1

    def far(theta: float) -> bool:
        spread = theta * (1 - theta) * (1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (good * bad)
        return abs(theta - estimate) > z * math.sqrt(spread)

    near, away = estimate, (0.0 if side < 0 else 1.0)
    for _ in range(_BISECTIONS):
        middle = (near + away) / 2
        near, away = (near, middle) if far(middle) else (middle, away)
    return away


def kappa(scores: Sequence[float], labels: Sequence[bool], cut: float = CUT) -> float:
    """Return Cohen's kappa (1960) between "score at or above `cut`" and the labels: 1 perfect, 0 as by chance.

    The cut is 0.5 because the score is a probability: tuning it to the ratings would flatter the score. Where both say
    the same of everything there is nothing to agree about beyond chance, and the result is 0.
    """
    _check(scores, labels)
    said = [score >= cut for score in scores]
    n = len(labels)
    observed = sum(one == other for one, other in zip(said, labels, strict=True)) / n
    yes, good = sum(said) / n, sum(labels) / n
    chance = yes * good + (1 - yes) * (1 - good)
    return 0.0 if chance == 1 else (observed - chance) / (1 - chance)


def accuracy(scores: Sequence[float], labels: Sequence[bool], cut: float = CUT) -> float:
    """Return the share of labels that "score at or above `cut`" gets right."""
    _check(scores, labels)
    return sum((score >= cut) == label for score, label in zip(scores, labels, strict=True)) / len(labels)


def reliability(
    scores: Sequence[float], labels: Sequence[bool], bins: int = 10, level: float = 0.95
) -> tuple[ReliabilityBin, ...]:
    """Return the reliability curve: ratings in bins of equal mass, by score, with Wilson's interval of the good share.

    Equal mass rather than equal width, because most scores lie near 0 and 1, where bins of equal width would hold
    nearly all ratings and the others next to none (Nixon and others 2019, "Measuring calibration in deep learning").
    Equal scores stay together, so there may be fewer bins, and the order of the ratings does not matter.
    """
    _check(scores, labels)
    ordered = sorted(scores)
    members: dict[int, list[tuple[float, bool]]] = {}
    for score, label in zip(scores, labels, strict=True):
        middle = (bisect_left(ordered, score) + bisect_right(ordered, score)) / 2
        members.setdefault(min(bins - 1, int(middle * bins / len(ordered))), []).append((score, label))
    return tuple(
        ReliabilityBin(
            math.fsum(score for score, _ in held) / len(held),
            wilson_interval(sum(label for _, label in held), len(held), level),
            len(held),
        )
        for _, held in sorted(members.items())
    )


def calibration_error(scores: Sequence[float], labels: Sequence[bool], bins: int = 10) -> float:
    """Return the expected calibration error (Naeini and others 2015) over bins of equal mass, in [0, 1].

    That is the mean distance, over the ratings, between a bin's mean score and its share of good ones.
    """
    curve = reliability(scores, labels, bins)
    return math.fsum(held.count * abs(held.score - held.good.estimate) for held in curve) / len(labels)


def wilson_interval(successes: int, count: int, level: float = 0.95) -> Interval:
    """Return a share with Wilson's score interval (1927), which stays inside [0, 1] and holds for few ratings.

    Raises:
        ValueError: The count is not above 0.
    """
    if count <= 0:
        raise ValueError("a share of nothing has no interval")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), level)


def cross_validated_scores(
    log: Sequence[Item],
    groups: Sequence[Hashable],
    replay: Callable[[Sequence[Item]], Callable[[Item], float]],
    folds: int = 5,
) -> list[float]:
    """Return the score that each rated thing gets from weights that have not seen its rating, nor its group's.

    Groups are dealt out to `folds` by the order in which they first occur, so that the split is the same whenever the
    log is. `replay` takes what is left of the log, in order, and returns what scores an item. With less than two groups
    nothing is left to learn from, and the scores are the prior's.
    """
    places: dict[Hashable, int] = {}
    for group in groups:
        places.setdefault(group, len(places))
    folds = max(1, min(folds, len(places)))
    fold_of = [places[group] % folds for group in groups]
    scores = [0.0] * len(log)
    for fold in range(folds):
        score = replay([item for item, place in zip(log, fold_of, strict=True) if place != fold])
        for position, place in enumerate(fold_of):
            if place == fold:
                scores[position] = score(log[position])
    return scores


def measure_agreement(
    scores: Sequence[float], targets: Sequence[float], groups: Sequence[Hashable], enough: int = ENOUGH
) -> Agreement | None:
    """Return how scores agree with targets (0-1), or None while ratings of either kind are fewer than `enough`.

    The reliability curve has a bin for about ten ratings, ten bins at most.
    """
    kept = [
        (score, label, group)
        for score, label, group in zip(scores, labels_of(targets), groups, strict=True)
        if label is not None
    ]
    good = sum(label for _, label, _ in kept)
    if any(missing_ratings(good, len(kept) - good, enough)):
        return None
    values, labels = [score for score, _, _ in kept], [label for _, label, _ in kept]
    bins = min(10, max(2, len(kept) // 10))
    curve = reliability(values, labels, bins)
    return Agreement(
        good,
        len(kept) - good,
        auroc_interval(values, labels, [group for _, _, group in kept]),
        kappa(values, labels),
        accuracy(values, labels),
        math.fsum(held.count * abs(held.score - held.good.estimate) for held in curve) / len(kept),
        curve,
    )


def _check(scores: Sequence[float], labels: Sequence[bool]) -> None:
    if not scores or len(scores) != len(labels):
        raise ValueError(f"{len(scores)} scores and {len(labels)} labels; there must be as many, and one at least")


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))
