"""Results that take the place of a file: what this program wrote there last may go, anything else is kept as a copy.

The store remembers the SHA-256 of each result as it was written. A file that somebody has edited since, or that was
never ours, differs from it. A killed run may leave a result that is not remembered: it is copied once, and nothing is
lost.
"""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from lora_tui.files import sha256_of
from lora_tui.outputs import keep_older
from lora_tui.store import runs
from lora_tui.store.connection import Store


def absolute(path: str | Path) -> Path:
    """Return a path from the root on; ".." is resolved, links are not."""
    return Path(os.path.abspath(path))  # noqa: PTH100


async def keep_foreign(store: Store, path: Path, preferred: Iterable[Path] = ()) -> Path | None:
    """Copy the file at `path` unless it is what this program wrote there last; returns the copy.

    `preferred` are names for it, see `keep_older`. Raises `LoraTuiError` where it cannot be kept.
    """
    digest = await asyncio.to_thread(_digest, path)
    if digest is None or digest == await runs.result_digest(store, str(absolute(path))):
        return None
    return await asyncio.to_thread(keep_older, path, preferred)


async def is_own_result(store: Store, path: Path) -> bool:
    """Return whether the file at `path` is there, and as this program wrote it last."""
    digest = await asyncio.to_thread(_digest, path)
    return digest is not None and digest == await runs.result_digest(store, str(absolute(path)))


async def remember_result(t: Store, path: Path) -> None:
    """Note inside the caller's transaction that what is at `path` now is the program's own, or kept already."""
    digest = await asyncio.to_thread(_digest, path)
    if digest is not None:
        await runs.set_result_digest(t, str(absolute(path)), digest)


def _digest(path: Path) -> str | None:
    """Return the SHA-256 of a file's content; None where there is none, or nothing in it."""
    try:
        if not path.is_file() or path.stat().st_size == 0:
            return None
        return sha256_of(path)
    except OSError:  # it cannot be read: writing it will say why
        return None
