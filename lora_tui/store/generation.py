"""Queries on a generation run: documents and chunks, pairs with their metrics and decisions, batch analyses.

    pairs     waiting -> accepted | rejected | review

Documents and chunks belong to no run: the same text read again is the same row. `run_documents` says which files a run
saw, the skipped ones included, each with its reason. Functions whose first parameter is `t` work inside the caller's
transaction.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.events import NewEvent
from lora_tui.store.rows import AnalysisRow, ChunkRow, Decision, NewPair, PairRow, SourceFile, TaskRow
from lora_tui.store.values import columns_of


async def add_document(
    t: Store, document_id: str, characters: int, encoding: str, chunking: str, chunks: Sequence[ChunkRow]
) -> None:
    """Store a document and its chunks inside the caller's transaction; what is there already stays."""
    document = {"id": document_id, "characters": characters, "encoding": encoding, "read_at": time.time()}
    await t.insert("documents", otherwise="OR IGNORE", **document)
    await t.execute_many(
        "INSERT OR IGNORE INTO chunks(id, document_id, position, first_character, last_character, tokens, heading,"
        " text, context, content_id, chunking) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*astuple(chunk), chunking) for chunk in chunks],
    )


async def add_source_file(t: Store, run_id: int, file: SourceFile) -> None:
    """Record a file of a run inside the caller's transaction; a resumed run replaces what it saw before."""
    await t.insert("run_documents", otherwise="OR REPLACE", run_id=run_id, **columns_of(file))


async def chunk(store: Store, chunk_id: str) -> ChunkRow | None:
    """Return one chunk, or None."""
    return await store.one(ChunkRow, "SELECT * FROM chunks WHERE id=?", (chunk_id,))


async def chunk_at(store: Store, document_id: str, chunking: str, position: int) -> ChunkRow | None:
    """Return the chunk at a position (from 0) of a document that was cut in one way, or None."""
    sql = "SELECT * FROM chunks WHERE document_id=? AND chunking=? AND position=?"
    return await store.one(ChunkRow, sql, (document_id, chunking, position))


async def chunk_texts(store: Store, document_id: str, chunking: str) -> list[str]:
    """Return the texts of a document's chunks in order, as it was cut in one way."""
    sql = "SELECT text FROM chunks WHERE document_id=? AND chunking=? ORDER BY position"
    return [text for (text,) in await store.tuples(sql, (document_id, chunking))]


async def chunk_count(store: Store, document_id: str, chunking: str) -> int:
    """Return how many chunks a document has that was cut in one way, 0 where it was not."""
    sql = "SELECT COUNT(*) FROM chunks WHERE document_id=? AND chunking=?"
    return int(await store.value(sql, (document_id, chunking)))


async def add_pair(t: Store, run_id: int, task: TaskRow, pair: NewPair, analysis_version: int) -> int:
    """Store a proposed pair, in state ``waiting``; returns its id."""
    return await t.insert(
        "pairs",
        run_id=run_id,
        task_id=task.id,
        chunk_id=task.chunk_id,
        source=task.source,
        slot=task.slot,
        **columns_of(pair),
        state="waiting",
        analysis_version=analysis_version,
        created_at=time.time(),
    )


async def pair(store: Store, pair_id: int) -> PairRow | None:
    """Return one pair, or None."""
    return await store.one(PairRow, "SELECT * FROM pairs WHERE id=?", (pair_id,))


async def state_and_text(store: Store, pair_id: int) -> tuple[str, str, str]:
    """Return state, question and answer of a pair, which exists: what people change while its judge is asked."""
    rows = await store.tuples("SELECT state, question, answer FROM pairs WHERE id=?", (pair_id,))
    state, question, answer = rows[0]
    return state, question, answer


