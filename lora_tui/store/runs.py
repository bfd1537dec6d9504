"""Queries on runs: their life cycle, their owner's heartbeat, and the lock of a training device.

    queued -> running -> stopping -> finished | stopped | failed | interrupted

Before them comes ``waiting``, for a run of the queue (`lora_tui.store.queue`) that nobody has begun.
The owner is the process that works on the run (`lora_tui.store.owner`). A run whose owner is gone is marked
`interrupted` by the next process that looks (`mark_interrupted`), and can then be resumed by any. Whoever owns a run
has a token, and writes through `owned_by`: once another process has taken the run over, nothing of the former owner
reaches it any more.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.owner import LostRunError, OwnerRow, may_beat, new_token, owner_alive, this_process
from lora_tui.store.rows import LIVE_STATES, RESUMABLE_STATES, Run
from lora_tui.store.values import to_json

HEARTBEAT_SECONDS = 2.0
"""How often an owner renews its heartbeat."""

_WATCHED_BEATS = 3
"""Heartbeats without news after which a run of another machine that was marked as interrupted may be taken over."""

_LIVE = ", ".join(f"'{state}'" for state in LIVE_STATES)

_OWNER_COLUMNS = (  # of their types, whatever a damaged row holds
    "id, CAST(pid AS INTEGER) AS pid, CAST(pid_started AS REAL) AS pid_started, CAST(host AS TEXT) AS host,"
    " CAST(heartbeat AS REAL) AS heartbeat, CAST(ticks AS INTEGER) AS ticks, place"
)

RESUMES = (
    "state='queued', error=NULL, result=NULL, ended_at=NULL,"
    " idle_seconds=idle_seconds + CASE WHEN started_at IS NULL THEN 0"
    " ELSE MAX(0, ?1 - COALESCE(ended_at, heartbeat)) END"
)
"""What an ``UPDATE`` sets in a run that goes on, or begins, at the time ``?1``: it was idle since it ended."""

_PASSED_OVER = 20
"""Damaged runs that a search for the newest one passes over, at most."""


async def create(
    store: Store,
    mode: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    written: Collection[str] | None = None,
    token: str | None = None,
) -> int:
    """Add a run in state ``queued`` that this process owns; returns its id. `settings` must hold no key.

    `written` are the dotted keys of them that somebody wrote, None for all; `token` is that of `owned_by`.
    """
    now = time.time()
    async with store.transaction() as t:
        columns = this_process() | {
            "owner": token or new_token(),
            "settings": settings,
            "options": options,
            "created_at": now,
            "heartbeat": now,
        }
        columns["written"] = None if written is None else sorted(written)
        return await t.insert("runs", mode=mode, state="queued", **columns)


async def set_settings(store: Store, run_id: int, settings: dict[str, Any], written: Collection[str]) -> None:
    """Replace a run's settings by those that were chosen for it; `written` is as in `create`."""
    async with store.transaction() as t:
        await t.execute(
            "UPDATE runs SET settings=?, written=? WHERE id=?", (to_json(settings), to_json(sorted(written)), run_id)
        )


async def set_options(store: Store, run_id: int, options: dict[str, Any]) -> None:
    """Replace what a run was started with beside its settings, as it goes on with it."""
    async with store.transaction() as t:
        await t.execute("UPDATE runs SET options=? WHERE id=?", (to_json(options), run_id))


async def take_over(store: Store, run_id: int, token: str | None = None) -> bool:
    """Make this process the owner of a run that is to be resumed; returns False when a live process has it.

    `token` is that of `owned_by`. A run of another machine that was marked as interrupted is watched for some seconds
    first: its owner may live, and only its heartbeat can show it.
    """
    if await still_beats(store, run_id):
        return False
    columns = this_process() | {"owner": token or new_token(), "heartbeat": time.time()}
    async with store.transaction() as t:
        taken = await t.execute(
            f"UPDATE runs SET {RESUMES}, {'=?, '.join(columns)}=? WHERE id=? AND state NOT IN ({_LIVE})",
            (columns["heartbeat"], *columns.values(), run_id),
        )
        if taken:  # who goes on with a run of the queue by hand says where, and whoever stops it then means it
            await t.execute("UPDATE queue SET goes_on=0, device='' WHERE run_id=?", (run_id,))
            await t.execute(
                "UPDATE commands SET done_at=?, outcome='dropped' WHERE run_id=? AND done_at IS NULL",
                (time.time(), run_id),
            )
    return taken == 1


