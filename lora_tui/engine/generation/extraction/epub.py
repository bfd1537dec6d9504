"""Reader of EPUB: the chapters of a book in the order in which they are read, each as the HTML page it is.

Read is what the package's spine names (EPUB 3.3, 5.7); its table of contents and pages beside the text are left out.
Apart, as each kind of file has a module of its own.
"""

from collections.abc import Mapping

from lora_tui.engine.generation.encodings import decode_page
from lora_tui.engine.generation.extraction.archive import Archive, PartReader, archive_text, resolved
from lora_tui.engine.generation.extraction.blocks import Blocks, UnusableFile
from lora_tui.engine.generation.extraction.html import html_text

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def epub_text(data: bytes) -> str:
    """Return the text of an EPUB file. Raises `UnusableFile` where it is damaged, protected or too large."""
    return archive_text(data, ".epub", _book_text)


def _book_text(archive: Archive) -> str:
    if _CONTAINER not in archive.sizes:
        raise UnusableFile("it is no EPUB: it names no package")
    container = _ContainerReader()
    container.read(archive, _CONTAINER)
    if container.package not in archive.sizes:
        raise UnusableFile("it is no EPUB: its package is missing")
    package = _PackageReader()
    package.read(archive, container.package)
    folder = container.package.rpartition("/")[0]
    pages = [resolved(folder, href) for href in package.pages()]
    protected = _encrypted_parts(archive)
    blocks = Blocks()
    for page in pages:
        if page in protected:
            raise UnusableFile("it is protected against reading (DRM)")
        if page in archive.sizes:
            blocks.add(html_text(decode_page(archive.read(page))))
            blocks.end_table()
    return blocks.text()


def _encrypted_parts(archive: Archive) -> frozenset[str]:
    """Return the parts that are encrypted; often there are none but fonts."""
    if _ENCRYPTION not in archive.sizes:
        return frozenset()
    reader = _EncryptionReader()
    reader.read(archive, _ENCRYPTION)
    return frozenset(reader.parts)


class _ContainerReader(PartReader):
    """Finds the book's package."""

    def __init__(self) -> None:
        self.package = ""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """Note the first package that is named."""
        if name == "rootfile" and not self.package:
            self.package = resolved("", attributes.get("full-path", ""))


class _EncryptionReader(PartReader):
    """Finds the parts that are encrypted."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """Note a part."""
        if name == "CipherReference":
            self.parts.append(resolved("", attributes.get("URI", "")))


class _PackageReader(PartReader):
    """Finds the files of a book, and the order in which they are read."""

    may_have_doctype = True  # of EPUB 2

    def __init__(self) -> None:
        self._files: dict[str, str] = {}  # address by id
        self._order: list[str] = []

    def pages(self) -> list[str]:
        """Return the addresses of the pages in the order in which they are read."""
        return [self._files[one] for one in dict.fromkeys(self._order) if one in self._files]

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """Note a file, or what comes next in the order."""
        if name == "item":
            is_page = attributes.get("media-type", "") in _PAGES
            if is_page and "nav" not in attributes.get("properties", "").split():
                self._files[attributes.get("id", "")] = attributes.get("href", "")
        elif name == "itemref" and attributes.get("linear") != "no":
            self._order.append(attributes.get("idref", ""))
