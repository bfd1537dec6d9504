"""The documents of a folder: which files there are, which of them can be used, and the text of one.

Every file that is not used is named with its reason; none of them ends a run. Links that leave the folder are not
followed, hidden files are left alone, and the order is the same on every machine (by path, character by character).
This module knows nothing of chunks or the store.

HTML, PDF and DOCX are read by the libraries of the ``docs`` extra. Headings become Markdown headings, so that all
formats are treated alike afterwards. Nothing is fetched: links, images and external entities stay where they are.
"""

import codecs
import hashlib
import importlib.util
import io
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_tui.errors import LoraTuiError, UsageError

NATIVE = (".txt", ".md", ".markdown")
"""Suffixes that are read without any extra."""

EXTRA = {".html": "bs4", ".htm": "bs4", ".pdf": "pypdf", ".docx": "docx"}
"""Suffixes that the ``docs`` extra reads, and the module that does it."""

MAX_BYTES = 20 * 1024 * 1024
"""A larger file is skipped: 20 MB of plain text are some 5 million tokens, more than a run ever asks about."""

_KEY = "data_generation.input_folder"
_BINARY_SAMPLE = 8192
_CONTROL = frozenset(range(0x20)) - frozenset(b"\t\n\r\f\x0b\x1b")


class UnusableFile(Exception):  # noqa: N818  # a finding about a file, not an error of the run
    """Raised for a file that cannot be read as text; the message is the reason, shown after a colon."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """File found below the folder: `name` is its path in it with slashes, `skipped` the reason why it is not read."""

    path: Path
    name: str
    bytes: int
    skipped: str | None


@dataclass(frozen=True, slots=True)
class Document:
    """A file's text. `id` is the SHA-256 of the file's bytes; `encoding_warning` is set if the encoding was guessed."""

    id: str
    text: str
    encoding: str
    encoding_warning: str | None


def list_files(folder: Path, output_file: Path | None = None) -> list[Candidate]:
    """Return every file below `folder`, in order, with the reason where it will not be used.

    `output_file` is the file that accepted pairs are written to: pairs must not be made of pairs.
    Raises `UsageError` if there is no such folder or it cannot be listed, `LoraTuiError` if it holds no file.
    """
    try:
        if not folder.exists():
            raise UsageError(
                f"{_KEY}: the folder {folder} does not exist.\n"
                f"Create it and put .txt or .md files into it, or name another with --set {_KEY}=…"
            )
        if not folder.is_dir():
            raise UsageError(f"{_KEY}: {folder} is not a folder. Name the folder that holds your text files.")
        root = folder.resolve()
        own = output_file.resolve() if output_file is not None else None
        found = sorted(_walk(folder, root, own), key=lambda candidate: candidate.name)
    except OSError as problem:
        raise UsageError(f"{_KEY}: the folder {folder} cannot be read: {problem.strerror or problem}.") from problem
    if not found:
        raise LoraTuiError(f"{_KEY}: the folder {folder} is empty. Put .txt or .md files into it.")
    return found


def read_document(path: Path) -> Document:
    """Read and decode a file; blocks. Raises `UnusableFile` with the reason, such as more than `MAX_BYTES`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as problem:
        raise UnusableFile(f"it cannot be read ({problem.strerror or problem})") from problem
    if len(data) > MAX_BYTES:
        raise UnusableFile(_too_large(len(data)))
    identity = hashlib.sha256(data).hexdigest()
    if (suffix := path.suffix.lower()) in EXTRA:
        text, encoding, warning = _extract_text(suffix, data), suffix.lstrip("."), None
    else:
        text, encoding, warning = decode(data)
    if not text.strip():
        raise UnusableFile("it holds no text")
    return Document(identity, text, encoding, warning)


