"""Connection to the store file: opening, migrations, transactions, and rows as dataclasses.

Each side of the program (engine, command line, app) opens the file for itself. Writes go through `Store.transaction`,
which serialises the coroutines of one side with a lock and the processes with ``BEGIN IMMEDIATE``: a read transaction
that upgrades to a write can fail with SQLITE_BUSY in spite of the time-out.

WAL needs shared memory between the processes of one host. Where it cannot work (network file systems, some containers)
the file falls back to the TRUNCATE journal and `Store.warning` says so.
"""

import asyncio
import copy
import dataclasses
import errno
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiosqlite
import psutil

from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.store.schema import MIGRATIONS, VERSION
from lora_tui.text import file_size

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

sqlite3.register_converter("JSON", json.loads)

_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "afs", "lustre", "gpfs", "beegfs", "fuse.sshfs", "9p", "ceph")
_BUSY_TIMEOUT_MS = 10_000

Row = TypeVar("Row", bound="DataclassInstance")


class Store:
    """One open connection to the store file."""

    def __init__(self, connection: aiosqlite.Connection, path: Path, warning: str | None) -> None:
        self._connection = connection
        self._writing = asyncio.Lock()
        self._check: Callable[[Store], Awaitable[None]] | None = None
        self.path = path
        self.warning = warning

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the store at `path`, creating it (mode 0600) or migrating it as needed.

        Raises `UsageError` where the path cannot hold a database, and `LoraTuiError` for a file from a newer version.
        """
        _create_private(path)
        try:
            connection = await aiosqlite.connect(path, isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES)
        except sqlite3.Error as problem:
            raise _unusable(path, problem) from problem
        try:
            connection.row_factory = aiosqlite.Row
            await connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
            warning = await _choose_journal(connection, path)
            await connection.execute("PRAGMA synchronous=NORMAL")
            await connection.execute("PRAGMA foreign_keys=ON")
            await _migrate(connection, path)
        except sqlite3.DatabaseError as problem:
            await connection.close()
            raise _unusable(path, problem) from problem
        except BaseException:
            await connection.close()
            raise
        return cls(connection, path, warning)

    def checked_by(self, check: Callable[["Store"], Awaitable[None]]) -> "Store":
        """Return this connection with a check at the beginning of every transaction; what it raises ends that."""
        checked = copy.copy(self)
        checked._check = check
        return checked

    async def close(self) -> None:
        """Close the connection; its thread ends with it."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Store"]:
        """Run the block as one transaction: committed at its end, rolled back when it raises."""
        async with self._writing:
            try:
                # A coroutine that is cancelled here has begun all the same: the connection's thread executes what was
                # sent, whether anyone still waits or not. Rolling back is harmless where nothing was begun.
                await self._connection.execute("BEGIN IMMEDIATE")
                if self._check is not None:
                    await self._check(self)
                yield self
                await self._connection.execute("COMMIT")
            except BaseException:
                await self._connection.rollback()
                raise

    async def compact(self) -> tuple[int, int]:
        """Give the space of what was deleted back to the disk; returns the bytes of all files before and after.

        Nobody else may use the store meanwhile. Raises `LoraTuiError` where one does, or where the disk has no room for
        the copy that SQLite makes.
        """
        before = _bytes(self.path)
        async with self._writing:
            try:
                for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                    await self._rows(statement, ())
            except sqlite3.OperationalError as problem:
                raise LoraTuiError(
                    f"The store {self.path} cannot be compacted: {problem}. It is as it was; close what uses it, and "
                    f"see that the disk has {file_size(before)} free."
                ) from problem
        return before, _bytes(self.path)

    async def execute(self, sql: str, parameters: Iterable[Any] = ()) -> int:
        """Run one statement; returns the last row id of an INSERT, else the number of rows changed."""
        async with self._connection.execute(sql, _storable(parameters)) as cursor:
            return (cursor.lastrowid or 0) if sql.lstrip()[:6].upper() == "INSERT" else cursor.rowcount

    async def insert(self, table: str, /, *, otherwise: str = "", **columns: Any) -> int:
        """Insert one row, dicts and lists as JSON; returns its id.

        `otherwise` is what becomes of a row that is there already: ``OR REPLACE``, ``OR IGNORE``, or an error.
        """
        values = [to_json(value) if isinstance(value, dict | list | tuple) else value for value in columns.values()]
        marks = ", ".join("?" * len(columns))
        return await self.execute(f"INSERT {otherwise} INTO {table}({', '.join(columns)}) VALUES ({marks})", values)

    async def execute_many(self, sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """Run one statement for each row of parameters."""
        await self._connection.executemany(sql, [_storable(row) for row in rows])

    async def all(self, row_type: type[Row], sql: str, parameters: Iterable[Any] = ()) -> list[Row]:
        """Return every row as `row_type`, a dataclass whose fields are named like the columns."""
        names = [field.name for field in dataclasses.fields(row_type)]
        return [row_type(**{name: row[name] for name in names}) for row in await self._rows(sql, parameters)]

    async def one(self, row_type: type[Row], sql: str, parameters: Iterable[Any] = ()) -> Row | None:
        """Return the first row as `row_type`, or None."""
        rows = await self.all(row_type, sql, parameters)
        return rows[0] if rows else None

    async def value(self, sql: str, parameters: Iterable[Any] = ()) -> Any:
        """Return the first column of the first row, or None."""
        rows = await self._rows(sql, parameters)
        return rows[0][0] if rows else None

    async def tuples(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Return every row as a plain tuple."""
        return [tuple(row) for row in await self._rows(sql, parameters)]

    async def mapping(self, sql: str, parameters: Iterable[Any] = ()) -> dict[Any, Any]:
        """Return the second column by the first."""
        return {row[0]: row[1] for row in await self._rows(sql, parameters)}

    async def columns(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the columns of the result, each as a tuple over all rows; no columns where there are no rows."""
        return list(zip(*await self._rows(sql, parameters), strict=True))

    async def _rows(self, sql: str, parameters: Iterable[Any]) -> list[sqlite3.Row]:
        """Read a statement to its end in one go, so that none is ever open while other coroutines have their turn.

        A statement that is half read holds on to what it saw when it began. ``BEGIN IMMEDIATE`` on the same connection
        then fails at once, time-out or not, when another process has written since (SQLITE_BUSY_SNAPSHOT).
        """
        return list(await self._connection.execute_fetchall(sql, _storable(parameters)))


def to_json(value: object) -> str:
    """Return `value` as the store writes it: JSON without NaN, which SQLite's JSON functions refuse."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _storable(parameters: Iterable[Any]) -> tuple[Any, ...]:
    """Replace lone surrogates, which SQLite's UTF-8 cannot hold, in the text among the parameters."""
    return tuple(
        value.encode(errors="replace").decode() if isinstance(value, str) and not value.isascii() else value
        for value in parameters
    )


def _bytes(path: Path) -> int:
    """Bytes of the store's files: the database and its write-ahead log."""
    return sum(part.stat().st_size for part in (path, path.with_name(f"{path.name}-wal")) if part.exists())


def _unusable(path: Path, problem: sqlite3.Error) -> UsageError:
    return UsageError(f"{path} cannot be used as the store: {problem}. Name another file with --store.")


def _create_private(path: Path) -> None:
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


async def _choose_journal(connection: aiosqlite.Connection, path: Path) -> str | None:
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
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
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


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
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
