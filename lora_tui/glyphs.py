"""Characters for terminals that cannot show ours: block elements for the Linux console, ASCII without UTF-8.

The console's font has the glyphs of code page 437 and no Braille dots, which plots are drawn in; a locale that is not
UTF-8 has none of them. What is drawn stays the same: each character is replaced by one of the same width, at the end,
when a line goes to the screen. This module alone decides which terminal gets what, for the app and the command line.
"""

import codecs
import locale
import unicodedata
from collections.abc import Mapping
from typing import Final, Literal

Drawing = Literal["full", "blocks", "ascii"]
"""The characters that a terminal shows: all, those of code page 437, or ASCII."""

ERRORS: Final = "lora-tui-ascii"
"""Name of the error handler for streams that are not UTF-8: known glyphs become ASCII, others are escaped."""

_BRAILLE = range(0x2800, 0x2900)
_BRAILLE_ROWS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

_ASCII_GLYPHS = {
    "✓": "+", "✗": "x", "◆": "*", "◇": "o", "▲": "^", "△": "^", "▼": "v", "▸": ">", "▹": ">", "●": "*", "○": "o",
    "◐": "o", "■": "#", "Ⅱ": "=", "★": "*", "…": "~", "·": ".", "•": "*", "–": "-", "—": "-", "→": ">", "←": "<",
    "↑": "^", "↓": "v", "↳": "`", "⏎": "<", "×": "x", "°": "'", "±": "+", "≤": "<", "≥": ">", "≈": "~", "−": "-",
    "«": '"', "»": '"', "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "‚": "'", "␡": "?", "�": "?", "\u00a0": " ",
    "─": "-", "━": "=", "╸": "=", "╺": "=", "╶": "-", "╴": "-", "═": "=", "┄": "-", "┈": "-", "┅": "-", "│": "|",
    "┃": "|", "║": "|", "┆": ":", "┊": ":", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "┌": "+", "┐": "+", "└": "+",
    "┘": "+", "├": "+", "┤": "+", "┬": "+", "┴": "+", "┼": "+", "╞": "+", "╡": "+", "╔": "+", "╗": "+", "╚": "+",
    "╝": "+", "▁": "_", "▂": "_", "▃": ".", "▄": "-", "▅": "-", "▆": "=", "▇": "#", "█": "#", "▀": "'", "▔": "-",
    "▌": "#", "▐": "#", "▍": "|", "▎": "|", "▏": "|", "▕": "|", "▋": "#", "▊": "#", "▉": "#", "░": ".", "▒": ":",
    "▓": "#", "κ": "k",
}  # fmt: skip
"""ASCII for every glyph of ours, and for those that widgets are drawn with."""

_BLOCK_GLYPHS = {
    "✓": "√", "✗": "x", "◆": "♦", "◇": "o", "△": "▲", "▸": "►", "▹": "►", "●": "•", "◐": "o", "Ⅱ": "║", "★": "*",
    "…": "~", "–": "-", "—": "-", "↳": "└", "⏎": "◄", "×": "x", "−": "-", "“": '"', "”": '"', "„": '"', "‘": "'",
    "’": "'", "‚": "'", "␡": "?", "�": "?", "━": "═", "╸": "═", "╺": "═", "╶": "─", "╴": "─", "┄": "─", "┈": "─",
    "┅": "─", "┃": "║", "┆": "│", "┊": "│", "╭": "┌", "╮": "┐", "╰": "└", "╯": "┘", "▁": "_", "▂": "_", "▃": "▄",
    "▅": "▄", "▆": "█", "▇": "█", "▔": "▀", "▍": "▌", "▎": "│", "▏": "│", "▕": "│", "▋": "█", "▊": "█", "▉": "█",
    "κ": "k",
}  # fmt: skip
"""Characters of code page 437 for the glyphs that it lacks; the others are in it."""

CODE_PAGE_437: Final = frozenset(bytes(range(0x80, 0x100)).decode("cp437") + "☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼⌂")
"""What the Linux console's own font can show beside ASCII."""


def drawing_of(term: str, encoding: str | None = None) -> Drawing:
    """Return what a terminal of type `term` (``$TERM``) can show; `encoding` is the locale's where it is not given."""
    name = encoding or locale.getencoding()
    try:
        is_utf8 = codecs.lookup(name).name == "utf-8"
    except LookupError:
        is_utf8 = False
    if not is_utf8:
        return "ascii"
    return "blocks" if term == "linux" or term.startswith("linux-") else "full"


def redrawn(text: str, drawing: Drawing) -> str:
    """Return `text` in the characters of a drawing, each cell in its place."""
    if drawing == "full" or text.isascii():
        return text
    return text.translate(_TABLES[drawing])


def _braille(dots: int, drawing: Drawing) -> str:
    """The character that is nearest to a Braille cell's dots."""
    rows = [row for row, bits in enumerate(_BRAILLE_ROWS) if dots & (bits[0] | bits[1])]
    if not rows:
        return " "
    if drawing == "blocks":
        return "█" if rows[0] < 2 <= rows[-1] else "▀" if rows[-1] < 2 else "▄"
    if len(rows) > 2:
        return "|"
    middle = (rows[0] + rows[-1]) / 2
    return "'" if middle < 1 else "-" if middle < 2.5 else "."


class _AsciiTable(dict[int, str]):
    """The glyphs above; of other characters the letter without its accent, or a question mark a cell."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if code < 0x80:
            raise LookupError(code)
        bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        wide = unicodedata.east_asian_width(character) in "WF"
        cells = 0 if unicodedata.combining(character) else 2 if wide else 1
        self[code] = bare if len(bare) == cells else "?" * cells
        return self[code]


def _table(glyphs: Mapping[str, str], drawing: Drawing) -> dict[int, str]:
    braille = {code: _braille(code - _BRAILLE.start, drawing) for code in _BRAILLE}
    return {ord(glyph): text for glyph, text in glyphs.items()} | braille


_TABLES: dict[str, dict[int, str]] = {
    "blocks": _table(_BLOCK_GLYPHS, "blocks"),
    "ascii": _AsciiTable(_table(_ASCII_GLYPHS, "ascii")),
}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace what a stream cannot encode: a glyph of ours by ASCII, anything else by its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    known = _TABLES["ascii"]
    lost = error.object[error.start : error.end]
    text = "".join(
        known[ord(character)]
        if character in _ASCII_GLYPHS or ord(character) in _BRAILLE
        else character.encode("ascii", "backslashreplace").decode()
        for character in lost
    )
    return text, error.end


codecs.register_error(ERRORS, _in_ascii)
