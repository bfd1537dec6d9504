"""Reader of DOCX: what Word shows of a document, in one pass over its XML, whatever its size.

No tree is built: python-docx takes 2 GB for a file of 0.5 MB that unpacks to 195 MB, and leaves out insertions under
review, content controls and text boxes. Read are paragraphs with their headings and list marks, tables, text boxes,
formulas, foot- and endnotes; left out is what is deleted, moved away or hidden (ECMA-376, part 1, 17).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lora_tui.engine.generation.extraction.archive import Archive, PartReader, archive_text
from lora_tui.engine.generation.extraction.blocks import Blocks, UnusableFile, heading, without_controls

_WORD = (
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main|",
    "http://purl.oclc.org/ooxml/wordprocessingml/main|",
)
_MATH_TEXT = "http://schemas.openxmlformats.org/officeDocument/2006/math|t"
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006|Fallback"
_LEFT_OUT = frozenset(("del", "moveFrom", "fallback"))


def docx_text(data: bytes) -> str:
    """Return the text of a DOCX file. Raises `UnusableFile` where it is damaged, encrypted or too large."""
    return archive_text(data, ".docx", _document_text)


def _document_text(archive: Archive) -> str:
    main = _main_part(archive)
    folder = main.rpartition("/")[0]
    styles = f"{folder}/styles.xml".lstrip("/")
    levels = _StyleReader().levels(archive, styles) if styles in archive.sizes else {}
    blocks = Blocks()
    for part in (main, *(f"{folder}/{name}.xml".lstrip("/") for name in ("footnotes", "endnotes"))):
        if part in archive.sizes:
            _BodyReader(blocks, levels).read(archive, part)
    return blocks.text()


def _main_part(archive: Archive) -> str:
    """Return the name of the document's own part; nearly always "word/document.xml"."""
    for kind, part in archive.relations("").values():
        if kind == "officeDocument" and part in archive.sizes:
            return part
    if "word/document.xml" not in archive.sizes:
        raise UnusableFile("it is no Word document")
    return "word/document.xml"


class _WordReader(PartReader):
    """Pass over a part: `start` and `end` get the local names of Word's elements."""

    def local(self, name: str) -> str:
        """Return the local name of Word's elements, "m:t" and "fallback" for two others, "" for what is not text."""
        return _local(name)


def _local(name: str) -> str:
    """Return the local name of Word's elements, "m:t" and "fallback" for two others, and "" for what is not text."""
    for namespace in _WORD:
        if name.startswith(namespace):
            return name[len(namespace) :]
    return "t" if name == _MATH_TEXT else "fallback" if name == _FALLBACK else ""


def _value(attributes: Mapping[str, str], name: str = "val") -> str:
    return next((attributes[space + name] for space in _WORD if space + name in attributes), "")


class _StyleReader(_WordReader):
    """Finds which styles are headings, and of which level: by name, by outline level, or by what they are based on."""

    def __init__(self) -> None:
        self._style = ""
        self._levels: dict[str, int] = {}
        self._based: dict[str, str] = {}

    def levels(self, archive: Archive, part: str) -> dict[str, int]:
        """Return the level, from 1, of every style that is a heading; 0 is that of a list's item."""
        self.read(archive, part)
        for style, base in self._based.items():
            seen = {style}
            while base not in self._levels and base in self._based and base not in seen:
                seen.add(base)
                base = self._based[base]  # noqa: PLW2901 the chain is followed to its end
            if base in self._levels:
                self._levels.setdefault(style, self._levels[base])
        return self._levels

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """Note a style's name, what it is based on, or its outline level."""
        if name == "style":
            self._style = _value(attributes, "styleId")
        elif name == "name" and self._style:
            called = _value(attributes).lower()
            if called == "title":
                self._levels[self._style] = 1
            elif called.startswith("heading ") and called[8:].isdecimal():
                self._levels[self._style] = int(called[8:][:2])
            elif called.startswith("list "):
                self._levels[self._style] = 0
        elif name == "basedOn" and self._style:
            self._based[self._style] = _value(attributes)
        elif name == "outlineLvl" and self._style and _value(attributes).isdecimal():
            self._levels.setdefault(self._style, int(_value(attributes)[:2]) + 1)

    def end(self, name: str) -> None:
        """A style ends."""
        if name == "style":
            self._style = ""


@dataclass(slots=True)
class _Paragraph:
    pieces: list[str] = field(default_factory=list)
    level: int | None = None


@dataclass(slots=True)
class _Table:
    row: list[list[str]] | None = None


