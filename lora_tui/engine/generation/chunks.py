"""Splitting a document into passages along its structure: lists, tables and code stay whole where they fit.

A document is a sequence of *pieces* without a gap: the blocks of `structure` and, of a block that is larger than a
passage may be, its sentences, items, rows or lines. Pieces are packed into passages. A heading begins a passage if the
one before it is at least half full; a heading, or a line that announces a list, never ends one. What a passage needs
to be understood without the rest of its document, the headings above it and the head of a table that it goes on with,
is its *context*. Whole sentences of a passage are repeated at the beginning of the next (overlap), so that a fact that
depends on the sentence before it can be understood.

Where a passage ends is chosen by content: of the borders in its last third, the one before the piece with the lowest
hash. After an edit the borders are soon the old ones again, and so are the passages (content-defined chunking, as in
LBFS, Muthitacharoen et al. 2001); filling each to the brim moves every border behind the edit.

Pure functions over text: no files, no tokenizer. Sizes are in tokens by whatever counter is passed in;
`estimate_tokens` is for models whose tokenizer is not known.
"""

import re
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from lora_tui.engine.data.survey import estimate_tokens
from lora_tui.engine.generation.structure import Block, BlockKind, blocks, heading_of, headings, lines, table_head

__all__ = ["VERSION", "Chunk", "TokenCounter", "headings", "split"]

VERSION = "2"
"""Part of a chunk's identity in the store; incremented when the same text would be split otherwise."""

TokenCounter = Callable[[str], int]

_MAX_CONTEXT_LINE = 120
"""Characters of each heading, and of a table's head, in a context."""

_CONTEXT_SHARE = 4
"""A context has at most this part of a passage's size."""

_HASHED = 200
"""Characters at a piece's beginning that decide whether a passage ends before it."""

_OVERLAP_CHARACTERS = 6
"""Characters for each token of overlap that are searched for the beginning of a sentence."""

