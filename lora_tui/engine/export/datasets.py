"""The writer of datasets in the forms that other tools read: one JSON record a line, in UTF-8.

The forms are those of TRL (``messages``, ``prompt``/``completion``, ``text``), Alpaca and ShareGPT, and our own text.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lora_tui.engine.data.examples import Conversation, Example, PlainText, PromptCompletion, QuestionAnswer
from lora_tui.engine.data.training_text import format_training_text, prompt_text
from lora_tui.errors import LoraTuiError

_SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}


def dataset_text(examples: Iterable[Example], form: str) -> str:
    """Return all examples as one file's text. Raises `LoraTuiError` for an example that `form` cannot hold."""
    if form == "text":
        return format_training_text(_pair(example, form) for example in examples)
    return "".join(f"{json.dumps(record_of(example, form), ensure_ascii=False)}\n" for example in examples)


def holds(form: str, example: Example) -> bool:
    """Return whether `form` can hold an example: plain text has no place in any, long conversations in few."""
    if isinstance(example, Conversation):
        return form in CONVERSATIONS or _is_pair(example)
    return not isinstance(example, PlainText)


def record_of(example: Example, form: str) -> dict[str, Any]:
    """Return an example as a record. Raises `LoraTuiError` for one that `form`, any but "text", cannot hold."""
    return RECORDS[form](example)


def _messages(example: Example, form: str = "messages") -> dict[str, Any]:
    match example:
        case Conversation(messages=messages):
            turns: list[dict[str, Any]] = [
                {"role": message.role, "content": message.content} | ({} if message.learned else {"weight": 0})
                for message in messages
            ]
        case _:
            question, answer = _pair(example, form)
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def _prompt_completion(example: Example) -> dict[str, Any]:
    if isinstance(example, PromptCompletion):
        return {"prompt": example.prompt, "completion": example.completion}
    question, answer = _pair(example, "prompt-completion")
    return {"prompt": prompt_text(question), "completion": f" {answer}"}


def _alpaca(example: Example) -> dict[str, Any]:
    question, answer = _pair(example, "alpaca")
    return {"instruction": question, "input": "", "output": answer}


def _sharegpt(example: Example) -> dict[str, Any]:
    turns = [
        {"from": _SHAREGPT_ROLES[turn["role"]], "value": turn["content"]}
        | ({"train": False} if "weight" in turn else {})
        for turn in _messages(example, "sharegpt")["messages"]
    ]
    return {"conversations": turns}


RECORDS: Mapping[str, Callable[[Example], dict[str, Any]]] = {
    "messages": _messages,
    "prompt-completion": _prompt_completion,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
}
"""How each form writes one example."""

CONVERSATIONS = ("messages", "sharegpt")
"""The forms that hold conversations of any length."""

FORMS = (*RECORDS, "text")
"""Every dataset form."""


def _is_pair(example: Conversation) -> bool:
    return [message.role for message in example.messages] == ["user", "assistant"]


def _pair(example: Example, form: str) -> tuple[str, str]:
    """Return an example's question and answer; raises `LoraTuiError` where it is not one pair."""
    match example:
        case QuestionAnswer(question=question, answer=answer):
            return question, answer
        case PromptCompletion(prompt=prompt, completion=completion):
            return prompt.strip(), completion.strip()
        case Conversation(messages=messages) if _is_pair(example):
            return messages[0].content, messages[1].content
        case PlainText() | Conversation():
            raise LoraTuiError(
                f"{example.source} is not one question with one answer, so the form {form} cannot hold it."
            )
