"""The documents of a folder: which files there are, which of them can be used, and the text of one.

Every file that is not used is named with its reason; none of them ends a run. Links that leave the folder are not
followed, hidden files are left alone, and the order is the same on every machine (by path, character by character).
This module knows nothing of chunks or the store; the text of other formats comes from `extraction`.
"""

import hashlib
import importlib.util
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lora_tui.engine.generation.encodings import decode, mended
from lora_tui.engine.generation.extraction.blocks import UnusableFile
from lora_tui.engine.generation.extraction.command import command_for, command_text
from lora_tui.engine.generation.extraction.worker import TextExtractor
from lora_tui.errors import LoraTuiError, UsageError

__all__ = ["Candidate", "Document", "OpenFile", "UnusableFile", "list_files", "open_file", "read_document"]

NATIVE = (".txt", ".md", ".markdown")
"""Suffixes of files that are text."""

EXTRACTED = (".html", ".htm", ".docx", ".pptx", ".epub", ".pdf")
"""Suffixes of files that their text is taken out of."""

EXTRA = {".pdf": "pypdfium2"}
"""Suffixes that need the ``docs`` extra, and the module that it brings."""

MAX_BYTES = 20 * 1024 * 1024
"""A larger file is skipped: 20 MB of plain text are some 5 million tokens, more than a run ever asks about."""

_KEY = "data_generation.input_folder"
_READER = "3"
"""Part of the identity of what is not plain UTF-8 text; incremented when such a file would be read otherwise."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """File found below the folder: `name` is its path in it with slashes, `skipped` the reason why it is not read.

    `modified` is when it was changed last, in seconds since the epoch.
    """

    path: Path
    name: str
    bytes: int
    skipped: str | None
    modified: float = 0.0


@dataclass(frozen=True, slots=True)
class Document:
    """A file's text. `encoding_warning` is set if the encoding was guessed.

    `id` is the SHA-256 of the file's bytes, and of how they were read where that was not simply as UTF-8.
    """

    id: str
    text: str
    encoding: str
    encoding_warning: str | None


def list_files(
    folder: Path, output_file: Path | None = None, commands: Mapping[str, str] = MappingProxyType({})
) -> list[Candidate]:
    """Return every file below `folder`, in order, with the reason where it will not be used.

    `output_file` is the file that accepted pairs are written to: pairs must not be made of pairs. `commands` are the
    user's own readers by suffix. Raises `UsageError` if there is no such folder or it cannot be listed, `LoraTuiError`
    if it holds no file.
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
        found = sorted(_walk(folder, root, own, commands), key=lambda candidate: candidate.name)
    except OSError as problem:
        raise UsageError(f"{_KEY}: the folder {folder} cannot be read: {problem.strerror or problem}.") from problem
    if not found:
        raise LoraTuiError(f"{_KEY}: the folder {folder} is empty. Put .txt or .md files into it.")
    return found


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file's bytes, before its text is taken out of them.

    `id` is the identity that its document will have, where that is known already: in files that are more than text.
    """

    path: Path
    data: bytes
    command: str | None
    id: str | None

    def read(self, extractor: TextExtractor | None = None) -> Document:
        """Return the document; blocks. Raises `UnusableFile` with the reason.

        `extractor` reads what is more than text; without one, a process is begun for this file alone.
        """
        suffix, warning = self.path.suffix.lower(), None
        if self.command is not None:
            text, encoding = command_text(self.command, self.path), suffix.lstrip(".")
        elif self.id is not None:
            text, encoding = _extract(suffix, self.data, extractor), suffix.lstrip(".")
        else:
            text, encoding, warning = decode(self.data)
        if not text.strip():
            raise UnusableFile("it holds no text" if self.command is None else "its extractor wrote no text")
        if self.id is not None:
            return Document(self.id, text, encoding, None)
        read = mended(text)
        is_plain = encoding.startswith("utf-8") and warning is None and read == text
        if not read.strip():
            raise UnusableFile("it holds no text")
        return Document(_identity(self.data, "" if is_plain else encoding), read, encoding, warning)


def open_file(path: Path, commands: Mapping[str, str] = MappingProxyType({})) -> OpenFile:
    """Read a file's bytes; blocks. Raises `UnusableFile` with the reason, such as more than `MAX_BYTES`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as problem:
        raise UnusableFile(f"it cannot be read ({problem.strerror or problem})") from problem
    if len(data) > MAX_BYTES:
        raise UnusableFile(_too_large(len(data)))
    suffix, command = path.suffix.lower(), command_for(path, commands)
    if command is not None:
        return OpenFile(path, data, command, _identity(data, f"{suffix} {command}"))
    return OpenFile(path, data, None, _identity(data, suffix.lstrip(".")) if suffix in EXTRACTED else None)


