"""The structure of a text: its blocks in order, which are paragraphs, headings, lists, tables and fenced code.

Markdown as people and our own readers write it: ``#`` or underlined headings, ``-``, ``*`` or ``1.`` before an item,
bars between cells. Blocks follow each other without a gap, each with the blank lines behind it. Pure functions, in time
that grows with the text's size; this module knows nothing of passages.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

BlockKind = Literal["text", "code", "heading", "list", "table"]

_MARKED_LINES = re.compile(
    r"""^(?:(?P<blank>(?:[^\S\n]*+\n)++|[^\S\n]++\Z)
    |\ {0,3}(?:(?P<heading>\#{1,6}[ \t]++(?=\S))|(?P<fence>`{3,}|~{3,})))""",
    re.MULTILINE | re.VERBOSE,
)
_HEADING = re.compile(r"#{1,6}[ \t]+")
_UNDERLINED = re.compile(r"[^\S\n]*+(\S[^\n]{0,200}?)[^\S\n]*+\r?\n[ ]{0,3}(={3,}|-{3,})[^\S\n]*+\r?\s*+\Z")
_ITEM = re.compile(r"[^\S\n]*+(?:[-*+•][^\S\n]|\(?\d{1,4}[.)][^\S\n])")
_INDENTED = re.compile(r"(?: {2}|\t)[ \t]*+\S")
_TABLE_RULE = re.compile(
    r"[^\S\n]*+\|?[^\S\n]*+:?-{2,}+:?[^\S\n]*+(?:[|+][^\S\n]*+:?-*+:?[^\S\n]*+)++\r?$", re.MULTILINE
)
_MAX_HEADING = 200
"""Characters of a heading that are kept: each passage under it carries them."""


class Block(NamedTuple):
    """The characters ``start:end`` of a text; `level` is that of a heading, 1-6, and 0 of anything else."""

    start: int
    end: int
    kind: BlockKind
    level: int = 0


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a text, which together are the whole of it; blank lines belong to the block before them."""
    after_list = False
    for start, end, kind in _marked_blocks(text):
        if kind == "heading":
            yield Block(start, end, "heading", _level(text, start))
        elif kind == "code":
            yield Block(start, end, "code")
        elif after_list and _INDENTED.match(text, start):
            yield Block(start, end, "list")  # a further paragraph of an item
            continue
        else:
            yield _classified(text, start, end)
        after_list = kind == "text" and _ITEM.match(text, start) is not None


def heading_of(block: str) -> str | None:
    """Return the text of a heading such as ``## Wings``, or a line with one of ``===`` under it; None for any other."""
    bare = block.strip()
    mark = _HEADING.match(bare)
    if mark is None:
        underlined = _UNDERLINED.match(bare)
        return underlined[1][:_MAX_HEADING].rstrip() if underlined else None
    return bare[mark.end() :].rstrip("#").strip()[:_MAX_HEADING].rstrip()


def headings(text: str, most: int | None = None) -> list[str]:
    """Return the different headings of `text` in order, the first `most`; lines of fenced code are none."""
    found: dict[str, None] = {}
    for block in blocks(text):
        if block.kind == "heading" and (heading := heading_of(text[block.start : block.end])):
            found[heading] = None
            if len(found) == most:
                break
    return list(found)


def table_head(text: str, block: Block) -> str:
    """Return a table's first row, with the rule under it where there is one: what every part of it needs."""
    end = line_end(text, block.start)
    if _TABLE_RULE.match(text, end):
        end = line_end(text, end)
    return text[block.start : min(end, block.end)].strip("\n")


def line_end(text: str, start: int) -> int:
    """Return where the line that holds `start` ends, its line break included."""
    return text.find("\n", start) + 1 or len(text)


def lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the borders of the lines between two offsets."""
    while start < end:
        stop = text.find("\n", start, end) + 1 or end
        yield start, stop
        start = stop


def _level(text: str, start: int) -> int:
    bare = text[start : start + 64].lstrip()
    return min(6, len(bare) - len(bare.lstrip("#"))) or 1


def _classified(text: str, start: int, end: int) -> Block:
    """Return a paragraph as what its first lines say it is."""
    if _ITEM.match(text, start):
        return Block(start, end, "list")
    first = line_end(text, start)
    if end - start < 600 and (underlined := _UNDERLINED.match(text[start:end])):
        return Block(start, end, "heading", 1 if underlined[2][0] == "=" else 2)
    if text.find("|", start, min(first, end)) >= 0:
        second = line_end(text, first) if first < end else first
        has_rule = _TABLE_RULE.match(text, first) is not None
        is_bars = text.find(" | ", start, first) >= 0 and (
            not text[first:end].strip() or text.find(" | ", first, second) >= 0
        )
        if has_rule or is_bars or (text[start:first].lstrip()[:1] == "|" and text[first:second].lstrip()[:1] == "|"):
            return Block(start, end, "table")
    return Block(start, end, "text")


def _marked_blocks(text: str) -> Iterator[tuple[int, int, Literal["text", "code", "heading"]]]:
    """Yield paragraphs, whole fenced code blocks and heading lines, each with the blank lines that follow it.

    Looks at blank lines, headings and fences alone, however many lines lie between them.
    """
    first = re.search(r"\S", text)
    has_text_from = first.start() if first else len(text)
    start = seen = 0  # where the block begins, and up to where lines have been looked at
    fence = ""
    kind: Literal["text", "code", "heading"] = "text"
    due = False  # the next line that is not blank begins a block
    for found in _MARKED_LINES.finditer(text):
        begin, mark = found.start(), found["fence"]
        if fence:
            if mark and mark.startswith(fence) and not text[found.end() : line_end(text, found.end())].strip():
                kind, fence, due, seen = "code", "", True, line_end(text, found.end())
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
            kind, seen = "heading", line_end(text, found.end())
    if due and seen < len(text):
        yield start, seen, kind
        start, kind = seen, "text"
    if start < len(text):
        yield start, len(text), "code" if fence else kind
