"""Opening a store file: private to its user, with the journal that works where it lies, and in the newest schema.

WAL needs shared memory between the processes of one host. Where it cannot work (network file systems, some containers)
the file falls back to the TRUNCATE journal and is slower.
"""

import asyncio
import errno
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

import aiosqlite
import psutil

from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.store.schema import MIGRATIONS, VERSION

_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "afs", "lustre", "gpfs", "beegfs", "fuse.sshfs", "9p", "ceph")
BUSY_TIMEOUT_MS = 10_000
"""How long a statement waits for another process's transaction."""


def create_private(path: Path) -> None:
    """Create the file with mode 0600 if it is missing, and take other users' access away if it is there.

    A file that exists is not opened here: closing it would drop the POSIX locks that this process's other connections
    hold on it, and another process could then delete the write-ahead log under them.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        elif path.is_dir() or not os.access(path, os.R_OK | os.W_OK):
            reason = errno.EISDIR if path.is_dir() else errno.EACCES
            raise OSError(reason, os.strerror(reason))
        elif path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as problem:
        raise UsageError(
            f"The store {path} cannot be opened for writing: {problem.strerror}. Name another file with --store."
        ) from problem


async def choose_journal(connection: aiosqlite.Connection, path: Path) -> str | None:
    """Switch to WAL where it works; return the warning to show where it does not."""
    reason = "it is on a network file system" if _on_network(path) else await _switch_to_wal(connection)
    if reason is None:
        return None
    await connection.execute("PRAGMA journal_mode=TRUNCATE")
    return f"The store {path} uses the slower TRUNCATE journal instead of WAL: {reason}."


async def _switch_to_wal(connection: aiosqlite.Connection) -> str | None:
    """Switch to WAL; return None, or why it does not work here.

    The switch needs the file for a moment, and SQLite does not wait for that with its busy time-out: where others open
    the same new file, it is tried again until one of them has done it.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            async with connection.execute("PRAGMA journal_mode=WAL") as cursor:
                row = await cursor.fetchone()
        except sqlite3.OperationalError as problem:
            busy = problem.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > deadline:
                return str(problem)
            await asyncio.sleep(0.02)
            continue
        return None if row is not None and row[0] == "wal" else "this file system does not support it"


def _on_network(path: Path) -> bool:
    """Return whether the longest mount point above `path` is a network file system."""
    resolved = path.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if resolved.is_relative_to(part.mountpoint)]
    nearest = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return nearest is not None and nearest.fstype.startswith(_NETWORK_FILE_SYSTEMS)


async def migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Bring the file to `VERSION`, one migration a transaction, safe against a second process doing the same."""
    while (version := await _version(connection)) != VERSION:
        if version > VERSION:
            raise LoraTuiError(
                f"The store {path} was written by a newer lora-tui (schema {version}, this one knows {VERSION}). "
                "Upgrade lora-tui, or name another file with --store."
            )
        await connection.execute("BEGIN IMMEDIATE")
        try:
            if await _version(connection) == version:
                for statement in _statements(MIGRATIONS[version]):
                    await connection.execute(statement)
                await connection.execute(f"PRAGMA user_version={version + 1}")
        except BaseException:
            await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")


async def _version(connection: aiosqlite.Connection) -> int:
    async with connection.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


def _statements(script: str) -> Iterable[str]:
    """Split a script into its statements (`executescript` would commit the open transaction)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
