"""Text out of HTML, PDF and DOCX, by the libraries of the ``docs`` extra.

Headings become Markdown headings, so that what follows treats all formats alike. Nothing is fetched: links, images and
external entities stay where they are. What the libraries raise over a broken file is told as `Unusable`.
"""

import io
import zipfile
from collections.abc import Callable

from lora_tui.engine.generation.documents import Unusable

_MOST_UNPACKED_BYTES = 200 * 1024 * 1024
_BLOCKS = ("h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "pre", "blockquote", "td", "th", "dt", "dd", "figcaption")
_NOT_TEXT = ("script", "style", "noscript", "template", "svg", "nav", "head")


def text_of(suffix: str, data: bytes) -> str:
    """Return the text of a file's bytes; `suffix` is ``.html``, ``.htm``, ``.pdf`` or ``.docx``. Raises `Unusable`."""
    try:
        return _READERS[suffix](data)
    except Unusable:
        raise
    except Exception as problem:  # parsers raise anything over a damaged file; it is named and skipped
        raise Unusable(f"it cannot be read as {suffix} ({type(problem).__name__}: {problem})"[:300]) from problem


def _html(data: bytes) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data, "html.parser")
    for element in soup.find_all(_NOT_TEXT):
        element.decompose()
    parts: list[str] = []
    for element in soup.find_all(_BLOCKS):
        if element.find(_BLOCKS):  # its inner blocks come by themselves
            continue
        text = element.get_text() if element.name == "pre" else " ".join(element.get_text(" ").split())
        if text.strip():
            parts.append(_block(element.name, text))
    return "\n\n".join(parts) if parts else soup.get_text("\n", strip=True)


def _block(name: str, text: str) -> str:
    if name[0] == "h" and name[1:].isdigit():
        return f"{'#' * int(name[1:])} {text}"
    if name == "pre":
        return f"```\n{text.rstrip()}\n```"
    return f"- {text}" if name == "li" else text


def _pdf(data: bytes) -> str:
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unusable("it is encrypted")
    text = "\n\n".join(page.extract_text() for page in reader.pages)
    if not text.strip():
        raise Unusable("it holds no text (scanned pages need OCR first)")
    return text


def _docx(data: bytes) -> str:
    import docx

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MOST_UNPACKED_BYTES:
            raise Unusable(f"it unpacks to more than {_MOST_UNPACKED_BYTES // 2**20} MB")
    parts: list[str] = []
    for block in docx.Document(io.BytesIO(data)).iter_inner_content():
        if hasattr(block, "rows"):
            parts += [" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows]
            continue
        style = (block.style.name if block.style is not None else "") or ""
        level = style.removeprefix("Heading ") if style.startswith("Heading ") else ""
        if block.text.strip():
            parts.append(f"{'#' * int(level)} {block.text}" if level.isdigit() else block.text)
    return "\n\n".join(parts)


_READERS: dict[str, Callable[[bytes], str]] = {".html": _html, ".htm": _html, ".pdf": _pdf, ".docx": _docx}
