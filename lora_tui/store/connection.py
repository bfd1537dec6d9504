"""Connection to the store file: opening, migrations, transactions, and rows as dataclasses.

Each side of the program (engine, command line, app) opens the file for itself. Writes go through `Store.transaction`,
which serialises the coroutines of one side with a lock and the processes with ``BEGIN IMMEDIATE``: a read transaction
that upgrades to a write can fail with SQLITE_BUSY in spite of the time-out.

A statement costs a change of threads, about 0.1 ms of processor time. Where hundreds of calls a second begin and end,
`Store.together` runs all that one of them has to do in the connection's thread, and what waits meanwhile in the same
transaction.
"""

import asyncio
import copy
import itertools
import logging
import shlex
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiosqlite

from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.outputs import check_name, protect
from lora_tui.store import damage, opening
from lora_tui.store.batches import Batches, run_to_end
from lora_tui.store.damage import DAMAGED, StoreError, damaged_row, store_problem, tolerant
from lora_tui.store.values import fields_of, storable, to_json
from lora_tui.text import file_size

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

sqlite3.register_converter("JSON", damage.decode_json)

log = logging.getLogger(__name__)

_FAILURES = (sqlite3.Error, UnicodeDecodeError)

Row = TypeVar("Row", bound="DataclassInstance")
T = TypeVar("T")


class Store:
    """One open connection to the store file."""

    def __init__(self, connection: aiosqlite.Connection, path: Path, warning: str | None) -> None:
        self._connection = connection
        self._writing = asyncio.Lock()
        self._batches = Batches(self._run_together)
        self._reads = Batches(self._read_all)
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
        opening.create_private(path)
        try:
            connection = await aiosqlite.connect(path, isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES)
        except sqlite3.Error as problem:
            raise _unusable(path, problem) from problem
        try:
            connection.row_factory = aiosqlite.Row
            connection.text_factory = partial(str, encoding="utf-8", errors="replace")
            await connection.execute(f"PRAGMA busy_timeout={opening.BUSY_TIMEOUT_MS}")
            warning = await opening.choose_journal(connection, path)
            await connection.execute("PRAGMA synchronous=NORMAL")
            await connection.execute("PRAGMA foreign_keys=ON")
            await opening.migrate(connection, path)
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
        checked._batches = Batches(checked._run_together)
        checked._reads = Batches(checked._read_all)
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

    async def together(self, work: Callable[["Store"], Awaitable[T]]) -> T:
        """Run `work` inside a transaction, together with what others have to do at the moment.

        Each is whole or not at all: what one raises undoes its own statements alone. `work` runs in the connection's
        thread, so it may wait for nothing but the store that it is given, and touches nothing that the loop changes.
        """
        result: T = await self._batches.run(work)
        return result

    async def read_together(self, work: Callable[["Store"], Awaitable[T]]) -> T:
        """Run several reads with one change of threads, and what others read at the moment.

        What is said of `work` in `together` holds here.
        """
        result: T = await self._reads.run(work)
        return result

    async def _read_all(self, works: Sequence[Callable[["Store"], Awaitable[Any]]]) -> list[Any]:
        """Run works that read; returns what each returned, or the exception that it raised."""

        def run(direct: "Store") -> list[Any]:
            outcomes = list[Any]()
            for work in works:
                try:
                    outcomes.append(run_to_end(work(direct)))
                except Exception as problem:  # noqa: BLE001  # whose it is will raise it
                    outcomes.append(problem)
            return outcomes

        return await self._in_thread(run)

    async def _run_together(self, works: Sequence[Callable[["Store"], Awaitable[Any]]]) -> list[Any]:
        """Run works as one transaction; returns what each returned, or the exception that it raised."""

        def run(direct: "Store") -> list[Any]:
            raw, outcomes = self._connection._conn, list[Any]()
            with self._explained():
                raw.execute("BEGIN IMMEDIATE")
            try:
                if self._check is not None:
                    run_to_end(self._check(direct))
                for work in works:
                    raw.execute("SAVEPOINT one")
                    try:
                        outcomes.append(run_to_end(work(direct)))
                    except Exception as problem:  # whose it is will raise it
                        if not raw.in_transaction:  # a full disk: SQLite has undone all of it by itself
                            with self._explained():
                                raise
                        outcomes.append(problem)
                        raw.execute("ROLLBACK TO one")
                    raw.execute("RELEASE one")
                with self._explained():
                    raw.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    raw.rollback()
                raise
            return outcomes

        async with self._writing:
            return await self._in_thread(run)

    async def _in_thread(self, work: Callable[["Store"], T]) -> T:
        result: T = await self._connection._execute(lambda: work(_DirectStore(self)))  # type: ignore[no-untyped-call]
        return result

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
        except _FAILURES as problem:
            self._raise_explained(problem)
            raise

    def _raise_explained(self, problem: sqlite3.Error | UnicodeDecodeError) -> None:
        """Raise what SQLite cannot do as a `StoreError`; a mistake of ours has none."""
        if (explained := store_problem(self.path, problem)) is not None:
            raise explained from problem

    async def execute(self, sql: str, parameters: Iterable[Any] = ()) -> int:
        """Run one statement; returns the last row id of an INSERT, else the number of rows changed."""
        with self._explained():
            async with self._connection.execute(tolerant(sql), storable(parameters)) as cursor:
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
            await self._connection.executemany(sql, [storable(row) for row in rows])

    async def all(self, row_type: type[Row], sql: str, parameters: Iterable[Any] = ()) -> list[Row]:
        """Return every row as `row_type`, a dataclass with fields named like the columns; damaged ones are left out."""
        rows = await self._sound_rows(sql, parameters)
        fields = fields_of(row_type, tuple(rows[0].keys())) if rows else None
        return [row_type(*fields(row)) for row in rows] if fields is not None else []

    async def one(self, row_type: type[Row], sql: str, parameters: Iterable[Any] = ()) -> Row | None:
        """Return the first row as `row_type`, or None. Raises `StoreError` where that row is damaged."""
        rows = await self._rows(sql, parameters)
        if rows and any(value is DAMAGED for value in rows[0]):
            raise damaged_row(self.path, f"{row_type.__name__.lower()} {rows[0][0]}")
        return row_type(*fields_of(row_type, tuple(rows[0].keys()))(rows[0])) if rows else None

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
            return list(await self._connection.execute_fetchall(tolerant(sql), storable(parameters)))


