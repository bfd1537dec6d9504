"""Sentences of a passage: prose without headings, code and tables, each with the one before it in its paragraph.

Text is kept as it stands, so that a sentence can be quoted; only line breaks become spaces.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NO_PROSE = re.compile(
    r"(?ms)^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1[^\n]*$|\Z)|^(?: {4}|\t).*?$|^ *\|.*?$|^ *<.*?$"
    r"|^ *!!!.*?$|^ *===.*?$|^--8<--.*?$"
)
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_YEAR_ITEM = re.compile(r"^\s*(1\d{3}|20\d{2})[.)]\s+(?=[A-Z])")
_ABBREVIATION = re.compile(
    r"(?:^|[A-Z][\w.]* )[A-Z]\.$"
    r"|(?:^|[\s(])(?:Dr|Mr|Mrs|Ms|Prof|St|Fig|No|Nr|Nos|vs|cf|e\.g|i\.e|approx|ca|c|Mt|Jr|Sr|Inc|Ltd|Co)\.$"
)
_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"“'‘(]?[A-Z0-9`])")
_TITLE_LENGTH = 70


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, the one before it in its paragraph ("" for the first), and the heading it stands under.

    `year` is the year that a paragraph of a chronicle begins with ("1630. Riders stay for nine weeks."), else "".
    """

    text: str
    before: str
    heading: str
    year: str = ""

    @property
    def plain(self) -> str:
        """The text without the marks of links, emphasis and keys: what is read and asked about."""
        return plain_text(self.text)


def plain_text(text: str) -> str:
    """Return Markdown text without links' targets, emphasis outside code, and marks of keys."""
    parts = re.split(r"(`[^`]*`)", re.sub(r"\[([^\[\]]+)\](?:\([^()]*(?:\([^()]*\))?[^()]*\)|\[[^\]]*\])", r"\1", text))
    for place in range(0, len(parts), 2):  # what stands between inline code
        without_marks = re.sub(r"(?<![\w*])\*{1,2}(?=\S)([^*]+?)(?<=\S)\*{1,2}(?![\w*])", r"\1", parts[place])
        without_marks = re.sub(r"(?<!\w)_(?=\S)([^_]+?)(?<=\S)_(?!\w)", r"\1", without_marks)
        parts[place] = re.sub(r"\+\+([\w+]+?)\+\+", r"\1", without_marks).replace("&mdash;", "—")
    return "".join(parts)


def sentences(passage: str, heading: str = "") -> Iterator[Sentence]:
    """Yield the sentences of a passage in order; `heading` is what it stands under before its own first heading."""
    for block in re.split(r"\n[ \t]*\n", _NO_PROSE.sub("", passage)):
        lines = block.splitlines()
        paragraph: list[str] = []
        year = ""
        for number, line in enumerate(lines):
            if (found := _HEADING.fullmatch(line)) is not None or _is_title(lines, number):
                yield from _of_paragraph(paragraph, heading, year)
                paragraph, year = [], ""
                heading = found.group(1) if found is not None else line.strip()
                continue
            if _LIST_ITEM.match(line):
                yield from _of_paragraph(paragraph, heading, year)
                paragraph = []
                year = dated.group(1) if (dated := _YEAR_ITEM.match(line)) else ""
            paragraph.append(re.sub(r"^\s*>\s?", "", _LIST_ITEM.sub("", line, count=1)))
        yield from _of_paragraph(paragraph, heading, year)


def title_of(document: str) -> str:
    """Return the title that a document begins with, or "" for one without."""
    lines = document.strip().splitlines()
    if not lines:
        return ""
    found = _HEADING.fullmatch(lines[0])
    return found.group(1) if found is not None else lines[0].strip() if _is_title(lines, 0) else ""


def _is_title(lines: list[str], number: int) -> bool:
    """Tell whether a line is a title of plain text: short, without an end, alone or before a line that begins anew."""
    line = lines[number].strip()
    if not line or len(line) > _TITLE_LENGTH or line[-1] in ".,;:!?…" or _LIST_ITEM.match(line) or number > 0:
        return False
    following = lines[number + 1].strip() if number + 1 < len(lines) else ""
    return (
        not following
        or (following[0].isupper() and len(line) < _TITLE_LENGTH and len(following) > len(line) + 20)
        or (set(following) <= {"=", "-"})
    )


def _of_paragraph(lines: list[str], heading: str, year: str) -> Iterator[Sentence]:
    text = " ".join(" ".join(lines).split())
    before, start = "", 0
    for border in [*_END.finditer(text), None]:
        end = len(text) if border is None else border.start()
        if border is not None and _ABBREVIATION.search(text[start:end]):
            continue
        sentence = text[start:end].strip()
        if sentence:
            yield Sentence(sentence, before, heading, year)
            before = sentence
        start = len(text) if border is None else border.end()
