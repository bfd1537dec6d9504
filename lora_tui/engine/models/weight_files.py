"""Weight files, safetensors and GGUF, looked at without loading them: cut off, foreign, or what they say they are.

Both begin with a table of what follows. It is compared with the length of the file, so that a download that broke off
is told in milliseconds, by its name. Forms: https://github.com/huggingface/safetensors#format and
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lora_tui.errors import LoraTuiError
from lora_tui.text import file_size, one_line

_LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header; its own library has the same bound."""

_BITS: dict[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
}

"""Bits of an element; a kind that is not listed is newer than this, and left to its library."""

_MOST_ENTRIES = 1_000_000
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9
_WHOLE_NUMBERS = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}

_MOST_TIMES = 4
"""How many times the elements of its tensors a model's largest parts may have by its own account."""


class ModelFileError(LoraTuiError):
    """A file of a model is damaged, or not what its name says. The message names it and what is wrong with it."""


def tensors_in(path: Path) -> tuple[int, int]:
    """Return how many tensors a safetensors file holds, and their elements. Raises `ModelFileError`."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(200)
            check_not_text(path, start, "weights")
            length = int.from_bytes(start[:8], "little") if len(start) >= 8 else -1
            if not 0 < length <= _LARGEST_HEADER or length > size - 8:
                raise _cut(path, size, "its table of tensors is longer than the file")
            file.seek(8)
            header = json.loads(file.read(length))
    except OSError as problem:
        raise ModelFileError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    except (ValueError, RecursionError) as problem:
        raise ModelFileError(
            f"{path} is damaged: its table of tensors cannot be read ({one_line(str(problem), 80)}). {_AGAIN}"
        ) from problem
    if not isinstance(header, dict):
        raise ModelFileError(f"{path} is damaged: it has no table of tensors. {_AGAIN}")
    header.pop("__metadata__", None)
    ends = [_end_of(path, name, entry) for name, entry in header.items()]
    data = size - 8 - length
    if max(ends, default=0) > data:
        raise _cut(path, size, f"its tensors need {file_size(max(ends) + 8 + length)}")
    return len(header), sum(math.prod(entry["shape"]) for entry in header.values())


def _end_of(path: Path, name: str, entry: Any) -> int:
    """Return where a tensor ends, in bytes behind the table."""
    try:
        bits, shape, (begin, end) = _BITS.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        whole = all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as problem:
        raise ModelFileError(f"{path} is damaged: its entry of {one_line(name, 80)} is wrong. {_AGAIN}") from problem
    if not whole or (bits is not None and (end - begin) * 8 != math.prod(shape) * bits):
        raise ModelFileError(
            f"{path} is damaged: {one_line(name, 80)} has another size than its shape {one_line(str(shape), 60)}. "
            f"{_AGAIN}"
        )
    return int(end)


_AGAIN = "Take the file from the model's publisher again."


def check_not_text(path: Path, start: bytes, what: str) -> None:
    """Raise `ModelFileError` for what often lies in the place of a large file: a pointer to it, or a web page."""
    begins = start.lstrip().lower()
    if begins.startswith(b"version https://git-lfs"):
        raise ModelFileError(
            f"{path} is not {what} but a pointer to it: it was cloned without Git LFS. Run `git lfs pull` there."
        )
    if begins.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelFileError(f"{path} is not {what} but a web page that was saved in its place. {_AGAIN}")


def check_gguf(path: Path) -> None:
    """Raise `ModelFileError` where a file is no GGUF file, is damaged, or ends before its last tensor."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            check_not_text(path, file.read(200), "a model")
            file.seek(0)
            _Gguf(path, file, size).check()
    except OSError as problem:
        raise ModelFileError(f"{path} cannot be read: {problem.strerror or problem}.") from problem


