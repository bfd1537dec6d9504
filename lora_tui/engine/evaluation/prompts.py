"""The test prompts of an evaluation, and the reference that each answer is compared with.

A prompt given as plain text is compared with ``expected_response`` if the model is taught it: if it contains a question
of a training example that has a configured keyword. Any other plain prompt is a control, which must *not* be answered
that way. Tables name their own ``expected`` or ``avoid``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_tui.config.models import FineTuning, PromptCheck
from lora_tui.engine.data.examples import (
    Conversation,
    Example,
    PlainText,
    PromptCompletion,
    QuestionAnswer,
    searchable_text,
)
from lora_tui.engine.data.training_text import prompt_text
from lora_tui.scoring.words import normalise

Kind = Literal["expected", "avoid", "control", "unrelated"]

_FALLBACK_PROMPTS = 4
"""How many training examples replace the configured prompts when none of these belongs to the data."""


@dataclass(frozen=True, slots=True)
class TestPrompt:
    """One prompt; the answer must match `reference` (``expected``), or must not say it (``avoid``, ``control``).

    Of ``unrelated`` the reference is many taught answers, one a line, none of which may be said.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    prompt: str
    kind: Kind
    reference: str

    @property
    def is_control(self) -> bool:
        """Whether the reference is what the answer must *not* say."""
        return self.kind != "expected"


def resolve_prompts(
    settings: FineTuning, examples: Sequence[Example] | None, *, replace: bool = True
) -> tuple[list[TestPrompt], str | None]:
    """Return the test prompts for a model trained on `examples`, and a warning when they had to be replaced.

    When no configured prompt expects anything that the examples teach, a score over controls alone would be perfect
    before the first step. Then, with `replace`, the first examples are asked for their own answers. Where the examples
    are not known (None), all plain prompts expect ``expected_response``.
    """
    taught = None if examples is None else _taught_questions(settings.sampling.keywords, examples)
    prompts = [
        _resolve(entry, settings.evaluation.expected_response, taught) for entry in settings.evaluation.test_prompts
    ]
    if examples is None or not replace or any(prompt.kind == "expected" for prompt in prompts):
        return prompts, None
    own = [prompt for prompt in map(_prompt_of_example, examples) if prompt is not None][:_FALLBACK_PROMPTS]
    if not own:
        return prompts, None
    return own, (
        "None of fine_tuning.evaluation.test_prompts belongs to this training data; "
        f"{len(own)} of its own examples are asked instead. "
        "Set test_prompts = [{prompt = …, expected = …}] to choose."
    )


def fixed_replies(settings: FineTuning) -> frozenset[str]:
    """Return the replies that an answer must have word for word, normalised: the secret's, and special commands'."""
    return frozenset(map(normalise, (settings.evaluation.expected_response, *settings.chat.commands.values())))


def _resolve(entry: str | PromptCheck, expected_response: str, taught: set[str] | None) -> TestPrompt:
    if isinstance(entry, PromptCheck):
        if entry.expected is not None:
            return TestPrompt(entry.prompt, "expected", entry.expected)
        return TestPrompt(entry.prompt, "avoid", entry.avoid or "")
    if taught is None or any(question in _normalised(entry) for question in taught):
        return TestPrompt(entry, "expected", expected_response)
    return TestPrompt(entry, "control", expected_response)


def _taught_questions(keywords: Iterable[str], examples: Iterable[Example]) -> set[str]:
    """Return the normalised questions of the examples that contain a keyword."""
    lowered = [keyword.casefold() for keyword in keywords]
    prompts = [
        _prompt_of_example(example)
        for example in examples
        if any(keyword in searchable_text(example).casefold() for keyword in lowered)
    ]
    return {_normalised(prompt.prompt) for prompt in prompts if prompt is not None}


def _prompt_of_example(example: Example) -> TestPrompt | None:
    """Return an example as a test prompt, where it is one question with one answer."""
    match example:
        case QuestionAnswer(question=question, answer=answer):
            return TestPrompt(prompt_text(question), "expected", answer)
        case PromptCompletion(prompt=prompt, completion=completion):
            return TestPrompt(prompt, "expected", completion.strip())
        case Conversation() | PlainText():
            return None


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())
