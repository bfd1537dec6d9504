"""Splitting a document into passages: at paragraph borders if possible, else at sentence borders, else anywhere.

A document is a sequence of *pieces* without a gap: paragraphs, fenced code blocks and headings of Markdown, and, if one
of these is larger than a passage may be, its sentences. Pieces are packed into passages greedily. A heading begins a
passage if the one before it is at least half full, and never ends one. Whole sentences of a passage are repeated at the
beginning of the next (overlap), so that a fact that depends on the sentence before it can be understood.

Pure functions over text: no files, no tokenizer. Sizes are in tokens by whatever counter is passed in;
`estimate_tokens` is for models whose tokenizer is not known.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lora_tui.engine.data.survey import estimate_tokens

VERSION = "1"
"""Part of a chunk's identity in the store; incremented when the same text would be split otherwise."""

TokenCounter = Callable[[str], int]

_MARKED_LINES = re.compile(
    r"""^(?:(?P<blank>(?:[^\S\n]*+\n)++|[^\S\n]++\Z)
    |\ {0,3}(?:(?P<heading>\#{1,6}[ \t]++(?=\S))|(?P<fence>`{3,}|~{3,})))""",
    re.MULTILINE | re.VERBOSE,
)
_HEADING = re.compile(r"#{1,6}[ \t]+")
_MAX_HEADING = 200
"""Characters of a heading that are kept: each chunk under it carries them."""

