"""The arithmetic of the round trip: from what was measured and how a pair was made to its level."""

import math

import pytest

from lora_tui.engine.generation import round_trip
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
    vague = RoundTrip(-4.0, -8.0, -3.0, 4, -2.0, {"vague noun": 1.0, "unknown": 9.0})
    assert vague.level == pytest.approx(1 / (1 + math.exp(2.0 - BIAS)))
    assert "something that only its text explains" in vague.note()
    assert "against" not in PLAIN.note()


def test_a_wild_measure_is_held_within_bounds() -> None:
    wild = RoundTrip(-90.0, -900.0, -80.0, tokens=1, fluency=-70.0).measured
    assert wild == pytest.approx({"gain": 3.0, "fluency": -2.0, "answer": -4.0, "first word": -10 / 3 + 1})


def test_the_fitted_weights_do_what_their_names_say() -> None:
    assert WEIGHTS["fluency"] > 0
    assert all(WEIGHTS[name] < 0 for name in ("vague noun", "part of a sentence", "clause in question"))