def read_document(path: Path, extractor: TextExtractor | None = None) -> Document:
    """Read a file and take its text out of it, as `open_file` and `OpenFile.read`."""
    return open_file(path).read(extractor)


def _identity(data: bytes, read_as: str) -> str:
    identity = hashlib.sha256(data)
    if read_as:
        identity.update(f"|{_READER}/{read_as}".encode())
    return identity.hexdigest()


def _extract(suffix: str, data: bytes, extractor: TextExtractor | None) -> str:
    if extractor is not None:
        return extractor.extract(suffix, data)
    with TextExtractor() as own:
        return own.extract(suffix, data)


def _walk(folder: Path, root: Path, output_file: Path | None, commands: Mapping[str, str]) -> Iterator[Candidate]:
    """Yield files, and the folders that are not entered, below `folder`."""
    unlisted: list[OSError] = []
    for here, folders, files in os.walk(folder, onerror=unlisted.append):
        inside = Path(here).relative_to(folder)
        for name in list(folders):
            path = Path(here, name)
            reason = "hidden folder" if name.startswith(".") else "a link to a folder" if path.is_symlink() else None
            if reason is not None:
                folders.remove(name)
                yield Candidate(path, _name(path, folder), 0, reason)
        for name in files:
            yield _candidate(Path(here, name), folder, root / inside / name, root, output_file, commands)
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


def _candidate(
    path: Path, folder: Path, real: Path, root: Path, output_file: Path | None, commands: Mapping[str, str]
) -> Candidate:
    """Return the file with the reason why it is skipped, as far as that is known without opening it.

    `real` is its path in the folder's real place: folders that are links are not entered, so the file alone can be one.
    """
    name, size, modified, reason, suffix = _name(path, folder), 0, 0.0, None, path.suffix.lower()
    try:
        status = path.lstat()
        is_link = stat.S_ISLNK(status.st_mode)
        target = path.resolve(strict=True) if is_link else real
        status = target.stat() if is_link else status
        size, modified = status.st_size, status.st_mtime
        if path.name.startswith("."):
            reason = "hidden file"
        elif not stat.S_ISREG(status.st_mode):
            reason = "a device, socket or pipe"
        elif output_file is not None and _is_output(target, output_file):
            reason = "the output of generation itself"
        elif is_link and not target.is_relative_to(root):
            reason = "a link that leaves the folder"
        elif is_link:
            reason = f"a link to {_name(target, root)}, which is read itself"
        elif not (has_command := command_for(path, commands) is not None) and suffix not in (*NATIVE, *EXTRACTED):
            kinds = ", ".join((*NATIVE, *EXTRACTED))
            reason = f"not a kind of file that is read ({kinds}; others with data_generation.extractors)"
        elif size == 0:
            reason = "it is empty"
        elif size > MAX_BYTES:
            reason = _too_large(size)
        elif not has_command and suffix in EXTRA and importlib.util.find_spec(EXTRA[suffix]) is None:
            reason = f'reading {suffix} needs an extra: pip install "lora-tui[docs]"'
    except (OSError, RuntimeError) as problem:  # resolve() raises RuntimeError for a loop of links before Python 3.13
        reason = f"it cannot be read ({getattr(problem, 'strerror', None) or problem})"
    return Candidate(path, name, size, reason, modified)


def _too_large(size: int) -> str:
    return f"it has {size / 2**20:.0f} MB, the most is {MAX_BYTES // 2**20} MB; split it"


def _name(path: Path, folder: Path) -> str:
    """Return the path inside the folder; bytes of a name that are no UTF-8 become visible question marks."""
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "replace")