def decode(data: bytes) -> tuple[str, str, str | None]:
    """Return text, encoding and, if that is a guess, a warning. Raises `UnusableFile` for binary data."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding), encoding, None
            except UnicodeDecodeError as problem:
                raise UnusableFile(f"it begins like {encoding} text, but byte {problem.start + 1} is not") from problem
    if b"\0" in data:
        raise UnusableFile("it is binary")
    try:
        return data.decode("utf-8"), "utf-8", None
    except UnicodeDecodeError as problem:
        sample = data[:_BINARY_SAMPLE]
        if sum(byte in _CONTROL for byte in sample) * 50 > len(sample):
            raise UnusableFile("it is binary") from problem
        warning = f"byte {problem.start + 1} is not UTF-8; it was read as Latin-1. Save it as UTF-8 if words look wrong"
        return data.decode("latin-1"), "latin-1", warning


# The UTF-32 mark begins with the UTF-16 mark: longest first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _walk(folder: Path, root: Path, output_file: Path | None) -> Iterator[Candidate]:
    """Yield files, and the folders that are not entered, below `folder`."""
    unlisted: list[OSError] = []
    for here, folders, files in os.walk(folder, onerror=unlisted.append):
        for name in list(folders):
            path = Path(here, name)
            reason = "hidden folder" if name.startswith(".") else "a link to a folder" if path.is_symlink() else None
            if reason is not None:
                folders.remove(name)
                yield Candidate(path, _name(path, folder), 0, reason)
        for name in files:
            yield _candidate(Path(here, name), folder, root, output_file)
    for problem in unlisted:
        path = Path(problem.filename)
        if path == folder:
            raise problem
        yield Candidate(path, _name(path, folder), 0, f"the folder cannot be listed ({problem.strerror})")


def _is_output(path: Path, output_file: Path) -> bool:
    """Tell whether a file is what generation writes: the output file, or a copy that is kept of it (`output`)."""
    if path.parent != output_file.parent or path.suffix != output_file.suffix:
        return False
    kept = rf"{re.escape(output_file.stem)}(\.run-\d+|\.runs[-\d]+|\.\d+)?"
    return re.fullmatch(kept, path.stem) is not None


def _candidate(path: Path, folder: Path, root: Path, output_file: Path | None) -> Candidate:
    """Return the file with the reason why it is skipped, as far as that is known without opening it."""
    name, size, reason, suffix = _name(path, folder), 0, None, path.suffix.lower()
    try:
        target = path.resolve(strict=True)
        status = target.stat()
        size = status.st_size
        if path.name.startswith("."):
            reason = "hidden file"
        elif not stat.S_ISREG(status.st_mode):
            reason = "a device, socket or pipe"
        elif output_file is not None and _is_output(target, output_file):
            reason = "the output of generation itself"
        elif path.is_symlink() and not target.is_relative_to(root):
            reason = "a link that leaves the folder"
        elif path.is_symlink():
            reason = f"a link to {_name(target, root)}, which is read itself"
        elif suffix not in (*NATIVE, *EXTRA):
            reason = f"not a kind of file that is read ({', '.join((*NATIVE, *EXTRA))})"
        elif size == 0:
            reason = "it is empty"
        elif size > MAX_BYTES:
            reason = _too_large(size)
        elif suffix in EXTRA and importlib.util.find_spec(EXTRA[suffix]) is None:
            reason = f'reading {suffix} needs an extra: pip install "lora-tui[docs]"'
    except (OSError, RuntimeError) as problem:  # resolve() raises RuntimeError for a loop of links before Python 3.13
        reason = f"it cannot be read ({getattr(problem, 'strerror', None) or problem})"
    return Candidate(path, name, size, reason)


def _too_large(size: int) -> str:
    return f"it has {size / 2**20:.0f} MB, the most is {MAX_BYTES // 2**20} MB; split it"


def _name(path: Path, folder: Path) -> str:
    """Return the path inside the folder; bytes of a name that are no UTF-8 become visible question marks."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "replace")


_MAX_UNPACKED_BYTES = 200 * 1024 * 1024
_BLOCKS = ("h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "pre", "blockquote", "td", "th", "dt", "dd", "figcaption")
_NOT_TEXT = ("script", "style", "noscript", "template", "svg", "nav", "head")


def _extract_text(suffix: str, data: bytes) -> str:
    try:
        return _READERS[suffix](data)
    except UnusableFile:
        raise
    except Exception as problem:  # parsers raise anything over a damaged file; it is named and skipped
        raise UnusableFile(f"it cannot be read as {suffix} ({type(problem).__name__}: {problem})"[:300]) from problem


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
        raise UnusableFile("it is encrypted")
    text = "\n\n".join(page.extract_text() for page in reader.pages)
    if not text.strip():
        raise UnusableFile("it holds no text (scanned pages need OCR first)")
    return text


def _docx(data: bytes) -> str:
    import docx

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED_BYTES:
            raise UnusableFile(f"it unpacks to more than {_MAX_UNPACKED_BYTES // 2**20} MB")
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
