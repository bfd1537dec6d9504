"""What people's ratings say of the scores: agreement, intervals of means, and what a threshold guarantees.

A score is compared with ratings only where it did not know them: the log is replayed without the passages or questions
of a fifth of it, and these are scored by the weights that result (five times). Means and guarantees use the ratings
alone that were asked for at random. So does agreement, once these are enough, where others were asked for because they
are hard: of hard ones any score looks worse than it is.

The cross-validation takes a replay of the log for each fifth, so `rating_statistics` keeps the newest result of each
scope until the log changes: a screen may ask as often as it likes.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Any

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.review.aggregators import EVALUATION, GENERATION, NEWEST_FEATURE, PRIORS, learning_rate_of_run
from lora_tui.engine.review.queue import is_audit
from lora_tui.protocol.agreement import ENOUGH, Estimate, Guarantee, ReliabilityPoint, ScoreAgreement
from lora_tui.scoring.aggregator import AdaptiveAggregator, Feedback
from lora_tui.scoring.agreement import (
    Interval,
    count_labels,
    cross_validated_scores,
    labels_of,
    measure_agreement,
    missing_ratings,
)
from lora_tui.scoring.guarantee import (
    lower_bound,
    prediction_powered_mean,
    ratings_needed,
    threshold_for_precision,
)
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.ratings import (
    RatingRow,
    accepted_and_changed_by_hand,
    accepted_scores,
    answers_to_expect,
    rating_rows,
    ratings_state,
)
from lora_tui.text import count

PRECISIONS = (0.95, 0.9, 0.85, 0.8, 0.7)
"""Precisions for which the lowest threshold is looked for."""

THRESHOLDS = tuple(step / 2 for step in range(21))
"""Thresholds that are tried, 0-10: fixed beforehand, so that no rating has a say in them."""

_THRESHOLD = "data_generation.evaluation_threshold"


@dataclass(frozen=True)
class RatingStatistics:
    """People's ratings of one scope, each beside a score of weights that did not know it."""

    aggregator: AdaptiveAggregator
    """The aggregator after the whole log, which scores what nobody has rated."""
    targets: Sequence[float]
    scores: Sequence[float]
    about: Sequence[str]
    at_random: Sequence[bool]
    as_hard: int = 0
    """How many were asked for because they are hard to score."""

    @cached_property
    def agreement(self) -> ScoreAgreement:
        """How the scores agree with the ratings, without what depends on a run."""
        good, bad = count_labels(self.targets)
        missing_good, missing_bad = missing_ratings(good, bad, ENOUGH)
        counted = ScoreAgreement(good, bad, sum(self.at_random), missing_good, missing_bad, as_hard=self.as_hard)
        kept = [True] * len(self.targets)
        drawn = [target for target, at_random in zip(self.targets, self.at_random, strict=True) if at_random]
        if self.as_hard and not any(missing_ratings(*count_labels(drawn), ENOUGH)):
            kept, counted = list(self.at_random), replace(counted, of="audit")
        scores, targets = list(compress(self.scores, kept)), list(compress(self.targets, kept))
        found = measure_agreement(scores, targets, list(compress(self.about, kept)), ENOUGH)
        if found is None:
            return counted
        return replace(
            counted,
            auroc=estimate_of(found.auroc),
            kappa=found.kappa,
            accuracy=found.accuracy,
            calibration_error=found.calibration_error,
            curve=tuple(ReliabilityPoint(held.score, estimate_of(held.good), held.count) for held in found.curve),
        )

    @property
    def enough(self) -> bool:
        """Whether there are ratings enough to state anything."""
        return self.agreement.auroc is not None

    def mean(self, scores: Sequence[float]) -> Estimate | None:
        """Return what people would think, on average, of answers with these scores; None where too little is known.

        Prediction-powered: the mean score plus what scores are off on the answers that were rated at random. It assumes
        that the score errs on these answers as it did on those.
        """
        if not self.enough:
            return None
        drawn = [
            (target, score)
            for target, score, at_random in zip(self.targets, self.scores, self.at_random, strict=True)
            if at_random
        ]
        known = [target for target, _ in drawn], [score for _, score in drawn]
        mean = prediction_powered_mean(*known, scores, weight=1.0)
        return None if mean is None else estimate_of(mean)

    def threshold_for(self, precision: float) -> Guarantee | None:
        """Return the lowest threshold that promises a precision (0-1, neither end), None where none does."""
        if not self.enough:
            return None
        tried = [threshold / 10 for threshold in THRESHOLDS]
        bound = threshold_for_precision(precision, *self._drawn_labels(), tried)
        return None if bound is None else Guarantee(10 * bound.threshold, bound.low, bound.good, bound.rated)

    def thresholds(self) -> tuple[tuple[float, float], ...]:
        """Return (precision, the lowest threshold of 0-10 that promises it), for each that can be promised."""
        found = [(share, self.threshold_for(share)) for share in PRECISIONS]
        return tuple((share, promise.threshold) for share, promise in found if promise is not None)

    def why_no_threshold(self, precision: float) -> str:
        """Return why no threshold promises a precision though there are enough ratings."""
        rated, needed = len(self._drawn_labels()[0]), ratings_needed(precision)
        if rated < needed:
            return f"it takes at least {needed} ratings at random, all good, and there are {rated}"
        return f"{count(rated, 'rating')} at random promise it at no threshold"

    def _drawn_labels(self) -> tuple[list[float], list[bool]]:
        labels = labels_of(self.targets)
        kept = [
            (score, label)
            for label, score, drawn in zip(labels, self.scores, self.at_random, strict=True)
            if drawn and label is not None
        ]
        return [score for score, _ in kept], [label for _, label in kept]


