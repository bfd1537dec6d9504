import random
from statistics import NormalDist

import pytest

from lora_tui.scoring import agreement
from lora_tui.scoring.agreement import (
    accuracy,
    auroc,
    auroc_interval,
    calibration_error,
    count_labels,
    cross_validated_scores,
    kappa,
    labels_of,
    measure_agreement,
    missing_ratings,
    reliability,
    wilson_interval,
)

SCORES = [0.9, 0.8, 0.3, 0.7, 0.4, 0.6, 0.2, 0.55, 0.95, 0.85, 0.5, 0.1, 0.65, 0.7]
LABELS = [bool(label) for label in (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1)]


def rated(rng: random.Random, good: int, bad: int, apart: float) -> tuple[list[float], list[bool]]:
    """Scores of good and of bad ones, normal and `apart` standard deviations apart, put into 0-1."""
    labels = [True] * good + [False] * bad
    return [NormalDist().cdf(rng.gauss(apart * label, 1)) for label in labels], labels


def test_a_ranking_is_the_share_of_good_ones_above_bad_ones_ties_half() -> None:
    assert auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75  # the example in scikit-learn's manual
    assert auroc([0.5, 0.5], [True, False]) == 0.5
    assert auroc([0.5, 0.5, 0.9], [True, False, True]) == 0.75
    assert auroc(SCORES, LABELS) == pytest.approx(0.9583333333333334)  # sklearn.metrics.roc_auc_score 1.8
    with pytest.raises(ValueError, match="there are 2 and 0"):
        auroc([0.5, 0.9], [True, True])


def test_the_interval_of_a_ranking_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(0)
    truth = NormalDist().cdf(1.5 / 2**0.5)
    trials = [auroc_interval(*rated(rng, 15, 12, 1.5)) for _ in range(400)]
    assert sum(trial.low <= truth <= trial.high for trial in trials) >= 0.94 * 400
    assert sum(trial.high - trial.low for trial in trials) / 400 < 0.4


def test_a_perfect_ranking_of_few_is_not_certain() -> None:
    few = auroc_interval([0.9] * 10 + [0.1] * 10, [True] * 10 + [False] * 10)
    many = auroc_interval([0.9] * 200 + [0.1] * 200, [True] * 200 + [False] * 200)
    assert (few.estimate, few.high) == (1.0, 1.0)
    assert 0.75 < few.low < 0.95 < many.low < 1


def test_ratings_of_one_question_count_as_what_they_are() -> None:
    rng = random.Random(2)
    scores, labels = rated(rng, 60, 60, 1.0)
    tenfold = [score for score in scores for _ in range(10)], [label for label in labels for _ in range(10)]
    groups = [number for number in range(120) for _ in range(10)]
    once, clustered, naive = auroc_interval(scores, labels), auroc_interval(*tenfold, groups), auroc_interval(*tenfold)
    assert clustered.low == pytest.approx(once.low, abs=0.01)
    assert clustered.high == pytest.approx(once.high, abs=0.01)
    assert naive.high - naive.low < 0.5 * (once.high - once.low)


def test_kappa_is_agreement_beyond_chance() -> None:
    assert kappa(SCORES, LABELS) == pytest.approx(0.6956521739130435)  # sklearn.metrics.cohen_kappa_score 1.8
    assert kappa([0.9, 0.9, 0.1, 0.1], [True, True, False, False]) == 1
    assert kappa([0.1, 0.9], [True, False]) == -1
    assert kappa([0.9, 0.9], [True, True]) == 0
    assert kappa([0.5, 0.49], [True, False]) == 1  # the cut itself is an acceptance


def test_accuracy_is_the_share_that_the_cut_gets_right() -> None:
    assert accuracy([0.9, 0.5, 0.4, 0.2], [True, False, True, False]) == 0.5


def test_calibration_error_is_the_mean_distance_from_the_share_of_good_ones() -> None:
    # Two bins of two: mean score 0.2 with half good, mean score 0.9 with all good: (0.3 + 0.1) / 2.
    assert calibration_error([0.1, 0.3, 0.8, 1.0], [False, True, True, True], bins=2) == pytest.approx(0.2)
    rng = random.Random(3)
    scores = [rng.random() for _ in range(4000)]
    labels = [rng.random() < score for score in scores]
    assert calibration_error(scores, labels) < 0.03
    assert calibration_error([score / 2 for score in scores], labels) == pytest.approx(0.25, abs=0.03)


def test_the_reliability_curve_keeps_equal_scores_together() -> None:
    rng = random.Random(4)
    rated_ones = [(0.2, rng.random() < 0.2) for _ in range(50)] + [(0.9, rng.random() < 0.9) for _ in range(30)]
    rng.shuffle(rated_ones)
    curve = reliability([score for score, _ in rated_ones], [label for _, label in rated_ones])
    assert [(held.score, held.count) for held in curve] == [(pytest.approx(0.2), 50), (pytest.approx(0.9), 30)]
    assert curve[0].good.low <= 0.2 <= curve[0].good.high


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for successes, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        interval = wilson_interval(successes, count)
        assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert wilson_interval(29, 29).low == pytest.approx(0.8830, abs=1e-4)
    assert wilson_interval(29, 29).high == pytest.approx(1)


def test_no_rating_is_judged_by_weights_that_saw_it_or_its_question() -> None:
    log = list(range(23))
    groups = [number // 2 for number in log]
    seen: list[list[int]] = []

    def replay(rest: object) -> object:
        seen.append(list(rest))  # type: ignore[call-overload]
        return lambda item: float(groups[item] in {groups[other] for other in seen[-1]})

    assert cross_validated_scores(log, groups, replay) == [0.0] * 23  # type: ignore[arg-type]
    assert len(seen) == 5
    assert all(rest == sorted(rest) for rest in seen)
    assert min(len(rest) for rest in seen) >= 17


def test_one_question_alone_is_judged_by_the_prior() -> None:
    assert cross_validated_scores(["a", "b"], ["q", "q"], lambda rest: lambda _: float(len(rest))) == [0.0, 0.0]


def test_a_rating_of_the_middle_says_neither() -> None:
    assert labels_of([0, 0.25, 0.5, 0.75, 1]) == [False, False, None, True, True]
    assert count_labels([0, 0.25, 0.5, 0.75, 1, 1]) == (3, 2)


def test_agreement_is_stated_from_ten_of_each_kind_on() -> None:
    assert missing_ratings(3, 6) == (7, 4)
    assert missing_ratings(30, 10) == (0, 0)
    scores, labels = rated(random.Random(5), 12, 10, 2.0)
    targets = [float(label) for label in labels]
    groups = list(range(22))
    assert measure_agreement(scores[:-1], targets[:-1], groups[:-1]) is None
    measured = measure_agreement([*scores, 0.9], [*targets, 0.5], [*groups, 22])
    assert measured is not None
    assert (measured.good, measured.bad) == (12, 10)
    assert measured.auroc.estimate == auroc(scores, labels)
    assert measured.kappa == kappa(scores, labels)
    assert measured.calibration_error == calibration_error(scores, labels, bins=2)
    assert [held.count for held in measured.curve] == [11, 11]


def test_scores_without_labels_are_refused() -> None:
    for of in (agreement.auroc, agreement.kappa, agreement.accuracy, agreement.calibration_error):
        with pytest.raises(ValueError, match="2 scores and 1 labels"):
            of([0.1, 0.2], [True])
