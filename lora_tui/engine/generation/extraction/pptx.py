"""Reader of PPTX: what the slides of a presentation show, in their order, and the speaker's notes.

A slide's title is a heading, a paragraph of its body a list item; tables are read row by row. Left out are hidden
slides, dates, footers and numbers of slides, and what only lies on the master (ECMA-376, part 1, 19 and 21).
"""

from collections.abc import Mapping

from lora_tui.engine.generation.extraction.archive import Archive, PartReader, archive_text
from lora_tui.engine.generation.extraction.blocks import Blocks, UnusableFile, heading, without_controls

_TITLES = frozenset(("title", "ctrTitle"))
_NOT_TEXT = frozenset(("dt", "ftr", "sldNum", "hdr", "sldImg"))
_RELATION_ID = "/officeDocument/2006/relationships|id"
_STRICT_RELATION_ID = "/officeDocument/relationships|id"


def pptx_text(data: bytes) -> str:
    """Return the text of a PPTX file. Raises `UnusableFile` where it is damaged, encrypted or too large."""
    return archive_text(data, ".pptx", _presentation_text)


def _presentation_text(archive: Archive) -> str:
    main = next((part for kind, part in archive.relations("").values() if kind == "officeDocument"), "")
    if main not in archive.sizes:
        main = "ppt/presentation.xml"
    if main not in archive.sizes:
        raise UnusableFile("it is no presentation")
    order = _OrderReader()
    order.read(archive, main)
    slides = archive.relations(main)
    blocks = Blocks()
    for relation in order.slides:
        kind, slide = slides.get(relation, ("", ""))
        if kind != "slide" or slide not in archive.sizes:
            continue
        reader = _SlideReader()
        reader.read(archive, slide)
        if reader.is_hidden:
            continue
        reader.add_to(blocks)
        for kind, part in archive.relations(slide).values():
            if kind == "notesSlide" and part in archive.sizes:
                notes = _SlideReader(is_notes=True)
                notes.read(archive, part)
                notes.add_to(blocks)
    return blocks.text()


class _OrderReader(PartReader):
    """Finds the ids of the slides in their order."""

    def __init__(self) -> None:
        self.slides: list[str] = []

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """Note a slide."""
        if name == "sldId":
            endings = (_RELATION_ID, _STRICT_RELATION_ID)
            self.slides += [value for key, value in attributes.items() if key.endswith(endings)][:1]


class _SlideReader(PartReader):
    """Collects the title, paragraphs and rows of a slide, or of the notes on it: of these, the body alone."""

    def __init__(self, *, is_notes: bool = False) -> None:
        self._is_notes = is_notes
        self._title: list[str] = []
        self._body: list[str | list[list[str]]] = []  # paragraphs, and rows of tables; an empty row ends a table
        self._placeholder = ""
        self._paragraph: list[str] | None = None
        self._level = 0
        self._row: list[list[str]] | None = None
        self._in_text = False
        self._left_out = 0
        self.is_hidden = False

    def add_to(self, blocks: Blocks) -> None:
        """Add the title, then the rest in the order in which it stands in the file."""
        if self._title:
            blocks.add(heading(2, " ".join(self._title)))
        for part in self._body:
            if isinstance(part, str):
                blocks.add(part)
            elif part:
                blocks.add_row(part)
            else:
                blocks.end_table()

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """Begin a shape, a paragraph, a row or text."""
        if self._left_out:
            self._left_out += name == "Fallback"
        elif name == "Fallback":
            self._left_out = 1
        elif name == "sld":
            self.is_hidden = attributes.get("show") in ("0", "false")
        elif name in ("sp", "graphicFrame"):
            self._placeholder = ""
        elif name == "ph":
            self._placeholder = attributes.get("type", "body")
        elif name == "p":
            self._paragraph, self._level = [], 0
        elif name == "pPr" and attributes.get("lvl", "").isdecimal():
            self._level = min(8, int(attributes["lvl"][:1]))
        elif name == "t":
            self._in_text = True
        elif name == "br":
            self.characters("\n", is_shown=True)
        elif name == "tr":
            self._row = []
        elif name == "tc" and self._row is not None:
            self._row.append([])

    def end(self, name: str) -> None:
        """End what `start` began."""
        if self._left_out:
            self._left_out -= name == "Fallback"
        elif name == "t":
            self._in_text = False
        elif name == "p":
            self._end_paragraph()
        elif name == "tr" and self._row is not None:
            self._body.append(self._row)
            self._row = None
        elif name == "tbl":
            self._body.append([])

    def characters(self, text: str, *, is_shown: bool = False) -> None:
        """Text of a run."""
        if self._paragraph is not None and not self._left_out and (self._in_text or is_shown):
            self._paragraph.append(text)

    def _end_paragraph(self) -> None:
        text = " ".join(without_controls("".join(self._paragraph or [])).split())
        self._paragraph = None
        if not text or self._placeholder in _NOT_TEXT or (self._is_notes and self._placeholder != "body"):
            return
        if self._row:
            self._row[-1].append(text)
        elif self._is_notes:
            self._body.append(text)
        elif self._placeholder in _TITLES:
            self._title.append(text)
        elif self._placeholder in ("body", "obj"):
            self._body.append(f"{'  ' * self._level}- {text}")
        else:
            self._body.append(text)
