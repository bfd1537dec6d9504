"""SHA-256 of every file of a checkpoint, in ``SHA256SUMS`` beside them: written with it, compared before it is used.

A bit that a disk, a cable or a copy has turned over in a tensor makes no file unreadable: without this, training would
go on with it and nobody would know. The form is that of ``sha256sum``, so ``sha256sum -c SHA256SUMS`` says the same.
Without torch: an adapter is checked before that is imported.
"""

import re
from collections.abc import Collection
from pathlib import Path

from lora_tui.files import sha256_of

CHECKSUMS = "SHA256SUMS"
"""The file in a checkpoint's folder."""

_LINE = re.compile(r"([0-9a-f]{64})  ([^/\0]+)")


class DamagedError(Exception):
    """A file is missing, or not as it was written; the text says which, and why."""


def write_checksums(folder: Path) -> None:
    """Write ``SHA256SUMS`` over the files that lie in `folder`. Raises `OSError`."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    lines = (f"{sha256_of(path)}  {path.name}\n" for path in files)
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def has_checksums(folder: Path) -> bool:
    """Tell whether the folder was written with checksums; those of before have none."""
    return (folder / CHECKSUMS).is_file()


def verify(folder: Path, names: Collection[str] | None = None) -> None:
    """Compare the files of a folder, or those of them that are named, with what was written.

    Raises:
        DamagedError: A file is missing or another one, or ``SHA256SUMS`` itself is damaged or lacks one of `names`.
        OSError: A file cannot be read.
    """
    written = _read(folder)
    for name in written if names is None else names:
        if name not in written:
            raise DamagedError(f"{CHECKSUMS} does not name {name}")
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        if sha256_of(path) != written[name]:
            raise DamagedError(f"{name} is not as it was written (another SHA-256)")


def _read(folder: Path) -> dict[str, str]:
    try:
        *lines, end = (folder / CHECKSUMS).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as problem:
        raise DamagedError(f"{CHECKSUMS} is damaged") from problem
    matches = [_LINE.fullmatch(line) for line in lines]
    found = {match[2]: match[1] for match in matches if match is not None}
    if not found or len(found) != len(lines) or end:
        raise DamagedError(f"{CHECKSUMS} is damaged")
    return found