async def still_beats(store: Store, run_id: int) -> bool:
    """Watch an interrupted run that may live elsewhere; returns whether its owner has renewed the heartbeat."""

    async def look() -> OwnerRow | None:
        return await store.one(
            OwnerRow, f"SELECT {_OWNER_COLUMNS} FROM runs WHERE id=? AND state='interrupted'", (run_id,)
        )

    first = await look()
    if first is None or not may_beat(first):
        return False
    await asyncio.sleep(_WATCHED_BEATS * HEARTBEAT_SECONDS)
    now = await look()
    return now is None or now.heartbeat != first.heartbeat


def owned_by(store: Store, run_id: int, token: str) -> Store:
    """Return the store as the owner of a run writes to it: every transaction is refused once another owns the run.

    Refused with `LostRunError`, before anything of it is written.
    """

    async def check(t: Store) -> None:
        rows = await t.tuples("SELECT owner, pid, host FROM runs WHERE id=?", (run_id,))
        if not rows:
            raise LostRunError(f"Run {run_id} was deleted while it worked; it has ended, and nothing more is stored.")
        owner, pid, host = rows[0]
        if owner != token:
            raise LostRunError(
                f"Run {run_id} was taken over by process {pid} on {host}: it goes on there, and has ended here. "
                f"Watch it with --attach {run_id}."
            )

    return store.checked_by(check)


async def start(store: Store, run_id: int) -> None:
    """Move a queued run to ``running``."""
    now = time.time()
    async with store.transaction() as t:
        await t.execute(
            "UPDATE runs SET state='running', started_at=COALESCE(started_at, ?), heartbeat=? WHERE id=?",
            (now, now, run_id),
        )


async def mark_stopping(store: Store, run_id: int) -> None:
    """Move a live run to ``stopping``."""
    async with store.transaction() as t:
        await t.execute(f"UPDATE runs SET state='stopping' WHERE id=? AND state IN ({_LIVE})", (run_id,))


async def end(store: Store, run_id: int, state: str, result: dict[str, Any] | None, error: str | None) -> None:
    """Move a run to one of its last states and free its device."""
    now = time.time()
    async with store.transaction() as t:
        await t.execute(
            "UPDATE runs SET state=?, result=?, error=?, ended_at=?, heartbeat=? WHERE id=?",
            (state, None if result is None else to_json(result), error, now, now, run_id),
        )
        await t.execute("DELETE FROM device_locks WHERE run_id=?", (run_id,))


async def renew_heartbeat(store: Store, run_id: int) -> None:
    """Renew the heartbeat; a run that was taken for interrupted, as its clock or machine stood, lives again."""
    async with store.transaction() as t:
        await t.execute("UPDATE runs SET heartbeat=? WHERE id=?", (time.time(), run_id))
        await t.execute("UPDATE runs SET state='running', ended_at=NULL WHERE id=? AND state='interrupted'", (run_id,))


async def set_folder(store: Store, run_id: int, folder: Path, device: str | None = None) -> None:
    """Record the folder that a run writes its results to, and its device."""
    async with store.transaction() as t:
        await t.execute(
            "UPDATE runs SET folder=?, device=COALESCE(?, device) WHERE id=?", (str(folder), device, run_id)
        )


async def state(t: Store, run_id: int) -> str | None:
    """Return the state of a run, or None where there is none."""
    found: str | None = await t.value("SELECT state FROM runs WHERE id=?", (run_id,))
    return found


