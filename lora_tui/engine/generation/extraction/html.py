"""Reader of HTML: every sentence that a browser shows, in blocks, in one pass over the tags.

No tree is built. Trees are what makes readers slow or large on hostile pages: Lexbor takes 164 s for 60,000 nested
lists (1 MB), lxml leaves out what lies deeper than 256 elements. What a text needs of HTML's rules is little: which
elements begin a block, which show nothing, which hold characters that are no tags (WHATWG HTML, 13.2.5 and 15.3).
"""

import html
import re

from lora_tui.engine.generation.extraction.blocks import Blocks, code, heading, without_controls

_TAG = re.compile(r"<(?:(?P<close>/?)(?P<name>[a-zA-Z][^\s/>]*+)(?P<rest>[^\"'>]*+)(?P<end>>?)|(?P<comment>!--)|[!?/])")
_ATTRIBUTES = re.compile(r"""(?:[^"'>]++|"[^"]*"|'[^']*')*+>""")
_ATTRIBUTE = re.compile(r"""([^\s"'<>/=]++)(?:\s*+=\s*+("[^"]*+"?|'[^']*+'?|[^\s"'>]++))?""")
_HIDING_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_MAX_ATTRIBUTES = 1000
"""Characters of a tag's attributes that are searched for what hides it."""

_HUGE_REFERENCE = re.compile(r"&#(?:\d{8,}|[xX][0-9a-fA-F]{8,});?")

_RAW = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "noscript", "title", "textarea", "iframe", "noembed", "noframes", "xmp")
}
"""Elements whose content is characters, not tags; none of them is text of the page."""

_NOT_SHOWN = frozenset("nav template svg select datalist object audio video canvas".split())
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())
_MAY_STAY_OPEN = frozenset("p li dt dd tr td th option thead tbody tfoot".split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_ENDS_HEADING = frozenset("p ul ol dl table pre blockquote section article main".split())
_BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure"
    " footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li listing main menu ol optgroup option p pre search"
    " section summary table tbody td tfoot th thead tr ul".split()
)


def html_text(page: str) -> str:
    """Return the text of an HTML page. Raises `UnusableFile` where it is too long."""
    reader = _PageReader()
    reader.read(page)
    return reader.blocks.text()


class _PageReader:
    """State of the pass: the block that is being read, the row that it belongs to, what is not shown."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self._pieces: list[str] = []
        self._heading = 0
        self._item = False  # the next block begins a list item
        self._pre = 0
        self._row: list[list[str]] | None = None
        self._tables = 0

    def read(self, page: str) -> None:
        """Read the whole page."""
        at, end = 0, len(page)
        lenient = False  # a quotation mark that is never closed: from here on the first ">" ends a tag
        hidden, depth = "", 0
        while at < end:
            tag = _TAG.search(page, at)
            if not hidden:
                self._text(page[at : tag.start() if tag else end])
            if tag is None:
                break
            at = tag.end()
            name = tag["name"]
            if name is None:
                mark = "-->" if tag["comment"] else ">"
                # "<!-->" is a whole comment; one that is never closed ends the page.
                found = page.find(mark, at - 2 if tag["comment"] else at)
                at = found + len(mark) if found >= 0 else end
                continue
            attributes = tag["rest"]
            if not tag["end"]:
                rest = None if lenient else _ATTRIBUTES.match(page, at)
                lenient = rest is None
                stop = rest.end() if rest else page.find(">", at) + 1 or end
                attributes += page[at : stop - 1]
                at = stop
            name = name.lower()
            closing = bool(tag["close"])
            if not closing and (raw := _RAW.get(name)):
                closed = raw.search(page, at)
                at = closed.start() if closed else end
                continue
            if hidden:
                depth += (-1 if closing else 1) if name == hidden else 0
                left_open = hidden in _MAY_STAY_OPEN and (
                    (name == hidden and not closing) or (closing and name in _BLOCKS and name not in _MAY_STAY_OPEN)
                )
                if depth and not left_open:
                    continue
                hidden = ""
                if closing and not left_open:
                    continue
            if not closing and name not in _VOID and (name in _NOT_SHOWN or _is_hidden(attributes)):
                if not attributes.endswith("/"):
                    self._end_block()
                    hidden, depth = name, 1
            elif name in _BLOCKS:
                self._border(name, closing)
            elif name == "br":
                self._pieces.append("\n")
        self._end_block()
        self._end_row()

    def _text(self, characters: str) -> None:
        if not characters:
            return
        if "&" in characters:
            if "&#" in characters:
                characters = _HUGE_REFERENCE.sub("\N{REPLACEMENT CHARACTER}", characters)
            characters = html.unescape(characters)
        if not self._pre and not characters.isspace():
            characters = characters.replace("\n", " ").replace("\r", " ")
        elif not self._pre:
            characters = " "
        self._pieces.append(characters)

    def _border(self, name: str, closing: bool) -> None:
        """End the block before the tag `name`, and note what the tag begins or ends."""
        self._end_block()
        if name in _HEADINGS:
            self._heading = 0 if closing else _HEADINGS[name]
        elif name == "li":
            self._item = not closing
        elif name == "pre":
            self._pre = 0 if closing else 1
        elif name == "table":
            self._tables = max(0, self._tables + (-1 if closing else 1))
            self._end_row()  # a table inside a row's cell: the row has no line of its own
            self.blocks.end_table()
        elif name == "tr":
            self._end_row()
            self._row = None if closing or self._tables > 1 else []
        elif name in ("td", "th") and not closing and self._row is not None:
            self._row.append([])
        if name in _ENDS_HEADING and not closing:
            self._heading = 0

    def _end_block(self) -> None:
        if not self._pieces:
            return
        joined = without_controls("".join(self._pieces))
        self._pieces = []
        if self._pre:
            block = code(joined.strip("\n")) if joined.strip() else ""
        else:
            lines = (" ".join(line.split()) for line in joined.split("\n"))
            block = "\n".join(line for line in lines if line)
        if not block:
            return
        if self._heading:
            block = heading(self._heading, block)
        elif self._item:
            block, self._item = f"- {block}", False
        if self._row is not None and self._row:
            self._row[-1].append(block)
        else:
            self.blocks.add(block)

    def _end_row(self) -> None:
        if self._row:
            self.blocks.add_row(self._row)
        self._row = None


def _is_hidden(attributes: str) -> bool:
    """Whether a tag is marked as not shown: by the attribute of that name, not by a word in the value of another."""
    for attribute in _ATTRIBUTE.finditer(attributes, 0, _MAX_ATTRIBUTES):
        name = attribute[1].lower()
        if name == "hidden" or (name == "style" and _HIDING_STYLE.search(attribute[2] or "")):
            return True
    return False
