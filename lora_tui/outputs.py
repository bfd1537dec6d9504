"""What a result may be written over: nothing of the program's own, and of the user's nothing without a copy.

The store with its companions, the configuration and the log name themselves with `protect` when they are opened; every
writer of files asks `refuse_own`, and a job asks before it works for a result that could not be kept. Any other SQLite
file counts as a store. What the user has at a path is copied beside it first (`keep_older`).
"""

import filecmp
import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.text import one_line

_SQLITE_MAGIC = b"SQLite format 3\x00"
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4095
_protected: dict[Path, str] = {}
"""What must not be written over, by its path without links, and what it is."""


def protect(path: Path, what: str) -> None:
    """Let nothing be written over the file at `path`, there or not; `what` it is: "the store of this run"."""
    _protected[Path(os.path.realpath(path))] = what


def refuse_own(path: Path, named: str = "") -> None:
    """Raise `UsageError` where `path` is a file of the program's own, by any name; `named` is what named it."""
    where = f"{named} {one_line(str(path), 200)}".strip()
    target = Path(os.path.realpath(path))
    what = _protected.get(target)
    if what is None and target.is_file():
        what = next((own for other, own in _protected.items() if _same(target, other)), None)
        if what is None and _holds_sqlite(target):
            what = "an SQLite database, such as a store of runs"
    if what is not None:
        raise UsageError(f"{where} is {what} and is not written over. Name another file for the result.")


def check_output(path: Path, named: str) -> None:
    """Raise `UsageError` where a result cannot go to `path` at all; `named` is the option or key that names it."""
    check_name(path, named)
    refuse_own(path, named)
    if path.is_dir():
        raise UsageError(f"{named} {one_line(str(path), 200)} is a folder; name a file in it.")


def check_name(path: Path, named: str) -> None:
    """Raise `UsageError` for a path that no file system takes; `named` is the option or key that names it."""
    if "\x00" in str(path):
        raise UsageError(f"{named}: a file name cannot hold the character NUL.")
    long = next((part for part in path.parts if _bytes(part) > MAX_NAME_BYTES), None)
    if long is not None:
        shown = one_line(long, 40)
        raise UsageError(
            f"{named}: the name {shown} has {_bytes(long):,} bytes; a file name has {MAX_NAME_BYTES} at most."
        )
    if _bytes(str(path)) > MAX_PATH_BYTES:
        raise UsageError(
            f"{named}: the path {one_line(str(path), 40)} has {_bytes(str(path))} bytes; {MAX_PATH_BYTES} at most."
        )


def keep_older(path: Path, preferred: Iterable[Path] = ()) -> Path | None:
    """Copy the file at `path`, so that it can be written over; returns the copy, None without a file.

    The copy has the first free name of `preferred`, else a number: "pairs.1.txt". One with the same content is not made
    twice. Raises `LoraTuiError` where it cannot be copied.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return None
    numbered = (_numbered(path, number) for number in itertools.count(1))
    names = itertools.chain(preferred, numbered)
    copy = next(name for name in names if not name.exists() or _same_content(path, name))
    try:
        if not copy.exists():
            shutil.copy2(path, copy)
    except OSError as problem:
        copy.unlink(missing_ok=True)  # what is there is half a copy
        raise LoraTuiError(f"{path} is there already and cannot be kept as {copy}: {problem.strerror}.") from problem
    return copy


def _numbered(path: Path, number: int) -> Path:
    stem, suffix = path.stem, path.suffix
    while _bytes(f"{stem}.{number}{suffix}") > MAX_NAME_BYTES:
        stem = stem[:-1]
    return path.with_name(f"{stem}.{number}{suffix}")


def _same_content(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _holds_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except OSError:
        return False


def _bytes(name: str) -> int:
    return len(os.fsencode(name)) if "\x00" not in name else 0
