"""What a model wrote, read with tolerance for its manners and none for its content.

Models think aloud, wrap JSON in fences and add words around it; all that is passed over. What then does not hold what
was asked for is malformed, and half of it is never used. Pure functions over strings. The judge's digits are read by
`lora_tui.scoring.judge`.
"""

import json
import re
from typing import Any

from lora_tui.engine.generation.generation_model import Proposals, ProposedPair

MOST_PAIRS = 20
"""Pairs taken from one reply, at most."""

_MOST_CHARACTERS = 4000
_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_OPEN_THINKING = re.compile(r"^\s*<(think|thinking|reasoning)>|</(think|thinking|reasoning)>", re.IGNORECASE)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_OPENING = re.compile(r'\{\s*"|\[\s*[{"]')


class MalformedReply(Exception):  # noqa: N818  # a finding about one reply
    """A reply does not hold what was asked for; the text says why, in words that follow a colon."""


def cleaned(text: str) -> str:
    """Return a reply as the store can hold it: NULs and halves of surrogate pairs become U+FFFD."""
    return _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def without_thinking(text: str) -> str:
    """Return a reply without the thoughts that reasoning models put in front of it."""
    rest = _THINKING.sub("", text)
    if mark := list(_OPEN_THINKING.finditer(rest)):
        last = mark[-1]
        rest = rest[last.end() :] if last.group().startswith("</") else ""
    return rest.strip()


def parse_pairs(text: str) -> Proposals:
    """Return the pairs of a reply, and a reason for each item that is none.

    Raises `MalformedReply` where there is no JSON, or no pair in it.
    """
    items = _items(_json_of(text))
    pairs: list[ProposedPair] = []
    refused: list[str] = []
    for item in items[:MOST_PAIRS]:
        made = _pair_of(item)
        if isinstance(made, str):
            refused.append(made)
        else:
            pairs.append(made)
    if not pairs:
        raise MalformedReply(refused[0] if refused else "the list of pairs is empty")
    return Proposals(tuple(pairs), tuple(refused))


def parse_question_and_answer(text: str) -> tuple[str, str]:
    """Return question and answer of a reply that holds one pair. Raises `MalformedReply`."""
    items = _items(_json_of(text))
    made = _pair_of(items[0]) if items else "the reply holds no pair"
    if isinstance(made, str):
        raise MalformedReply(made)
    return made.question, made.answer


def _json_of(text: str) -> Any:
    """Return the first JSON object or array in a reply."""
    rest = without_thinking(text)
    if not rest:
        raise MalformedReply("the reply is empty")
    # Only the first thing that begins like JSON counts: what can be read further in is half of something broken.
    if (opening := _OPENING.search(rest)) is None:
        raise MalformedReply("no JSON in the reply")
    try:
        return json.JSONDecoder().raw_decode(rest, opening.start())[0]
    except json.JSONDecodeError as problem:
        raise MalformedReply(f"broken JSON ({problem.msg} at character {problem.pos + 1})") from problem
    except RecursionError:
        raise MalformedReply("the JSON is nested too deeply") from None


def _items(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        if isinstance(value.get("pairs"), list):
            return list(value["pairs"])
        if "question" in value:
            return [value]
    raise MalformedReply('the JSON has no list "pairs"')


def _pair_of(item: Any) -> ProposedPair | str:
    """Return the pair, or why it is none."""
    if not isinstance(item, dict):
        return f"an item is {type(item).__name__}, not an object"
    for name in ("question", "answer"):
        value = item.get(name)
        if not isinstance(value, str) or not value.strip():
            return f'an item has no "{name}"'
        if len(value) > _MOST_CHARACTERS:
            return f'an item\'s "{name}" has {len(value):,} characters'
    evidence, topic = item.get("evidence"), item.get("topic")
    return ProposedPair(
        question=cleaned(" ".join(item["question"].split())),
        answer=cleaned(item["answer"].strip()),
        evidence=cleaned(evidence.strip()[:_MOST_CHARACTERS]) if isinstance(evidence, str) else "",
        topic=cleaned(" ".join(topic.split())[:80]) if isinstance(topic, str) else "",
    )