class _BodyReader(_WordReader):
    """Collects paragraphs and rows. Paragraphs nest in text boxes, tables in cells; the inner come behind the outer."""

    def __init__(self, blocks: Blocks, levels: dict[str, int]) -> None:
        self._blocks = blocks
        self._levels = levels
        self._paragraphs: list[_Paragraph] = []
        self._boxed: list[str] = []  # paragraphs of text boxes, until the one that holds them ends
        self._tables: list[_Table] = []
        self._left_out = 0
        self._in_text = False
        self._in_run_properties = self._run_hidden = False
        self._starts: dict[str, Callable[[Mapping[str, str]], None]] = {
            "p": lambda _: self._paragraphs.append(_Paragraph()),
            "t": self._start_text,
            "tab": lambda _: self._put(" "),
            "br": lambda _: self._put("\n"),
            "cr": lambda _: self._put("\n"),
            "noBreakHyphen": lambda _: self._put("-"),
            "pStyle": self._style,
            "numPr": self._list_item,
            "outlineLvl": self._outline,
            "r": self._start_run,
            "rPr": self._start_run_properties,
            "vanish": self._vanish,
            "tbl": lambda _: self._tables.append(_Table()),
            "tr": self._start_row,
            "tc": self._start_cell,
        }

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """Begin a paragraph, a run, a row, or what is left out; the inside of that is counted only."""
        if self._left_out:
            self._left_out += name in _LEFT_OUT
        elif name in _LEFT_OUT:
            # A paragraph's own mark of deletion is empty and stands in its properties: nothing is inside.
            self._left_out = 1
        elif handler := self._starts.get(name):
            handler(attributes)

    def end(self, name: str) -> None:
        """End what `start` began."""
        if self._left_out:
            self._left_out -= name in _LEFT_OUT
        elif name == "t":
            self._in_text = False
        elif name == "p":
            self._end_paragraph()
        elif name == "rPr":
            self._in_run_properties = False
        elif name == "r":
            self._run_hidden = False
        elif name == "tr" and self._tables:
            row, self._tables[-1].row = self._tables[-1].row, None
            if len(self._tables) == 1:
                self._blocks.add_row(row or [])
        elif name == "tbl" and self._tables:
            self._tables.pop()
            if not self._tables:
                self._blocks.end_table()

    def characters(self, text: str) -> None:
        """Text of a run."""
        if self._in_text:
            self._put(text)

    def _put(self, text: str) -> None:
        if self._paragraphs and not self._run_hidden and not self._left_out:
            self._paragraphs[-1].pieces.append(text)

    def _start_text(self, _: Mapping[str, str]) -> None:
        self._in_text = True

    def _start_run(self, _: Mapping[str, str]) -> None:
        self._run_hidden = False

    def _start_run_properties(self, _: Mapping[str, str]) -> None:
        self._in_run_properties = True

    def _vanish(self, attributes: Mapping[str, str]) -> None:
        if self._in_run_properties and _value(attributes) not in ("0", "false", "off"):
            self._run_hidden = True

    def _style(self, attributes: Mapping[str, str]) -> None:
        if self._paragraphs and (level := self._levels.get(_value(attributes))) is not None:
            self._paragraphs[-1].level = level

    def _list_item(self, _: Mapping[str, str]) -> None:
        if self._paragraphs and self._paragraphs[-1].level is None:
            self._paragraphs[-1].level = 0

    def _outline(self, attributes: Mapping[str, str]) -> None:
        if self._paragraphs and (value := _value(attributes)).isdecimal() and int(value[:2]) < 9:
            self._paragraphs[-1].level = int(value[:2]) + 1

    def _start_row(self, _: Mapping[str, str]) -> None:
        if self._tables:
            self._tables[-1].row = []

    def _start_cell(self, _: Mapping[str, str]) -> None:
        if self._tables and (row := self._tables[-1].row) is not None:
            row.append([])

    def _end_paragraph(self) -> None:
        if not self._paragraphs:
            return
        paragraph = self._paragraphs.pop()
        lines = (line.strip() for line in without_controls("".join(paragraph.pieces)).split("\n"))
        text = "\n".join(line for line in lines if line)
        if text and paragraph.level is not None:
            text = heading(paragraph.level, text) if paragraph.level else f"- {text}"
        if self._paragraphs:  # inside a text box
            if text:
                self._boxed.append(text)
            return
        blocks, self._boxed = [text, *self._boxed], []
        row = self._tables[0].row if self._tables else None
        for block in blocks:
            if row:
                row[-1].extend([block] if block.strip() else [])
            else:
                self._blocks.add(block)
