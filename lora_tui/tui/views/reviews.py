"""What a rating or a verdict did, in a line: the weights that moved most, what was rated, how much there is to learn.

Small and apart because the sheets of pairs, of answers and the chat show it alike.
"""

from typing import Any

from textual.content import Content

from lora_tui.protocol.backend import ReviewResult
from lora_tui.text import count
from lora_tui.tui.text import DIM, metric_name, styled

_SHOWN = 3
"""Weights that are named at most, those that moved most."""

_DIGITS = (2, 3, 4)
"""Decimals of a weight: as few as show that it moved."""

HARDLY = "The weights hardly moved: no metric sets this one apart."


def change_text(result: ReviewResult, score_digits: int) -> Content:
    """The weights and the score before and after; empty where nothing was measured that a rating could weigh.

    `score_digits` are the decimals of the score: 1 for pairs (0-10), 2 for answers (0-1).
    """
    if not result.after:
        return Content("")
    moved = sorted(result.after, key=lambda name: -abs(result.after[name] - result.before.get(name, 0.0)))[:_SHOWN]
    changes = [(name, _from_to(result.before.get(name, 0.0), result.after[name], _DIGITS)) for name in moved]
    shown = [f"{metric_name(name)} {change}" for name, change in changes if change]
    if not shown:
        return styled((HARDLY, DIM))
    parts: list[Any] = [("weights  ", DIM), ("\n         ".join(shown), "$accent")]
    if result.scores is not None:
        before, after = result.scores
        change = _from_to(before, after, (score_digits, score_digits + 1, score_digits + 2))
        parts += [("\nscore    ", DIM), (change or f"{after:.{score_digits}f}, as before", "$accent")]
    return styled(*parts)


def change_message(result: ReviewResult, score_digits: int) -> str:
    """What was done, and what that did to weights and score, where it did anything."""
    change = change_text(result, score_digits)
    moved = result.before != result.after and not change.plain.startswith(HARDLY)
    return f"{result.message} {' · '.join(change.plain.split(chr(10)))}" if moved else result.message


def said_words(preferences: int, verdicts: int) -> str:
    """What can be done with what people have said: "learn from 31 preferences"."""
    return f"learn from {count(preferences, 'preference') if preferences else count(verdicts, 'rating')}"


def _from_to(before: float, after: float, digits: tuple[int, ...]) -> str:
    """ "0.30 → 0.34" with as few of these decimals as tell the two apart; empty where none do."""
    for digit in digits:
        if f"{before:.{digit}f}" != f"{after:.{digit}f}":
            return f"{before:.{digit}f} → {after:.{digit}f}"
    return ""
