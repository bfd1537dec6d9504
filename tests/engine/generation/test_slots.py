"""Slots lean against what there is."""

import random
from collections import Counter

from lora_tui.engine.generation.generation_model import Slot
from lora_tui.engine.generation.planner import AUDIENCES, SlotCounts, draw_value, further_topics
from lora_tui.engine.generation.question_types import QUESTION_TYPES

VALUES = ("a", "b", "c", "d")


def drawn(observed: dict[str, int], times: int = 2000) -> Counter[str]:
    rng = random.Random(1)
    return Counter(draw_value(VALUES, observed, rng) for _ in range(times))


def test_without_history_every_value_is_as_likely() -> None:
    counts = drawn({})
    assert min(counts.values()) > 400


def test_a_value_that_lags_is_drawn_more_often_and_one_that_leads_is_not_forbidden() -> None:
    counts = drawn({"a": 30, "b": 10, "c": 10})
    assert counts["d"] > counts["b"] > 0
    assert counts["d"] > 5 * counts["a"] > 0


def test_drawing_evens_out_what_is_uneven() -> None:
    slots = SlotCounts()
    slots.add(Slot("t", "fact", "easy", "a beginner"), 40)
    rng = random.Random(2)
    for _ in range(280):
        slots.add(slots.draw(["t"], rng))
    shares = dict(slots.counts["question_type"])
    assert shares.keys() == QUESTION_TYPES.keys()
    assert shares.pop("fact") < 40 + 0.75 * 35, "280 draws without a lean would add 35"
    assert max(shares.values()) / min(shares.values()) < 1.5
    assert set(slots.counts["audience"]) == set(AUDIENCES)


def test_the_same_seed_and_counts_draw_the_same_slot() -> None:
    assert SlotCounts().draw(["x", "y"], random.Random("5")) == SlotCounts().draw(["x", "y"], random.Random("5"))


def test_what_came_to_nothing_is_taken_back() -> None:
    slots, slot = SlotCounts(), Slot("t", "fact", "easy", "a beginner")
    slots.add(slot, 2)
    slots.add(slot, -2)
    assert slots.counts["topic"]["t"] == 0


def test_further_topics_are_not_the_passages_own() -> None:
    found = further_topics(["Bees", "ants", "wasps", "flies"], ["bees"], random.Random(1), most=2)
    assert len(found) == 2
    assert "Bees" not in found
    assert further_topics(["Bees"], ["bees"], random.Random(1)) == ()
