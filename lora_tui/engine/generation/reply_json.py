"""Readers of the JSON that a model wrote: strictly where it is JSON, else repaired where only one reading is left.

Models put line breaks into strings, a comma before a bracket, LaTeX's backslashes, single or curly quotation marks,
and words around it all, or write a dictionary of Python. `json-repair` reads these, and more than that: it ends what
was cut off and drops what it cannot place. So what it makes of a text counts only where the text was closed by the
model and where every letter and digit of it is in the result, in order: nothing was lost, and nothing was made up.
Knows neither pairs nor judges.
"""

import json
import re
from ast import literal_eval
from collections.abc import Iterator
from typing import Any

from json_repair import repair_json

MAX_REPAIRED = 50_000
"""Characters of a broken value that are repaired at most; the time grows faster than the length beyond that."""

_START = re.compile(
    r"""\{\s*(?:["'“”„«`]|\\"|[a-z_]+["']?\s*:|\})|\[\s*(?:["'“”{\[]|\])""", re.IGNORECASE
)  # also of an object with bare keys, and of `{}` and `[]`
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|[\s\S])")
_LATEX = re.compile(
    r"\\(?=(?:nabla|neq|nexists|newline|newcommand|nleq|ngeq|nmid|nsubseteq|normalsize|notin|nonumber|rangle|rbrace|rceil"
    r"|rfloor|rho|right|rightarrow|rvert|rVert|tan|tanh|tau|text|textbf|textit|textrm|texttt|tfrac|therefore|theta"
    r"|thickapprox|tilde|times|triangle)(?![a-z]))"
)
"""Commands of LaTeX that begin like an escape of JSON: "\\times" is no tab before "imes"."""

_FENCE = re.compile(r"```[a-z0-9]*", re.IGNORECASE)
_COMMENT = re.compile(r"(?<![:\w\"])//[^\n]*|/\*[\s\S]*?\*/|(?m:^\s*#[^\n]*)")
_QUOTED_KEY = r"""["'“”„`]\s*%s\s*\\?["'”“`]\s*:"""
_TWO_STRINGS = re.compile(r'"\s*[:+]\s*"')
_CLOSED_VALUE = re.compile(
    r"""(?:["'”“»`]|[:\[,]\s*(?:-?\d[\d.]*|true|false|null|none)|[\[{])[\s,;]*$""", re.IGNORECASE
)


class BrokenJsonError(ValueError):
    """A reply holds JSON that cannot be read in one way; the text says why, without positions, to be counted."""


def json_values(text: str, *, cut_off: bool = False) -> Iterator[Any]:
    """Yield the JSON objects and arrays of a reply, in their order.

    One that cannot be read ends the search, since what could be read further in is half of something broken. An object
    with a key that occurs again begins anew there: it is a list of objects. `cut_off`: the reply ended at its limit of
    tokens, so nothing is repaired.

    Raises `BrokenJsonError`.
    """
    text = _valid_escapes(text)
    place = 0
    while (start := _START.search(text, place)) is not None:
        try:
            value, place = _DECODER.raw_decode(text, start.start())
        except json.JSONDecodeError as problem:
            if cut_off:
                raise BrokenJsonError("broken JSON (it is cut off)") from problem
            value, place = _repaired(text, start.start(), problem.msg)
        except RecursionError:
            raise BrokenJsonError("the JSON is nested too deeply") from None
        yield value


def is_json_like(text: str) -> bool:
    """Tell whether something in a text begins like a JSON object or array."""
    return _START.search(text) is not None


def _objects(pairs: list[tuple[str, Any]]) -> Any:
    """Return an object, or a list of objects where its keys occur again and again: a pair after the other."""
    objects: list[dict[str, Any]] = [{}]
    for key, value in pairs:
        if key in objects[-1] and objects[-1][key] != value:
            objects.append({})
        objects[-1][key] = value
    if len(objects) == 1:
        return objects[0]
    if any(one.keys() != objects[0].keys() for one in objects):
        raise BrokenJsonError("broken JSON (a key has two values)")
    return objects


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_objects)


