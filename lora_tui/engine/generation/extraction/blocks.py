"""The blocks of an extracted text, its paragraphs, headings and table rows, and what becomes of its invisible marks.

All readers end in it.
"""

import re

MAX_CHARACTERS = 20 * 1024 * 1024
"""An extracted text may have as many as a text file may have bytes."""

_HINTS = re.compile("[\u00ad\u200b\u2060\ufeff]")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BACKTICKS = re.compile(r"`{3,}")


class UnusableFile(Exception):  # noqa: N818  # a finding about a file, not an error of the run
    """Raised for a file that cannot be read as text; the message is the reason, shown after a colon."""


class Blocks:
    """Collector of blocks; raises `UnusableFile` as soon as they hold more than `MAX_CHARACTERS`."""

    def __init__(self) -> None:
        self._pieces: list[str] = []  # blocks, and what is between them
        self._characters = 0
        self._after_row = False

    def add(self, block: str, *, is_row: bool = False) -> None:
        """Add a block, unless it is blank; a row follows the one before it without a blank line."""
        if not block.strip():
            return
        self._characters += len(block) + 2
        if self._characters > MAX_CHARACTERS:
            raise UnusableFile(f"it holds more than {MAX_CHARACTERS // 2**20} million characters; split it")
        if self._pieces:
            self._pieces.append("\n" if is_row and self._after_row else "\n\n")
        self._pieces.append(block)
        self._after_row = is_row

    def end_table(self) -> None:
        """The next row begins another table."""
        self._after_row = False

    def add_row(self, cells: list[list[str]]) -> None:
        """Add a table's row: its cells in one line; where one holds several paragraphs, each as a block of its own."""
        if any(len(cell) > 1 for cell in cells):
            for cell in cells:
                for paragraph in cell:
                    self.add(paragraph)
        else:
            row = " | ".join(cell[0].replace("\n", " ") if cell else "" for cell in cells) if any(cells) else ""
            self.add(row, is_row=len(cells) > 1)

    def text(self) -> str:
        """Return the blocks with a blank line between them, the rows of a table in a line each."""
        return "".join(self._pieces)


def heading(level: int, text: str) -> str:
    """Return a Markdown heading."""
    return f"{'#' * max(1, min(6, level))} {' '.join(text.split())}"


def code(text: str) -> str:
    """Return text as fenced code, between fences that are longer than any in it."""
    fence = "`" * max(3, max(map(len, _BACKTICKS.findall(text)), default=0) + 1) if "```" in text else "```"
    return f"{fence}\n{text.rstrip()}\n{fence}"


def without_hints(text: str) -> str:
    """Return the text without soft hyphens and other marks that only say where a line may end."""
    return text if text.isascii() else _HINTS.sub("", text)


def without_controls(text: str) -> str:
    """Return extracted text without hints and control characters, of which a page or a document shows none."""
    if "\r" in text:  # a line's end in preformatted text
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", without_hints(text))