_newest: dict[tuple[Any, ...], tuple[tuple[Any, ...], RatingStatistics]] = {}


async def rating_statistics(store: Store, scope: str, learning_rate: float) -> RatingStatistics:
    """Return the statistics of a scope's ratings, computed anew only where the ratings have changed."""
    key, state = (store.path, scope, learning_rate), await ratings_state(store, scope)
    held = _newest.get(key)
    if held is not None and held[0] == state:
        return held[1]
    rows = await rating_rows(store, scope)
    statistics = await asyncio.to_thread(statistics_of, scope, rows, learning_rate)
    _newest[key] = state, statistics
    return statistics


def statistics_of(scope: str, rows: Sequence[RatingRow], learning_rate: float) -> RatingStatistics:
    """Score each rated thing by weights that have not seen it, nor another rating of its passage or question."""

    def replay(log: Sequence[RatingRow]) -> AdaptiveAggregator:
        return AdaptiveAggregator.replay(
            PRIORS[scope], [Feedback(row.metrics, row.target) for row in log], learning_rate
        )

    def scorer(log: Sequence[RatingRow]) -> Callable[[RatingRow], float]:
        aggregator = replay(log)
        return lambda row: aggregator.score(row.metrics)

    known = replay([]).weights.keys()
    rows = [row for row in rows if row.metrics.keys() & known]
    counts = [row.by_person for row in rows]
    rated = [row for row, counted in zip(rows, counts, strict=True) if counted]
    scores = [0.0] * len(rated)
    if not any(missing_ratings(*count_labels([row.target for row in rated]), ENOUGH)):
        of_all = cross_validated_scores(rows, [row.about for row in rows], scorer)
        scores = [score for score, counted in zip(of_all, counts, strict=True) if counted]
    return RatingStatistics(
        replay(rows),
        [row.target for row in rated],
        scores,
        [row.about for row in rated],
        [row.at_random for row in rated],
        sum(row.as_hard for row in rated),
    )


async def pairs_agreement(store: Store, run_id: int) -> ScoreAgreement:
    """Return what ratings of pairs say of the score, of the run's threshold, and of the pairs that the run accepted.

    The share of good ones among these is prediction-powered too, from the run's own ratings at random: the other
    accepted pairs come in by the score they were accepted with. The guarantee rests on the same ratings, since the
    weights have moved: what they would accept today is not what the run did. `thresholds` are for the next run.

    Neither is stated once a person has judged or edited, unasked, a pair that was to be asked about at random: people
    reject the bad ones first, and those that are left in the draw are better than what the run accepted.
    """
    statistics = await rating_statistics(store, GENERATION, await learning_rate_of_run(store, GENERATION, run_id))
    if not statistics.enough:
        return statistics.agreement
    by_hand = await accepted_and_changed_by_hand(store, run_id)
    if any(is_audit("pair", pair_id) for pair_id in by_hand):
        return replace(statistics.agreement, thresholds=statistics.thresholds(), not_random=True)
    threshold = await runs.setting(store, run_id, _THRESHOLD, DataGeneration().evaluation_threshold)
    accepted = [(score / 10, target) for score, target in await accepted_scores(store, run_id)]
    rated = [(target, score) for score, target in accepted if target is not None]
    share = prediction_powered_mean(
        [target for target, _ in rated],
        [score for _, score in rated],
        [score for score, target in accepted if target is None],
    )
    return replace(
        statistics.agreement,
        mean=None if share is None else estimate_of(share),
        guarantee=_guarantee_of_run(float(threshold), [target for target, _ in rated]),
        thresholds=statistics.thresholds(),
    )


def _guarantee_of_run(threshold: float, targets: Sequence[float]) -> Guarantee:
    """What the targets (0-1) of accepted pairs that were drawn at random promise of all that the run accepted."""
    labels = [label for label in labels_of(targets) if label is not None]
    return Guarantee(threshold, lower_bound(sum(labels), len(labels)), sum(labels), len(labels))


async def answers_agreement(store: Store, run_id: int) -> ScoreAgreement:
    """Return what ratings of answers say of the score, and the means that people would give a run's evaluations."""
    statistics = await rating_statistics(store, EVALUATION, await learning_rate_of_run(store, EVALUATION, run_id))
    if not statistics.enough:
        return statistics.agreement
    answers = await answers_to_expect(store, run_id)
    score = statistics.aggregator.score
    means = {
        key: statistics.mean([score(metrics) for metrics in held])
        for key, held in answers.items()
        if all(NEWEST_FEATURE in metrics for metrics in held)  # else scores of two kinds would be mixed
    }
    return replace(statistics.agreement, means={key: mean for key, mean in means.items() if mean is not None})


def estimate_of(interval: Interval) -> Estimate:
    """Return an interval as both sides know it."""
    return Estimate(interval.estimate, interval.low, interval.high)
