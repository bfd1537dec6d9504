"""What the built-in model is asked to complete, and what of it is kept."""

import pytest

from lora_tui.engine.generation.questions.answer_spans import AnswerSpan, simple_spans
from lora_tui.engine.generation.questions.completions import (
    EXAMPLES,
    BegunQuestion,
    begun_questions,
    completed_pair,
    fault_of,
    finished_question,
    writing_prompt,
)

SENTENCE = "After a fire the bell tower of Marl, then the tallest in the valley, was rebuilt by the masons in 1871."
YEAR = BegunQuestion(SENTENCE, AnswerSpan("1871", "time"), "When was")


def test_the_answers_are_found_first_and_their_kind_begins_the_question() -> None:
    spans = list(simple_spans("The composer Ada Lindt wrote two operas in 1903 and paid 12 crowns for the hall."))
    assert {(span.text, span.kind) for span in spans} >= {
        ("Ada Lindt", "person"),
        ("1903", "time"),
        ("12 crowns", "quantity"),
    }
    openings = {(begun.span.text, begun.opening) for begun in begun_questions("x", spans)}
    assert {("1903", "When was"), ("Ada Lindt", "Who"), ("12 crowns", "How much")} <= openings
    assert not begun_questions("x", [AnswerSpan("Sunday", "time")]), "no question of the model fits a bare weekday"


def test_the_prompt_ends_where_the_question_begins() -> None:
    prompt = writing_prompt(YEAR)
    assert prompt.endswith(f"Sentence: {SENTENCE}\nAnswer: 1871\nQuestion: When was")
    assert all(question in prompt for _, _, question in EXAMPLES)


def test_what_the_model_writes_is_cut_at_the_question_mark() -> None:
    assert finished_question("When was", "the tower rebuilt? In 1871.\nSentence: x") == "When was the tower rebuilt?"


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("When was the bell tower of Marl rebuilt?", None),
        ("When was the bell tower of Marl rebuilt", "no end"),
        ("When was it rebuilt?", "leans on its sentence"),
        ("When did the bell tower of Marl be rebuilt?", "no English"),
        ("When did the bell tower of Marl tower tower?", "no English"),
        ("When was Marl rebuilt?", "leaves out what it is about"),
        ("When was the town hall of Marl rebuilt?", "what the sentence does not"),
        ("When was the bell tower of Marl rebuilt in 1871?", "gives the answer away"),
        ("When was this bell tower of Marl rebuilt by the masons?", "leans on its sentence"),
        ("When was the bell tower of Marl not rebuilt by the masons?", "turns the sentence round"),
        ("When was it?", "too short"),
        ("When was the lighthouse at Cape Gull finished?", "copies an example"),
    ],
)
def test_a_completion_asks_in_the_sentences_own_words(question: str, fault: str | None) -> None:
    found = fault_of(question, YEAR)
    assert (found is None) if fault is None else (found is not None and fault in found), found


def test_the_pair_of_a_completion_has_a_natural_answer() -> None:
    pair = completed_pair("When was the bell tower of Marl rebuilt?", YEAR)
    assert (pair.answer, pair.type, pair.kind) == ("1871.", "fact", "time")
