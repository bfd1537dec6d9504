"""Test prompts from the training data itself: trained questions with their answers, and one about something else.

They are asked where nobody has written ``test_prompts`` and the documented ones, about a secret, have nothing to do
with the data. The score then says how much of it the model has learned, and the last prompt whether it answers with it
where it was not asked for: everything that the model is taught must stay out of that reply.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lora_tui.config.models import Evaluation, Settings
from lora_tui.config.written import left_to_recipe
from lora_tui.engine.data.examples import Conversation, Example, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.data.template_renderer import TemplateRefusedError, render_chat
from lora_tui.engine.data.training_text import prompt_text
from lora_tui.engine.evaluation.prompts import TestPrompt, resolve_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RenderPrompt = Callable[[list[dict[str, Any]]], str]
"""Returns the messages before a reply as the text that the model continues: its chat template."""

TEST_PROMPTS = "fine_tuning.evaluation.test_prompts"

MOST = 7
"""With the control eight are asked, which is one batch."""

_SHORT = 240
"""Characters of an answer that the default ``max_new_tokens`` holds; such examples are asked first."""

_OTHER_QUESTIONS = ("what is the weather today?", "how are you today?", "what is your favourite colour?")
_MOST_TAUGHT = 200
"""Taught answers that the reply to the control is held against."""

_BEGINNING = 0.5
"""Share of a plain text's words that the model is given, to be continued."""

_CONTINUED_WORDS = 24


def asks_own_questions(settings: Settings, examples: Sequence[Example]) -> bool:
    """Return whether the data's own questions are asked: nobody wrote prompts, and the documented ones do not fit."""
    expected = settings.fine_tuning.evaluation.expected_response
    if not left_to_recipe(settings, TEST_PROMPTS) or expected != Evaluation().expected_response:
        return False
    documented, _ = resolve_prompts(settings.fine_tuning, examples, replace=False)
    return not any(prompt.kind == "expected" for prompt in documented)


def own_prompts(examples: Sequence[Example], render: RenderPrompt | None = None) -> list[TestPrompt]:
    """Return up to `MOST` prompts spread over the examples, and a control; nothing where none can be asked.

    Without `render` conversations are left out. Of plain text the second half is asked for, where there are no
    questions.
    """
    found = (as_prompt(example, render) for example in with_questions(examples))
    asked = list({prompt.prompt: prompt for prompt in found if prompt}.values())
    short = [prompt for prompt in asked if len(prompt.reference) <= _SHORT]
    usable = short if len(short) >= MOST else sorted(asked, key=lambda prompt: len(prompt.reference))[: 2 * MOST]
    number = min(MOST, len(usable))
    if not number:
        return []
    chosen = [usable[place * len(usable) // number] for place in range(number)]
    return [*chosen, *_control(asked, examples, render)]


def with_questions(examples: Sequence[Example]) -> Sequence[Example]:
    """Return the examples that ask something; all of them where none does, as in a file of plain text alone."""
    return [example for example in examples if not isinstance(example, PlainText)] or examples


def template_renderer(tokenizer: "PreTrainedTokenizerBase") -> RenderPrompt | None:
    """Return how this tokenizer's chat template writes the messages before a reply; None where it has no template.

    What the tokenizer puts before every text by itself is left out.
    """
    if not tokenizer.chat_template:
        return None
    adds_bos = bool(tokenizer.bos_token) and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]

    def render(messages: list[dict[str, Any]]) -> str:
        text = render_chat(tokenizer, messages, generation_prompt=True)
        return text.removeprefix(str(tokenizer.bos_token)) if adds_bos else text

    return render


def as_prompt(example: Example, render: RenderPrompt | None) -> TestPrompt | None:
    """Return an example as a test prompt, where it has a question and an answer; conversations need `render`."""
    match example:
        case QuestionAnswer(question=question, answer=answer):
            return TestPrompt(prompt_text(question), "expected", answer)
        case PromptCompletion(prompt=prompt, completion=completion):
            return TestPrompt(prompt, "expected", completion.strip()) if prompt.strip() else None
        case PlainText(text=text):
            words = text.split(" ")
            cut = max(1, round(len(words) * _BEGINNING))
            rest = " ".join(words[cut : cut + _CONTINUED_WORDS]).strip()
            return TestPrompt(" ".join(words[:cut]), "expected", rest) if rest else None
        case Conversation(messages=messages):
            answers = (n for n, message in enumerate(messages) if message.role == "assistant" and message.learned)
            end = next(n for n in answers if n > 0)
            if render is None:
                return None
            before = [{"role": message.role, "content": message.content} for message in messages[:end]]
            try:
                return TestPrompt(render(before), "expected", messages[end].content.strip())
            except TemplateRefusedError:  # training has left it out, too, and said so
                return None


def _control(asked: Sequence[TestPrompt], examples: Sequence[Example], render: RenderPrompt | None) -> list[TestPrompt]:
    """Return a question about something else, whose reply may hold no taught answer; none where all are too common."""
    taught = {" ".join(prompt.reference.split()) for prompt in asked}
    telling = sorted(answer for answer in taught if len(answer.split()) > 1 or any(sign.isdigit() for sign in answer))
    trained = "\n".join(prompt.prompt.casefold() for prompt in asked)
    other = next((question for question in _OTHER_QUESTIONS if question not in trained), None)
    if not telling or other is None:
        return []
    spread = [telling[place * len(telling) // _MOST_TAUGHT] for place in range(_MOST_TAUGHT)]
    by_template = render is not None and all(isinstance(example, Conversation) for example in examples)
    text = prompt_text(other)
    if by_template and render is not None:
        with suppress(TemplateRefusedError):
            text = render([{"role": "user", "content": other}])
    return [TestPrompt(text, "unrelated", "\n".join(telling if len(telling) <= _MOST_TAUGHT else spread))]
