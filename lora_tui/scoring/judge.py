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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

DIMENSIONS = ("groundedness", "correctness", "usefulness")
"""What the judge rates, in the order of its reply."""

LOWEST, HIGHEST = 1, 5
_DIGITS = frozenset("12345")

_NAMES = "|".join(DIMENSIONS)
_WIDE_DIGITS = {0xFF10 + digit: ord("0") + digit for digit in range(10)}  # one for one, so that offsets hold
_REASONING = re.compile(r"[<\[](?P<end>/?)(?:think|thinking|thought|reasoning|reflection)[>\]]", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)*(?!\w)")
_LEVEL = re.compile(r"[1-4](?:\.\d+)?|5(?:\.0+)?")
_GAP = re.compile(r"[\s,;|&]+(?:and\s+)?|\s*/\s*")
_MARKUP = str.maketrans(dict.fromkeys("*_`[]<>\"'\u20e3\ufe0f", " "))
"""What stands round single levels in Markdown, in lists and in keycap digits; each becomes a space, so offsets hold."""

_BRACKETS = re.compile(r"\((?=[1-5]\))|(?<=\([1-5])\)")
_MARK_GAP = re.compile(r"[.):]\s*")
_SECOND_OPINION = re.compile(
    r"\b(?:instead|rather|revis\w*|reconsider\w*|correction|actually|better|final\w*|overall|scores?|ratings?|levels?"
    rf"|{'|'.join(DIMENSIONS)})\b[^.\n]{{0,40}}?(?<![\w.,])[1-5](?![\w.,]*\d)",
    re.IGNORECASE,
)
"""Words behind the levels, and a number that could be another level; a year or a price is none."""
_EXAMPLE = re.compile(r"\b(?:examples?|instance|such\s+as|format|e\.g)\b", re.IGNORECASE)
_OUT_OF_FIVE = re.compile(r"(?<=\d)(?:\s*/\s*|\s+out\s+of\s+)5(?!\w|\.\d|\s*/)")
_LABEL = re.compile(rf"(?<!\w)({_NAMES})(?!\w)", re.IGNORECASE)
_LIST_MARK = re.compile(rf"^[ \t*#_]*\d[.)](?=[ \t*_]*(?:{_NAMES})(?!\w))", re.IGNORECASE | re.MULTILINE)
_SCALE = re.compile(r"\((?:scale:? )?1 ?(?:-|–|to) ?5\)|\((?:out of |/ ?)5\)", re.IGNORECASE)
_AFTER_LABEL = re.compile(r"[\"'*_`|\s]*(?:(?:[:=\-–—]|\b(?:is|score|rating)\b)[\"'*_`|\s]*){0,3}", re.IGNORECASE)
_JSON_KEY = re.compile(rf'"\s*(?P<name>{_NAMES})\s*"\s*:\s*', re.IGNORECASE)
_JSON_LEVEL = re.compile(
    _JSON_KEY.pattern
    + r'(?:\{[^{}]*?"(?:score|level|rating|value)"\s*:\s*)?'
    + r'(?:"\s*)?(?P<level>[-+\d.]+)(?:\s*/\s*5)?(?:\s*")?\s*(?=[,}])',
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """The levels (1-5, also between two of them) that a judge gave, and where in its reply each digit stands.

    `offsets` are character positions in the text that was parsed, in the order of `DIMENSIONS`: a caller with
    log-probabilities finds the token of each digit by its place. Looking for it by its value finds digits in the
    reasoning instead (deepeval #3000).
    """

    groundedness: float
    correctness: float
    usefulness: float
    offsets: tuple[int, int, int]

    @property
    def is_between(self) -> bool:
        """Whether a level lies between two, such as 4.5: the probabilities of its digit are not those of the level."""
        return any(level != int(level) for level in (self.groundedness, self.correctness, self.usefulness))

    def metrics(self) -> dict[str, float]:
        """Return the levels as metrics in [0, 1]: ``judge_groundedness`` and so on."""
        return {f"judge_{name}": to_unit(getattr(self, name)) for name in DIMENSIONS}


def parse_reply(text: str) -> JudgeReply | None:
    """Read three levels out of a judge's reply, or None where there is more than one reading, or none.

    Read are three levels 1-5 side by side ("5 4 3", "5, 4, 3", "5/4/3", "4.5 4 3", one a line), the same out of five
    ("4/5 5/5 3/5"), numbered as the rubric is ("1. 5", "2. 4", "3. 3"), each behind its name in any order, and a JSON
    object with the three names; bold or in brackets as well. A reasoning block does not count, nor does anything when
    it is not closed. Prose around is fine as long as no other number stands before the levels, and behind them none
    that could be another level.
    """
    shown = _without_reasoning(text.translate(_WIDE_DIGITS))
    if shown is None:
        return None
    if _is_json(shown):
        return _from_json(shown)
    for noise in (_LIST_MARK, _SCALE, _BRACKETS):
        shown = noise.sub(_blank, shown)
    shown = shown.translate(_MARKUP)
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
        _level(groundedness[0]),
        _level(correctness[0]),
        _level(usefulness[0]),
        (groundedness[1], correctness[1], usefulness[1]),
    )


