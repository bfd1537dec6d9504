"""The arithmetic of the round trip: from what was measured and how a pair was made to its level."""

import math
from dataclasses import replace

import pytest

from lora_tui.engine.generation import round_trip
from lora_tui.engine.generation.contrasts import MOST_RIVALS, rivals
from lora_tui.engine.generation.pair_weights import BIAS, WEIGHTS
from lora_tui.engine.generation.round_trip import RoundTrip

PLAIN = RoundTrip(-4.0, -8.0, -3.0, tokens=4, fluency=-2.0)
"""A pair whose measures are all 0: what is left is the bias."""


def test_the_gain_is_counted_by_token() -> None:
    assert RoundTrip(-3.0, -9.0, -1.0, tokens=3, fluency=-2.0).gain == pytest.approx(2.0)


def test_an_ordinary_pair_has_the_level_of_the_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trip, "WEIGHTS", {"gain": 1.0, "fluency": 1.0, "first word": 1.0})
    assert PLAIN.level == pytest.approx(1 / (1 + math.exp(-BIAS)))


def test_each_sign_counts_by_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trip, "WEIGHTS", {"vague noun": -2.0})
    vague = RoundTrip(-4.0, -8.0, -3.0, 4, -2.0, -1.0, {"vague noun": 1.0, "unknown": 9.0})
    assert vague.level == pytest.approx(1 / (1 + math.exp(2.0 - BIAS)))
    assert "something that only its text explains" in vague.note()
    assert "against" not in PLAIN.note()


def test_a_wild_measure_is_held_within_bounds() -> None:
    wild = RoundTrip(-90.0, -900.0, -80.0, tokens=1, fluency=-70.0, end=-50.0).measured
    assert wild == pytest.approx({"gain": 3.0, "fluency": -2.0, "answer": -4.0, "end": -2.0, "first word": -10 / 3 + 1})


def test_the_fitted_weights_do_what_their_names_say() -> None:
    assert WEIGHTS["end"] > 0
    assert all(WEIGHTS[name] < 0 for name in ("vague noun", "part of a sentence", "clause in question"))


def test_a_question_that_seems_to_go_on_has_a_lower_level() -> None:
    whole, torn = replace(PLAIN, end=-0.2), replace(PLAIN, end=-4.0)
    assert torn.level < whole.level
    assert "lack something at its end" in torn.note()


def test_an_answer_is_held_against_its_rival() -> None:
    sure, even, beaten = (replace(PLAIN, rival=PLAIN.asked - above) for above in (8.0, 0.0, -4.0))
    assert PLAIN.contrast is None
    assert even.level == pytest.approx(sure.level / 2, rel=0.01)
    assert sure.level == pytest.approx(PLAIN.level, rel=0.01)
    assert beaten.level < 0.05
    assert "or the opposite, more likely" in beaten.note()
    assert "opposite" not in sure.note()


def test_words_that_are_not_of_the_passage_lower_the_level_of_a_pair_with_a_rival() -> None:
    foreign = RoundTrip(-24.0, -26.0, -3.0, tokens=4, fluency=-2.0, rival=-40.0)
    assert foreign.level < 0.2 * replace(foreign, rival=None).level


@pytest.mark.parametrize(
    ("answer", "among"),
    [
        ("The ferry does not sail.", "The ferry does sail."),
        ("They can't be copied.", "They can be copied."),
        ("Letters may be copied.", "Letters may not be copied."),
        ("No, it is closed.", "Yes, it is not closed."),
        ("It carries 210 passengers.", "It carries 48 passengers."),
        ("It carries 1931 passengers.", "It carries 210 passengers."),
        ("The captain was Ingrid Solberg.", "The captain was Ingrid Holm."),
    ],
)
def test_rivals_differ_in_what_decides(answer: str, among: str) -> None:
    passage = "The ferry of Holm has sailed since 1931 with 48 cars and 210 passengers. Captain: Ingrid Solberg."
    found = rivals(answer, passage)
    assert among in found
    assert answer not in found
    assert len(found) == len(set(found)) <= MOST_RIVALS


def test_the_same_number_in_another_form_is_no_rival() -> None:
    assert rivals("It costs 1800 euros.", "The deposit of 1,800 euros.") == []
    assert rivals("Three rooms.", "The deposit for 3 rooms.") == []