async def setting(t: Store, run_id: int, key: str, default: Any) -> Any:
    """Return one value of a run's settings by its dotted key; `default` where it has none."""
    value = await t.value("SELECT json_extract(settings, ?) FROM runs WHERE id=?", (f"$.{key}", run_id))
    return default if value is None else value


async def rename(store: Store, run_id: int, name: str) -> None:
    """Give a run a name."""
    async with store.transaction() as t:
        await t.execute("UPDATE runs SET name=? WHERE id=?", (name, run_id))


async def delete_part(t: Store, run_id: int, most: int) -> bool:
    """Delete a part of a run inside the caller's transaction, in the end the run; returns whether it is gone.

    A million rows take seconds, in which nobody else could write: so they go in parts, `most` rows of a table at once,
    until this says that nothing is left. Passages belong to no run and stay, and so do conversations and the feedback
    that the weights follow from.
    """
    deleted = 0
    for table, key in (("events", "id"), ("steps", "step"), ("tasks", "id")):  # with tasks go calls and pairs
        deleted += await t.execute(
            f"DELETE FROM {table} WHERE run_id=? AND {key} IN (SELECT {key} FROM {table} WHERE run_id=? LIMIT ?)",
            (run_id, run_id, most),
        )
    if deleted:
        return False
    await t.execute("DELETE FROM runs WHERE id=?", (run_id,))
    return True


@dataclass(frozen=True, slots=True)
class DeletableRun:
    """What is to be known of a run that is deleted, damaged or not; `save_dir` is None where no setting says it."""

    state: str
    pid: int
    host: str
    folder: str | None
    save_dir: str | None


async def deletable(t: Store, run_id: int) -> DeletableRun | None:
    """Return what deleting a run needs to know, or None where there is none."""
    sql = (
        "SELECT state, pid, host, folder, json_extract(settings, '$.fine_tuning.training.save_dir') AS save_dir"
        " FROM runs WHERE id=?"
    )
    return await t.one(DeletableRun, sql, (run_id,))


async def folders_of_others(t: Store, run_id: int) -> list[str]:
    """Return the folders that other runs have their results in."""
    return [folder for (folder,) in await t.tuples("SELECT folder FROM runs WHERE folder>'' AND id<>?", (run_id,))]


async def output_files(t: Store) -> list[tuple[int, str]]:
    """Return each run that wrote a file of accepted pairs, with the path in its settings, the last writer first.

    A run whose result does not say (live, killed, or failed when it was resumed) has written one when it has accepted
    pairs; one that is live will write last.
    """
    rows = await t.tuples(
        "SELECT id, COALESCE(json_extract(result, '$.output_file'),"
        " json_extract(settings, '$.data_generation.output_file')) AS path FROM runs"
        " WHERE mode IN ('generate', 'quickstart') AND path > ''"
        " AND CASE WHEN json_type(result, '$.output_file') IS NULL"
        " THEN EXISTS (SELECT 1 FROM pairs WHERE run_id = runs.id AND state='accepted')"
        " ELSE json_type(result, '$.output_file') = 'text' END"
        f" ORDER BY state IN ({_LIVE}) DESC, ended_at DESC, id DESC"
    )
    return [(int(run_id), str(path)) for run_id, path in rows]


async def result_digest(store: Store, path: str) -> str | None:
    """Return the SHA-256 of the result that was last written to an absolute path, or None."""
    found: str | None = await store.value("SELECT digest FROM results WHERE path=?", (path,))
    return found


async def set_result_digest(t: Store, path: str, digest: str) -> None:
    """Remember what was written to an absolute path, inside the caller's transaction."""
    result: dict[str, Any] = {"path": path, "digest": digest, "at": time.time()}
    await t.insert("results", otherwise="OR REPLACE", **result)


async def get(store: Store, run_id: int) -> Run | None:
    """Return one run, or None."""
    return await store.one(Run, "SELECT * FROM runs WHERE id=?", (run_id,))


