"""Queries on events and commands: the log of what happened in a run, and the queue of what watchers ask of it.

Readers keep a cursor, the id of the last event they have seen, and ask for what came after it. That query is an index
look-up (`events_of_run`), so its cost does not grow with the length of the run or the number of runs.
"""

import time
from collections.abc import Sequence
from typing import Any

from lora_tui.store import training
from lora_tui.store.connection import Store
from lora_tui.store.rows import Command, Event
from lora_tui.store.values import to_json

NewEvent = tuple[float, str, dict[str, Any]]
"""Time, kind and payload of an event that is not stored yet."""

SINCE = "SELECT * FROM events WHERE run_id=? AND id>? ORDER BY id LIMIT ?"
"""Rows of a run after a cursor: run id, cursor, most rows."""


async def append(store: Store, run_id: int, news: Sequence[NewEvent]) -> None:
    """Insert events and the typed rows that follow from them, in one transaction."""
    async with store.transaction() as t:
        await insert(t, run_id, news)


async def insert(t: Store, run_id: int, news: Sequence[NewEvent]) -> None:
    """Insert events and the typed rows that follow from them, inside the caller's transaction."""
    await t.execute_many(
        "INSERT INTO events(run_id, at, kind, payload) VALUES (?, ?, ?, ?)",
        [(run_id, at, kind, to_json(payload)) for at, kind, payload in news],
    )
    for at, kind, payload in news:
        await training.insert_typed_rows(t, run_id, at, kind, payload)


async def since(store: Store, run_id: int, cursor: int, limit: int = 1000) -> list[Event]:
    """Return up to `limit` events of a run with an id above `cursor`, in order."""
    return await store.all(Event, SINCE, (run_id, cursor, limit))


async def last_id(store: Store, run_id: int) -> int:
    """Return the cursor that skips everything that has happened so far."""
    return int(await store.value("SELECT COALESCE(MAX(id), 0) FROM events WHERE run_id=?", (run_id,)))


async def send_command(store: Store, run_id: int, kind: str, payload: dict[str, Any] | None = None) -> int:
    """Queue a command for the process that owns a run; returns the command's id."""
    async with store.transaction() as t:
        return await add_command(t, run_id, kind, payload)


async def add_command(t: Store, run_id: int, kind: str, payload: dict[str, Any] | None = None) -> int:
    """Queue a command as `send_command` does, inside the caller's transaction."""
    return await t.insert("commands", run_id=run_id, kind=kind, payload=payload or {}, created_at=time.time())


async def open_commands(store: Store, run_id: int) -> list[Command]:
    """Return the commands of a run that its owner has not answered yet, oldest first."""
    return await store.all(
        Command,
        "SELECT id, run_id, kind, payload FROM commands WHERE run_id=? AND done_at IS NULL ORDER BY id",
        (run_id,),
    )


async def answer_command(store: Store, command_id: int, outcome: str) -> None:
    """Close a command with an answer, "done" where it was carried out."""
    async with store.transaction() as t:
        await t.execute("UPDATE commands SET done_at=?, outcome=? WHERE id=?", (time.time(), outcome, command_id))
