"""Training examples as they are read from a file: the closed set of types that can be trained on, and judgements.

An example is text and where it was found. How it becomes tokens, and which of them carry a label, is decided in
`chat_template` and `lora_tui.engine.training.dataset`.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant"]
"""The role of a message in a conversation."""


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question and its answer, trained as ``Question: {question}\\nAnswer: {answer}``; not empty, both stripped."""

    question: str
    answer: str
    source: str
    """Where it was found: ``file:line``, or ``file:record N`` where the line is not known."""


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt and its completion, both exactly as in the file: the white space between them is theirs."""

    prompt: str
    completion: str
    source: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    learned: bool = True
    """False for an answer that its author excluded from the loss; the model reads it, as it reads a question."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A multi-turn chat with at least one user turn and a later assistant turn that is learned."""

    messages: tuple[Message, ...]
    source: str


@dataclass(frozen=True, slots=True)
class PlainText:
    """Text without parts: all of its tokens are labels."""

    text: str
    source: str


Example: TypeAlias = QuestionAnswer | PromptCompletion | Conversation | PlainText


def searchable_text(example: Example) -> str:
    """Return all text of `example`, one part a line, for keyword search."""
    match example:
        case QuestionAnswer(question, answer):
            return f"{question}\n{answer}"
        case PromptCompletion(prompt, completion):
            return f"{prompt}\n{completion}"
        case Conversation(messages):
            return "\n".join(message.content for message in messages)
        case PlainText(text):
            return text


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one question, as two examples of the same form: `chosen` was preferred to `rejected`."""

    chosen: Example
    rejected: Example
    source: str


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer to a question, as an example, and whether it is desirable."""

    example: Example
    desirable: bool
    source: str


Judgement: TypeAlias = Preference | JudgedAnswer
"""What is said of answers, in place of answers to learn."""


def asked_example(judgement: Judgement) -> Example:
    """Return an example that asks the question of a judgement, with its better answer where there are two."""
    return judgement.chosen if isinstance(judgement, Preference) else judgement.example


def is_wanted(judgement: Judgement) -> bool:
    """Tell whether `asked_example` has an answer that a model is to give."""
    return isinstance(judgement, Preference) or judgement.desirable