class _Gguf:
    """A walk over the head of a GGUF file."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size

    def check(self) -> None:
        if (magic := self._file.read(4)) != b"GGUF":
            shown = magic.decode("ascii", "replace")
            raise ModelFileError(f"{self._path} is no GGUF file: it begins with {one_line(shown)!r}. {_AGAIN}")
        version = self._number("<I")
        if version not in (2, 3):
            known = "this one is in the byte order of other machines" if version >> 16 else f"this is version {version}"
            raise ModelFileError(f"{self._path}: GGUF versions 2 and 3 can be read; {known}. Convert the model again.")
        tensors, entries = self._number("<Q"), self._number("<Q")
        if max(tensors, entries) > _MOST_ENTRIES:
            raise self._damaged(f"it says that it holds {max(tensors, entries):,} entries")
        if not tensors:
            raise self._damaged("it holds no tensor")
        numbers: dict[str, int] = {}
        for _ in range(entries):
            key, kind = self._text(), self._number("<I")
            if kind in _WHOLE_NUMBERS:
                numbers[key.partition(".")[2]] = self._number(_WHOLE_NUMBERS[kind])
            else:
                self._skip(kind, key)
        alignment = numbers.get("alignment", 32)
        if alignment <= 0 or alignment & (alignment - 1):
            raise self._damaged(f"general.alignment is {alignment}")
        sizes = [self._tensor_size() for _ in range(tensors)]
        self._check_sizes(numbers, tensors, sum(elements for elements, _ in sizes))
        ends = [end for _, end in sizes]
        start = -(-self._file.tell() // alignment) * alignment
        if start + max(ends) > self._size:
            raise _cut(self._path, self._size, f"its tensors need {file_size(start + max(ends))}")

    def _check_sizes(self, numbers: Mapping[str, int], tensors: int, elements: int) -> None:
        """Check the model's sizes against its tensors: memory is taken for what the sizes say."""
        layers, width = numbers.get("block_count", 1), numbers.get("embedding_length", 1)
        largest = max(numbers.get("vocab_size", 1), layers * numbers.get("feed_forward_length", 1))
        if layers > tensors or width * largest > _MOST_TIMES * elements:
            raise self._damaged(f"the sizes that it tells do not fit its {tensors:,} tensors")

    def _tensor_size(self) -> tuple[int, int]:
        """Return a tensor's elements, and where it ends, in bytes from the first tensor's beginning."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name, dimensions = self._text(), self._number("<I")
        if not 1 <= dimensions <= 4:
            raise self._damaged(f"{one_line(name, 80)} has {dimensions:,} dimensions")
        elements = math.prod(self._number("<Q") for _ in range(dimensions))
        kind, offset = self._number("<I"), self._number("<Q")
        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as problem:
            raise self._damaged(f"{one_line(name, 80)} is of a kind that is not known ({kind})") from problem
        return elements, offset + elements // int(block) * int(size)

    def _skip(self, kind: int, key: str, depth: int = 0) -> None:
        if kind == _TEXT:
            self._text()
        elif kind == _ARRAY and depth < 4:
            inner, length = self._number("<I"), self._number("<Q")
            if inner in _SCALAR_BYTES:
                self._seek(length * _SCALAR_BYTES[inner])
            elif length > self._size:
                raise self._damaged(f"{one_line(key, 80)} is longer than the file")
            else:
                for _ in range(length):
                    self._skip(inner, key, depth + 1)
        elif kind in _SCALAR_BYTES:
            self._seek(_SCALAR_BYTES[kind])
        else:
            raise self._damaged(f"{one_line(key, 80)} is of a kind that is not known ({kind})")

    def _text(self) -> str:
        length = self._number("<Q")
        if length > self._size - self._file.tell():
            raise _cut(self._path, self._size, "its head is longer than the file")
        return self._file.read(length).decode("utf-8", "replace")

    def _seek(self, length: int) -> None:
        if length > self._size - self._file.tell():
            raise _cut(self._path, self._size, "its head is longer than the file")
        self._file.seek(length, 1)

    def _number(self, form: str) -> int:
        read = self._file.read(struct.calcsize(form))
        if len(read) < struct.calcsize(form):
            raise _cut(self._path, self._size, "its head is longer than the file")
        return int(struct.unpack(form, read)[0])

    def _damaged(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._path} is damaged: {what}. {_AGAIN}")


def _cut(path: Path, size: int, why: str) -> ModelFileError:
    return ModelFileError(f"{path} is damaged or cut off: it has {file_size(size)}, and {why}. {_AGAIN}")
