"""Quotations held against the passage as it is read: without markup, hyphens and characters that nobody sees.

A model quotes what it reads. "The **Alda** sails at [six](https://…)" comes back as "The Alda sails at six", a word
that was hyphenated at the end of a line in one piece, a table's row without its bars. So of both texts only what is
read counts: letters, digits and marks, the points and signs of numbers, and the symbols of arithmetic and money; case
and spacing do not. A quotation must begin and end with a word of the passage. Knows nothing of pairs.
"""

import html
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate

_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
_IMAGE = re.compile(r"!\[([^\]\[]*)\](?:\([^()\s]*(?:\s+\"[^\"]*\")?\)|\[[^\]\[]*\])")
_LINK = re.compile(r"\[([^\]\[]*)\](?:\([^()\s]*(?:\([^()\s]*\)[^()\s]*)?(?:\s+\"[^\"]*\")?\)|\[[^\]\[]*\])")
_FOOTNOTE = re.compile(r"\[\^[^\]\s]{1,20}\]")
_LIST_MARK = re.compile(r"^[ \t>]*(?:\d{1,3}[.)]|[a-z][.)])[ \t]+", re.MULTILINE)
_ELLIPSIS = re.compile(r"\s*(?:\[?\.\.\.\]?|\[?…\]?)\s*")
_SIGNIFICANT = frozenset("%+=<>")
_MINUS = frozenset("-\u2010\u2011\u2012\u2013\u2212")

# What most texts consist of: no marks, no digits but 0-9, no characters that nobody sees, no script without spaces.
_USUAL = re.compile("[\\x00-\x7f\xa0-\xac\xae-\u024f\u2010-\u2027\u2030-\u205e\u20ac\u2212]*")
_READ = re.compile(
    r"(?:(?<![^\W_])[\-\u2010-\u2013\u2212](?=[0-9]))?[^\W_]+(?:(?<=[0-9])[.,](?=[0-9])[^\W_]+)*"
    r"|[%+=<>$\xa2-\xa5\u20ac]"
)
_TWO_WORDS = re.compile(r"\w\W+\w")
_LETTER_OR_DIGIT = re.compile("[A-Za-z0-9]")
_PLAIN_MINUS = str.maketrans(dict.fromkeys(_MINUS, "-"))


def is_quoted(evidence: str, passage: str) -> bool:
    """Tell whether a quotation occurs in the passage as it is read; parts joined by an ellipsis in their order.

    Links and images may be quoted with their addresses and descriptions or without them, lists with their numbers or
    without.
    """
    return _stands_there(evidence.strip(), passage) or any(
        _occurs(evidence, passage, form) for form in (_plain, _without_links, _without_images)
    )


def _stands_there(evidence: str, passage: str) -> bool:
    """Tell whether plain words stand in a passage as they are, between white space: most quotations do.

    Where either has markup, or the quotation leaves something out, only what is read can tell.
    """
    if not evidence.isascii() or "..." in evidence or _LETTER_OR_DIGIT.search(evidence) is None:
        return False
    found = passage.find(evidence)
    if found < 0 or any(mark in passage for mark in "<&["):
        return False
    end = found + len(evidence)
    return (not found or passage[found - 1].isspace()) and (end == len(passage) or passage[end].isspace())


def says_something(evidence: str) -> bool:
    """Tell whether a quotation is more than a word that stands everywhere: two words, a number, or a long word."""
    if _TWO_WORDS.search(evidence):
        return True
    words, _ = _read_of(evidence, _plain)
    return any(character.isdigit() for character in words) or len(words) >= 8


def _occurs(evidence: str, passage: str, form: Callable[[str], str]) -> bool:
    whole, starts = _read_of(passage, form)
    position = 0
    parts = [read for part in _ELLIPSIS.split(form(evidence)) if (read := _read_of(part, _as_it_is)[0])]
    for part in parts:
        found = whole.find(part, position)
        while found >= 0 and not (found in starts and found + len(part) in starts):
            found = whole.find(part, found + 1)
        if found < 0:
            return False
        position = found + len(part)
    return bool(parts)


def _as_it_is(text: str) -> str:
    return text


def _plain(text: str) -> str:
    """Return a text with everything that Markdown shows, addresses included."""
    return _FOOTNOTE.sub(" ", _TAG.sub(" ", html.unescape(text)))


def _without_links(text: str) -> str:
    """Return a text without the addresses of links and images, and without the numbers of lists."""
    return _LIST_MARK.sub(" ", _LINK.sub(r" \1 ", _IMAGE.sub(r" \1 ", _plain(text))))


def _without_images(text: str) -> str:
    return _LIST_MARK.sub(" ", _LINK.sub(r" \1 ", _IMAGE.sub(" ", _plain(text))))


@lru_cache(maxsize=256)
def _read_of(text: str, form: Callable[[str], str]) -> tuple[str, frozenset[int]]:
    """Return what is read of a text, and the places in it where a word begins, its end included."""
    folded = unicodedata.normalize("NFKC", form(text)).casefold()
    if _USUAL.fullmatch(folded):
        runs = _READ.findall(folded)
        return "".join(runs).translate(_PLAIN_MINUS), frozenset(accumulate(map(len, runs), initial=0))
    return _read_one_by_one(folded)


def _read_one_by_one(folded: str) -> tuple[str, frozenset[int]]:
    """Return what is read of a folded text in any script, character by character."""
    kept: list[str] = []
    starts = {0}
    apart = True  # from what was kept before
    for place, character in enumerate(folded):
        if character.isalnum() or (kind := unicodedata.category(character))[0] == "M":
            if apart or _is_alone(character):
                starts.add(len(kept))
            kept.append(character)
            apart = _is_alone(character)
        elif kind == "Cf":
            continue  # joiners and soft hyphens stand inside words, a zero-width space is one more that nobody sees
        elif _belongs_to_number(folded, place) or character in _SIGNIFICANT or kind == "Sc":
            if apart or character in _SIGNIFICANT or kind == "Sc":
                starts.add(len(kept))
            kept.append("-" if character in _MINUS else character)
            apart = character in _SIGNIFICANT or kind == "Sc"
        else:
            apart = True
    starts.add(len(kept))
    return "".join(kept), frozenset(starts)


def _belongs_to_number(text: str, place: int) -> bool:
    """Tell whether a point, a comma or a minus sign is part of a number: "41.5", "1,200", "-5"."""
    before, character, after = text[place - 1 : place], text[place], text[place + 1 : place + 2]
    if not after.isdigit():
        return False
    return before.isdigit() if character in ".," else character in _MINUS and not before.isalnum()


def _is_alone(character: str) -> bool:
    """Tell whether a character of a script without spaces is a word by itself."""
    return "\u0e00" <= character <= "\u0eff" or "\u1000" <= character <= "\u109f" or "\u3005" <= character <= "\u9fff"
