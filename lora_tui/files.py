"""Atomic writers of files and folders: what is at a path is complete, the old content or the new.

A reader never sees half a file, and a killed program leaves the old one: the content goes to a temporary name in the
same folder, is forced to the disk, and takes the final name in one step. This module knows nothing of what the files
hold.
"""

import errno
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lora_tui.errors import LoraTuiError

_ADVICE = {
    errno.EACCES: "choose another place or change the folder's permissions",
    errno.EPERM: "choose another place or change the folder's permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "free some space and run again",
}


class UnwritableError(LoraTuiError):
    """A file cannot be written; `reason` is what the system says, without the path."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class AtomicFile:
    """The file that `atomic_writer` yields; it has its final name only after the ``with`` block has ended well."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream
        self.discarded = False

    def write(self, content: str | bytes) -> int:
        """Append text, as UTF-8 with line ends as they are, or bytes; returns how many bytes that were.

        Raises:
            LoraTuiError: The disk is full, or the text holds half of a surrogate pair, which UTF-8 cannot express.
        """
        with _explain_errors(self._path):
            return self._stream.write(content.encode() if isinstance(content, str) else content)

    def discard(self) -> None:
        """Throw the content away: the path keeps what it held before."""
        self.discarded = True


def write_atomically(path: Path, content: str | bytes, mode: int | None = None) -> None:
    """Make `content` the whole content of the file at `path`; missing folders above it are created.

    Args:
        path: Where the file goes. A symbolic link is followed, so that it stays one.
        content: Text, written as UTF-8, or bytes.
        mode: Permission bits, such as ``0o600``; None keeps those of an older file, else takes the user's default.

    Raises:
        LoraTuiError: The file cannot be written; nothing is left behind and an older file is untouched.
    """
    with atomic_writer(path, mode) as file:
        file.write(content)


@contextmanager
def atomic_writer(path: Path, mode: int | None = None) -> Iterator[AtomicFile]:
    """Write a file piece by piece; `write_atomically` says what the arguments mean.

    An exception inside the ``with`` block, or `AtomicFile.discard`, leaves the path as it was.

    Raises:
        LoraTuiError: The file cannot be written.
    """
    with _explain_errors(path):
        target = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, stream = _open_temporary(target, mode)
    file = AtomicFile(path, stream)
    try:
        yield file
        with _explain_errors(path):
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            if not file.discarded:
                temporary.replace(target)
                with suppress(OSError):  # the file is in its place: some network folders cannot be synced
                    _sync(target.parent)
    finally:
        # After success there is nothing left to close or remove; after a failure the first error is the one to report.
        with suppress(OSError):
            stream.close()
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty scratch folder beside `path` to fill; it takes that name once the ``with`` block has ended well.

    With `replace` an older folder at `path` makes way: between two renames it is called ``path.old``, and a reader that
    finds no `path` takes that one. An exception inside the block leaves `path` as it was. Scratch folders that a killed
    process left of the same path are removed.

    Raises:
        OSError: The folder cannot be written; see `unwritable`.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f"{path.name}.old")
    try:
        for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        for entry in (*scratch.rglob("*"), scratch):
            _sync(entry)
        if replace and path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        scratch.rename(path)
        _sync(path.parent)
        if replace:
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def unwritable(what: object, problem: Exception) -> LoraTuiError:
    """Return the error to raise where `problem` kept `what`, a path or its name in a sentence, from being written."""
    return LoraTuiError(f"{what} cannot be written: {getattr(problem, 'strerror', None) or problem}.")


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        reason = error.strerror or str(error)
        message = f"cannot write {path}: {reason}" + (f"; {advice}" if advice else "")
        raise UnwritableError(message, reason) from error
    except UnicodeEncodeError as error:
        raise LoraTuiError(f"cannot write {path}: the text holds half of a surrogate pair, which is no text") from error


def _target(path: Path) -> Path:
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise LoraTuiError(f"cannot write {path}: it is a folder; name a file in it")
    if target.exists() and not target.is_file():
        raise LoraTuiError(f"cannot write {path}: it is a device or a pipe; name an ordinary file")
    return target


def _open_temporary(target: Path, mode: int | None) -> tuple[Path, BinaryIO]:
    if mode is None and target.exists():
        mode = stat.S_IMODE(target.stat().st_mode)
    # A short name of its own: the target's name plus a suffix could pass the 255 bytes that a file name may have.
    temporary = target.parent / f".lora-tui-{secrets.token_hex(8)}.tmp"
    # With 0o666 the system applies the user's umask. A mode that was asked for must hold from the first byte on.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    stream = os.fdopen(os.open(temporary, flags, 0o666 if mode is None else 0o600), "wb")
    if mode is not None:
        try:
            os.fchmod(stream.fileno(), mode)
        except OSError:
            stream.close()
            temporary.unlink()
            raise
    return temporary, stream


def _sync(path: Path) -> None:
    """Force a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Network and FUSE folders that cannot be synced.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
