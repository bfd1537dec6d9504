"""The queue: runs that wait for their turn, in an order that people may change, and the groups of a sweep's.

A queued run is a row of ``runs`` in the state ``waiting``, with its settings as they were when it was added, and a row
of ``queue``. The states of the run say what is left to do, so that nothing can be forgotten between two writes: it is
worked when it waits, when its process was lost after the queue had begun it (``interrupted``), and when the process
that works the queue stopped it in order to leave (``stopped``, with `goes_on`). Whoever takes one becomes its owner in
the same transaction, which one process alone can do: each runs exactly once.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.owner import new_token, this_process
from lora_tui.store.rows import LIVE_STATES, RESUMABLE_MODES, TRAINING_MODES, WAITING
from lora_tui.store.runs import RESUMES, still_beats

ALL_DEVICES = "all"
"""The device of a run that is divided among all that the machine has."""

MOST_TRIES = 3
"""Times that a run is begun without getting any further before the queue gives it up: what kills it is the run."""

_LIVE = ", ".join(f"'{state}'" for state in LIVE_STATES)

TO_DO = "(state = 'waiting' OR (state = 'interrupted' AND begun) OR (state = 'stopped' AND goes_on))"
"""SQL: whether a run, joined with its row of ``queue``, is still to be worked."""

_PROGRESS = (
    "(SELECT COUNT(*) FROM steps WHERE run_id = runs.id)"
    " + (SELECT COUNT(*) FROM tasks WHERE run_id = runs.id AND state = 'done')"
)

_ENTRIES = f"""
SELECT runs.id AS run_id, CAST(mode AS TEXT) AS mode, CAST(state AS TEXT) AS state,
    CAST(COALESCE(json_extract(settings, '$.fine_tuning.device'), 'auto') AS TEXT) AS device,
    CAST(COALESCE(json_extract(settings, '$.fine_tuning.parallel'), 'none') AS TEXT) AS parallel,
    CAST(COALESCE(json_extract(settings, '$.data_generation.model'), '') AS TEXT) AS writer,
    group_id, queue.folder, tries, {_PROGRESS} > progress AS progressed
FROM queue JOIN runs ON runs.id = run_id WHERE {TO_DO} ORDER BY position, runs.id"""

_COMPUTING = ", ".join(f"'{mode}'" for mode in (*TRAINING_MODES, "evaluate", "export", "probe"))

_BUSY = f"""
SELECT runs.id AS run_id, COALESCE(NULLIF(queue.device, ''), runs.device) AS device
FROM runs LEFT JOIN queue ON run_id = runs.id
WHERE state IN ({_LIVE}) AND (mode IN ({_COMPUTING})
    OR (mode = 'generate' AND json_extract(settings, '$.data_generation.model') = 'builtin'))"""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A run that is still to be worked. `device`, `parallel` and `writer` are as its settings have them, `folder` is
    where its relative paths begin, `tries` are beginnings since it last got further.
    """

    run_id: int
    mode: str
    state: str
    device: str
    parallel: str
    writer: str
    group_id: int | None
    folder: str
    tries: int
    progressed: bool


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that were added together; `plan` says what they were added for."""

    id: int
    kind: str
    plan: dict[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True)
class BusyDevice:
    """A live run that computes on this machine or another; `device` is None as long as it has not said where."""

    run_id: int
    device: str | None


async def add(
    t: Store,
    mode: str,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    written: Collection[str] | None,
    *,
    folder: Path,
    group_id: int | None = None,
    point: Mapping[str, Any] | None = None,
) -> int:
    """Add a run behind the others, inside the caller's transaction; returns its id. `settings` must hold no key."""
    now = time.time()
    run_id = await t.insert(
        "runs",
        mode=mode,
        state=WAITING,
        **this_process(),
        settings=dict(settings),
        options=dict(options),
        created_at=now,
        heartbeat=now,
        written=None if written is None else sorted(written),
    )
    last = await t.value("SELECT MAX(position) FROM queue")
    await t.insert(
        "queue",
        run_id=run_id,
        position=float(last or 0) + 1,
        group_id=group_id,
        point=dict(point or {}),
        folder=str(folder),
        added_at=now,
    )
    return run_id


async def add_group(t: Store, kind: str, plan: Mapping[str, Any]) -> int:
    """Add a group, inside the caller's transaction; returns its id."""
    return await t.insert("run_groups", kind=kind, plan=dict(plan), created_at=time.time())