def _level(written: str) -> float:
    level = float(written)
    return int(level) if level.is_integer() else level


def _from_row(text: str) -> JudgeReply | None:
    """Read three levels side by side, all or none of them out of five, or behind the numbers 1, 2 and 3.

    They are the first numbers of the text. A year or a count may follow in a reason, another rating may not.
    """
    unscaled, scales = _OUT_OF_FIVE.subn(_blank, text)
    for source in (text, unscaled):
        found = _numbers(source)
        if _is_numbered(source, found):
            return _row(source, found[1:6:2], found[6:])
    found = _numbers(text)
    if not _stand_together(text, found[: len(DIMENSIONS)]):
        text, found = unscaled, _numbers(unscaled)
        if scales != len(DIMENSIONS) or not _stand_together(text, found[: len(DIMENSIONS)]):
            return None
    return _row(text, found[: len(DIMENSIONS)], found[len(DIMENSIONS) :])


def _stand_together(text: str, row: Sequence[re.Match[str]]) -> bool:
    """Tell whether three numbers stand side by side with one kind of separator: "4/5 3" is two ratings or three."""
    gaps = [text[left.end() : right.start()] for left, right in pairwise(row)]
    return len(row) == len(DIMENSIONS) and all(map(_GAP.fullmatch, gaps)) and len({"/" in gap for gap in gaps}) == 1


def _is_numbered(text: str, found: Sequence[re.Match[str]]) -> bool:
    """Tell whether the first six numbers are 1, 2 and 3 as marks of a list, with a level behind each."""
    marks, levels = found[0:6:2], found[1:6:2]
    if [mark.group() for mark in marks] != ["1", "2", "3"] or len(levels) != len(DIMENSIONS):
        return False
    if not all(
        _MARK_GAP.fullmatch(text[mark.end() : level.start()]) for mark, level in zip(marks, levels, strict=True)
    ):
        return False
    between = [text[level.end() : mark.start()] for level, mark in zip(levels, marks[1:], strict=False)]
    return all("\n" in gap or _GAP.fullmatch(gap) for gap in between)


def _row(text: str, row: Sequence[re.Match[str]], others: Sequence[re.Match[str]]) -> JudgeReply | None:
    """Return the reply whose levels are the numbers of `row`, unless what is said around them makes that doubtful."""
    if _EXAMPLE.search(text, 0, row[0].start()):
        return None  # the instruction, said back
    if others and not _is_reason(text, row[-1].end(), others):
        return None
    return _reply({name: (match.group(), match.start()) for name, match in zip(DIMENSIONS, row, strict=True)})


def _is_reason(text: str, end: int, others: Sequence[re.Match[str]]) -> bool:
    """Tell whether the numbers behind the levels, which end at `end`, belong to a reason and not to another rating."""
    if not any(character.isalpha() for character in text[end : others[0].start()]):
        return False
    rows = (others[place : place + len(DIMENSIONS)] for place in range(len(others) - 2))
    return not any(_stand_together(text, row) for row in rows) and _SECOND_OPINION.search(text, end) is None


def _from_labels(text: str) -> JudgeReply | None:
    """Read one number behind each name, at its last mention, or a row behind all three.

    A further number could be a second rating, unless each name stands there once and the number is no level.
    """
    mentions = list(_LABEL.finditer(text))
    labels = {match.group().lower(): match.end() for match in mentions}
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
    others = [match for match in found if match.start() not in {place for _, place in levels.values()}]
    if others and (len(mentions) > len(DIMENSIONS) or any(_could_be_rating(text, match) for match in others)):
        return None
    return _reply(levels)


def _could_be_rating(text: str, number: re.Match[str]) -> bool:
    """Tell whether a number could be another level, or belongs to the one before it ("4/5.5")."""
    before = text[max(0, number.start() - 20) : number.start()].rstrip()
    return _LEVEL.fullmatch(number.group()) is not None or not before[-1:].isalpha()


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