async def pairs(store: Store, run_id: int, states: Sequence[str], after: int = 0, limit: int = 500) -> list[PairRow]:
    """Return up to `limit` pairs in any of `states` whose id is above `after`, in the order they were proposed."""
    return await store.all(
        PairRow,
        f"SELECT * FROM pairs WHERE run_id=? AND state IN ({', '.join('?' * len(states))}) AND id>?"
        " ORDER BY id LIMIT ?",
        (run_id, *states, after, limit),
    )


async def questions(store: Store, run_id: int, states: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return id, state and question of every pair in any of `states`, in the order they were proposed."""
    rows = await store.tuples(
        f"SELECT id, state, question FROM pairs WHERE run_id=? AND state IN ({', '.join('?' * len(states))})"
        " ORDER BY id",
        (run_id, *states),
    )
    return [(pair_id, state, question) for pair_id, state, question in rows]


async def slot_counts(store: Store, run_id: int, states: Sequence[str]) -> list[tuple[dict[str, Any], int]]:
    """Return each slot of the pairs in any of `states`, and how many pairs it has."""
    rows = await store.tuples(
        f"SELECT slot, COUNT(*) FROM pairs WHERE run_id=? AND state IN ({', '.join('?' * len(states))}) GROUP BY slot",
        (run_id, *states),
    )
    return [(slot, number) for slot, number in rows]


async def newest_pairs(store: Store, run_id: int, states: Sequence[str], limit: int) -> list[PairRow]:
    """Return the newest pairs in any of `states`, the newest first."""
    return await store.all(
        PairRow,
        f"SELECT * FROM pairs WHERE run_id=? AND state IN ({', '.join('?' * len(states))}) ORDER BY id DESC LIMIT ?",
        (run_id, *states, limit),
    )


async def has_question(store: Store, run_id: int, question_key: str) -> bool:
    """Return whether the run has a pair with that normalised question that no gate refused."""
    found = await store.value(
        "SELECT 1 FROM pairs WHERE run_id=? AND question_key=? AND (state <> 'rejected' OR score IS NOT NULL) LIMIT 1",
        (run_id, question_key),
    )
    return found is not None


async def said_about(store: Store, run_ids: Sequence[int], chunk: ChunkRow) -> list[tuple[str, int, str, str]]:
    """Return what these runs' pairs say on a chunk's content, that were accepted or wait for the judge, newest first.

    For each the chunk (in another version of its document another one), the run, question and quotation.
    """
    rows = await store.tuples(  # by the chunk: the run's index leads through all of its pairs
        "SELECT chunk_id, run_id, question, evidence FROM pairs WHERE chunk_id IN (SELECT ?1 UNION SELECT id"
        f" FROM chunks WHERE content_id = ?2 AND content_id <> '') AND +run_id IN ({', '.join('?' * len(run_ids))})"
        " AND state IN ('accepted', 'waiting') ORDER BY id DESC",
        (chunk.id, chunk.content_id, *run_ids),
    )
    return [(chunk_id, run_id, question, evidence) for chunk_id, run_id, question, evidence in rows]


async def other_runs(store: Store, run_id: int, model: str) -> list[int]:
    """Return the ids of the newest 100 generation runs with this model but for `run_id`, the oldest first."""
    rows = await store.tuples(
        "SELECT id FROM runs WHERE mode='generate' AND id<>?"
        " AND json_extract(settings, '$.data_generation.model')=? ORDER BY id DESC LIMIT 100",
        (run_id, model),
    )
    return [other for (other,) in reversed(rows)]


async def runs_over_folder(store: Store, run_id: int, folder: str) -> int:
    """Return how many generation runs have begun to read this folder before `run_id`."""
    sql = (
        "SELECT COUNT(*) FROM runs WHERE mode='generate' AND id<?"
        " AND json_extract(settings, '$.data_generation.input_folder')=?"
    )
    return int(await store.value(sql, (run_id, folder)))


async def accepted_of_earlier_runs(store: Store, run_id: int) -> dict[int, int]:
    """Return how many accepted pairs about the documents of `run_id` the earlier runs of its model have, by run.

    Those that `run_id` has itself, because it has kept them, are not counted.
    """
    return await store.mapping(
        "SELECT pairs.run_id, COUNT(*) FROM pairs JOIN chunks ON chunks.id = chunk_id"
        " JOIN runs ON runs.id = pairs.run_id JOIN runs AS own ON own.id = ?"
        " WHERE runs.mode='generate' AND runs.id < own.id AND pairs.state='accepted'"
        " AND json_extract(runs.settings, '$.data_generation.model')"
        " = json_extract(own.settings, '$.data_generation.model')"
        " AND document_id IN (SELECT document_id FROM run_documents WHERE run_id = own.id)"
        " AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.run_id = own.id AND kind='keep'"
        " AND key = CAST(pairs.id AS TEXT))"
        " GROUP BY pairs.run_id ORDER BY pairs.run_id",
        (run_id,),
    )


async def accepted_about_documents(
    store: Store, run_id: int, run_ids: Sequence[int], after: int, limit: int
) -> list[tuple[int, str]]:
    """Return id and question of accepted pairs of `run_ids` about passages of `run_id`, with ids above `after`.

    About its documents, or passages with the same content in other versions of them.
    """
    if not run_ids:
        return []
    rows = await store.tuples(
        "SELECT pairs.id, question FROM pairs JOIN chunks ON chunks.id = chunk_id"
        f" WHERE pairs.run_id IN ({', '.join('?' * len(run_ids))}) AND state='accepted' AND pairs.id>?"
        " AND (document_id IN (SELECT document_id FROM run_documents WHERE run_id=?) OR (content_id <> '' AND EXISTS"
        " (SELECT 1 FROM chunks AS now JOIN run_documents USING (document_id)"
        " WHERE now.content_id = chunks.content_id AND run_id=?))) ORDER BY pairs.id LIMIT ?",
        (*run_ids, after, run_id, run_id, limit),
    )
    return [(pair_id, question) for pair_id, question in rows]


async def put_metrics(t: Store, pair_id: int, metrics: Mapping[str, float], details: Mapping[str, str]) -> None:
    """Store metrics (0-1) of a pair; `details` says of some how they were measured."""
    await t.execute_many(
        "INSERT OR REPLACE INTO pair_metrics(pair_id, name, value, detail) VALUES (?, ?, ?, ?)",
        [(pair_id, name, value, details.get(name)) for name, value in metrics.items()],
    )


async def decide(
    t: Store,
    pair_id: int,
    decision: Decision,
    metrics: Mapping[str, float],
    details: Mapping[str, str],
    feedback_id: int | None = None,
    at: float | None = None,
) -> None:
    """Store a verdict with the metrics it rests on and move the pair to it. Decisions are only ever appended.

    `feedback_id` is the feedback that a person's verdict gave; `at` is in seconds since the epoch, now by default.
    """
    now = time.time() if at is None else at
    await put_metrics(t, pair_id, metrics, details)
    await t.insert("decisions", pair_id=pair_id, **columns_of(decision), at=now, feedback_id=feedback_id)
    await t.execute(
        "UPDATE pairs SET state=?, score=?, cause=?, reason=?, decided_at=? WHERE id=?",
        (decision.verdict, decision.score, decision.cause, decision.reason, now, pair_id),
    )


def pair_event(pair: PairRow, **more: Any) -> NewEvent:
    """Return the ``pair`` event of a pair as it is now; `more` is added to its payload."""
    payload: dict[str, Any] = {
        "pair": pair.id,
        "verdict": pair.state,
        "score": pair.score,
        "question": pair.question,
        "answer": pair.answer,
        "reason": pair.reason,
        "source": pair.source,
        **more,
    }
    return time.time(), "pair", payload


async def pair_counts(store: Store, run_id: int) -> dict[str, int]:
    """Return how many pairs there are by state."""
    return await store.mapping("SELECT state, COUNT(*) FROM pairs WHERE run_id=? GROUP BY state", (run_id,))


async def waiting_by_task(store: Store, run_id: int) -> dict[int, int]:
    """Return how many pairs wait for their verdict, by the task that wrote them."""
    return await store.mapping(
        "SELECT task_id, COUNT(*) FROM pairs WHERE run_id=? AND state='waiting' GROUP BY task_id", (run_id,)
    )


async def accepted_texts(store: Store, run_id: int, after: int, limit: int) -> list[tuple[int, str, str]]:
    """Return id, question and answer of up to `limit` accepted pairs whose id is above `after`, in order."""
    sql = "SELECT id, question, answer FROM pairs WHERE run_id=? AND state='accepted' AND id>? ORDER BY id LIMIT ?"
    return [
        (pair_id, question, answer) for pair_id, question, answer in await store.tuples(sql, (run_id, after, limit))
    ]


async def accepted_sources(store: Store) -> list[tuple[str, str]]:
    """Return question and document of every accepted pair of every run, oldest first."""
    rows = await store.tuples("SELECT question, source FROM pairs WHERE state='accepted' ORDER BY id")
    return [(str(question), str(source)) for question, source in rows]


async def rejection_causes(store: Store, run_id: int) -> dict[str, int]:
    """Return how often each cause kept a pair from being accepted, most frequent first."""
    return await store.mapping(
        "SELECT cause, COUNT(*) FROM pairs WHERE run_id=? AND state IN ('rejected', 'review')"
        " GROUP BY cause ORDER BY 2 DESC, 1",
        (run_id,),
    )


async def histogram(store: Store, run_id: int, of: str, states: Sequence[str]) -> dict[str, int]:
    """Count pairs by ``topic``, ``source`` or a part of their slot, such as ``question_type`` or ``area``."""
    column = of if of in ("topic", "source") else "json_extract(slot, '$.' || ?)"
    parameters = () if of in ("topic", "source") else (of,)
    rows = await store.tuples(
        f"SELECT {column}, COUNT(*) FROM pairs WHERE run_id=? AND state IN ({', '.join('?' * len(states))})"
        " GROUP BY 1 ORDER BY 2 DESC, 1",
        (*parameters, run_id, *states),
    )
    return {str(value): n for value, n in rows}


async def followed_types(store: Store, run_id: int, states: Sequence[str]) -> dict[str, int]:
    """Count the pairs whose question has the type that was asked for, by that type."""
    return await store.mapping(
        "SELECT json_extract(slot, '$.asked_type'), COUNT(*) FROM pairs WHERE run_id=?"
        f" AND state IN ({', '.join('?' * len(states))})"
        " AND json_extract(slot, '$.asked_type') = json_extract(slot, '$.question_type') GROUP BY 1",
        (run_id, *states),
    )


async def covered_passages(store: Store, run_id: int) -> int:
    """Return how many passages have an accepted pair."""
    sql = "SELECT COUNT(DISTINCT chunk_id) FROM pairs WHERE run_id=? AND state='accepted'"
    return int(await store.value(sql, (run_id,)))


async def mean_metrics(store: Store, run_id: int) -> dict[str, float]:
    """Return the mean of every metric over the pairs of a run that were judged."""
    return await store.mapping(
        "SELECT name, AVG(value) FROM pair_metrics JOIN pairs ON pairs.id = pair_id"
        " WHERE run_id=? GROUP BY name ORDER BY name",
        (run_id,),
    )


async def add_analysis(t: Store, run_id: int, analysis: AnalysisRow) -> None:
    """Store an analysis; the version is counted from 1 in each run."""
    await t.insert("analyses", otherwise="OR REPLACE", run_id=run_id, **columns_of(analysis))


async def newest_analysis(store: Store, run_id: int) -> AnalysisRow | None:
    """Return the newest analysis of a run, or None."""
    sql = "SELECT * FROM analyses WHERE run_id=? ORDER BY version DESC LIMIT 1"
    return await store.one(AnalysisRow, sql, (run_id,))
