"""Near-duplicate questions are found, different ones are not."""

import random

import pytest

from lora_tui.engine.generation import near_duplicates
from lora_tui.engine.generation.near_duplicates import NEAR, NearDuplicates, grams, jaccard
from lora_tui.engine.generation.questions.completions import stems


def index(*questions: str) -> NearDuplicates:
    duplicates = NearDuplicates()
    for question in questions:
        duplicates.add(question)
    return duplicates


@pytest.mark.parametrize(
    "question",
    [
        "How do bees show each other where the food is?",
        "how do bees show each other where food is",
        "How do the bees show each other where food is?",
    ],
)
def test_the_same_question_in_nearly_the_same_words_is_found(question: str) -> None:
    found = index("How do bees show each other where food is?").find(question)
    assert found is not None
    assert found[1] >= NEAR


@pytest.mark.parametrize(
    "question",
    ["What is the capital of Spain?", "Why do bees dance?", "How do ants find their way home in the evening?", ""],
)
def test_another_question_is_not(question: str) -> None:
    assert index("What is the capital of France?", "How do bees find food?").find(question) is None


def test_questions_with_other_numbers_are_different() -> None:
    assert (
        index("What happened in the harbour of Orlen in 1889?").find("What happened in the harbour of Orlen in 1890?")
        is None
    )


def test_questions_with_another_content_word_each_are_different() -> None:
    assert index("When does the outdoor season begin?").find("When does the outdoor season end?") is None
    assert index("When does the outdoor season begin?").find("When does the outdoor season begin") is not None


def test_the_most_similar_one_is_named() -> None:
    duplicates = index(
        "How do bees show each other where some food is now?", "How do bees show each other where food is?"
    )
    found = duplicates.find("How do bees show each other where food is")
    assert found is not None
    assert found[0] == "How do bees show each other where food is?"


def test_a_removed_question_may_be_asked_again() -> None:
    duplicates = NearDuplicates()
    question_id = duplicates.add("How do bees find food?")
    duplicates.remove(question_id)
    assert duplicates.find("How do bees find food?") is None
    assert not duplicates._questions


def test_questions_that_are_put_in_at_once_are_found_like_single_ones_and_can_be_removed() -> None:
    asked = ["How do bees show each other where food is?", "Why?", "", "What is the capital of France?", "ß¼ ﬁ?" * 3]
    many, single = NearDuplicates(), index(*asked)
    ids = many.add_all(asked)
    assert many.add_all([]) == range(6, 6)
    for question in [*asked, "how do bees show each other where food is", "What is the capital of Spain?", "WHY?"]:
        assert many.find(question) == single.find(question)
    many.remove(ids[0])
    assert many.find(asked[0]) is None
    assert many.add("How do bees show each other where food is?") == 6
    assert many.find(asked[0]) == (asked[0], 1.0)


def test_the_same_question_in_another_order_is_the_same_and_with_another_word_is_not() -> None:
    asked = "What is returned by the run_worker method?"
    assert index(asked).find("What does the run_worker method return?") is not None
    assert index(asked).find("When does the run_worker method return?") is None
    assert index("Where does the ferry Alda sail from?").find("From where does the ferry Alda sail?") is not None


def test_the_index_finds_what_comparing_all_pairs_finds() -> None:
    rng = random.Random(3)
    words = "bees ants dance food hive queen wax honey angle sun length direction flower field worker".split()
    questions = [f"How do {' '.join(rng.choices(words, k=6))}?" for _ in range(200)]
    questions += [question.replace("How do", "How will") for question in questions[:40]]
    duplicates = NearDuplicates()
    missed = 0
    for number, question in enumerate(questions):
        near = any(jaccard(grams(question), grams(other)) >= NEAR for other in questions[:number])
        missed += near and duplicates.find(question) is None
        reordered = any(stems(question) == stems(other) for other in questions[:number])
        assert near or reordered or duplicates.find(question) is None
        duplicates.add(question)
    assert missed <= 1  # 32 bands of 4 find a similarity of 0.7 with 99.98 %


def test_one_question_has_the_keys_that_it_has_among_many() -> None:
    questions = [f"What is known of {word} and {word[::-1]} in 19{len(word)}?" for word in "café 東京 a xyzzy".split()]
    questions += ["", "ab", "What?"]
    keys = near_duplicates._band_keys(questions)
    assert [near_duplicates._keys_of(question) for question in questions] == [
        tuple(column) for column in keys.T.tolist()
    ]
