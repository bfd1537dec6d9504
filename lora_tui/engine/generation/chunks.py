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
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from lora_tui.engine.data.survey import estimate_tokens

VERSION = "1"
"""Part of a chunk's identity in the store; incremented when the same text would be split otherwise."""

TokenCounter = Callable[[str], int]

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_ABBREVIATION = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|Prof|St|Fig|No|Nr|vs|cf|e\.g|i\.e|z\.B|d\.h|approx|ca|[A-Z])\.$")
_SENTENCE_END = re.compile(
    r"""(?<=[.!?…])["'”’»)\]]*\s+(?=["'“‘«(\[]?[^\W\d_a-zß-öø-ÿ]|\d|[-*#>|])|(?<=[。！？])|\n(?=\s*(?:[-*+]|\d+[.)])\s)""",
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


@dataclass(frozen=True, slots=True)
class _Piece:
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

    groups = _pack(text, size, overlap, count_tokens)
    chunks: list[Chunk] = []
    for number, group in enumerate(groups):
        start, end = group[0].start, group[-1].end
        if not text[start:end].strip():
            continue
        if number > 0 and group[0].kind != "heading":
            room = min(overlap, size - sum(piece.tokens for piece in group))
            start = _overlap_start(text, groups[number - 1][0].start, start, room, count_tokens)
        # The heading that most of the chunk stands under: its first own piece's.
        chunks.append(Chunk(start, end, count_tokens(text[start:end]), group[0].heading))
    return chunks


def _pack(text: str, size: int, overlap: int, count_tokens: TokenCounter) -> list[list[_Piece]]:
    """Pack pieces into passages in order, leaving room for the overlap if a passage will need it."""
    groups: list[list[_Piece]] = []
    current: list[_Piece] = []
    filled = 0
    waiting = deque(_pieces(text, size, count_tokens))
    while waiting:
        piece = waiting.popleft()
        limit = size - (overlap if groups and current and current[0].kind != "heading" else 0)
        new_section = piece.kind == "heading" and filled * 2 >= size
        if current and (filled + piece.tokens > limit or new_section):
            own = len(current)
            while own and current[own - 1].kind == "heading":  # a heading belongs to what follows
                own -= 1
            if own:
                groups.append(current[:own])
                current = current[own:]
                filled = sum(heading.tokens for heading in current)
            if current and filled + piece.tokens > size:
                if filled * 2 < size and piece.kind != "heading":  # a heading must not stand alone
                    waiting.extendleft(reversed(list(_split_piece(text, piece, size - filled, count_tokens))))
                    piece = waiting.popleft()
                else:
                    groups.append(current)
                    current, filled = [], 0
        current.append(piece)
        filled += piece.tokens
    if current:
        groups.append(current)
    return groups


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
    found = _HEADING.match(line.strip())
    return found.group(2).strip() if found else None


def headings(text: str) -> list[str]:
    """Return the Markdown headings of `text` in order; lines of fenced code are none."""
    found = (heading_of(text[start:end]) for start, end, kind in _blocks(text) if kind == "heading")
    return [heading for heading in found if heading]


def _blocks(text: str) -> Iterator[tuple[int, int, _Kind]]:
    """Yield paragraphs, whole fenced code blocks and heading lines, each with the blank lines that follow it."""
    start = position = 0
    fence = ""
    kind: _Kind = "text"
    after_blank = False
    for begin, position in _lines(text, 0, len(text)):
        bare = text[begin:position].rstrip()
        mark = _FENCE.match(bare)
        if fence:
            if mark and mark.group(1).startswith(fence) and mark.end() == len(bare):
                kind, fence = "code", ""
            continue
        is_heading = _HEADING.match(bare) is not None
        if text[start:begin].strip() and ((after_blank and bare) or is_heading or mark):
            yield start, begin, kind
            start, kind = begin, "text"
        if is_heading:
            kind = "heading"
        elif mark:
            fence = mark.group(1)
        elif bare and kind != "text":
            yield start, begin, kind
            start, kind = begin, "text"
        after_blank = not bare
    if position > start:
        yield start, position, "code" if fence else kind


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
        ends = range(start + 1, end + 1)
        cut = start + max(1, bisect_right(ends, size, key=lambda last: count_tokens(text[start:last])))
        if cut < end:
            middle = start + (cut - start) // 2
            space = max(text.rfind(" ", middle, cut), text.rfind("\n", middle, cut))
            cut = space + 1 if space >= 0 else cut
        yield start, cut
        start = cut