class _DirectStore(Store):
    """The store in the connection's own thread: its coroutines never wait."""

    def __init__(self, store: Store) -> None:
        self.__dict__.update(store.__dict__)
        self._raw: sqlite3.Connection = store._connection._conn

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Store]:
        """Refused: it is inside one, or only reads."""
        raise AssertionError("a transaction inside another")
        yield self

    async def execute(self, sql: str, parameters: Iterable[Any] = ()) -> int:
        """Run one statement."""
        try:
            cursor = self._raw.execute(tolerant(sql), storable(parameters))
        except _FAILURES as problem:
            self._raise_explained(problem)
            raise
        return (cursor.lastrowid or 0) if sql.lstrip()[:6].upper() == "INSERT" else cursor.rowcount

    async def execute_many(self, sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """Run one statement for each row of parameters."""
        try:
            self._raw.executemany(sql, [storable(row) for row in rows])
        except _FAILURES as problem:
            self._raise_explained(problem)
            raise

    async def _rows(self, sql: str, parameters: Iterable[Any]) -> list[sqlite3.Row]:
        try:
            return self._raw.execute(tolerant(sql), storable(parameters)).fetchall()
        except _FAILURES as problem:
            self._raise_explained(problem)
            raise


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


def _bytes(path: Path) -> int:
    """Bytes of the store's files: the database and its write-ahead log."""
    return sum(part.stat().st_size for part in (path, path.with_name(f"{path.name}-wal")) if part.exists())


def _unusable(path: Path, problem: sqlite3.Error | UnicodeDecodeError) -> LoraTuiError:
    explained = store_problem(path, problem)
    if explained is not None and getattr(problem, "sqlite_errorcode", 0) != sqlite3.SQLITE_NOTADB:
        return explained
    return UsageError(f"{path} cannot be used as the store: {problem}. Name another file with --store.")
