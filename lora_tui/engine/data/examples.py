"""Training examples as they are read from a file: the closed set of types that can be trained on.

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
