"""Measures of how different questions are, and the sentences that requests name."""

import random

import pytest

from lora_tui.engine.generation.diversity import (
    crowded_openings,
    crowded_words,
    distinct_2,
    near_duplicate_rate,
    question_entropy,
    similarities,
)
from lora_tui.engine.generation.focus import FocusSentences
from lora_tui.engine.generation.near_duplicates import grams, jaccard

ALIKE = ["How do bees find their food?", "How do bees find their home?", "Why is the sky blue at noon?"]


def test_similarities_are_those_of_every_two_questions() -> None:
    found = similarities(ALIKE)
    for i, one in enumerate(ALIKE):
        for j, other in enumerate(ALIKE):
            assert found[i, j] == pytest.approx(0 if i == j else jaccard(grams(one), grams(other)), abs=1e-6)
    assert near_duplicate_rate(ALIKE) == pytest.approx(2 / 3)


def test_the_same_again_has_less_entropy_and_fewer_distinct_pairs_of_words() -> None:
    assert distinct_2(ALIKE[:1] * 3) == pytest.approx(1 / 3)
    assert distinct_2(ALIKE) > distinct_2(ALIKE[:2] + ALIKE[:1])
    assert question_entropy(ALIKE) > question_entropy(ALIKE[:1] * 3)


def test_openings_and_words_of_many_questions_are_crowded() -> None:
    same = [f"What is the {word} of the funicular?" for word in ("height", "length", "speed", "price", "colour", "age")]
    others = ["Who built the mill?", "Why do tides rise?", "Where is the key?", "When did Oye leave?"]
    assert crowded_openings(same + others) == ["what is"]
    assert crowded_openings(others * 2) == []
    assert crowded_words(same + others) == ["funicular"]
    assert crowded_words(same) == [], "what all questions are about is the folder's subject"


PASSAGE = (
    "The mill was built in 1712. Its wheel has forty buckets. The stones come from France. Flour is sold twice a week."
)


def test_sentences_that_nothing_was_asked_about_are_named_first_and_none_twice_at_a_time() -> None:
    focus, rng = FocusSentences(), random.Random(1)
    quoted = ["The mill was built in 1712.", "Flour is sold twice a week"]
    first = focus.take("p", 1, PASSAGE, quoted, 1, rng)
    second = focus.take("p", 2, PASSAGE, quoted, 1, rng)
    assert {*first, *second} == {"Its wheel has forty buckets.", "The stones come from France."}
    assert focus.take("p", 1, PASSAGE, quoted, 1, random.Random(1)) == first, "a task that is tried again"
    focus.release("p", 1)
    focus.release("p", 2)
    assert not focus._taken


def test_a_passage_of_one_sentence_has_no_focus() -> None:
    assert FocusSentences().take("p", 1, "The mill was built in 1712.", [], 1, random.Random(1)) == ()
