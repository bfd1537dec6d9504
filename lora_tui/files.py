"""Atomic writers of files and folders: what is at a path is complete, the old content or the new.

A reader never sees half a file, and a killed program leaves the old one: the content goes to a temporary name in the
same folder, is forced to the disk, and takes the final name in one step. The temporary is locked for as long as its
writer lives, so that the next one clears what a killed writer has left (`clear_left_over`). New files are private:
most hold somebody's texts. This module knows nothing of what the files hold, but for those of the program's own, which
`lora_tui.outputs` protects.
"""

import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lora_tui.errors import LoraTuiError
from lora_tui.outputs import refuse_own

_ADVICE = {
    errno.EACCES: "choose another place or change the folder's permissions",
    errno.EPERM: "choose another place or change the folder's permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "free some space and run again",
}


_PREFIX, _SUFFIX = ".lora-tui-", ".tmp"
_PRIVATE = 0o600
_ABANDONED_SECONDS = 86_400
"""Age at which a temporary is cleared where its writer cannot be asked, as on some network folders."""


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
            data = content.encode() if isinstance(content, str) else content
            return self._stream.write(data)

    def discard(self) -> None:
        """Throw the content away: the path keeps what it held before."""
        self.discarded = True


def write_atomically(path: Path, content: str | bytes, mode: int | None = None, *, own: bool = False) -> None:
    """Make `content` the whole content of the file at `path`; missing folders above it are created.

    Args:
        path: Where the file goes. A symbolic link is followed, so that it stays one.
        content: Text, written as UTF-8, or bytes.
        mode: Permission bits; None keeps those of an older file, and lets nobody else read a new one.
        own: The file is the program's own, such as the configuration, which is refused for results.

    Raises:
        LoraTuiError: The file cannot be written; nothing is left behind and an older file is untouched.
    """
    with atomic_writer(path, mode, own=own) as file:
        file.write(content)


@contextmanager
def atomic_writer(path: Path, mode: int | None = None, *, own: bool = False) -> Iterator[AtomicFile]:
    """Write a file piece by piece; `write_atomically` says what the arguments mean.

    An exception inside the ``with`` block, or `AtomicFile.discard`, leaves the path as it was.

    Raises:
        LoraTuiError: The file cannot be written.
    """
    if not own:
        refuse_own(path)
    with _explain_errors(path):
        target = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_left_over(target.parent)
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
    process left beside it are removed. A new folder is the user's alone.

    Raises:
        OSError: The folder cannot be written; see `unwritable`.
    """
    old = path.with_name(f"{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_left_over(path.parent)
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of an older version
        shutil.rmtree(left_over, ignore_errors=True)
    scratch, lock = _new_scratch(path.parent)
    try:
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
    finally:
        os.close(lock)


def expanded(name: str | Path) -> Path:
    """Return a path as somebody has typed it, with ``~`` written out; as it is where nobody has such a home."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  # Path.expanduser raises where there is no such user


def is_folder(name: str | Path) -> bool:
    """Whether a folder has this name, which may be anything: too long, or with a character that no name has."""
    return os.path.isdir(expanded(name))  # noqa: PTH112  # Path.is_dir raises for a name that is too long


def is_file(name: str | Path) -> bool:
    """Whether a file has this name, which may be anything, as for `is_folder`."""
    return os.path.isfile(expanded(name))  # noqa: PTH113  # Path.is_file raises for a name that is too long


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal. Raises `OSError`."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def clear_left_over(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose writer was killed. Never raises `OSError`."""
    with suppress(OSError):
        found = [entry.path for entry in os.scandir(folder) if _is_temporary(entry.name)]
        for path in found:
            with suppress(OSError):
                _clear(Path(path))


def _is_temporary(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _clear(temporary: Path) -> None:
    """Remove a temporary unless its writer holds its lock."""
    descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # no locks here
            if time.time() - os.fstat(descriptor).st_mtime < _ABANDONED_SECONDS:
                return
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def unwritable(what: object, problem: Exception) -> LoraTuiError:
    """Return the error to raise where `problem` kept `what`, a path or its name in a sentence, from being written."""
    said = getattr(problem, "strerror", None) or str(problem)
    code = getattr(problem, "errno", None) or next((code for code in _ADVICE if os.strerror(code) in said), 0)
    advice = _ADVICE.get(code)
    return LoraTuiError(f"{what} cannot be written: {said}" + (f"; {advice}." if advice else "."))


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
    if mode is None:
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else _PRIVATE
    # A short name of its own: the target's name plus a suffix could pass the 255 bytes that a file name may have.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        temporary = target.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        stream = os.fdopen(os.open(temporary, flags, _PRIVATE), "wb")
        if _lock(stream.fileno()):
            break
        stream.close()
    try:
        os.fchmod(stream.fileno(), mode)
    except OSError:
        stream.close()
        temporary.unlink()
        raise
    return temporary, stream


def _new_scratch(parent: Path) -> tuple[Path, int]:
    """Make an empty scratch folder in `parent`; returns it with the descriptor that holds its lock."""
    while True:
        scratch = parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        scratch.mkdir(mode=0o700)
        try:
            descriptor = os.open(scratch, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if _lock(descriptor):
            return scratch, descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a new temporary; returns False where another process has cleared it before it was locked."""
    with suppress(OSError):  # where there are no locks, age tells what is left over
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fstat(descriptor).st_nlink > 0


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
