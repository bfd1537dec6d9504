"""Parser of LLM-judge replies: three levels from 1 to 5, read from text or expected from log-probabilities.

The scale ends at 5 because each level is then one token, while a 10 begins like a 1. The judge answers "5 4 3" for
groundedness, correctness and usefulness. What a model really writes is read tolerantly where there is one reading, and
refused where there are two: a guessed level is worse than none, since nobody would see that it was a guess. Knows
neither prompts nor endpoints.
"""

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

DIMENSIONS = ("groundedness", "correctness", "usefulness")
"""What the judge rates, in the order of its reply."""

LOWEST, HIGHEST = 1, 5
_DIGITS = frozenset("12345")

_NAMES = "|".join(DIMENSIONS)
_WIDE_DIGITS = {0xFF10 + digit: ord("0") + digit for digit in range(10)}  # one for one, so that offsets hold
_REASONING = re.compile(r"[<\[](?P<end>/?)(?:think|thinking|thought|reasoning|reflection)[>\]]", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)*(?!\w)")
_LEVEL = re.compile(r"[1-5](?:\.0+)?")
_GAP = re.compile(r"[\s,;|&]+(?:and\s+)?|\s*/\s*")
_EXAMPLE = re.compile(r"\b(?:examples?|instance|such\s+as|format|e\.g)\b", re.IGNORECASE)
_OUT_OF_FIVE = re.compile(r"(?<=\d)(?:\s*/\s*|\s+out\s+of\s+)5(?!\w|\.\d|\s*/)")
_LABEL = re.compile(rf"(?<!\w)({_NAMES})(?!\w)", re.IGNORECASE)
_LIST_MARK = re.compile(rf"^[ \t*#_]*\d[.)](?=[ \t*_]*(?:{_NAMES})(?!\w))", re.IGNORECASE | re.MULTILINE)
_SCALE = re.compile(r"\((?:scale:? )?1 ?(?:-|–|to) ?5\)|\((?:out of |/ ?)5\)", re.IGNORECASE)
_AFTER_LABEL = re.compile(r"[\"'*_`|\s]*(?:(?:[:=\-–—]|\b(?:is|score|rating)\b)[\"'*_`|\s]*){0,3}", re.IGNORECASE)
_JSON_KEY = re.compile(rf'"\s*(?P<name>{_NAMES})\s*"\s*:\s*', re.IGNORECASE)
_JSON_LEVEL = re.compile(
    _JSON_KEY.pattern + r'(?:"\s*)?(?P<level>[-+\d.]+)(?:\s*/\s*5)?(?:\s*")?\s*(?=[,}])', re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """The levels (1-5) that a judge gave, and where in its reply each digit stands.

    `offsets` are character positions in the text that was parsed, in the order of `DIMENSIONS`: a caller with
    log-probabilities finds the token of each digit by its place. Looking for it by its value finds digits in the
    reasoning instead (deepeval #3000).
    """

    groundedness: int
    correctness: int
    usefulness: int
    offsets: tuple[int, int, int]

    def metrics(self) -> dict[str, float]:
        """Return the levels as metrics in [0, 1]: ``judge_groundedness`` and so on."""
        return {f"judge_{name}": to_unit(getattr(self, name)) for name in DIMENSIONS}


def parse_reply(text: str) -> JudgeReply | None:
    """Read three levels out of a judge's reply, or None where there is more than one reading, or none.

    Read are three digits 1-5 side by side ("5 4 3", "5, 4, 3", "5/4/3", one a line), the same out of five ("4/5 5/5
    3/5"), each behind its name in any order, and a JSON object with the three names. A reasoning block does not count,
    nor does anything when it is not closed. Prose around is fine as long as no other number stands in it.
    """
    shown = _without_reasoning(text.translate(_WIDE_DIGITS))
    if shown is None:
        return None
    if _is_json(shown):
        return _from_json(shown)
    for noise in (_LIST_MARK, _SCALE):
        shown = noise.sub(_blank, shown)
    return _from_labels(shown) if _LABEL.search(shown) else _from_row(shown)


def expected_level(top_logprobs: Mapping[str, float]) -> tuple[float, float]:
    """Return the expected level (1-5) at a digit's position, and the probability mass that lies on levels at all.

    The weighting of G-Eval (Liu et al. 2023, arXiv 2303.16634) over the tokens that are a level once white space is
    stripped, renormalised by their mass m: E = Σ s·P(s) / m. With m below 0.5 the position is hardly a rating, and the
    caller takes the digit that was written. Without any mass the level is NaN.

    Args:
        top_logprobs: Natural log-probability of each candidate token at the position.
    """
    masses = dict.fromkeys(range(LOWEST, HIGHEST + 1), 0.0)
    for token, logprob in top_logprobs.items():
        digit = unicodedata.normalize("NFKC", token).strip(" \t\r\n\u2581\u0120\u010a")  # also ▁, Ġ and Ċ of raw tokens
        if digit in _DIGITS and not math.isnan(logprob):
            masses[int(digit)] += math.exp(min(0.0, logprob))
    mass = math.fsum(masses.values())
    if mass == 0:
        return math.nan, 0.0
    level = math.fsum(level * part for level, part in masses.items()) / mass
    return min(max(level, LOWEST), HIGHEST), min(1.0, mass)


def to_unit(level: float) -> float:
    """Return a level of 1 to 5 on 0 to 1."""
    return (level - LOWEST) / (HIGHEST - LOWEST)


def ten_scale(unit: float) -> float:
    """Return a score of 0 to 1 on the scale of 0 to 10 that people see, with two decimals."""
    return round(10 * unit, 2)


def _blank(match: re.Match[str]) -> str:
    """Replace a match by spaces, which keeps every offset behind it."""
    return " " * len(match.group())


def _without_reasoning(text: str) -> str | None:
    """Return the text with its reasoning blanked out; None if a block is not closed, so that nothing is an answer yet.

    A chat template may open the block in the prompt; then only its end is in the reply.
    """
    tags = list(_REASONING.finditer(text))
    if not tags:
        return text
    if not tags[-1]["end"]:
        return None
    return " " * tags[-1].end() + text[tags[-1].end() :]


def _numbers(text: str) -> list[re.Match[str]]:
    """Return the numbers of a text that stand alone; digits inside words are not numbers."""
    return list(_NUMBER.finditer(text))


def _reply(levels: Mapping[str, tuple[str, int]]) -> JudgeReply | None:
    """Return the reply made of a number and its place for each dimension, unless a number is no level."""
    if not all(_LEVEL.fullmatch(written) for written, _ in levels.values()):
        return None
    groundedness, correctness, usefulness = (levels[name] for name in DIMENSIONS)
    return JudgeReply(
        int(groundedness[0][0]),
        int(correctness[0][0]),
        int(usefulness[0][0]),
        (groundedness[1], correctness[1], usefulness[1]),
    )


def _from_row(text: str) -> JudgeReply | None:
    """Read exactly three numbers side by side, with one kind of separator and all or none of them out of five."""
    found = _numbers(text)
    if len(found) != len(DIMENSIONS):
        text, scales = _OUT_OF_FIVE.subn(_blank, text)
        found = _numbers(text)
        if scales != len(DIMENSIONS) or len(found) != len(DIMENSIONS):
            return None
    gaps = [text[left.end() : right.start()] for left, right in pairwise(found)]
    if not all(_GAP.fullmatch(gap) for gap in gaps) or len({"/" in gap for gap in gaps}) > 1:
        return None  # "4/5 3" could be two ratings or three
    if _EXAMPLE.search(text, 0, found[0].start()):
        return None  # the instruction, said back
    return _reply({name: (match.group(), match.start()) for name, match in zip(DIMENSIONS, found, strict=True)})


def _from_labels(text: str) -> JudgeReply | None:
    """Read one number behind each name, at its last mention, or a row behind all three.

    A further number anywhere could be a second rating.
    """
    labels = {match.group().lower(): match.end() for match in _LABEL.finditer(text)}
    if len(labels) != len(DIMENSIONS):
        return None
    found = _numbers(text)
    if found and max(labels.values()) <= found[0].start() and tuple(labels) == DIMENSIONS:
        return _from_row(text)
    found = _numbers(_OUT_OF_FIVE.sub(_blank, text))
    starts = {match.start(): match.group() for match in found}
    levels: dict[str, tuple[str, int]] = {}
    for name, end in labels.items():
        separator = _AFTER_LABEL.match(text, end)
        place = separator.end() if separator else end
        if place not in starts:
            return None
        levels[name] = (starts[place], place)
    return _reply(levels) if len(found) == len(DIMENSIONS) else None


def _is_json(text: str) -> bool:
    """Return whether a JSON object with the three names among its keys stands in the text."""
    try:
        pairs = json.loads(text[text.index("{") : text.rindex("}") + 1], object_pairs_hook=list)
    except (ValueError, RecursionError):
        return False
    names = {key.strip().lower() for key, _ in pairs}
    return names.issuperset(DIMENSIONS)


def _from_json(text: str) -> JudgeReply | None:
    """Read a JSON object that has each name once, with no number outside the object; inside, reasons may hold some."""
    if _numbers(text[: text.index("{")]) or _numbers(text[text.rindex("}") :]):
        return None
    found = list(_JSON_LEVEL.finditer(text))
    if sorted(match["name"].lower() for match in _JSON_KEY.finditer(text)) != sorted(DIMENSIONS):
        return None  # a name that occurs twice, on whatever level, has two values
    if len(found) != len(DIMENSIONS):
        return None
    return _reply({match["name"].lower(): (match["level"], match.start("level")) for match in found})
