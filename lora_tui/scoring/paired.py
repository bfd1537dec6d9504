"""Two models on the same questions: both means, the paired difference, each with its bootstrap interval; who won.

Questions about one document rise and fall together, so that a hundred questions on six documents are worth less than
a hundred on fifty. Where there are enough documents, whole ones are drawn in the bootstrap (Efron and Tibshirani 1993,
chapter 8), else questions, and the result says which. The interval is the expanded percentile interval of Hesterberg
2015 (arXiv:1411.5279, section 5.3): the plain one is too narrow for a few dozen values, which is what people have.

Pure functions, without numpy because a running app may call them; a thousand questions take a second.
"""

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Literal

from lora_tui.scoring.agreement import Interval

LEAST_GROUPS = 6
"""Documents from which on whole ones are drawn: from five down, a 95 % interval covered 92 % and less (measured)."""

LEAST_QUESTIONS = 4
"""Fewer questions have no interval: their means are given alone."""

TIE = 0.05
"""Two scores (0-1) of a question that differ by less count as a tie."""

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean scores (0-1) of two models on the same questions and their difference, tuned minus base.

    `wins` counts the questions that the tuned model answered better by `TIE` or more. `drawn` is what the bootstrap
    drew, `groups` how many documents there were (0 where they are not known). Of fewer than `LEAST_QUESTIONS` questions
    low and high are the estimate itself, and `drawn` is ``nothing``.
    """

    base: Interval
    tuned: Interval
    difference: Interval
    wins: int
    ties: int
    losses: int
    questions: int
    groups: int
    drawn: Literal["documents", "questions", "nothing"]

    @property
    def verdict(self) -> Literal["better", "worse", "open"]:
        """Whether the interval of the difference lies above 0, below it, or leaves open which model is better."""
        if self.drawn == "nothing":
            return "open"
        return "better" if self.difference.low > 0 else "worse" if self.difference.high < 0 else "open"


def compare_paired(
    base: Sequence[float],
    tuned: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare the scores of two models on the same questions, in the same order.

    `groups` names the document of each question. The same arguments give the same intervals.

    Raises:
        ValueError: There are no questions, or the lengths differ.
    """
    if not base or len(base) != len(tuned) or (groups is not None and len(groups) != len(base)):
        raise ValueError(f"{len(base)} and {len(tuned)} scores cannot be paired")
    differences = [after - before for before, after in zip(base, tuned, strict=True)]
    names = sorted(set(groups), key=repr) if groups is not None else []
    by_group = len(names) >= LEAST_GROUPS
    units = _units(base, tuned, groups if by_group and groups is not None else range(len(base)))
    wins, losses = sum(change >= TIE for change in differences), sum(change <= -TIE for change in differences)
    means = (fmean(base), fmean(tuned), fmean(differences))
    drawn: Literal["documents", "questions", "nothing"] = "documents" if by_group else "questions"
    if len(base) < LEAST_QUESTIONS:
        intervals, drawn = [Interval(mean, mean, mean, level) for mean in means], "nothing"
    else:
        samples = _bootstrap(units, resamples, seed)
        tail = _expanded_tail(len(units), level)
        intervals = [_interval(mean, sorted(found), tail, level) for mean, found in zip(means, samples, strict=True)]
    return Comparison(
        base=intervals[0],
        tuned=intervals[1],
        difference=intervals[2],
        wins=wins,
        ties=len(base) - wins - losses,
        losses=losses,
        questions=len(base),
        groups=len(names),
        drawn=drawn,
    )


Unit = tuple[float, float, int]
"""What the bootstrap draws: the sums of both models' scores over its questions, and how many these are."""


def _units(base: Sequence[float], tuned: Sequence[float], groups: Sequence[Hashable]) -> list[Unit]:
    sums: dict[Hashable, Unit] = {}
    for before, after, group in zip(base, tuned, groups, strict=True):
        first, second, count = sums.get(group, (0.0, 0.0, 0))
        sums[group] = first + before, second + after, count + 1
    return list(sums.values())


def _bootstrap(units: Sequence[Unit], resamples: int, seed: int) -> tuple[list[float], list[float], list[float]]:
    """Return the two means and their difference in every resample; means are over questions, not over documents."""
    draw = random.Random(seed)  # noqa: S311  # statistics, no secrets
    before, after, change = [], [], []
    for _ in range(resamples):
        chosen = draw.choices(units, k=len(units))
        count = sum(unit[2] for unit in chosen)
        first, second = sum(unit[0] for unit in chosen) / count, sum(unit[1] for unit in chosen) / count
        before.append(first)
        after.append(second)
        change.append(second - first)
    return before, after, change


def _interval(mean: float, ordered: Sequence[float], tail: float, level: float) -> Interval:
    """The values between the two tails of the resamples; never such that the mean itself lies outside."""
    last = len(ordered) - 1
    low, high = ordered[max(0, math.floor(tail * last))], ordered[min(last, math.ceil((1 - tail) * last))]
    return Interval(mean, min(low, mean), max(high, mean), level)


def _expanded_tail(count: int, level: float) -> float:
    """The share of resamples outside each end: as wide as Student's t of `count` values would have it."""
    normal = NormalDist()
    z, freedom = normal.inv_cdf((1 + level) / 2), count - 1
    if freedom < 1:
        return 0.0
    # Cornish-Fisher expansion of Student's quantile (Abramowitz and Stegun 1964, 26.7.5): within 1 % from 3 on.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return normal.cdf(-math.sqrt(count / freedom) * t)
