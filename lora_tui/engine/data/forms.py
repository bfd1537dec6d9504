"""The forms of a record with named fields (chat, ShareGPT, Alpaca, …), recognised by their keys, and their parsers.

A record is wrong in one of two ways. `Malformed`: it cannot be what its writer meant (unknown keys, a list where text
belongs), so the file needs correcting. `UnusableRecord`: it is well formed, but nothing can be learned from it (an
empty answer). What follows from either, an error, a skipped record or a rejected line, is the caller's to decide.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lora_tui.engine.data.examples import (
    Conversation,
    Example,
    Message,
    PlainText,
    PromptCompletion,
    QuestionAnswer,
    Role,
)
from lora_tui.text import one_line

T = TypeVar("T")

Fields = Mapping[str, Any]
"""A record as JSON or CSV gives it, its keys in lower case (`lower_keys`)."""

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""Names of speakers in chat and ShareGPT files, and their roles."""

_LEARNED_KEYS = ("weight", "train", "training", "train_on_turn", "loss")
"""Keys of a turn that exclude it with 0 or false: OpenAI's and Mistral's, Axolotl's, ms-swift's."""

_PARTLY_LEARNED = "train_detail"
"""Axolotl's key for parts of a turn that are excluded."""

_NOT_READ = ("tools", "functions", "tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Keys of conversations and their turns that mean something to other tools and nothing to this one."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class Malformed(Exception):  # noqa: N818  # says what the data is; becomes a user's error where the file is known
    """The data does not have the form it should have; `line` and `record` count from 1, where they are known."""

    def __init__(self, reason: str, line: int | None = None, record: int | None = None) -> None:
        super().__init__(reason)
        self.line = line
        self.record = record


class UnusableRecord(Exception):  # noqa: N818  # an outcome of reading a record, not a failure
    """The record is well formed, but there is nothing in it to train on."""


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """One form: the keys that identify it, and how a record of it becomes an example or a judgement."""

    name: str
    keys: tuple[str, ...]
    example: Callable[[Fields, str], T]
    lists: tuple[str, ...] = ()
    """Fields that hold a list, which in a table only JSON can put into a cell."""


@dataclass(frozen=True, slots=True)
class FormSet(Generic[T]):
    """The forms that a reader knows, in order of precedence; `expected` lists their keys for error messages.

    `known` are the keys that mean something to some form. `elsewhere` says of keys that tell none of these forms what
    they are, where that is known.
    """

    forms: tuple[Form[T], ...]
    expected: str
    known: frozenset[str]
    elsewhere: Callable[[Collection[str]], str | None] = lambda keys: None


def lower_keys(fields: Fields) -> Fields:
    """Return the record with its keys stripped and in lower case; CSV headers are often capitalised."""
    return {key.strip().lower(): value for key, value in fields.items()}


def form_of(keys: Collection[str], among: FormSet[T]) -> Form[T]:
    """Return the form that `keys`, in lower case, identify; raises `Malformed` where they identify none."""
    for form in among.forms:
        if all(key in keys for key in form.keys):
            return form
    found = one_line(", ".join(keys), 120) or "none"
    if (hint := among.elsewhere(keys)) is not None:
        raise Malformed(f"the keys ({found}) are {hint}")
    raise Malformed(f"the keys ({found}) tell no known form; expected {among.expected}")


def form_of_fields(fields: Fields, among: FormSet[T]) -> Form[T]:
    """Return the form of a record; keys without a value count only if the others identify none.

    Tools that merge data sets give every record every key, with null in those that it never had. Raises `Malformed`.
    """
    with_value = [key for key, value in fields.items() if value is not None]
    try:
        return form_of(with_value, among)
    except Malformed:
        return form_of(fields, among)


def _question_answer(fields: Fields, source: str) -> Example:
    return QuestionAnswer(required_text(fields, "question").strip(), required_text(fields, "answer").strip(), source)


def _alpaca(fields: Fields, source: str) -> Example:
    instruction, answer = required_text(fields, "instruction").strip(), required_text(fields, "output").strip()
    question = f"{instruction} {text_of(fields, 'input').strip()}".rstrip()
    earlier = _alpaca_context(fields)
    if not earlier:
        return QuestionAnswer(question, answer, source)
    return Conversation((*earlier, Message("user", question), Message("assistant", answer)), source)


def _alpaca_context(fields: Fields) -> tuple[Message, ...]:
    """Return what LLaMA-Factory's variant of Alpaca puts before the instruction: a system prompt, earlier turns."""
    system = text_of(fields, "system")
    messages = [Message("system", system)] if system.strip() else []
    history = fields.get("history") or []
    if not isinstance(history, list):
        raise Malformed(f"'history' must be a list of [question, answer], not {kind_of(history)}")
    for turn in history:
        match turn:
            case [str(asked), str(answered)]:
                messages += [Message("user", asked), Message("assistant", answered)]
            case _:
                raise Malformed("'history' must be a list of [question, answer]")
    return tuple(messages)


def _prompt_completion(fields: Fields, source: str) -> Example:
    prompt, completion = fields["prompt"], fields["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):  # TRL's conversational variant
        given = [{**turn, "weight": 0} if isinstance(turn, dict) else turn for turn in prompt]
        return conversation_of([*given, *completion], "role", "content", source)
    return PromptCompletion(required_text(fields, "prompt"), required_text(fields, "completion"), source)


def _chat(fields: Fields, source: str) -> Example:
    return conversation_of(fields["messages"], "role", "content", source)


def _sharegpt(fields: Fields, source: str) -> Example:
    turns = fields["conversations"]
    openai_style = isinstance(turns, list) and any(isinstance(turn, dict) and "role" in turn for turn in turns)
    role_key, text_key = ("role", "content") if openai_style else ("from", "value")
    if isinstance(turns, list) and text_of(fields, "system").strip():
        turns = [{role_key: "system", text_key: fields["system"]}, *turns]
    return conversation_of(turns, role_key, text_key, source)


FORMS: tuple[Form[Example], ...] = (
    # In this order: published Alpaca files carry a rendered `text` besides, and chat files often a `prompt`.
    Form("chat", ("messages",), _chat, lists=("messages",)),
    Form("sharegpt", ("conversations",), _sharegpt, lists=("conversations",)),
    Form("alpaca", ("instruction", "output"), _alpaca, lists=("history",)),
    Form("prompt/completion", ("prompt", "completion"), _prompt_completion),
    Form("question/answer", ("question", "answer"), _question_answer),
    Form("text", ("text",), lambda fields, source: PlainText(required_text(fields, "text"), source)),
)
"""Every form of an example, in order of precedence."""

_EXPECTED_KEYS = "messages, conversations, instruction and output, prompt and completion, question and answer, or text"


def _preferences(keys: Collection[str]) -> str | None:
    """What keys are that tell preferences, for someone who wants to learn examples."""
    if {"chosen", "rejected"} <= set(keys):
        return "those of preferences; train on them with --method dpo"
    return None


EXAMPLE_FORMS = FormSet(
    FORMS,
    _EXPECTED_KEYS,
    frozenset({"input", "system", "history", *_NOT_READ}.union(*(form.keys for form in FORMS))),
    _preferences,
)
"""What supervised fine-tuning reads."""


def conversation_of(turns: Any, role_key: str, text_key: str, source: str) -> Conversation:
    """Return the conversation of a list of turns; raises `Malformed` and `UnusableRecord`."""
    if turns is None or turns == []:
        raise UnusableRecord("the conversation has no turns")
    if not isinstance(turns, list):
        raise Malformed(f"the conversation must be a list of turns, not {kind_of(turns)}")
    messages = tuple(_message(number, turn, role_key, text_key) for number, turn in enumerate(turns, start=1))
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise UnusableRecord("the conversation has no assistant turn")
    if "user" not in roles[: len(roles) - roles[::-1].index("assistant")]:
        raise UnusableRecord("the conversation has no user turn before the assistant's")
    answers = (message for message in messages[roles.index("user") :] if message.role == "assistant")
    if not any(message.learned for message in answers):
        raise UnusableRecord("every answer of the conversation is excluded from learning (weight 0, train: false)")
    return Conversation(messages, source)


def _message(number: int, turn: Any, role_key: str, text_key: str) -> Message:
    where = f"turn {number} of the conversation"
    if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
        raise Malformed(f"{where} must be an object with '{role_key}' and '{text_key}'")
    name, content = turn[role_key], turn[text_key]
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise UnusableRecord(f"{where} is by '{one_line(str(name), 30)}', who is neither system, user nor assistant")
    if isinstance(content, list):
        content = "\n".join(_part(where, part) for part in content)
    if content is None or (isinstance(content, str) and not content.strip()):
        raise UnusableRecord(f"{where} has no text")
    if not isinstance(content, str):
        raise Malformed(f"'{text_key}' in {where} must be text, not {kind_of(content)}")
    return Message(role, _without_surrogates(content, where), role != "assistant" or _is_learned(turn, where))


def _is_learned(turn: Fields, where: str) -> bool:
    """Tell whether the loss counts an answer: all of it, or nothing."""
    if turn.get(_PARTLY_LEARNED):
        raise UnusableRecord(f"{where} has '{_PARTLY_LEARNED}'; an answer is learned whole or not at all")
    return not any(_is_excluding(turn[key]) for key in _LEARNED_KEYS if key in turn)


def _is_excluding(value: Any) -> bool:
    """Tell whether a turn's weight or flag is zero or false, as a number, a truth value or text."""
    text = str(value).strip().lower()
    return text in ("false", "no") or (isinstance(value, (int, float)) and value == 0) or text in ("0", "0.0")


def keys_not_read(fields: Fields) -> set[str]:
    """Return those keys of a record and its turns that hold something which is left out of its example."""
    found = {key for key in _NOT_READ if fields.get(key)}
    for turns in (fields.get(key) for key in ("messages", "conversations", "prompt", "completion")):
        if isinstance(turns, list):
            found |= {key for turn in turns if isinstance(turn, dict) for key in _NOT_READ if turn.get(key)}
    return found


def _part(where: str, part: Any) -> str:
    match part:
        case str():
            return part
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": str(kind)}:
            raise UnusableRecord(f"{where} holds a part of type '{one_line(kind, 30)}'; only text can be trained on")
    raise Malformed(f"{where} holds a part that is neither text nor an object with 'type' and 'text'")


def required_text(fields: Fields, key: str) -> str:
    """Return a field's text; raises `UnusableRecord` where it is blank, `Malformed` where it is no text."""
    text = text_of(fields, key)
    if not text.strip():
        raise UnusableRecord(f"the {key} is empty")
    return text


def text_of(fields: Fields, key: str) -> str:
    """Return a field's text, empty where it has none; raises `Malformed` where it is something else."""
    value = fields.get(key)
    if value is None:
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):  # "answer": 4 means the text "4"
        return str(value)
    if not isinstance(value, str):
        raise Malformed(f"'{key}' must be text, not {kind_of(value)}")
    return _without_surrogates(value, f"the {key}")


def _without_surrogates(text: str, where: str) -> str:
    if _SURROGATE.search(text):
        raise UnusableRecord(f"{where} holds half of a surrogate pair (a broken \\u escape)")
    return text


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in words."""
    return {bool: "true or false", list: "a list", dict: "an object", str: "text", bytes: "bytes"}.get(
        type(value), "a number"
    )
