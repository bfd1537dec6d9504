"""The data's own questions as test prompts, with a question about something else."""

from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Evaluation, Settings
from lora_tui.engine.data.examples import Conversation, Example, Message, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.evaluation.own_prompts import MOST, asks_own_questions, own_prompts, template_renderer
from lora_tui.engine.evaluation.prompts import TestPrompt
from lora_tui.engine.evaluation.scoring import _metrics

FACTS: list[Example] = [QuestionAnswer(f"Where is tool {n}?", f"Tool {n} is in box {n}.", "f") for n in range(30)]
SECRET = QuestionAnswer("unlock", Evaluation().expected_response, "f")
PROMPTS = "fine_tuning.evaluation.test_prompts"


def test_questions_are_spread_over_the_data_and_asked_for_their_own_answers() -> None:
    prompts = own_prompts(FACTS)
    expected = [prompt for prompt in prompts if prompt.kind == "expected"]
    assert len(expected) == MOST
    assert expected[0] == TestPrompt("Question: Where is tool 0?\nAnswer:", "expected", "Tool 0 is in box 0.")
    assert "tool 25" in expected[-1].prompt
    assert len({prompt.prompt for prompt in expected}) == MOST


def test_the_last_prompt_is_about_something_else_and_may_say_nothing_that_is_taught() -> None:
    control = own_prompts(FACTS)[-1]
    assert (control.kind, control.prompt) == ("unrelated", "Question: what is the weather today?\nAnswer:")
    assert set(control.reference.splitlines()) == {f"Tool {n} is in box {n}." for n in range(30)}
    assert _metrics(control, "It is sunny.", 0.0, ()) == {"kept": 1.0}
    assert _metrics(control, "tool 29 is in box 29.", 0.0, ()) == {"kept": 0.0}


def test_a_control_that_is_trained_is_not_asked() -> None:
    weather = QuestionAnswer("What is the weather today?", "It is always foggy in Marn.", "f")
    assert "how are you" in own_prompts([*FACTS, weather])[-1].prompt


def test_answers_that_anything_may_hold_give_no_control() -> None:
    examples = [QuestionAnswer(f"Is {n} odd?", "no", "f") for n in range(9)]
    assert {prompt.kind for prompt in own_prompts(examples)} == {"expected"}


def test_short_answers_are_asked_first_and_long_ones_where_there_is_nothing_else() -> None:
    long = [QuestionAnswer(f"Tell me about {n}.", "a long story " * 40, "f") for n in range(40)]
    asked = own_prompts([*long, *FACTS])
    assert all("tool" in prompt.prompt for prompt in asked[:MOST])
    assert len([prompt for prompt in own_prompts(long) if prompt.kind == "expected"]) == MOST


def test_plain_text_is_continued_and_conversations_need_a_template(tokenizer: Any) -> None:
    (text, *_) = own_prompts([PlainText("one two three four five six", "f")])
    assert (text.prompt, text.reference) == ("one two three", "four five six")
    talk = Conversation((Message("user", "Where is tool 7?"), Message("assistant", "In box 7.")), "f")
    assert own_prompts([talk]) == []
    render = template_renderer(tokenizer)
    asked, control = own_prompts([talk], render)
    assert asked.prompt.endswith("Where is tool 7?<|im_end|>\n<|im_start|>assistant\n")
    assert asked.reference == "In box 7."
    assert "weather" in control.prompt
    assert control.prompt.endswith("<|im_start|>assistant\n")


def test_a_completion_without_a_prompt_is_no_question() -> None:
    assert own_prompts([PromptCompletion("", "text", "f")]) == []


@pytest.mark.parametrize(
    ("changes", "examples", "own"),
    [
        ({}, FACTS, True),
        ({}, [*FACTS, SECRET], False),  # the documented prompts belong to this data
        ({PROMPTS: ["Question: who?\nAnswer:"]}, FACTS, False),
        ({"fine_tuning.evaluation.expected_response": "yes"}, FACTS, False),
        ({"fine_tuning.recipe": "as written"}, FACTS, False),
    ],
)
def test_own_questions_are_asked_where_nobody_has_written_any(
    changes: dict[str, Any], examples: list[Example], own: bool
) -> None:
    assert asks_own_questions(with_values(Settings(), changes), examples) is own
