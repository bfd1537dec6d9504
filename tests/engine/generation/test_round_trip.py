"""The arithmetic of the round trip: which answer a question points at."""

import pytest

from lora_tui.engine.generation.questions.answer_spans import AnswerSpan
from lora_tui.engine.generation.round_trip import MAX_RIVALS, Candidate, RoundTrip, rivals_of


def trip(own: float, *rivals: float, tokens: int = 4) -> RoundTrip:
    """A round trip in which the question tells so many nats about each answer."""
    return RoundTrip(Candidate(own - 9, -9, tokens), tuple(Candidate(rival - 9, -9, 4) for rival in rivals), -2.0)


def test_the_share_is_the_softmax_of_what_the_question_tells() -> None:
    assert trip(1.0, 1.0).share == pytest.approx(0.5)
    assert trip(3.0, 1.0, 1.0).share == pytest.approx(0.7870, abs=1e-4)
    assert trip(1.0).share == 1.0


def test_the_gain_is_counted_by_token() -> None:
    assert trip(6.0, tokens=3).gain == pytest.approx(2.0)


def test_a_question_that_points_at_another_answer_is_judged_lower() -> None:
    right, undecided, wrong = trip(6.0, 1.0, 0.0), trip(3.0, 3.0, 0.0), trip(0.5, 5.0, 0.0)
    assert right.level > undecided.level > wrong.level
    assert 0 <= wrong.level < 0.5 < right.level <= 1


def test_rivals_are_of_the_answers_kind_first_and_none_overlaps() -> None:
    spans = [
        AnswerSpan("24 passengers", "quantity"),
        AnswerSpan("In 1897.", "time"),
        AnswerSpan("1897", "time"),
        AnswerSpan("Six minutes", "duration"),
        AnswerSpan("Since 1912", "time"),
        AnswerSpan("In 1897, on a Sunday", "time"),
    ]
    assert rivals_of("In 1897.", "time", spans) == ["Since 1912", "Six minutes", "24 passengers"]


def test_other_kinds_are_rivals_only_where_there_are_few_of_the_own() -> None:
    numbers = [AnswerSpan(f"{n} metres", "quantity") for n in range(20)]
    assert rivals_of("A winch.", "thing", [AnswerSpan(f"A rope {n}", "thing") for n in "abc"] + numbers) == [
        "A rope a",
        "A rope b",
        "A rope c",
    ]
    assert len(rivals_of("3 litres", "quantity", numbers)) == MAX_RIVALS
