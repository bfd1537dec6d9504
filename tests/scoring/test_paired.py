"""Two models on the same questions: means, paired difference, intervals that hold what they promise, who won."""

import random

import pytest

from lora_tui.scoring.paired import LEAST_GROUPS, TIE, compare_paired


def test_means_difference_and_wins_are_those_of_the_pairs() -> None:
    base, tuned = [0.0, 0.5, 1.0, 0.2], [1.0, 0.5 + TIE / 2, 0.5, 0.2]
    found = compare_paired(base, tuned)
    assert found.base.estimate == pytest.approx(0.425)
    assert found.tuned.estimate == pytest.approx(0.55625)
    assert found.difference.estimate == pytest.approx(found.tuned.estimate - found.base.estimate)
    assert (found.wins, found.ties, found.losses, found.questions) == (1, 2, 1, 4)
    for interval in (found.base, found.tuned, found.difference):
        assert interval.low <= interval.estimate <= interval.high


def test_the_same_scores_give_the_same_intervals() -> None:
    draw = random.Random(1)
    base, tuned = ([draw.random() for _ in range(30)] for _ in range(2))
    assert compare_paired(base, tuned) == compare_paired(base, tuned)


def test_pairing_tells_a_small_gain_on_questions_of_very_different_difficulty() -> None:
    draw = random.Random(2)
    base = [draw.random() * 0.9 for _ in range(40)]
    tuned = [score + 0.08 + 0.02 * draw.random() for score in base]
    found = compare_paired(base, tuned)
    assert found.verdict == "better"
    assert found.difference.high - found.difference.low < 0.02
    assert found.base.high > found.tuned.low, "the two means alone would leave it open"
    assert compare_paired(tuned, base).verdict == "worse"


def test_no_difference_is_left_open() -> None:
    draw = random.Random(3)
    scores = [[draw.random() for _ in range(40)] for _ in range(2)]
    assert compare_paired(*scores).verdict == "open"


def test_documents_are_drawn_where_there_are_enough_and_widen_the_interval() -> None:
    # All questions of a document agree: 200 questions are worth 20.
    draw = random.Random(4)
    of_document = [draw.random() for _ in range(20)]
    documents = [n // 10 for n in range(200)]
    tuned, base = [of_document[document] for document in documents], [0.0] * 200
    by_document, by_question = compare_paired(base, tuned, documents), compare_paired(base, tuned)
    assert (by_document.drawn, by_document.groups) == ("documents", 20)
    assert (by_question.drawn, by_question.groups) == ("questions", 0)
    width = [found.difference.high - found.difference.low for found in (by_document, by_question)]
    assert width[0] > 2.5 * width[1]


def test_few_documents_are_told_and_questions_drawn() -> None:
    documents = [n % (LEAST_GROUPS - 1) for n in range(40)]
    found = compare_paired([0.0] * 40, [1.0] * 40, documents)
    assert (found.drawn, found.groups) == ("questions", LEAST_GROUPS - 1)


def test_too_few_questions_have_no_interval_and_prove_nothing() -> None:
    found = compare_paired([0.0] * 3, [1.0] * 3)
    assert (found.drawn, found.verdict, found.difference.low) == ("nothing", "open", 1.0)


def test_scores_that_are_no_pairs_are_refused() -> None:
    for base, tuned, groups in (([], [], None), ([0.1], [0.1, 0.2], None), ([0.1], [0.2], ["a", "b"])):
        with pytest.raises(ValueError, match="cannot be paired"):
            compare_paired(base, tuned, groups)  # type: ignore[arg-type]


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    draw, covered, runs = random.Random(7), 0, 600
    for number in range(runs):
        base = [draw.random() for _ in range(12)]
        tuned = [draw.random() for _ in range(12)]
        found = compare_paired(base, tuned, resamples=400, seed=number)
        covered += found.difference.low <= 0 <= found.difference.high
    assert 0.93 <= covered / runs <= 0.97, "12 questions; the plain percentile interval covers 0.91 here"
