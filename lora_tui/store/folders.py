"""Queries on two readings of one folder: which documents and passages they share, and the pairs that can be kept.

Passages are the same where their `content_id` is, in whichever version of a document, or the document itself is.
"""

import time
from typing import NamedTuple

from lora_tui.store.connection import Store

TAKEN_OVER = "keep"
"""The kind of task under which the pairs of an earlier run are kept; its key is the earlier pair's id."""


_IS_THERE = (
    "(EXISTS (SELECT 1 FROM run_documents WHERE run_id = ?1 AND document_id = old.document_id) OR EXISTS"
    " (SELECT 1 FROM chunks AS now JOIN run_documents USING (document_id)"
    " WHERE run_id = ?1 AND now.content_id = old.content_id AND now.content_id <> ''))"
)
"""Whether the chunk `old` is a passage of what run ?1 has read."""


class KeptPair(NamedTuple):
    """An accepted pair of an earlier run, and the passage of this run that it is about."""

    pair_id: int
    chunk_id: str
    source: str


async def reading_before(store: Store, run_id: int) -> int | None:
    """Return the newest run before `run_id` with accepted pairs of the same folder and model; None where there is none.

    A run that has already kept pairs stays with the run that it has them of.
    """
    found = await store.value(
        "SELECT pairs.run_id FROM tasks JOIN pairs ON pairs.id = CAST(tasks.key AS INTEGER)"
        " WHERE tasks.run_id = ? AND tasks.kind = ? LIMIT 1",
        (run_id, TAKEN_OVER),
    )
    found = found or await store.value(
        "SELECT runs.id FROM runs JOIN runs AS own ON own.id = ? WHERE runs.id < own.id AND runs.mode = 'generate'"
        " AND json_extract(runs.settings, '$.data_generation.input_folder')"
        " = json_extract(own.settings, '$.data_generation.input_folder')"
        " AND json_extract(runs.settings, '$.data_generation.model')"
        " = json_extract(own.settings, '$.data_generation.model')"
        " AND EXISTS (SELECT 1 FROM run_documents WHERE run_id = runs.id AND document_id IS NOT NULL)"
        " AND EXISTS (SELECT 1 FROM pairs WHERE run_id = runs.id AND state = 'accepted')"
        " ORDER BY runs.id DESC LIMIT 1",
        (run_id,),
    )
    return None if found is None else int(found)


async def has_read(store: Store, run_id: int) -> bool:
    """Return whether a run has got through its folder: only then does it have work beside the pairs that it keeps."""
    sql = "SELECT EXISTS (SELECT 1 FROM tasks WHERE run_id=? AND kind<>?)"
    return bool(await store.value(sql, (run_id, TAKEN_OVER)))


async def documents_of(store: Store, run_id: int) -> dict[str, str]:
    """Return the document that each file of a run was, by path, without those that were skipped."""
    return await store.mapping(
        "SELECT path, document_id FROM run_documents WHERE run_id=? AND document_id IS NOT NULL", (run_id,)
    )


async def files_with_pairs(store: Store, run_id: int) -> set[str]:
    """Return the paths of the files that a run has accepted pairs about."""
    sql = "SELECT DISTINCT source FROM pairs WHERE run_id=? AND state='accepted'"
    return {str(path) for (path,) in await store.tuples(sql, (run_id,))}


async def began_at(store: Store, run_id: int) -> float:
    """Return when a run was begun, in seconds since the epoch."""
    return float(await store.value("SELECT created_at FROM runs WHERE id=?", (run_id,)) or 0)


async def content_ids(store: Store, document_id: str, chunking: str) -> list[str]:
    """Return the content ids of a document's passages in order, as it was cut in one way."""
    rows = await store.tuples(
        "SELECT content_id FROM chunks WHERE document_id=? AND chunking=? ORDER BY position", (document_id, chunking)
    )
    return [content_id for (content_id,) in rows]


async def forget_files(t: Store, run_id: int, paths: list[str]) -> None:
    """Take out of a run the files that are no longer in its folder."""
    await t.execute_many("DELETE FROM run_documents WHERE run_id=? AND path=?", [(run_id, path) for path in paths])


async def forget_reading(t: Store, run_id: int) -> None:
    """Take out of a run all files that it began to read."""
    await t.execute("DELETE FROM run_documents WHERE run_id=?", (run_id,))


_IS_GOOD = (
    "(pairs.score IS NULL OR pairs.score >= ?{0} OR 'person' = (SELECT decided_by FROM decisions"
    " WHERE pair_id = pairs.id AND undone_at IS NULL ORDER BY decisions.id DESC LIMIT 1))"
)
"""Whether an accepted pair reaches the threshold ?n, or a person has accepted it."""


