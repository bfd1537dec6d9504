"""Rivals of an answer: the same denied, or with another number or name of its passage, for a model to choose between.

A model of the built-in one's size cannot say whether an answer is right, but it copies well: with the passage in view
it finds the right one of two such answers more probable. Small and apart because it is pure functions of English text:
`builtin_model` has them scored.
"""

import re
from collections.abc import Iterator

from lora_tui.engine.generation.quantities import TENS, UNITS

MOST_RIVALS = 12
"""Rivals of an answer that are scored, one batch."""

_MOST_EACH = 5
"""Rivals for one number or name."""

_AUXILIARY = re.compile(
    r"\b(is|are|was|were|can|could|will|would|must|should|may|might|has|have|had|does|do|did)\b", re.IGNORECASE
)
_DENIAL = re.compile(r"\s(?:not|never)\b|(?<=\w)n['’]t\b", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.,])\d+(?:[.,:]\d+)*\b|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty"
    r"|fifty|sixty|hundred)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"`[^`\n]{1,40}`|(?<=[\w,;]\s)[A-ZÀ-Þ][^\W\d_]{2,}")


def rivals(answer: str, passage: str) -> list[str]:
    """Return answers that differ from one in what decides whether it is right, the denied one first."""
    found: list[str] = []
    for rival in (*_denied(answer), *_exchanged(answer, passage, _NUMBER), *_exchanged(answer, passage, _NAME)):
        if rival != answer and rival not in found:
            found.append(rival)
    return found[:MOST_RIVALS]


def _denied(answer: str) -> Iterator[str]:
    """Yield the answer with its denial taken out, or one put in; "yes" and "no" change places with it."""
    turned = answer
    if opening := re.match(r"\s*(yes|no)(?=[,.;:])", answer, re.IGNORECASE):
        other = "No" if opening[1].lower() == "yes" else "Yes"
        turned = answer[: opening.start(1)] + other + answer[opening.end(1) :]
    plain = re.sub(r"\b(can)(?:not|['’]t)\b", r"\1", turned, flags=re.IGNORECASE)
    plain = re.sub(r"\bwon['’]t\b", "will", plain)
    plain = _DENIAL.sub("", plain)
    if plain == turned:
        plain = _AUXILIARY.sub(r"\1 not", turned, count=1)
    if plain != answer:
        yield plain


def _value(written: str) -> str:
    """Return what a number or name is compared by: "1,800" is 1800, "three" is 3."""
    word = written.casefold()
    return str(UNITS.get(word, TENS.get(word, word.replace(",", ""))))


def _exchanged(answer: str, passage: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield the answer with one number or name each time replaced by others of the same kind from the passage."""
    others = list(dict.fromkeys(match.group() for match in pattern.finditer(passage)))
    for match in list(pattern.finditer(answer))[:2]:
        own = match.group()
        alike = [one for one in others if _value(one) != _value(own) and (one[0] == "`") == (own[0] == "`")]
        for other in alike[:_MOST_EACH]:
            yield answer[: match.start()] + other + answer[match.end() :]
