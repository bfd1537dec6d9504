"""Files of bytes as they are, or compressed with gzip or Zstandard: opened as one stream of bounded length.

The first bytes tell, whatever the file is called. gzip is Python's own; Zstandard comes with pyarrow, which reads
Parquet as well, so one library serves both (extra ``hub``). A few kilobytes can expand to terabytes: `MAX_RATIO` and
`MAX_EXPANDED_BYTES` end that.
"""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

from lora_tui.errors import UsageError

MAX_EXPANDED_BYTES = 8 * 1024**3

MAX_RATIO = 400
"""JSON Lines shrink to a third to a fiftieth; zeros with Zstandard to a ten-thousandth."""

_ALWAYS = 64 * 1024 * 1024
"""Bytes that any file may expand to."""

SUFFIXES = (".gz", ".zst")

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

HUB_EXTRA = 'pip install "lora-tui[hub]"'


def inner_suffix(path: Path) -> str:
    """Return the suffix that tells what a file holds, in lower case, that of a compression left out: ".jsonl"."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (*SUFFIXES, ".gzip", ".zstd"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def open_expanded(path: Path) -> io.BufferedReader:
    """Open a file for reading, expanded where it is compressed, at its beginning.

    Reading raises `UsageError` where it is damaged or expands beyond bounds; both raise `OSError` where it cannot be
    read at all.
    """
    file = path.open("rb")
    magic = file.peek(4)
    if magic.startswith(_GZIP):
        expanded: Any = gzip.GzipFile(fileobj=file)
    elif magic.startswith(_ZSTD):
        expanded = _zstd_stream(path, file)
    else:
        return file
    return io.BufferedReader(_Bounded(path, file, expanded), 1 << 18)


def _zstd_stream(path: Path, file: io.BufferedReader) -> Any:
    try:
        import pyarrow as pa
    except ImportError as problem:
        file.close()
        raise UsageError(f"{path} is compressed with Zstandard, which needs an extra: {HUB_EXTRA}.") from problem
    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


class _Bounded(io.RawIOBase):
    """What a decompressor yields, counted."""

    def __init__(self, path: Path, file: io.BufferedReader, expanded: Any) -> None:
        self._path, self._file, self._expanded = path, file, expanded
        self._bound = min(MAX_EXPANDED_BYTES, max(_ALWAYS, MAX_RATIO * path.stat().st_size))
        self._read = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with what comes next."""
        view = memoryview(buffer)
        try:
            data = self._expanded.read(len(view))
        except (OSError, EOFError, zlib.error) as problem:  # Arrow's are OSErrors
            raise UsageError(f"{self._path} is damaged: it cannot be expanded ({problem}). Copy it again.") from problem
        self._read += len(data)
        if self._read > self._bound:
            raise UsageError(
                f"{self._path} expands to more than {self._bound // 2**20:,} MB. If it is meant to, expand it yourself "
                "(gzip -d, zstd -d) and name that file."
            )
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file, too."""
        self._file.close()
        super().close()
