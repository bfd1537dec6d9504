"""What models write where JSON, three digits or an honest pair was asked for: styles, cuts, and words to the judge."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from lora_tui.engine.generation.replies import MalformedReply, parse_pairs
from lora_tui.scoring.judge import DIMENSIONS, parse_reply
from tests.campaign.scenario import Try, scenario

_WORDS = (
    "the ferry carries 48 cars at dusk; «north» harbour, it's 3.5 metres (about {12} ft) [sic] 100 % sure, naïve"
    " 東京 says: go"
).split()
_KEYS = ("evidence", "question", "answer", "topic")

Pair = dict[str, str]
Style = Callable[[random.Random, list[Pair]], str]


def _phrase(random: random.Random) -> str:
    return " ".join(random.choices(_WORDS, k=random.randint(3, 12)))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _object(pair: Pair, comma: str = ",", end: str = "", names: dict[str, str] | None = None) -> str:
    parts = [f"{_quoted((names or {}).get(name, name))}: {_quoted(value)}" for name, value in pair.items()]
    return "{" + f"{comma} ".join(parts) + end + "}"


def _wrapped(objects: list[str], key: str = "pairs", comma: str = ",", end: str = "") -> str:
    return "{" + f'"{key}": [' + f"{comma}\n ".join(objects) + end + "]}"


def _line_breaks(random: random.Random, pairs: list[Pair]) -> str:
    for pair in pairs:
        pair["answer"] += "\nThat is all."
    return _wrapped([_object(pair) for pair in pairs]).replace("\\n", "\n")


def _latex(random: random.Random, pairs: list[Pair]) -> str:
    for pair in pairs:
        pair["answer"] += random.choice((r" \(x\)", r" \beta", r" \frac{1}{2}", r" \times", r" \alpha", r" \nabla"))
    return _wrapped([_object(pair) for pair in pairs]).replace("\\\\", "\\")


def _other_keys(random: random.Random, pairs: list[Pair]) -> str:
    question, answer = random.choice((("Question", "Answer"), ("q", "a"), ("QUESTION", "ANSWER"), ("Q", "A")))
    objects = [_object(pair, names={"question": question, "answer": answer}) for pair in pairs]
    return _wrapped(objects, random.choice(("qa_pairs", "items", "data", "results")))


STYLES: dict[str, Style] = {
    "a comma before brackets": lambda random, pairs: _wrapped([_object(pair, end=",") for pair in pairs], end=","),
    "line breaks in strings": _line_breaks,
    "backslashes of LaTeX": _latex,
    "other keys": _other_keys,
    "a comma is missing": lambda random, pairs: _wrapped([_object(pair) for pair in pairs], comma=""),
    "one object a line": lambda random, pairs: "\n".join(_object(pair) for pair in pairs),
    "an object before": lambda random, pairs: (
        'As asked: {"note": "one"}\n' + _wrapped([_object(pair) for pair in pairs])
    ),
    "in a fence": lambda random, pairs: (
        "Sure!\n```json\n" + _wrapped(list(map(_object, pairs)), end=",") + "\n```\nWell?"
    ),
    "thoughts before": lambda random, pairs: '<think>{"pairs": []}</think>' + _wrapped(list(map(_object, pairs))),
    "JSON in a string": lambda random, pairs: _quoted(_wrapped(list(map(_object, pairs)))),
    "last brackets forgotten": lambda random, pairs: _wrapped(list(map(_object, pairs)))[:-2],
    "a dictionary of Python": lambda random, pairs: repr({"pairs": pairs}),
    "labelled lines": lambda random, pairs: "\n\n".join(
        "\n".join(f"**{name.capitalize()}:** {value}" for name, value in pair.items()) for pair in pairs
    ),
}


@scenario("reply-styles", tries=300, short=20)
def reply_styles(random: random.Random, folder: Path) -> Try:
    """Pairs in a style that leaves one reading: each is read as it was written."""
    pairs = [{name: f"{number} {_phrase(random)}" for name in _KEYS} for number in range(random.randint(1, 4))]
    name = random.choice(list(STYLES))
    text = STYLES[name](random, pairs)
    try:
        read = parse_pairs(text).pairs
    except MalformedReply as problem:
        return Try(False, 1, f"{name}: {problem}: {text[:200]!r}")
    found = [(pair.question, pair.answer, pair.evidence) for pair in read]
    wanted = [(" ".join(pair["question"].split()), pair["answer"].strip(), pair["evidence"].strip()) for pair in pairs]
    return Try(found == wanted, 1, f"{name}: read {found} of {wanted}" if found != wanted else "")


@scenario("replies-cut-short", tries=300, short=20)
def replies_cut_short(random: random.Random, folder: Path) -> Try:
    """A reply that breaks off, loses a piece or has one twice: no pair is read that was not written whole."""
    pairs = [{name: f"{number} {_phrase(random)}" for name in _KEYS} for number in range(random.randint(1, 3))]
    # Labelled lines have no end: there a cut cannot be told from an answer that is short.
    text = STYLES[random.choice([name for name in STYLES if name != "labelled lines"])](random, pairs)
    place = random.randrange(len(text))
    kind = random.choice(("cut off", "begun later", "a gap"))
    gap = random.randint(1, 40)
    broken = {"cut off": text[:place], "begun later": text[place:], "a gap": text[:place] + text[place + gap :]}[kind]
    try:
        read = parse_pairs(broken).pairs
    except MalformedReply:
        return Try(True)
    if kind == "a gap":  # what is missing inside a string cannot be seen: it is for the gates to find
        return Try(True)
    written = {pair["answer"].strip() for pair in pairs}
    halves = [pair.answer for pair in read if pair.answer not in written]
    # Labelled lines have no end: there a cut cannot be told from an answer that is short.
    return Try(
        not halves or "{" not in broken[:200],
        1,
        f"{kind}: half of an answer was read: {halves[:1]} of {broken[-160:]!r}",
    )


_LEVEL_STYLES: tuple[Callable[[list[int]], str], ...] = (
    lambda levels: " ".join(f"**{level}**" for level in levels),
    lambda levels: "\n".join(f"{number}. {level}" for number, level in enumerate(levels, 1)),
    lambda levels: "\n".join(f"{number}) **{level}**/5" for number, level in enumerate(levels, 1)),
    lambda levels: ", ".join(f"({level})" for level in levels),
    lambda levels: "\n".join(
        f"- **{name.title()}**: {level}/5" for name, level in zip(DIMENSIONS, levels, strict=True)
    ),
    lambda levels: json.dumps(dict(zip(DIMENSIONS, map(str, levels), strict=True))),
    lambda levels: json.dumps({name: {"score": level} for name, level in zip(DIMENSIONS, levels, strict=True)}),
    lambda levels: "<think>4 4 4, no</think>" + "/".join(map(str, levels)),
)
_REASONS = (
    "",
    "\nIt was built in 1703.",
    " - the pair is sound",
    "\n\nThe 12 windows are in the passage, the 1,200 lamps too.",
)


@scenario("judge-styles", tries=200, short=10)
def judge_styles(random: random.Random, folder: Path) -> Try:
    """Three levels in the styles of judges are read; two ratings in one reply, or too few levels, are not."""
    levels = [random.randint(1, 5) for _ in DIMENSIONS]
    text = random.choice(_LEVEL_STYLES)(levels)
    read = parse_reply(text if "{" in text else text + random.choice(_REASONS))
    if read is None or [read.groundedness, read.correctness, read.usefulness] != levels:
        return Try(False, 1, f"{levels} is not read in {text!r}")
    others = [6 - level if level != 3 else 1 for level in levels]
    second = random.choice(_LEVEL_STYLES)(others)
    if "think" not in second and parse_reply(f"{text}\nRather: {second}") is not None:
        return Try(False, 2, f"one of two ratings is taken from {text!r} and {second!r}")
    few = re.sub(r"\d(?=\D*$)", "", " ".join(map(str, levels)))
    return Try(parse_reply(few) is None, 3, f"levels are read in {few!r}")