async def pairs_to_keep(
    store: Store, run_id: int, earlier: int, threshold: float, after: int, limit: int
) -> list[KeptPair]:
    """Return accepted pairs of an earlier run whose passage this run has read too, with ids above `after`.

    Those with a score below `threshold` (0-10) are left out, unless a person has accepted them.
    """
    rows = await store.tuples(
        "SELECT pairs.id, now.id, files.path FROM pairs JOIN chunks AS old ON old.id = pairs.chunk_id"
        " JOIN chunks AS now ON now.id = COALESCE("
        " (SELECT old.id FROM run_documents WHERE run_id = ?1 AND document_id = old.document_id LIMIT 1),"
        " (SELECT MIN(chunks.id) FROM chunks JOIN run_documents USING (document_id)"
        "  WHERE run_id = ?1 AND content_id = old.content_id AND content_id <> ''))"
        " JOIN run_documents AS files ON files.run_id = ?1 AND files.path ="
        " (SELECT MIN(path) FROM run_documents WHERE run_id = ?1 AND document_id = now.document_id)"
        f" WHERE pairs.run_id = ?2 AND pairs.state = 'accepted' AND pairs.id > ?3 AND {_IS_GOOD.format(5)}"
        " ORDER BY pairs.id LIMIT ?4",
        (run_id, earlier, after, limit, threshold),
    )
    return [KeptPair(*row) for row in rows]


async def keep_pair(t: Store, run_id: int, kept: KeptPair) -> None:
    """Copy an earlier run's accepted pair into this run, with its metrics and the decision in force; once."""
    await t.execute(
        "INSERT OR IGNORE INTO tasks(run_id, kind, key, chunk_id, pair_id, round, source, slot, state, created_at,"
        " ended_at) SELECT ?, ?, ?, ?, id, 0, ?, slot, 'done', created_at, decided_at FROM pairs WHERE id=?",
        (run_id, TAKEN_OVER, str(kept.pair_id), kept.chunk_id, kept.source, kept.pair_id),
    )
    if not await t.value("SELECT changes()"):
        return
    await t.execute(
        "INSERT INTO pairs(run_id, task_id, ordinal, chunk_id, source, question, answer, evidence, topic, slot,"
        " question_key, state, score, cause, reason, analysis_version, created_at, decided_at)"
        " SELECT ?, tasks.id, 0, ?, ?, question, answer, evidence, topic, pairs.slot, question_key, pairs.state, score,"
        " cause, pairs.reason, 0, pairs.created_at, decided_at FROM pairs JOIN tasks"
        " ON tasks.run_id = ? AND tasks.kind = ? AND tasks.key = ? WHERE pairs.id = ?",
        (run_id, kept.chunk_id, kept.source, run_id, TAKEN_OVER, str(kept.pair_id), kept.pair_id),
    )
    new = await t.value("SELECT MAX(id) FROM pairs WHERE run_id=?", (run_id,))
    await t.execute(
        "INSERT INTO pair_metrics(pair_id, name, value, detail) SELECT ?, name, value, detail FROM pair_metrics"
        " WHERE pair_id=?",
        (new, kept.pair_id),
    )
    await t.execute(
        "INSERT INTO decisions(pair_id, verdict, score, threshold, weights_version, decided_by, reason, at, cause)"
        " SELECT ?, verdict, score, threshold, weights_version, decided_by, reason, at, cause FROM decisions"
        " WHERE pair_id=? AND undone_at IS NULL ORDER BY id DESC LIMIT 1",
        (new, kept.pair_id),
    )


async def pairs_below(store: Store, run_id: int, threshold: float) -> int:
    """Return how many accepted pairs of a run do not reach a threshold (0-10)."""
    sql = f"SELECT COUNT(*) FROM pairs WHERE run_id=?1 AND state='accepted' AND NOT {_IS_GOOD.format(2)}"
    return int(await store.value(sql, (run_id, threshold)))


async def outdated_pairs(store: Store, run_id: int) -> int:
    """Return how many accepted pairs of a run are about passages that its folder no longer has."""
    return int(
        await store.value(
            "SELECT COUNT(*) FROM pairs JOIN chunks AS old ON old.id = pairs.chunk_id WHERE pairs.run_id = ?1"
            f" AND state = 'accepted' AND NOT {_IS_THERE}",
            (run_id,),
        )
    )


async def cancel_outdated(t: Store, run_id: int) -> int:
    """Cancel pending calls for pairs about passages that the folder no longer has; returns how many."""
    return await t.execute(
        "UPDATE tasks SET state='cancelled', reason='its passage is gone', ended_at=?2 WHERE run_id=?1"
        " AND kind='generate' AND state='pending' AND NOT EXISTS (SELECT 1 FROM chunks AS old WHERE old.id = chunk_id"
        f" AND {_IS_THERE})",
        (run_id, time.time()),
    )


async def kept_pairs(store: Store, run_id: int) -> int:
    """Return how many pairs a run has kept of an earlier one."""
    return int(await store.value("SELECT COUNT(*) FROM tasks WHERE run_id=? AND kind=?", (run_id, TAKEN_OVER)))
