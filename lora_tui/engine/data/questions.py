"""Where a line's question ends and its answer begins, by the question mark alone.

Not every question mark ends a question: one in quotes or brackets belongs to what is quoted, one in a URL or an
operator name is followed by no space or goes on in lower case. Questions that follow each other at once are one
question: in "What? Who? Me." only "Me." is the answer.
"""

import re
from collections.abc import Iterator

# Spans whose punctuation is theirs. A straight quote opens after white space or a bracket only, so that 5" is a length.
# No class below can run past another opening, which keeps the search linear on hostile lines.
_QUOTED = re.compile(
    r"""(?<![^\s([{])"[^"]*"(?!\w) | (?<!\S)'[^']*'(?!\w) | „[^„“”]*[“”] | “[^“”]*” | ‘[^‘’]*’(?!\w) | «[^«»]*»"""
    r""" | 「[^「」]*」 | 『[^『』]*』 | `[^`]*` | \([^()]*\) | \[[^\[\]]*\] | （[^（）]*）""",
    re.VERBOSE,
)
_STOPS = re.compile(r"[.!?。！？؟]++")
_MARKS = ("?", "？", "؟")
_WIDE = ("。", "！", "？")  # no space follows these
_NEXT = re.compile(r"\s*(\S)")
_TOKEN = 300  # characters before a mark that are looked at for a URL


def split_question(text: str) -> tuple[str, str] | None:
    """Return the question with its mark and what follows it, both stripped; the second is empty if nothing follows.

    None if no question mark in `text` ends a question.
    """
    masked = _QUOTED.sub(lambda span: "x" * len(span[0]), text)
    end = next((stops.end() for stops in _sentence_ends(masked, 0) if _ends_question(masked, stops)), None)
    if end is None:
        return None
    for stops in _sentence_ends(masked, end):
        if not _is_question(stops) or not masked[end : stops.start()].lstrip()[:1].isalpha():
            break
        end = stops.end()
    return text[:end].strip(), text[end:].strip()


def _sentence_ends(text: str, start: int) -> Iterator[re.Match[str]]:
    for stops in _STOPS.finditer(text, start):
        if stops.end() == len(text) or text[stops.end()].isspace() or stops[0].endswith(_WIDE):
            yield stops


def _is_question(stops: re.Match[str]) -> bool:
    return any(mark in stops[0] for mark in _MARKS)


def _ends_question(text: str, stops: re.Match[str]) -> bool:
    before = text[max(0, stops.start() - _TOKEN) : stops.start()]
    if not _is_question(stops) or not before.strip():
        return False
    token = "" if before[-1].isspace() else before.split()[-1]
    # "The ? operator", "https://host/? for help" go on in lower case; the French "Pourquoi ? Parce que" does not.
    following = _NEXT.match(text, stops.end())
    return not ((not token or "://" in token) and following is not None and following[1].islower())