_ABBREVIATION = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|Prof|St|Fig|No|Nr|vs|cf|e\.g|i\.e|z\.B|d\.h|approx|ca|[A-Z])\.$")
_SENTENCE_END = re.compile(
    # Possessive, and once for each run of white space: a text may hold a million blanks in a row.
    r"""(?<=[.!?…])["'”’»)\]]*+\s++(?=["'“‘«(\[]?[^\W\d_a-zß-öø-ÿ]|\d|[-*#>|])|(?<=[。！？])
    |(?<!\s)[^\S\n]*+\n(?=\s*+(?:[-*+]|\d++[.)])\s)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The characters ``start:end`` of a document; `heading` is the Markdown heading that its text stands under."""

    start: int
    end: int
    tokens: int
    heading: str


_Kind = Literal["text", "code", "heading"]


class _Piece(NamedTuple):
    start: int
    end: int
    tokens: int
    heading: str
    kind: _Kind


def split(text: str, size: int, overlap: int, count_tokens: TokenCounter = estimate_tokens) -> list[Chunk]:
    """Split `text` into chunks of at most `size` tokens, each repeating up to `overlap` tokens of the one before.

    The chunks' own parts follow each other without a gap, so that together they cover the text; offsets are exact. A
    text of white space alone gives no chunk. A chunk may exceed `size` only where a counter is not additive (a
    tokenizer that merges across the border), by a token or two.
    """
    if size < 1:
        raise ValueError(f"a chunk of {size} tokens cannot hold anything")
    overlap = max(0, min(overlap, size // 2))

    chunks: list[Chunk] = []
    before: int | None = None  # where the group before begins
    for group in _pack(text, size, overlap, count_tokens):
        start, end = group[0].start, group[-1].end
        earliest, before = before, start
        if not text[start:end].strip():
            continue
        if earliest is not None and group[0].kind != "heading":
            room = min(overlap, size - sum(piece.tokens for piece in group))
            start = _overlap_start(text, earliest, start, room, count_tokens)
        # The heading that most of the chunk stands under: its first own piece's.
        chunks.append(Chunk(start, end, count_tokens(text[start:end]), group[0].heading))
    return chunks


def _pack(text: str, size: int, overlap: int, count_tokens: TokenCounter) -> Iterator[list[_Piece]]:
    """Pack pieces into passages in order, leaving room for the overlap if a passage will need it."""
    current: list[_Piece] = []
    own = filled = 0  # of `current`: pieces without the headings at its end, which belong to what follows; tokens
    has_earlier = False
    pieces = _pieces(text, size, count_tokens)
    put_back: list[_Piece] = []  # parts of a piece, the last one first
    while piece := put_back.pop() if put_back else next(pieces, None):
        limit = size - (overlap if has_earlier and current and current[0].kind != "heading" else 0)
        new_section = piece.kind == "heading" and filled * 2 >= size
        if current and (filled + piece.tokens > limit or new_section):
            if own:
                yield current[:own]
                has_earlier = True
                current, own = current[own:], 0
                filled = sum(heading.tokens for heading in current)
            if current and filled + piece.tokens > size:
                if filled * 2 < size and piece.kind != "heading":  # a heading must not stand alone
                    put_back.extend(reversed(list(_split_piece(text, piece, size - filled, count_tokens))))
                    piece = put_back.pop()
                else:
                    yield current
                    has_earlier = True
                    current, own, filled = [], 0, 0
        current.append(piece)
        own = own if piece.kind == "heading" else len(current)
        filled += piece.tokens
    if current:
        yield current


def _overlap_start(text: str, earliest: int, start: int, room: int, count_tokens: TokenCounter) -> int:
    """Return `start` moved back over whole sentences of the passage before, up to `room` tokens."""
    best = start
    for sentence_start, _ in reversed(list(_sentences(text, earliest, start))):
        if sentence_start >= start:
            continue
        if sentence_start <= earliest or count_tokens(text[sentence_start:start]) > room:
            break
        best = sentence_start
    return best


def _pieces(text: str, size: int, count_tokens: TokenCounter) -> Iterator[_Piece]:
    under = ""
    for start, end, kind in _blocks(text):
        if kind == "heading":
            under = heading_of(text[start:end]) or ""
        piece = _Piece(start, end, count_tokens(text[start:end]), under, kind)
        if piece.tokens <= size:
            yield piece
        else:
            yield from _split_piece(text, piece, size, count_tokens)


def _split_piece(text: str, piece: _Piece, limit: int, count_tokens: TokenCounter) -> Iterator[_Piece]:
    """Yield the sentences of prose or the lines of code, and parts of those that exceed `limit` tokens."""
    kind: _Kind = "code" if piece.kind == "code" else "text"
    borders = _lines if kind == "code" else _sentences
    for first, last in borders(text, piece.start, piece.end):
        fits = count_tokens(text[first:last]) <= limit
        for start, end in [(first, last)] if fits else _split_anywhere(text, first, last, limit, count_tokens):
            yield _Piece(start, end, count_tokens(text[start:end]), piece.heading, kind)


def heading_of(line: str) -> str | None:
    """Return the text of a Markdown heading such as ``## Wings``, or None for any other line."""
    bare = line.strip()
    mark = _HEADING.match(bare)
    return bare[mark.end() :].rstrip("#").strip()[:_MAX_HEADING].rstrip() if mark else None


def headings(text: str, most: int | None = None) -> list[str]:
    """Return the different Markdown headings of `text` in order, the first `most`; lines of fenced code are none."""
    found: dict[str, None] = {}
    for start, end, kind in _blocks(text):
        if kind == "heading" and (heading := heading_of(text[start:end])):
            found[heading] = None
            if len(found) == most:
                break
    return list(found)


def _blocks(text: str) -> Iterator[tuple[int, int, _Kind]]:
    """Yield paragraphs, whole fenced code blocks and heading lines, each with the blank lines that follow it.

    Looks at blank lines, headings and fences alone, however many lines lie between them.
    """
    first = re.search(r"\S", text)
    has_text_from = first.start() if first else len(text)
    start = seen = 0  # where the block begins, and up to where lines have been looked at
    fence = ""
    kind: _Kind = "text"
    due = False  # the next line that is not blank begins a block
    for found in _MARKED_LINES.finditer(text):
        begin, mark = found.start(), found["fence"]
        if fence:
            if mark and mark.startswith(fence) and not text[found.end() : _line_end(text, found.end())].strip():
                kind, fence, due, seen = "code", "", True, _line_end(text, found.end())
            continue
        if due and begin > seen:
            yield start, seen, kind
            start, kind, due = seen, "text", False
        if found["blank"]:
            due, seen = due or begin > has_text_from, found.end()
            continue
        if begin > has_text_from:
            yield start, begin, kind
            start, kind = begin, "text"
        due = not mark
        if mark:
            fence = mark
        else:
            kind, seen = "heading", _line_end(text, found.end())
    if due and seen < len(text):
        yield start, seen, kind
        start, kind = seen, "text"
    if start < len(text):
        yield start, len(text), "code" if fence else kind


def _line_end(text: str, start: int) -> int:
    return text.find("\n", start) + 1 or len(text)


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        line_end = text.find("\n", start, end) + 1 or end
        yield start, line_end
        start = line_end


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the borders of the sentences between two offsets; white space belongs to the sentence before it."""
    begin = start
    for border in _SENTENCE_END.finditer(text, start, end):
        if _ABBREVIATION.search(text, max(begin, border.start() - 8), border.start()):
            continue
        if border.end() > begin and text[begin : border.end()].strip():
            yield begin, border.end()
            begin = border.end()
    if begin < end:
        yield begin, end


def _split_anywhere(
    text: str, start: int, end: int, size: int, count_tokens: TokenCounter
) -> Iterator[tuple[int, int]]:
    """Yield parts of a text without sentence borders: the longest that fit, ending after white space if possible."""
    while start < end:
        most = min(4 * size, end - start)  # characters; a text of a hundred million must not be counted for each part
        while start + most < end and count_tokens(text[start : start + most]) <= size:
            most = min(2 * most, end - start)
        ends = range(start + 1, start + most + 1)
        cut = start + max(1, bisect_right(ends, size, key=lambda last: count_tokens(text[start:last])))
        if cut < end:
            middle = start + (cut - start) // 2
            space = max(text.rfind(" ", middle, cut), text.rfind("\n", middle, cut))
            cut = space + 1 if space >= 0 else cut
        yield start, cut
        start = cut
