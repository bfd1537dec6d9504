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
import itertools
import json
import logging
import os
import shlex
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiosqlite
import psutil

from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.outputs import check_name, protect
from lora_tui.store import damage
from lora_tui.store.damage import DAMAGED, StoreError, damaged_row, store_problem, tolerant
from lora_tui.store.schema import MIGRATIONS, VERSION
from lora_tui.text import file_size

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

sqlite3.register_converter("JSON", damage.decode_json)

log = logging.getLogger(__name__)

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
        self._file = _file_of(path)

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the store at `path`, creating it (mode 0600) or migrating it as needed.

        Raises `UsageError` where the path cannot hold a database, and `LoraTuiError` for a file from a newer version.
        """
        check_name(path, "The store")
        check_name(path.with_name(f"{path.name}-journal"), "The store's journal")
        for companion in ("", "-wal", "-shm", "-journal"):
            protect(path.with_name(path.name + companion), "the store" if not companion else "part of the store")
        _create_private(path)
        try:
            connection = await aiosqlite.connect(path, isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES)
        except sqlite3.Error as problem:
            raise _unusable(path, problem) from problem
        try:
            connection.row_factory = aiosqlite.Row
            connection.text_factory = partial(str, encoding="utf-8", errors="replace")
            await connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
            warning = await _choose_journal(connection, path)
            await connection.execute("PRAGMA synchronous=NORMAL")
            await connection.execute("PRAGMA foreign_keys=ON")
            await _migrate(connection, path)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as problem:
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

    async def is_elsewhere(self) -> bool:
        """Tell whether the file at the path is another one by now: it was removed, renamed or replaced."""
        try:
            file = await asyncio.to_thread(_file_of, self.path)
        except OSError:  # a network folder that does not answer for a moment
            return False
        if file is None:
            return True
        if file == self._file:
            return False
        # Some file systems give a file other numbers now and then: then both hold the same heartbeats.
        query = "SELECT id, heartbeat FROM runs ORDER BY id DESC LIMIT 5"
        try:
            async with aiosqlite.connect(f"{self.path.as_uri()}?mode=ro", uri=True) as there:
                if [tuple(row) for row in await there.execute_fetchall(query)] == await self.tuples(query):
                    self._file = file
                    return False
        except sqlite3.Error:
            log.info("what is at %s now is no store", self.path)
        return True

    async def rescue(self, command: str) -> str:
        """Save what a store that was removed or renamed holds; returns what became of it, and how to go on with it.

        `command` is the option to go on with. Never raises.
        """
        try:
            name = await asyncio.to_thread(self._name_now)
            # Busy where another connection still reads: what was written last then stays in the log of the old name.
            if name is not None and await self.value("PRAGMA wal_checkpoint(TRUNCATE)") == 0:
                what = f"The store {self.path} was renamed to {name} while it was written; all is there."
            else:
                name = await asyncio.to_thread(_free_name, self.path)
                async with aiosqlite.connect(name) as copied:
                    await self._connection.backup(copied)
                await asyncio.to_thread(name.chmod, 0o600)
                what = (
                    f"The store {self.path} was removed or renamed while it was written; all that it held is saved as "
                    f"{name}."
                )
        except (OSError, sqlite3.Error, LoraTuiError) as problem:
            log.exception("the store cannot be saved")
            return f"The store {self.path} was removed while it was written, and cannot be saved elsewhere: {problem}."
        return f"{what}\nGo on with: lora-tui {command} --store {shlex.quote(str(name))}"

    def _name_now(self) -> Path | None:
        """Return the path that the open file has now, where the system tells; None where it has none any more."""
        for descriptor in Path("/proc/self/fd").glob("*"):
            with suppress(OSError):
                stat, name = descriptor.stat(), descriptor.readlink()
                if (stat.st_dev, stat.st_ino) == self._file and name.exists() and _file_of(name) == self._file:
                    return name
        return None

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
                with self._explained():
                    await self._connection.execute("BEGIN IMMEDIATE")
                if self._check is not None:
                    await self._check(self)
                yield self
                with self._explained():
                    await self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself when the disk is full
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
            except (StoreError, sqlite3.OperationalError) as problem:
                reason = problem.__cause__ or problem
                raise LoraTuiError(
                    f"The store {self.path} cannot be compacted: {reason}. It is as it was; close what uses it, and "
                    f"see that the disk has {file_size(before)} free."
                ) from problem
        return before, _bytes(self.path)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise what SQLite cannot do inside the block as a `StoreError` with what to do."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as problem:
            if (explained := store_problem(self.path, problem)) is None:
                raise
            raise explained from problem

    async def execute(self, sql: str, parameters: Iterable[Any] = ()) -> int:
        """Run one statement; returns the last row id of an INSERT, else the number of rows changed."""
        with self._explained():
            async with self._connection.execute(tolerant(sql), _storable(parameters)) as cursor:
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
        with self._explained():
            await self._connection.executemany(sql, [_storable(row) for row in rows])

    async def all(self, row_type: type[Row], sql: str, parameters: Iterable[Any] = ()) -> list[Row]:
        """Return every row as `row_type`, a dataclass with fields named like the columns; damaged ones are left out."""
        names = [field.name for field in dataclasses.fields(row_type)]
        return [row_type(**{name: row[name] for name in names}) for row in await self._sound_rows(sql, parameters)]

    async def one(self, row_type: type[Row], sql: str, parameters: Iterable[Any] = ()) -> Row | None:
        """Return the first row as `row_type`, or None. Raises `StoreError` where that row is damaged."""
        rows = await self._rows(sql, parameters)
        if rows and any(value is DAMAGED for value in rows[0]):
            raise damaged_row(self.path, f"{row_type.__name__.lower()} {rows[0][0]}")
        names = [field.name for field in dataclasses.fields(row_type)]
        return row_type(**{name: rows[0][name] for name in names}) if rows else None

    async def value(self, sql: str, parameters: Iterable[Any] = ()) -> Any:
        """Return the first column of the first row, or None."""
        rows = await self._sound_rows(sql, parameters)
        return rows[0][0] if rows else None

    async def tuples(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Return every row as a plain tuple; damaged ones are left out."""
        return [tuple(row) for row in await self._sound_rows(sql, parameters)]

    async def mapping(self, sql: str, parameters: Iterable[Any] = ()) -> dict[Any, Any]:
        """Return the second column by the first."""
        return {row[0]: row[1] for row in await self._sound_rows(sql, parameters)}

    async def columns(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the columns of the result, each as a tuple over all rows; no columns where there are no rows."""
        return list(zip(*await self._sound_rows(sql, parameters), strict=True))

    async def _sound_rows(self, sql: str, parameters: Iterable[Any]) -> list[sqlite3.Row]:
        """Return the rows without those that hold a damaged cell; these are logged."""
        before = damage.damaged_cells
        rows = await self._rows(sql, parameters)
        if damage.damaged_cells == before:
            return rows
        sound = [row for row in rows if not any(value is DAMAGED for value in row)]
        if len(sound) < len(rows):
            log.warning("%d damaged rows of %s are left out: %s", len(rows) - len(sound), self.path, sql)
        return sound

    async def _rows(self, sql: str, parameters: Iterable[Any]) -> list[sqlite3.Row]:
        """Read a statement to its end in one go, so that none is ever open while other coroutines have their turn.

        A statement that is half read holds on to what it saw when it began. ``BEGIN IMMEDIATE`` on the same connection
        then fails at once, time-out or not, when another process has written since (SQLITE_BUSY_SNAPSHOT).
        """
        with self._explained():
            return list(await self._connection.execute_fetchall(tolerant(sql), _storable(parameters)))


def _file_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from others of any name: device and number; None where there is none."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


def _free_name(path: Path) -> Path:
    """Return an unused name beside `path` for what is saved of it; the folder is made where it has gone, too."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    numbered = (path.with_name(f"{path.stem}.rescued-{number}{path.suffix}") for number in itertools.count(1))
    return next(name for name in numbered if not name.exists())


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


def _unusable(path: Path, problem: sqlite3.Error | UnicodeDecodeError) -> LoraTuiError:
    explained = store_problem(path, problem)
    if explained is not None and getattr(problem, "sqlite_errorcode", 0) != sqlite3.SQLITE_NOTADB:
        return explained
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
