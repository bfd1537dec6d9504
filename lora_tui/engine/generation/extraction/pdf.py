"""Reader of PDF: the lines of each page from PDFium, put into the order and the paragraphs that a reader sees.

PDFium says where each character stands. It is the fastest of the readers compared (`tests/bench/README.md`), resolves
ligatures, and marks the hyphens that a typesetter put in; pypdf and pdfplumber print two columns row by row. The order
of lines is found here (`pdf_layout`); this module asks PDFium, leaves out what repeats on every page, and joins words
that were broken at the end of a line.
"""

import ctypes
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lora_tui.engine.generation.extraction.blocks import Blocks, UnusableFile, without_controls
from lora_tui.engine.generation.extraction.pdf_layout import Line, Run, paragraphs, reading_order

_HYPHEN = "\x02"
"""What PDFium returns for a hyphen at the end of a line whose word goes on in the next one."""

_HYPHENS = (_HYPHEN, "-", "\u2010", "\u00ad")
_MAX_GAP = 1.3
"""In heights of a character: where more lies between two, they belong to different runs."""

_MAX_CHARACTERS_OF_PAGE = 400_000
_PAGE_NUMBER = re.compile(r"[^\w]*(?:page|seite|p\.|s\.)?\s*\d{1,4}(?:\s*(?:/|of|von)\s*\d{1,4})?[^\w]*", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_WORDS = re.compile(r"[\w-]+")
_WORD_AT_END = re.compile(r"[^\W\d_]+$")
_WORD_AT_START = re.compile(r"[^\W\d_]+")


def pdf_text(data: bytes) -> str:
    """Return the text of a PDF file. Raises `UnusableFile` where it is damaged, encrypted or has no text."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
        pages = [_page_lines(document, number) for number in range(len(document))]
    except pypdfium2.PdfiumError as problem:
        if "password" in str(problem).lower():
            raise UnusableFile("it is encrypted") from problem
        raise UnusableFile("it is damaged, or no PDF file") from problem
    if not any(column for page in pages for column in page):
        raise UnusableFile("it holds no text (scanned pages need OCR first)")
    blocks = Blocks()
    for paragraph in _joined(_without_running_heads(pages)):
        blocks.add(without_controls(paragraph))
    return blocks.text()


def _page_lines(document: Any, number: int) -> list[list[Line]]:
    """Return the lines of a page by columns, in the order in which they are read."""
    page = document[number]
    text_page = page.get_textpage()
    try:
        return reading_order(list(_runs(text_page)))
    finally:
        text_page.close()
        page.close()


def _runs(text_page: Any) -> Iterator[Run]:
    """Yield the runs of a page: characters that follow each other on a line without a large gap."""
    import pypdfium2.raw as pdfium

    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    box = (ctypes.byref(left), ctypes.byref(right), ctypes.byref(bottom), ctypes.byref(top))
    pieces: list[str] = []
    x0 = x1 = y0 = y1 = 0.0
    for index in range(min(text_page.count_chars(), _MAX_CHARACTERS_OF_PAGE)):
        code = pdfium.FPDFText_GetUnicode(text_page, index)
        character = chr(code) if 0 < code < 0xD800 or 0xDFFF < code < 0x110000 else ""
        if character in ("\r", "\n"):
            if pieces:
                yield Run(x0, x1, y0, y1, "".join(pieces))
                pieces = []
            continue
        if not character or character.isspace():
            if pieces and character:
                pieces.append(" ")
            continue
        if not pdfium.FPDFText_GetCharBox(text_page, index, *box):
            continue
        height = max(y1 - y0, top.value - bottom.value, 1.0)
        same = bottom.value < y1 and top.value > y0 and -height < left.value - x1 < _MAX_GAP * height
        if pieces and not same:
            yield Run(x0, x1, y0, y1, "".join(pieces))
            pieces = []
        if pieces:
            x1, y0, y1 = max(x1, right.value), min(y0, bottom.value), max(y1, top.value)
        else:
            x0, x1, y0, y1 = left.value, right.value, bottom.value, top.value
        pieces.append(character)
        if character == _HYPHEN:
            yield Run(x0, x1, y0, y1, "".join(pieces))
            pieces = []
    if pieces:
        yield Run(x0, x1, y0, y1, "".join(pieces))


def _without_running_heads(pages: Sequence[list[list[Line]]]) -> Iterator[list[Line]]:
    """Yield the columns of all pages; page numbers are left out, and lines at the edge of several pages stand once."""
    edges: Counter[str] = Counter()
    for page in pages:
        lines = [line for column in page for line in column]
        edges.update({_DIGITS.sub("0", line.text) for line in (*lines[:2], *lines[-2:])})
    often = {text for text, times in edges.items() if times >= 3}
    shown: set[str] = set()
    for page in pages:
        lines = [line for column in page for line in column]
        at_edge = {id(line) for line in (*lines[:2], *lines[-2:])} if len(lines) > 3 or len(pages) > 2 else set()
        for column in page:
            kept = []
            for line in column:
                masked = _DIGITS.sub("0", line.text)
                if id(line) in at_edge and (_PAGE_NUMBER.fullmatch(line.text) or (masked in often and masked in shown)):
                    continue
                shown.add(masked)
                kept.append(line)
            if kept:
                yield kept


def _joined(columns: Iterator[list[Line]]) -> Iterator[str]:
    """Yield paragraphs; one that goes on in the next column or on the next page is joined."""
    flows = [paragraphs(column) for column in columns]
    words = Counter(
        word.lower() for flow in flows for paragraph in flow for line in paragraph for word in _WORDS.findall(line.text)
    )
    before: list[Line] = []
    for flow in flows:
        for number, paragraph in enumerate(flow):
            if number == 0 and before and _goes_on(before[-1], paragraph[0]):
                before = [*before, *paragraph]
                continue
            if before:
                yield _join_lines(before, words)
            before = paragraph
    if before:
        yield _join_lines(before, words)


def _goes_on(last: Line, first: Line) -> bool:
    """Tell whether a paragraph that ends its column goes on at the top of the next."""
    end = last.text.rstrip()
    return first.text[:1].islower() and (
        end.endswith(_HYPHENS) or not end.endswith((".", "!", "?", ":", "…", '"', "”"))
    )


def _join_lines(lines: Sequence[Line], words: Counter[str]) -> str:
    """Return the lines of a paragraph as one; a word that was broken at a line's end is whole again."""
    text = ""
    for line in lines:
        if text.endswith(_HYPHENS) and line.text[:1].isalpha():
            text = _join_word(text, line.text, words)
        elif text:
            text += ("\n" if line.keeps_apart else " ") + line.text
        else:
            text = line.text
    return text.replace(_HYPHEN, "-")


def _join_word(text: str, following: str, words: Counter[str]) -> str:
    """Join a broken word, with its hyphen where the document writes it so elsewhere, or in capitals, or as a number."""
    first, second = _WORD_AT_END.search(text[:-1]), _WORD_AT_START.match(following)
    if first is None or second is None:
        return text + following
    whole, compound = (f"{first[0]}{mark}{second[0]}".lower() for mark in ("", "-"))
    is_compound = words[compound] > words[whole] or (second[0][0].isupper() and not first[0].isupper())
    return (text[:-1] + "-" if is_compound else text[:-1]) + following
