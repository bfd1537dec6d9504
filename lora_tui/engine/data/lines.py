"""Text files as numbered lines, with a plain message for everything that is not one.

Only line feed, carriage return and the two together end a line: U+2028 and its kin are legal inside a JSON string,
and an answer may hold a form feed, so `str.splitlines` would tear records apart.
"""

from collections.abc import Iterator
from pathlib import Path

from lora_tui.errors import UsageError


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their ends, reading as it goes; a byte order mark is left out.

    Raises:
        UsageError: The file cannot be read or, at the line the message names, is not UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            number = 1
            for raw in file:
                text = _decoded(path, number, _without_mark(path, raw) if number == 1 else raw)
                for line in text.split("\r"):
                    number += 1
                    yield line
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def require_text_file(path: Path, what: str, advice: str) -> None:
    """Refuse a path that cannot be a text file: missing, a folder, a device, empty.

    Args:
        path: The file that is to be read.
        what: What it is to the user, such as "training file".
        advice: What to do when it is missing or empty, as a whole sentence.

    Raises:
        UsageError: With `what`, the path and, where it helps, `advice`.
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


def _without_mark(path: Path, raw: bytes) -> bytes:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{path} is UTF-16 text. Save it as UTF-8.")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _decoded(path: Path, number: int, raw: bytes) -> str:
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    if b"\0" in raw:
        raise UsageError(f"{path} line {number}: a NUL byte. The file is binary or not UTF-8; save it as UTF-8 text.")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} line {number}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8. "
            "Save the file as UTF-8 text."
        ) from error