async def group(store: Store, group_id: int) -> RunGroup | None:
    """Return a group, or None."""
    return await store.one(RunGroup, "SELECT * FROM run_groups WHERE id=?", (group_id,))


async def entries(store: Store) -> list[QueueEntry]:
    """Return the runs that are still to be worked, in order."""
    return await store.all(QueueEntry, _ENTRIES)


async def busy(t: Store) -> list[BusyDevice]:
    """Return the live runs that compute: those that train or evaluate, and those whose writer is the built-in model.

    Whoever asks has marked those whose owner is gone (`lora_tui.store.runs.mark_interrupted`).
    """
    return await t.all(BusyDevice, _BUSY)


def in_the_way(taken: str | None, device: str) -> bool:
    """Tell whether a run on `taken` keeps another from `device`; None: it has not said where it computes."""
    return taken in (None, device, ALL_DEVICES) or device == ALL_DEVICES


async def take(store: Store, entry: QueueEntry, device: str, token: str | None = None) -> bool:
    """Make this process the owner of a run of the queue, on `device` (empty: it needs none).

    False where it is no longer as `entry` says, where a run computes on that device, or where its owner turns out to
    live. `token` is that of `lora_tui.store.runs.owned_by`.
    """
    if entry.state == "interrupted" and await still_beats(store, entry.run_id):
        return False
    columns = this_process() | {"owner": token or new_token(), "heartbeat": time.time()}
    async with store.transaction() as t:
        if device and any(in_the_way(other.device, device) for other in await busy(t)):
            return False
        taken = await t.execute(
            f"UPDATE runs SET {RESUMES}, {'=?, '.join(columns)}=?"
            f" WHERE id=? AND state=? AND EXISTS (SELECT 1 FROM queue WHERE run_id = runs.id AND {TO_DO})",
            (columns["heartbeat"], *columns.values(), entry.run_id, entry.state),
        )
        if not taken:
            return False
        tries = 1 if entry.progressed else entry.tries + 1
        await t.execute(
            "UPDATE queue SET begun=1, goes_on=0, device=?, tries=?, progress=(SELECT"
            f" {_PROGRESS} FROM runs WHERE id=?) WHERE run_id=?",
            (device, tries, entry.run_id, entry.run_id),
        )
        await t.execute(
            "UPDATE commands SET done_at=?, outcome='dropped' WHERE run_id=? AND done_at IS NULL",
            (time.time(), entry.run_id),
        )
        if entry.mode not in RESUMABLE_MODES:  # it begins anew: what it had found is found again
            await t.execute("DELETE FROM evaluations WHERE run_id=?", (entry.run_id,))
    return True


async def give_up(store: Store, entry: QueueEntry, error: str) -> bool:
    """End a run of the queue as failed without beginning it; False where it is no longer as `entry` says."""
    async with store.transaction() as t:
        return bool(
            await t.execute(
                "UPDATE runs SET state='failed', error=?, ended_at=? WHERE id=? AND state=?",
                (error, time.time(), entry.run_id, entry.state),
            )
        )


async def go_on_later(store: Store, run_id: int) -> None:
    """Note that a run is stopped only because the process that works the queue leaves: the next one goes on with it."""
    async with store.transaction() as t:
        await t.execute("UPDATE queue SET goes_on=1 WHERE run_id=?", (run_id,))


async def remove(t: Store, run_id: int) -> bool:
    """Take a run out of the queue, inside the caller's transaction; False where it is not in it, or has begun.

    One that never began is deleted: there is nothing of it but its settings. Another keeps what it has done.
    """
    if await t.execute("DELETE FROM runs WHERE id=? AND state=?", (run_id, WAITING)):
        return True
    return bool(
        await t.execute(
            f"UPDATE queue SET begun=0, goes_on=0 WHERE run_id IN (SELECT id FROM runs WHERE id=? AND {TO_DO})",
            (run_id,),
        )
    )


async def move(t: Store, run_id: int, by: int) -> bool:
    """Move a run by one place towards the front (`by` < 0) or the end, inside the caller's transaction."""
    order = await t.tuples(
        f"SELECT run_id, position FROM queue JOIN runs ON runs.id = run_id WHERE {TO_DO} ORDER BY position, run_id"
    )
    places = [int(found) for found, _ in order]
    if run_id not in places:
        return False
    here = places.index(run_id)
    there = here + (1 if by > 0 else -1)
    if not 0 <= there < len(places):
        return False
    for moved, position in ((places[here], order[there][1]), (places[there], order[here][1])):
        await t.execute("UPDATE queue SET position=? WHERE run_id=?", (position, moved))
    return True
