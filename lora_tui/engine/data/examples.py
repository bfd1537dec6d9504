"""The closed set of things that can be trained on, as they come out of a file.

An example is text and where it was found. How it becomes tokens, and which of them carry a label, is the training
side's.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant"]
"""Who speaks in a conversation."""


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A pair for the form ``Question: {question}\\nAnswer: {answer}``; neither is empty, both are stripped."""

    question: str
    answer: str
    source: str
    """Where it was found: ``file:line``, or ``file:record N`` where the line is not known."""


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt and what follows it, both exactly as in the file: the white space between them is theirs."""

    prompt: str
    completion: str
    source: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat with at least one turn of the user and a later one of the assistant."""

    messages: tuple[Message, ...]
    source: str


@dataclass(frozen=True, slots=True)
class PlainText:
    """Text without parts; all of it is learned."""

    text: str
    source: str


Example: TypeAlias = QuestionAnswer | PromptCompletion | Conversation | PlainText


def searchable_text(example: Example) -> str:
    """Return all text of `example`, one part a line, for the search of keywords."""
    match example:
        case QuestionAnswer(question, answer):
            return f"{question}\n{answer}"
        case PromptCompletion(prompt, completion):
            return f"{prompt}\n{completion}"
        case Conversation(messages):
            return "\n".join(message.content for message in messages)
        case PlainText(text):
            return text