_ABBREVIATION = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|Prof|St|Fig|No|Nr|vs|cf|e\.g|i\.e|z\.B|d\.h|approx|ca|[A-Z])\.$")
_SENTENCE_END = re.compile(
    # Possessive, and once for each run of white space: a text may hold a million blanks in a row.
    r"""(?<=[.!?…])["'”’»)\]]*+\s++(?=["'“‘«(\[]?[^\W\d_a-zß-öø-ÿ]|\d|[-*#>|])|(?<=[。！？])
    |(?<!\s)[^\S\n]*+\n(?=\s*+(?:[-*+]|\d++[.)])\s)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The characters ``start:end`` of a document; `heading` is the heading that its text stands under.

    `context` has the headings above its beginning as Markdown, the outermost first, and the head of a table that began
    before it. It is no part of the characters or `tokens`.
    """

    start: int
    end: int
    tokens: int
    heading: str
    context: str = ""


class _Piece(NamedTuple):
    start: int
    end: int
    tokens: int
    heading: str
    kind: BlockKind
    above: tuple[str, ...] = ()
    """The headings above it as Markdown, without its own; then the head of its table where it is not the first row."""
    leads: bool = False
    """It must not end a passage."""
    continues: bool = False
    """It is a later part of a block."""


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
    before: int | None = None  # where the section's part of the group before begins
    for group in _pack(text, size, overlap, count_tokens):
        first, start, end = group[0], group[0].start, group[-1].end
        earliest, before = before, max((piece.end for piece in group if piece.kind == "heading"), default=start)
        if not text[start:end].strip():
            continue
        if earliest is not None and not _begins_anew(first):
            room = min(overlap, size - sum(piece.tokens for piece in group))
            start = _overlap_start(text, earliest, start, room, count_tokens)
        # The heading that most of the chunk stands under: its first own piece's.
        context = _context(first.above, max(1, size // _CONTEXT_SHARE), count_tokens)
        chunks.append(Chunk(start, end, count_tokens(text[start:end]), first.heading, context))
    return chunks


def _begins_anew(piece: _Piece) -> bool:
    """Tell whether a passage that begins with this piece needs no overlap: its context says what comes before."""
    return piece.kind == "heading" or (piece.kind in ("table", "code") and piece.continues)


def _context(above: Sequence[str], most: int, count_tokens: TokenCounter) -> str:
    """Join the lines above a passage; the outermost are left out where they take more than `most` tokens."""
    kept = list(above)
    while kept and count_tokens("\n\n".join(kept)) > most:
        del kept[0]
    return "\n\n".join(kept)


def _pack(text: str, size: int, overlap: int, count_tokens: TokenCounter) -> Iterator[list[_Piece]]:
    """Pack pieces into passages in order, leaving room for the overlap if a passage will need it."""
    current: list[_Piece] = []
    filled = 0  # tokens of `current`
    has_earlier = False
    pieces = _pieces(text, size, count_tokens)
    put_back: list[_Piece] = []  # the last one first
    while piece := put_back.pop() if put_back else next(pieces, None):
        limit = size - (overlap if has_earlier and current and not _begins_anew(current[0]) else 0)
        new_section = piece.kind == "heading" and filled * 2 >= size
        if current and (filled + piece.tokens > limit or new_section):
            own = len(current)  # without the pieces at the end that belong to what follows
            while own and current[own - 1].leads:
                own -= 1
            if own:
                cut = own if new_section else _border(text, [*current, piece], own, size)
                put_back += [piece, *reversed(current[cut:])]
                yield current[:cut]
                has_earlier, current, filled = True, [], 0
                continue
            if filled + piece.tokens > size:
                if filled * 2 < size and piece.kind != "heading":  # a heading must not stand alone
                    put_back.extend(reversed(list(_split_piece(text, piece, size - filled, count_tokens))))
                    piece = put_back.pop()
                else:
                    yield current
                    has_earlier, current, filled = True, [], 0
        current.append(piece)
        filled += piece.tokens
    if current:
        yield current


def _border(text: str, pieces: Sequence[_Piece], own: int, size: int) -> int:
    """Return after how many of `pieces` a full passage ends, at most `own`: in its last third, before a block.

    Of several such places it is the one whose following text has the lowest hash, wherever the passage began.
    """
    filled = 0
    best, best_rank = own, (True, 2**32)
    for number, piece in enumerate(pieces[:own], start=1):
        filled += piece.tokens
        if filled * 3 < size * 2 or piece.leads:
            continue
        following = pieces[number]
        beginning = text[following.start : min(following.end, following.start + _HASHED)]
        rank = (following.continues, zlib.crc32(beginning.encode("utf-8", "replace")))
        if rank < best_rank:
            best, best_rank = number, rank
    return best


def _overlap_start(text: str, earliest: int, start: int, room: int, count_tokens: TokenCounter) -> int:
    """Return `start` moved back over whole sentences of the passage before, up to `room` tokens."""
    best = start
    earliest = max(earliest, start - _OVERLAP_CHARACTERS * room - 20)  # farther back there is no room
    for sentence_start, _ in reversed(list(_sentences(text, earliest, start))):
        if sentence_start >= start:
            continue
        if sentence_start <= earliest or count_tokens(text[sentence_start:start]) > room:
            break
        best = sentence_start
    return best


def _pieces(text: str, size: int, count_tokens: TokenCounter) -> Iterator[_Piece]:
    """Yield the blocks of a text; a list or table whose items or rows are blocks of their own is one where it fits."""
    above: list[tuple[int, str]] = []  # the headings that are open: level, and line
    heading = ""
    run: list[_Piece] = []  # blocks of one list or table
    room = size  # what they leave; below 0 where they do not fit together
    head: tuple[str, ...] = ()  # of the table that is being read, for its later rows
    kind: BlockKind = "text"
    for block in chain(blocks(text), [Block(len(text), len(text), "heading")]):
        if block.kind != kind or block.kind not in ("list", "table"):
            yield from _joined(run)
            run, head, room = [], (), size
        is_first, kind = block.kind != kind or not head, block.kind
        if block.start == block.end:
            return
        if block.kind == "heading":
            heading = heading_of(text[block.start : block.end]) or ""
            above = [outer for outer in above if outer[0] < block.level]
        own = tuple(line for _, line in above)
        if block.kind == "heading":
            above.append((block.level, f"{'#' * block.level} {heading[:_MAX_CONTEXT_LINE].rstrip()}"))
        elif block.kind == "table" and is_first:
            head = (table_head(text, block)[: 2 * _MAX_CONTEXT_LINE],)
        tokens = count_tokens(text[block.start : block.end])
        leads = block.kind == "heading" or _announces(text, block, tokens, size)
        later = block.kind == "table" and not is_first
        piece = _Piece(block.start, block.end, tokens, heading, block.kind, own, leads)
        if later:
            piece = piece._replace(above=(*own, *head), continues=True)
        room -= tokens
        if block.kind in ("list", "table") and room >= 0:
            run.append(piece)
            continue
        yield from run
        run = []
        if tokens <= size:
            yield piece
        else:
            yield from _split_piece(text, piece, size, count_tokens, () if later else head)


def _joined(run: Sequence[_Piece]) -> Iterator[_Piece]:
    """Yield the blocks of a list or table as one piece."""
    if run:
        yield run[0]._replace(end=run[-1].end, tokens=sum(piece.tokens for piece in run))


def _announces(text: str, block: Block, tokens: int, size: int) -> bool:
    """Tell whether a short paragraph announces the list, table or code that follows: it ends in a colon."""
    if block.kind != "text" or tokens * _CONTEXT_SHARE > size:
        return False
    return text[block.start : block.end].rstrip().endswith((":", "："))


def _split_piece(
    text: str, piece: _Piece, limit: int, count_tokens: TokenCounter, head: tuple[str, ...] = ()
) -> Iterator[_Piece]:
    """Yield sentences of prose, items of a list, or lines of code or a table, and parts of those over `limit` tokens.

    `head` is the context of a table's later rows.
    """
    kind: BlockKind = "text" if piece.kind == "heading" else piece.kind
    borders = lines if kind in ("code", "table") else _sentences
    for first, last in borders(text, piece.start, piece.end):
        fits = count_tokens(text[first:last]) <= limit
        for start, end in [(first, last)] if fits else _split_anywhere(text, first, last, limit, count_tokens):
            later = start > piece.start
            above = (*piece.above, *head) if later and kind == "table" else piece.above
            yield _Piece(start, end, count_tokens(text[start:end]), piece.heading, kind, above, False, later)


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
