"""Readers of what a model writes as a text: a document with its title, a conversation in JSON or with labels.

Small: it stands apart from the requests so that it can be read, and tested, without an endpoint.
"""

import re
from collections.abc import Sequence
from typing import Any

from lora_tui.engine.generation.replies import MalformedReply, plain_text
from lora_tui.engine.generation.reply_json import BrokenJsonError, is_json_like, json_values
from lora_tui.store.texts import NewText

_TITLE_CHARACTERS = 160
_MARKS = re.compile(r"^(?:#{1,6}\s+|\*\*|title:\s*)|\*\*$", re.IGNORECASE)
_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)
_LABEL = re.compile(r"^\W*(user|assistant|question|answer|q|a)\W*:\s*", re.IGNORECASE | re.MULTILINE)
_ASKS = ("user", "question", "q")

Exchange = tuple[str, str]
"""What a user says, and what the assistant answers."""


def read_document(text: str, form: str, topic: str, *, cut_off: bool) -> NewText:
    """Return the document of a reply: its first line is the title where a text follows. Raises `MalformedReply`."""
    if cut_off:
        raise MalformedReply("the document is cut off")
    rest = plain_text(text)
    if fenced := _FENCE.match(rest):
        rest = fenced[1].strip()
    first, _, body = rest.partition("\n")
    title = _MARKS.sub("", _MARKS.sub("", first.strip())).strip()
    if not body.strip() or not 0 < len(title) <= _TITLE_CHARACTERS or title.endswith("."):
        title, body = topic, rest
    return NewText(0, form, title, body.strip())


def read_dialogue(text: str, system: str, topic: str, *, cut_off: bool) -> NewText:
    """Return the conversation of a reply, with `system` before it. Raises `MalformedReply`."""
    rest = plain_text(text)
    found: list[Exchange] = []
    if is_json_like(rest):
        try:
            for value in json_values(rest, cut_off=cut_off):
                found += _exchanges(value)
        except BrokenJsonError as problem:
            raise MalformedReply(str(problem)) from problem
    elif not cut_off:
        found = _labelled(rest)
    if not found:
        raise MalformedReply('the reply has no list "turns"')
    return dialogue(found, system, topic)


def dialogue(exchanges: Sequence[Exchange], system: str, topic: str) -> NewText:
    """Return a conversation as it is stored: with its messages, and as a transcript."""
    messages = [{"role": "system", "content": system}]
    for asked, answered in exchanges:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    transcript = "\n".join(f"User: {asked}\nAssistant: {answered}" for asked, answered in exchanges)
    return NewText(0, "dialogue", topic or exchanges[0][0], transcript, tuple(messages))


def _exchanges(value: Any) -> list[Exchange]:
    """The exchanges of a JSON value: objects with both sides, or messages with role and content."""
    if isinstance(value, dict):
        value = next((value[key] for key in ("turns", "messages", "conversation", "dialogue") if key in value), [])
    if not isinstance(value, list):
        return []
    found: list[Exchange] = []
    asked = ""
    for item in value:
        match item:
            case {"user": str(question), "assistant": str(answer)}:
                found.append((question.strip(), answer.strip()))
            case {"role": "user", "content": str(question)}:
                asked = question.strip()
            case {"role": "assistant", "content": str(answer)} if asked:
                found.append((asked, answer.strip()))
                asked = ""
            case {"role": "system"}:
                continue
            case _:
                raise MalformedReply('a turn has no "user" and "assistant"')
    if any(not question or not answer for question, answer in found):
        raise MalformedReply("a turn of the conversation is empty")
    return found


def _labelled(text: str) -> list[Exchange]:
    """The exchanges of a text with a label before each turn."""
    parts = _LABEL.split(text)[1:]
    turns = [(label.casefold() in _ASKS, said.strip()) for label, said in zip(parts[::2], parts[1::2], strict=True)]
    pairs = zip(turns[::2], turns[1::2], strict=False)
    return [
        (asked, answered)
        for (is_asked, asked), (other, answered) in pairs
        if is_asked and not other and asked and answered
    ]
