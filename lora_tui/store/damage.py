"""Damage, and what SQLite cannot do: one unreadable cell costs one row, and every failure has a message of its own.

Bits flip, disks fill, descriptors run out. A cell that is no JSON any more is read as `DAMAGED`, in queries it counts
as null, and text that is not UTF-8 keeps what can be read of it; so a list shows everything else. What keeps a file
from being read or written at all becomes a `StoreError`, which says what and what to do.
"""

import json
import re
import resource
import sqlite3
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from lora_tui.errors import LoraTuiError

DAMAGED: Final = object()
"""What stands for a cell that holds no JSON."""

damaged_cells = 0
"""Cells that could not be decoded so far, by any connection: whoever reads looks closer when it has risen."""

_JSON_COLUMN = re.compile(
    r"\bjson_(extract|type)\(((?:\w+\.)?(?:settings|options|result|payload|slot|metrics|written)),"
)


_DAMAGED_SCHEMA = re.compile(r"no such (table|column|index)|table \w+ has no column")


class StoreError(LoraTuiError):
    """The store cannot be read or written, or what it has of something is damaged."""


class LockedStoreError(StoreError):
    """Another program keeps the store locked: later it may not."""


def decode_json(text: bytes) -> Any:
    """Decode a cell that is declared as JSON; `DAMAGED` where it is none."""
    global damaged_cells
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        damaged_cells += 1
        return DAMAGED


@lru_cache(maxsize=1000)
def tolerant(sql: str) -> str:
    """Return a statement in which JSON that is damaged counts as null; SQLite's functions would refuse every row."""
    return _JSON_COLUMN.sub(r"json_\1(iif(json_valid(\2), \2, 'null'),", sql)


def damaged_row(path: Path, what: str) -> StoreError:
    """Return the error for one row that is needed and damaged; `what` names it: "run 3"."""
    return StoreError(
        f"The store {path} is damaged: what it has of {what} cannot be read. Delete it in the app (Runs), or bring the "
        "store back from a copy."
    )


def store_problem(path: Path, problem: sqlite3.Error | UnicodeDecodeError) -> StoreError | None:
    """Return what a failure of SQLite means to the user; None for a mistake of ours, such as a broken constraint."""
    code = getattr(problem, "sqlite_errorcode", None)
    if isinstance(problem, UnicodeDecodeError) or (
        isinstance(problem, sqlite3.OperationalError) and (code is None or _DAMAGED_SCHEMA.match(str(problem)))
    ):
        code = sqlite3.SQLITE_CORRUPT  # names of columns or tables that are no longer ours, or no text
    if code is None:
        return None
    match code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return StoreError(f"The disk of the store {path} is full. Free some space, then go on with --resume.")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreError(
                f"The store {path} is damaged ({problem}). Bring it back from a copy, name another with --store, or "
                f"save what can be read: sqlite3 {path} .recover"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LockedStoreError(
                f"Another program keeps the store {path} locked. Close it, then go on with --resume."
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return StoreError(f"The store {path} can no longer be written: {problem}. Give it back its permissions.")
        case sqlite3.SQLITE_CANTOPEN:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return StoreError(
                f"The store {path} cannot be opened: {problem}. Is its folder still there and writable, or are too few "
                f"files allowed (ulimit -n is {most})?"
            )
        case sqlite3.SQLITE_NOMEM:
            return StoreError(f"Memory ran out while the store {path} was read or written. Go on with --resume.")
        case sqlite3.SQLITE_IOERR:
            return StoreError(
                f"The store {path} cannot be read or written: {problem}. Check its disk (full, unplugged, broken?), "
                "then go on with --resume."
            )
    return None