async def newest_resumable(store: Store, modes: Sequence[str]) -> Run | None:
    """Return the newest run of one of these modes that can be resumed, or None.

    A run that failed before it did anything (a refused device, a missing file) does not count.
    """
    await mark_interrupted(store)
    sql = (
        f"SELECT * FROM runs WHERE mode IN ({', '.join('?' * len(modes))})"
        f" AND state IN ({', '.join('?' * len(RESUMABLE_STATES))})"
        " AND (state <> 'failed' OR EXISTS (SELECT 1 FROM steps WHERE run_id = runs.id)"
        " OR EXISTS (SELECT 1 FROM tasks WHERE run_id = runs.id)) ORDER BY id DESC"
    )
    return await _newest_sound(store, sql, (*modes, *RESUMABLE_STATES))


async def newest_trained(store: Store) -> Run | None:
    """Return the newest finished run that has an adapter, or None."""
    sql = "SELECT * FROM runs WHERE mode IN ('train', 'quickstart') AND state='finished' AND folder IS NOT NULL"
    return await _newest_sound(store, f"{sql} ORDER BY id DESC")


async def trained_ids(store: Store, most: int) -> list[int]:
    """Return the newest finished runs that have an adapter, the newest first."""
    sql = "SELECT * FROM runs WHERE mode IN ('train', 'quickstart') AND state='finished' AND folder IS NOT NULL"
    return [run.id for run in await store.all(Run, f"{sql} ORDER BY id DESC LIMIT ?", [most])]


async def newest_unfinished_training(store: Store) -> Run | None:
    """Return the newest training run that has not finished and has saved something, or None."""
    sql = (
        "SELECT * FROM runs WHERE mode IN ('train', 'quickstart') AND state <> 'finished'"
        " AND EXISTS (SELECT 1 FROM checkpoints WHERE run_id = runs.id) ORDER BY id DESC"
    )
    return await _newest_sound(store, sql)


async def _newest_sound(store: Store, sql: str, parameters: Sequence[Any] = ()) -> Run | None:
    """Return the first run that is not damaged, or None."""
    found = await store.all(Run, f"{sql} LIMIT {_PASSED_OVER}", parameters)
    return found[0] if found else None


async def mark_interrupted(store: Store) -> int:
    """Mark live runs whose owner is gone as ``interrupted``; returns how many there were."""
    live = await store.all(OwnerRow, f"SELECT {_OWNER_COLUMNS} FROM runs WHERE state IN ({_LIVE})")
    gone = [owner for owner in live if not owner_alive(owner)]
    if gone:
        async with store.transaction() as t:
            for owner in gone:
                marked = await t.execute(
                    f"UPDATE runs SET state='interrupted', ended_at=heartbeat WHERE id=? AND state IN ({_LIVE})"
                    " AND CAST(heartbeat AS REAL)=?",  # else it has beaten meanwhile, or another has taken it over
                    (owner.id, owner.heartbeat),
                )
                if marked:  # else another process has taken the run over meanwhile, and its device with it
                    await t.execute("DELETE FROM device_locks WHERE run_id=?", (owner.id,))
    return len(gone)


async def lock_device(store: Store, run_id: int, device: str) -> Run | None:
    """Take `device` for a run; returns the live run that holds it instead, or None when it was free."""
    await mark_interrupted(store)
    async with store.transaction() as t:
        holder = await t.one(
            Run,
            "SELECT runs.* FROM runs JOIN device_locks ON run_id = runs.id"
            f" WHERE device_locks.device=? AND runs.id<>? AND state IN ({_LIVE})",
            (device, run_id),
        )
        if holder is None:
            lock: dict[str, Any] = {"device": device, "run_id": run_id, "taken_at": time.time()}
            await t.insert("device_locks", otherwise="OR REPLACE", **lock)
            await t.execute("UPDATE runs SET device=? WHERE id=?", (device, run_id))
    return holder
