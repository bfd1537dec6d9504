"""Statistics of a batch and the directives that follow from them."""

from typing import Any

import pytest

from lora_tui.engine.generation.analysis import (
    MAX_DIRECTIVES,
    acceptance,
    crowded_topics,
    describe,
    directives_from,
    missing_value,
    weakest,
)
from lora_tui.engine.generation.diversity import entropy, near_duplicate_rate
from lora_tui.engine.generation.question_types import QUESTION_TYPES


def statistics(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "pairs": {"accepted": 20, "rejected": 5},
        "topics": {"a": 10, "b": 10},
        "different_topics": 2,
        "question_type": dict.fromkeys(QUESTION_TYPES, 3),
        "entropy": 1.0,
        "files": 3,
        "files_covered": 2,
        "metrics": {"judge_usefulness": 0.4},
        "weakest": None,
        "near_duplicate_rate": 0.0,
    }
    return plain | changes


def test_entropy_is_in_bits() -> None:
    assert entropy({}) == 0
    assert entropy({"a": 5}) == 0
    assert entropy(dict.fromkeys("abcdefgh", 2)) == pytest.approx(3)


def test_acceptance_is_by_value() -> None:
    assert acceptance({"fact": 3}, {"fact": 4, "reason": 2}) == {"fact": 0.75, "reason": 0.0}


def test_the_weakest_dimension_is_named_only_if_it_is_weak() -> None:
    assert weakest({"judge_groundedness": 0.9, "judge_usefulness": 0.5}) == "judge_usefulness"
    assert weakest({"judge_groundedness": 0.9, "judge_usefulness": 0.8}) is None
    assert weakest({"coverage": 0.1}) is None


def test_crowded_topics_have_more_than_twice_their_share() -> None:
    assert crowded_topics({"a": 12, "b": 2, "c": 1, "d": 1}, 4) == ["a"]
    assert crowded_topics({"a": 5, "b": 5}, 2) == []
    assert crowded_topics({}, 0) == []


def test_with_a_tree_only_a_topic_of_many_pairs_is_crowded() -> None:
    few = statistics(
        topics={"You can also": 2, "b": 1, "c": 1}, different_topics=17, tree_topics=9, tree_topics_covered=9
    )
    assert directives_from(few) == []
    assert directives_from({**few, "topics": {"bees": 8, "b": 1}})[0].startswith("Well covered already")


def test_a_missing_value_is_named_once_there_are_enough_pairs() -> None:
    assert missing_value({"fact": 16}, QUESTION_TYPES) == "definition"
    assert missing_value({"fact": 3}, QUESTION_TYPES) is None
    assert missing_value(dict.fromkeys(QUESTION_TYPES, 5), QUESTION_TYPES) is None


def test_near_duplicates_are_counted_on_both_sides() -> None:
    alike = ["How do bees find their food?", "How do bees find their home?", "Why is the sky blue at noon?"]
    assert near_duplicate_rate(alike) == pytest.approx(2 / 3)
    assert near_duplicate_rate([]) == 0


def test_a_sound_batch_needs_no_directive() -> None:
    assert directives_from(statistics()) == []


def test_each_finding_has_its_directive_and_there_are_never_many() -> None:
    found = directives_from(
        statistics(
            weakest="judge_usefulness",
            topics={"bees": 30, "b": 1, "c": 1},
            different_topics=3,
            near_duplicate_rate=0.5,
            question_type={"fact": 40},
        )
    )
    assert len(found) == MAX_DIRECTIVES == 4
    assert "bees" in found[1]
    assert all(len(directive) < 240 for directive in found)


def test_statistics_can_be_told_without_a_model() -> None:
    words = describe(statistics(weakest="judge_usefulness"))
    assert words.startswith("20 pairs accepted, 5 rejected; 2 topics (1.0 bits), 2 of 3 files covered")
    assert words.endswith("Weakest: usefulness (0.40 of 1).")