def _valid_escapes(text: str) -> str:
    """Return a text whose backslashes are JSON's: those before "(", of "\\alpha" and of "\\beta" are doubled."""
    if "\\" not in text:
        return text

    def mended(match: re.Match[str]) -> str:
        following = text[match.end() : match.end() + 1]
        kind = match[1][0]
        if kind in "\"'\\/" or (kind == "u" and len(match[1]) == 5):
            return match.group()
        if kind in "nrt" and not _LATEX.match(text, match.start()):
            return match.group()
        if kind in "bf" and not following.isalpha():
            return match.group()
        return "\\" + match.group()

    return _ESCAPE.sub(mended, text)


def _repaired(text: str, start: int, problem: str) -> tuple[Any, int]:
    """Return the value that begins at `start` as json-repair reads it, and where it ends. Raises `BrokenJsonError`."""
    broken = f"broken JSON ({problem[:1].lower()}{problem[1:].removesuffix(' starting at').removesuffix(' at')})"
    balanced = _balanced_end(text, start)
    last = max(text.rfind("}"), text.rfind("]")) + 1
    ends = [end for end in dict.fromkeys((balanced, last)) if end is not None and end > start]
    for end in ends:
        if end - start > MAX_REPAIRED:
            continue
        piece = text[start:end]
        if end == last and not _is_closed(piece, text[last:]):
            continue
        for read in (literal_eval, _repair):
            try:
                value = read(piece)
            except (ValueError, SyntaxError, MemoryError, RecursionError, LookupError, TypeError):
                continue
            if _is_faithful(piece, value):
                return value, end
    raise BrokenJsonError(broken)


def _repair(piece: str) -> Any:
    return repair_json(piece, return_objects=True, skip_json_loads=True)


def _is_closed(piece: str, tail: str) -> bool:
    """Tell whether a value was ended by who wrote it: its last string is closed, and nothing was begun behind it."""
    rest = _FENCE.sub("", tail).strip()
    if rest.startswith((",", ":", '"', "'")) or "{" in rest:
        return False
    return _CLOSED_VALUE.search(piece.rstrip("}] \t\r\n,")) is not None


def _balanced_end(text: str, start: int) -> int | None:
    """Return where the brackets opened at `start` are closed, those in double quotation marks left out, or None."""
    depth, quoted, place = 0, False, start
    end = min(len(text), start + MAX_REPAIRED)
    while place < end:
        character = text[place]
        if character == "\\":
            place += 1
        elif character == '"':
            quoted = not quoted
        elif not quoted and character in "{[":
            depth += 1
        elif not quoted and character in "}]":
            depth -= 1
            if depth == 0:
                return place + 1
        place += 1
    return None


def _is_faithful(piece: str, value: Any) -> bool:
    """Tell whether a value holds every letter and digit of the text it was read from, in the same order."""
    if not isinstance(value, dict | list):
        return False
    texts = list(_texts(value))
    if len({re.search(_QUOTED_KEY % re.escape(key), piece) is None for key in _keys(value)}) > 1:
        return False  # words of a text were taken for a key: "Stop, he says: no"
    if any(_TWO_STRINGS.search(text) for text in texts):
        return False
    found = _letters("".join(texts))
    return any(_letters(_unescaped(source)) == found for source in (piece, _COMMENT.sub("", piece)))


def _keys(value: Any) -> set[str]:
    """Return the keys of all objects in a JSON value."""
    found: set[str] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            found.update(map(str, current))
            waiting += current.values()
        elif isinstance(current, list):
            waiting += current
    return found


def _texts(value: Any) -> Iterator[str]:
    """Yield the keys and values of a JSON value as text, in order."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            waiting += [part for pair in reversed(current.items()) for part in reversed(pair)]
        elif isinstance(current, list):
            waiting += reversed(current)
        else:
            yield current if isinstance(current, str) else json.dumps(current, default=str)


def _unescaped(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        kind = match[1]
        return chr(int(kind[1:], 16)) if len(kind) == 5 else " " if kind in "nrtbf" else kind

    return _ESCAPE.sub(plain, text)


def _letters(text: str) -> str:
    squeezed = "".join(character for character in text if character.isalnum()).casefold()
    return squeezed.replace("none", "null")
