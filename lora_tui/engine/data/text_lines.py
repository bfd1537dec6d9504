"""A reader of UTF-8 text files line by line, with a plain error message for everything that is not one.

Only line feed, carriage return and the two together end a line: U+2028 and its kin are legal inside a JSON string,
and an answer may hold a form feed, so `str.splitlines` would tear records apart.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from lora_tui.engine.data.compressed import open_expanded
from lora_tui.errors import UsageError

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is no record: a file of one line of 500 MB is something else, and is not taken into memory."""

_SHOWN = 200
_STEP = 1 << 20


class BadLine(str):
    """A line that is not valid text, its bad bytes replaced; `reason` says what is wrong with it."""

    __slots__ = ("reason",)

    def __new__(cls, shown: str, reason: str) -> Self:
        """Make the line from a printable form of it."""
        line = super().__new__(cls, shown)
        line.reason = reason
        return line

    reason: str


def text_lines(path: Path, *, keep_bad: bool = False) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their ends, reading as it goes; a byte order mark is left out.

    A file that is compressed with gzip or Zstandard is expanded.

    With `keep_bad` a line with a NUL, with bytes that are not UTF-8 or with more than `MAX_LINE_BYTES` comes as a
    `BadLine`, of which the last kind shows its beginning only. Otherwise it raises
    `UsageError` with the line's number, as does a file that cannot be read.
    """
    try:
        with open_expanded(path) as file:
            if file.peek(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UsageError(f"{path} is UTF-16 text. Save it as UTF-8.")
            if file.peek(3).startswith(codecs.BOM_UTF8):
                file.read(3)
            number = 1
            for raw in iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""):
                if len(raw) > MAX_LINE_BYTES:
                    long = f"more than {MAX_LINE_BYTES >> 20} MB without a line's end"
                    if not keep_bad:
                        raise UsageError(f"{path} line {number}: {long}. Put each record on a line of its own.")
                    yield BadLine(raw[:_SHOWN].decode(errors="replace"), long)
                    number += 1
                    while raw and not raw.endswith(b"\n"):
                        raw = file.readline(_STEP)  # noqa: PLW2901  # the rest of the line
                    continue
                content = raw.removesuffix(b"\n").removesuffix(b"\r")
                if reason := _encoding_error(content):
                    if not keep_bad:
                        raise UsageError(f"{path} line {number}: {reason}. Save the file as UTF-8 text.")
                    number += 1
                    shown = content.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
                    yield BadLine(shown.rstrip("\r"), reason)
                    continue
                for text in content.decode().split("\r"):
                    number += 1
                    yield text
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def require_text_file(path: Path, what: str, advice: str) -> None:
    """Raise `UsageError` where `path` cannot be a text file: missing, a folder, a device, empty.

    `what` names the file to the user, such as "training file"; `advice` says what to do when it is missing or empty.
    """
    try:
        if path.is_dir():
            raise UsageError(f"the {what} {path} is a folder; name a file in it")
        if not path.exists():
            raise UsageError(f"the {what} {path} does not exist. {advice}")
        if not path.is_file():
            raise UsageError(f"the {what} {path} is a device or a pipe; name an ordinary file")
        if path.stat().st_size == 0:
            raise UsageError(f"the {what} {path} is empty. {advice}")
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror or error}") from error


def _encoding_error(raw: bytes) -> str | None:
    """Return why the bytes of a line are not text, or None."""
    if b"\0" in raw:
        return "a NUL byte. The file is binary or not UTF-8"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8"
    return None
