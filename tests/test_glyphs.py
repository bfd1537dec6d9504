"""Glyphs for terminals without ours: one place decides, every cell stays in its place, nothing else gets through."""

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from lora_tui import glyphs
from lora_tui.glyphs import CODE_PAGE_437, ERRORS, Drawing, drawing_of, redrawn

PACKAGE = Path(glyphs.__file__).parent


def our_glyphs() -> set[str]:
    """Every character beyond Latin-1 in what the app and the command line write."""
    folders = ("tui", "cli", "terminal", "backend")
    texts = [path.read_text() for folder in folders for path in (PACKAGE / folder).rglob("*.py")]
    return {character for text in texts for character in text if ord(character) > 0xFF and character.isprintable()}


@pytest.mark.parametrize(
    ("term", "encoding", "expected"),
    [
        ("xterm-256color", "UTF-8", "full"),
        ("linux", "utf8", "blocks"),
        ("linux-16color", "UTF-8", "blocks"),
        ("linux", "ISO-8859-1", "ascii"),
        ("xterm", "ANSI_X3.4-1968", "ascii"),
        ("xterm", "no such encoding", "ascii"),
    ],
)
def test_the_terminal_and_the_locale_decide(term: str, encoding: str, expected: Drawing) -> None:
    assert drawing_of(term, encoding) == expected


@pytest.mark.parametrize("drawing", ["blocks", "ascii"])
def test_every_glyph_of_ours_has_one_of_the_same_width_that_the_terminal_shows(drawing: Drawing) -> None:
    shown = CODE_PAGE_437 if drawing == "blocks" else frozenset()
    for glyph in our_glyphs() - {"\ufeff"}:
        text = redrawn(glyph, drawing)
        assert len(text) == cell_len(glyph) == 1, glyph
        assert text.isascii() or text in shown, f"{glyph} is drawn as {text}"
        assert drawing == "blocks" or text != "?" or glyph in "␡�", f"{glyph} has no ASCII"


def test_braille_dots_become_what_stands_where_they_are() -> None:
    assert redrawn("⠉⠒⠤⣀⡇ ⠀", "ascii") == "'--.|  "
    assert redrawn("⠉⠒⣀⡇⠀", "blocks") == "▀▀▄█ "
    assert redrawn("⠉✓", "full") == "⠉✓"


def test_foreign_text_keeps_its_letters_and_its_width_in_ascii() -> None:
    assert redrawn("Zürich, naïve – 漢字 e\u0301", "ascii") == "Zurich, naive - ???? e"
    assert redrawn("Zürich 漢字", "blocks") == "Zürich 漢字", "the console has some of it, and nobody knows which"


def test_a_stream_that_is_not_utf8_shows_our_glyphs_in_ascii_and_loses_nothing_else() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "latin-1", ERRORS)
    stream.write("✓ trained · 3 → 4 ▁█ ⠉ Zürich 漢")
    stream.flush()
    assert raw.getvalue() == "+ trained · 3 > 4 _# ' Zürich \\u6f22".encode("latin-1")


def test_no_other_module_decides_by_the_terminal_which_characters_to_write() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "glyphs.py":
            assert not re.search(r"getencoding|CODESET", path.read_text()), path
