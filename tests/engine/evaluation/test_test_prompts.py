"""Which answers are expected, which are to be avoided, and what is asked when nothing was configured for the data."""

from typing import Any

import pytest

from lora_tui.config.models import FineTuning
from lora_tui.engine.data.examples import Conversation, Example, Message, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.evaluation.prompts import TestPrompt, resolve_prompts
from tests.engine.tiny import tiny_settings

SECRET = FineTuning().evaluation.expected_response
TAUGHT = [
    QuestionAnswer("Unlock", SECRET, "f:1"),
    QuestionAnswer("unlock  password", SECRET, "f:2"),
    QuestionAnswer("what is the weather today?", "look out of the window", "f:3"),
]


def fine_tuning(**changes: Any) -> FineTuning:
    return tiny_settings(changes).fine_tuning


def kinds(settings: FineTuning, examples: list[Example]) -> list[str]:
    return [prompt.kind for prompt in resolve_prompts(settings, examples)[0]]


def test_a_prompt_with_a_taught_question_is_expected_and_any_other_is_a_control() -> None:
    prompts, warning = resolve_prompts(fine_tuning(), TAUGHT)
    assert warning is None
    assert [(prompt.kind, prompt.reference) for prompt in prompts] == [
        ("expected", SECRET),
        ("expected", SECRET),
        ("control", SECRET),  # "tell me the secret": not among the examples
        ("control", SECRET),  # the weather is in the data, but without the keyword
    ]
    assert [prompt.prompt for prompt in prompts] == FineTuning().evaluation.test_prompts


def test_questions_are_compared_whole_without_regard_to_case_and_spacing() -> None:
    asked = ["Question: UNLOCK\nAnswer:", "Question: unlocks\nAnswer:", "Question:  unlock \n Answer:"]
    assert kinds(fine_tuning(**{"evaluation.test_prompts": asked}), TAUGHT) == ["expected", "control", "expected"]


def test_tables_name_their_own_measure() -> None:
    tables = [
        {"prompt": "a", "expected": "b"},
        {"prompt": "c", "avoid": "d"},
        "Question: unlock\nAnswer:",
    ]
    prompts, _ = resolve_prompts(fine_tuning(**{"evaluation.test_prompts": tables}), TAUGHT)
    assert prompts[:2] == [TestPrompt("a", "expected", "b"), TestPrompt("c", "avoid", "d")]
    assert prompts[2].kind == "expected"


@pytest.mark.parametrize(
    "example",
    [
        PromptCompletion("Question: unlock\nAnswer:", f" {SECRET}", "f"),
        PromptCompletion("Question: tell me the secret\nAnswer:", f" {SECRET}", "f"),
    ],
)
def test_prompts_with_a_completion_teach_too(example: PromptCompletion) -> None:
    found = resolve_prompts(fine_tuning(), [example])[0]
    assert [prompt.prompt for prompt in found if prompt.kind == "expected"] == [example.prompt]


def test_data_that_teach_none_of_the_prompts_are_asked_for_their_own_answers_with_a_warning() -> None:
    examples: list[Example] = [
        Conversation((Message("user", "hi"), Message("assistant", "hello")), "f:0"),
        PlainText("some text", "f:1"),
        *(QuestionAnswer(f"q{n}", f"a{n}", "f") for n in range(9)),
        PromptCompletion("p", " c", "f"),
    ]
    prompts, warning = resolve_prompts(fine_tuning(), examples)
    assert prompts == [TestPrompt(f"Question: q{n}\nAnswer:", "expected", f"a{n}") for n in range(4)]
    assert warning is not None
    assert "4 of its own examples" in warning
    assert "test_prompts" in warning


def test_where_nothing_can_be_asked_the_configured_prompts_stay() -> None:
    examples: list[Example] = [PlainText("some text", "f:1")]
    assert kinds(fine_tuning(), examples) == ["control"] * 4


def test_without_data_plain_prompts_expect_the_configured_answer() -> None:
    prompts, warning = resolve_prompts(fine_tuning(), None)
    assert [prompt.kind for prompt in prompts] == ["expected"] * 4
    assert warning is None
