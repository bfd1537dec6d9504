"""Archives of XML and HTML parts, which DOCX, PPTX and EPUB files are: opened, measured, and read part by part.

No tree is built of a part: its tags are handed to a reader one after the other, whatever its size.
"""

import posixpath
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import IO
from urllib.parse import unquote
from xml.parsers import expat

from lora_tui.engine.generation.extraction.blocks import UnusableFile

MAX_UNPACKED_BYTES = 200 * 1024 * 1024

_STEP = 1 << 16
_DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error),
    *(EOFError, KeyError, ValueError, NotImplementedError, OSError),
)
"""What zipfile raises over a damaged archive."""

_COMPOUND_FILE = b"\xd0\xcf\x11\xe0"
_RELATION = re.compile(r"<Relationship\b[^>]*>", re.DOTALL)
_ATTRIBUTE = re.compile(r"""\b(Id|Type|Target|TargetMode)\s*=\s*(?:"([^"]*)"|'([^']*)')""")


class Archive:
    """The parts of an archive by name, with their sizes unpacked."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if sum(self.sizes.values()) > MAX_UNPACKED_BYTES:
            raise UnusableFile(f"it unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MB")

    def open(self, name: str) -> IO[bytes]:
        """Open a part. Raises what zipfile raises for one there is not, or that is damaged."""
        return self._archive.open(name)

    def read(self, name: str) -> bytes:
        """Return a part, at most `MAX_UNPACKED_BYTES` of it: the archive's own list of sizes can lie."""
        with self.open(name) as file:
            data = file.read(MAX_UNPACKED_BYTES + 1)
        if len(data) > MAX_UNPACKED_BYTES:
            raise UnusableFile(f"it unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MB")
        return data

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Return what an Office part refers to, by id: the last word of the kind, such as "slide", and the part."""
        folder, name = posixpath.split(part)
        found: dict[str, tuple[str, str]] = {}
        with suppress(KeyError):
            text = self.read(posixpath.join(folder, "_rels", f"{name}.rels")).decode("utf-8", "replace")
            for relation in _RELATION.findall(text):
                values = {key: double or single for key, double, single in _ATTRIBUTE.findall(relation)}
                if values.get("TargetMode") != "External" and "Target" in values:
                    kind = values.get("Type", "").rpartition("/")[2]
                    found[values.get("Id", "")] = (kind, resolved(folder, values["Target"]))
        return found


def resolved(folder: str, target: str) -> str:
    """Return the name of the part that is called `target` in a part of `folder`; "/…" begins at the root."""
    target = unquote(target.partition("#")[0])
    return posixpath.normpath(target.lstrip("/") if target.startswith("/") else posixpath.join(folder, target))


def archive_text(data: bytes, suffix: str, read: Callable[[Archive], str]) -> str:
    """Return what `read` makes of an archive. Raises `UnusableFile` where it is damaged, encrypted or too large."""
    if data.startswith(_COMPOUND_FILE):
        raise UnusableFile(
            f"it is encrypted, or a {suffix[:-1]} of before 2007; save it as {suffix} without a password"
        )
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return read(Archive(archive))
    except _DAMAGE as problem:
        raise UnusableFile(f"it is damaged, or no {suffix} file") from problem
    except RuntimeError as problem:  # what zipfile raises for a part with a password
        raise UnusableFile("it is encrypted") from problem


class PartReader:
    """Pass over one part's XML: `start` and `end` get the names of elements, `characters` what is between them.

    Names are local ones after `local`, which leaves out ("") what is of no interest.
    """

    may_have_doctype = False

    def read(self, archive: Archive, part: str) -> None:
        """Read the part. Raises `UnusableFile` where it is not XML, or declares entities."""
        with archive.open(part) as file:
            self._parse(file)

    def _parse(self, file: IO[bytes]) -> None:
        parser = expat.ParserCreate(namespace_separator="|")
        parser.buffer_text = True
        if not self.may_have_doctype:
            parser.StartDoctypeDeclHandler = _refuse_entities
        parser.EntityDeclHandler = _refuse_entities
        parser.StartElementHandler = self._started
        parser.EndElementHandler = self._ended
        parser.CharacterDataHandler = self.characters
        left = MAX_UNPACKED_BYTES
        try:
            while data := file.read(_STEP):
                left -= len(data)
                if left < 0:  # the archive's own list of sizes can lie
                    raise UnusableFile(f"it unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MB")
                parser.Parse(data, False)
            parser.Parse(b"", True)
        except expat.ExpatError as problem:
            raise UnusableFile(f"its text is damaged (XML, line {problem.lineno})") from problem

    def _started(self, name: str, attributes: dict[str, str]) -> None:
        self.start(self.local(name), attributes)

    def _ended(self, name: str) -> None:
        self.end(self.local(name))

    def local(self, name: str) -> str:
        """Return the name of an element, given as "namespace|name"."""
        return name.rpartition("|")[2]

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""

    def end(self, name: str) -> None:
        """An element ends."""

    def characters(self, text: str) -> None:
        """Characters between tags."""


def _refuse_entities(*_: object) -> None:
    raise UnusableFile("it declares entities, which no such document does")
