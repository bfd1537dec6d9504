import random

import pytest

from lora_tui.scoring.guarantee import (
    lower_bound,
    precision_bound,
    prediction_powered_mean,
    ratings_needed,
    threshold_for_precision,
)
from tests.extras import needed

GRID = [step / 2 for step in range(21)]


def lehmer(seed: int, count: int) -> list[float]:
    """The generator of Park and Miller 1988, so that another program can draw the same numbers."""
    drawn, state = [], seed
    for _ in range(count):
        state = 16807 * state % 2147483647
        drawn.append(state / 2147483647)
    return drawn


def calibrated(rng: random.Random, count: int) -> tuple[list[float], list[bool]]:
    """Scores of 0-10, and labels of which the share score/10 is good."""
    scores = [10 * rng.random() for _ in range(count)]
    return scores, [rng.random() < score / 10 for score in scores]


def test_the_mean_is_that_of_ppi_python() -> None:
    drawn = lehmer(11, 1200)
    scores = [0.25 + 0.5 * value for value in drawn[:200]]
    targets = [float(value < score) for score, value in zip(scores, lehmer(12, 200), strict=True)]
    mean = prediction_powered_mean(targets, scores, [0.25 + 0.5 * value * value for value in drawn[200:]])
    assert mean is not None
    # ppi_mean_pointestimate and ppi_mean_ci of ppi-python 0.2.3, which divide by n where this divides by n - 1
    assert mean.estimate == pytest.approx(0.41065031, abs=0.001)
    assert (mean.low, mean.high) == (pytest.approx(0.34316153, abs=0.001), pytest.approx(0.47813909, abs=0.001))


def test_the_mean_by_hand() -> None:
    targets, scores, others = [1.0, 0.0] * 5, [0.8, 0.4] * 5, [0.8, 0.8, 0.4, 0.8]
    # Cov(Y, f) = 10·0.5·0.2/9, Var over all 14 = (8·0.8² + 6·0.4² - 14·(8.8/14)²)/13, and 1 + n/N = 3.5; λ = 0.7583.
    spread = (8 * 0.64 + 6 * 0.16 - 8.8**2 / 14) / 13
    weight = (1 / 9) / (3.5 * spread)
    mean = prediction_powered_mean(targets, scores, others)
    assert mean is not None
    assert mean.estimate == pytest.approx(0.5 + weight * (0.7 - 0.6))
    variance = 10 * (0.5 - 0.2 * weight) ** 2 / 9 / 10 + weight**2 * 0.04 / 4
    assert mean.high - mean.low == pytest.approx(2 * 1.959964 * variance**0.5)


def test_the_interval_of_the_mean_holds_the_truth_and_is_narrower_than_the_ratings_alone() -> None:
    rng = random.Random(1)
    held, widths, alone = 0, 0.0, 0.0
    for _ in range(400):
        truths = [rng.random() for _ in range(440)]
        targets = [float(rng.random() < truth) for truth in truths[:40]]
        scores = [min(1.0, 0.3 + truth) for truth in truths]  # biased upward, and yet of use
        mean = prediction_powered_mean(targets, scores[:40], scores[40:])
        plain = prediction_powered_mean(targets, scores[:40], [])
        assert mean is not None
        assert plain is not None
        held += mean.low <= 0.5 <= mean.high
        widths += mean.high - mean.low
        alone += plain.high - plain.low
    assert held >= 0.92 * 400
    assert widths < 0.9 * alone


def test_scores_that_say_nothing_leave_the_mean_of_the_ratings() -> None:
    targets = [1.0, 1.0, 0.0] * 6
    mean = prediction_powered_mean(targets, [0.5] * 18, [0.5] * 100)
    assert mean is not None
    assert mean.estimate == pytest.approx(2 / 3)


def test_few_ratings_of_one_kind_give_no_mean() -> None:
    assert prediction_powered_mean([1.0] * 20 + [0.0] * 4, [0.5] * 24, [0.5] * 9) is None


def test_the_bound_is_clopper_and_pearsons() -> None:
    assert lower_bound(29, 29) == pytest.approx(0.05 ** (1 / 29))
    assert lower_bound(0, 7) == 0
    assert lower_bound(0, 0) == 0
    beta = needed("scipy.stats").beta
    for good, rated in ((1, 3), (57, 60), (88, 100), (900, 1000), (2500, 3000)):
        assert lower_bound(good, rated) == pytest.approx(beta.ppf(0.05, good, rated - good + 1))


def test_the_guarantee_counts_what_was_rated_at_or_above_the_threshold() -> None:
    bound = precision_bound(7.0, [6.9, 7.0, 8.0, 9.0, 2.0], [False, True, True, False, True])
    assert (bound.good, bound.rated) == (2, 3)
    assert bound.low == pytest.approx(0.1353, abs=1e-4)
    assert precision_bound(9.5, [1.0], [True]).low == 0


def test_a_guarantee_is_broken_as_rarely_as_it_says() -> None:
    rng = random.Random(2)
    broken = 0
    for _ in range(500):
        bound = precision_bound(7.0, *calibrated(rng, 60))
        broken += bound.low > 0.85  # the true precision at or above 7: scores between 7 and 10
    assert broken <= 0.06 * 500


def test_twenty_nine_good_ones_guarantee_nine_tenths() -> None:
    assert ratings_needed(0.9) == 29
    assert ratings_needed(0.5) == 5
    with pytest.raises(ValueError, match="a precision of 1"):
        ratings_needed(1)


def test_the_threshold_for_a_precision_is_the_lowest_that_holds() -> None:
    scores = [9.0] * 40 + [6.0] * 40 + [3.0] * 40
    labels = [True] * 78 + [False] * 2 + [False] * 40
    found = threshold_for_precision(0.9, scores, labels, GRID)
    assert found is not None
    assert (found.threshold, found.good, found.rated) == (3.5, 78, 80)
    assert found.low >= 0.9
    assert threshold_for_precision(0.9, scores, [not label for label in labels], GRID) is None
    assert threshold_for_precision(0.9, scores[:28], labels[:28], GRID) is None


def test_nothing_is_tried_below_a_threshold_that_failed() -> None:
    scores = [9.0] * 60 + [5.0] * 400
    labels = [True] * 50 + [False] * 10 + [True] * 400  # bad at the top, good beneath: the whole would pass
    assert precision_bound(5.0, scores, labels).low > 0.9
    assert threshold_for_precision(0.9, scores, labels, GRID) is None


def test_a_threshold_that_was_searched_for_keeps_its_promise() -> None:
    rng = random.Random(3)
    found = [threshold_for_precision(0.85, *calibrated(rng, 400), GRID) for _ in range(300)]
    broken = sum(bound is not None and (bound.threshold + 10) / 20 < 0.85 for bound in found)
    assert broken <= 0.07 * 300
    assert sum(bound is not None for bound in found) > 150


def test_ratings_of_other_things_carry_over_what_the_score_is_off_and_no_more() -> None:
    targets, scores = [1.0, 0.0] * 10, [0.9, 0.1] * 10  # half of those that were rated are good; the score is right
    mean = prediction_powered_mean(targets, scores, [0.9] * 10, weight=1.0)
    assert mean is not None
    assert mean.estimate == pytest.approx(0.9)
    assert prediction_powered_mean(targets, scores, [0.9] * 4, weight=1.0) is None, "four answers say too little"
