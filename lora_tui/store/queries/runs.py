"""Runs as rows of a list; a run's steps as columns, its events, checkpoints and weights; the newest conversation."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.damage import StoreError
from lora_tui.store.queue import TO_DO
from lora_tui.store.rows import WAITING, Checkpoint, Event, StepColumns

_BLOCK = 10_000
"""Steps that are fetched at once, so that a long run is never in memory as rows."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run as a list row: the run without its settings, its model and data, and its best evaluations.

    `best_score` (0-1) is that of the best of the tuned model's evaluations, `held_out_loss` (nats a label token) the
    lowest of theirs.
    `model` and `data` are empty where the mode has none, `model` also where the run will choose one when it begins
    (`shown_model`). Times are seconds since the epoch.
    """

    id: int
    mode: str
    name: str
    state: str
    device: str | None
    folder: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    heartbeat: float
    pid: int
    host: str
    error: str | None
    model: str
    data: str
    best_score: float | None
    held_out_loss: float | None
    idle_seconds: float = 0.0
    """The seconds from its ends to its resumptions (`lora_tui.store.rows.worked_seconds`)."""
    damaged: bool = False
    """Whether part of its row cannot be read: what is shown of it is not all."""
    position: float | None = None
    """Its place among the runs that are still to be worked, the lowest first; None for one that is not in the queue."""
    group_id: int | None = None
    """The sweep that it belongs to."""
    point: str = ""
    """What it sets in that sweep, a JSON object of dotted keys."""
    preferences_right: float | None = None
    """Of preference training: the share of its last step's preferences that the model tells right, 0-1."""
    proposed_rate: float | None = None
    """The learning rate that a probe proposes."""

    @property
    def shown_model(self) -> str:
        """The model, or that it is not chosen yet: by the machine that the run begins on."""
        return self.model or ("(chosen at its start)" if self.state == WAITING and self.mode == "train" else "")


@dataclass(frozen=True, slots=True)
class WeightVersion:
    """The aggregator's weights after `version` pieces of feedback."""

    version: int
    weights: dict[str, float]


@dataclass(frozen=True, slots=True)
class RunReport:
    """The report of run `id`: the page's path, the comparison on held-out questions, and the test on held-out facts.

    Both as the run's result has them; None where it has none.
    """

    id: int
    path: str
    comparison: dict[str, Any] | None
    knowledge: dict[str, Any] | None = None


# An evaluation and an export take their model from the adapter, not from the configuration. A run that waits has the
# documented one there where the recipe will choose another.
_MODEL = f"""
CASE mode
    WHEN 'generate' THEN json_extract(settings, '$.data_generation.model')
    WHEN 'format' THEN ''
    WHEN 'evaluate' THEN json_extract(result, '$.base_model')
    WHEN 'export' THEN json_extract(result, '$.base_model')
    ELSE CASE WHEN state = '{WAITING}' AND json_extract(settings, '$.fine_tuning.recipe') = 'auto'
            AND json_valid(written) AND NOT EXISTS (
                SELECT 1 FROM json_each(iif(json_valid(written), written, '[]')) AS key
                WHERE key.value = 'fine_tuning.model_name')
        THEN '' ELSE json_extract(settings, '$.fine_tuning.model_name') END
END"""

_DATA = """
CASE mode
    WHEN 'generate' THEN json_extract(settings, '$.data_generation.input_folder')
    WHEN 'format' THEN json_extract(options, '$.raw')
    WHEN 'probe' THEN json_extract(options, '$.train_data_file')
    WHEN 'train' THEN COALESCE(
        NULLIF(json_extract(options, '$.train_data_file'), ''),
        CASE WHEN json_extract(settings, '$.fine_tuning.method') IN ('dpo', 'kto') THEN COALESCE(
            NULLIF(json_extract(settings, '$.fine_tuning.preferences.data_file'), ''), 'what people said') END,
        NULLIF(json_extract(settings, '$.fine_tuning.train_data_file'), ''),
        json_extract(settings, '$.data_generation.output_file'))
END"""

# A run that has not ended, or has failed, has no result; its evaluations have the score.
_BEST_SCORE = """
CASE
    WHEN json_type(result, '$.best_score') IN ('integer', 'real') THEN json_extract(result, '$.best_score')
    WHEN json_type(result, '$.tuned_score') IN ('integer', 'real') THEN json_extract(result, '$.tuned_score')
    WHEN mode IN ('train', 'quickstart', 'evaluate')
        THEN (SELECT score FROM evaluations WHERE run_id = runs.id AND model = 'tuned'
            ORDER BY COALESCE(overall, score) DESC, id LIMIT 1)
END"""


def _real(path: str) -> str:
    """A number of a run's result; null for anything else."""
    return f"CASE WHEN json_type(result, '{path}') IN ('integer', 'real') THEN json_extract(result, '{path}') END"


def _time(column: str) -> str:
    """Seconds since the epoch that a calendar has, whatever a damaged cell holds: up to the year 2100."""
    return f"MIN(MAX(CAST({column} AS REAL), 0.0), 4102444800.0)"


_DAMAGED = (
    "What the store has of this run is damaged, and not shown whole. Delete it, or bring the store back from a copy."
)

# Whatever a damaged row holds, each column has its type.
_RUN_LINES = f"""
SELECT id, CAST(mode AS TEXT) AS mode, CAST(name AS TEXT) AS name, CAST(state AS TEXT) AS state,
    CAST(device AS TEXT) AS device, CAST(folder AS TEXT) AS folder, {_time("created_at")} AS created_at,
    {_time("started_at")} AS started_at, {_time("ended_at")} AS ended_at, {_time("heartbeat")} AS heartbeat,
    {_time("idle_seconds")} AS idle_seconds,
    CAST(pid AS INTEGER) AS pid, CAST(host AS TEXT) AS host, CAST(error AS TEXT) AS error,
    CAST(COALESCE({_MODEL}, '') AS TEXT) AS model, CAST(COALESCE({_DATA}, '') AS TEXT) AS data,
    CAST({_BEST_SCORE} AS REAL) AS best_score,
    (SELECT MIN(held_out_loss) FROM evaluations WHERE run_id = runs.id AND model = 'tuned') AS held_out_loss,
    NOT (json_valid(settings) AND json_valid(options) AND (result IS NULL OR json_valid(result))
        AND typeof(created_at) IN ('real', 'integer') AND typeof(heartbeat) IN ('real', 'integer')
        AND mode > '' AND state > '') AS damaged,
    CASE WHEN {TO_DO} THEN position END AS position, group_id, CAST(COALESCE(point, '') AS TEXT) AS point,
    {_real("$.reward_accuracy")} AS preferences_right,
    CASE mode WHEN 'probe' THEN {_real("$.rate")} END AS proposed_rate
FROM runs LEFT JOIN (SELECT run_id AS queued, position, group_id, point, begun, goes_on FROM queue) ON queued = id"""


async def data_version(store: Store) -> int:
    """Return a number that changes when any *other* connection has written; this connection's writes do not show.

    It costs a few microseconds, whatever the size of the store.
    """
    return int(await store.value("PRAGMA data_version"))


async def run_lines(store: Store, limit: int = 1000) -> list[RunLine]:
    """Return the newest runs, the newest first; every run where `limit` is negative.

    Where a page of the file is damaged, those that can still be read.
    """
    lines = await _readable_lines(store, limit)
    return [replace(line, error=line.error or _DAMAGED) if line.damaged else line for line in lines]


async def run_lines_of(store: Store, run_ids: Sequence[int]) -> list[RunLine]:
    """Return these runs in the order of their ids; those that do not exist, or cannot be read, are left out."""
    return [line for run_id in sorted(run_ids) for line in await _run_line(store, run_id)]


async def _readable_lines(store: Store, limit: int) -> list[RunLine]:
    try:
        return await store.all(RunLine, f"{_RUN_LINES} ORDER BY id DESC LIMIT ?", (limit,))
    except StoreError as problem:
        last = await store.value("SELECT seq FROM sqlite_sequence WHERE name = 'runs'")
        found = [line for run_id in range(int(last or 0), 0, -1) for line in await _run_line(store, run_id)]
        if not found:
            raise problem from None
        return found[:limit] if limit >= 0 else found


async def _run_line(store: Store, run_id: int) -> list[RunLine]:
    """Return one run as a list, empty where there is none, or none that can be read."""
    try:
        return await store.all(RunLine, f"{_RUN_LINES} WHERE id=?", (run_id,))
    except StoreError:
        return []


async def newest_report(store: Store, run_id: int) -> RunReport | None:
    """Return the newest report that this run has written, or an evaluation of its adapter; None where there is none."""
    sql = (
        "SELECT id, json_extract(result, '$.report'), json_extract(result, '$.comparison'),"
        " json_extract(result, '$.knowledge') FROM runs"
        " WHERE mode IN ('evaluate', 'quickstart') AND json_extract(result, '$.report') IS NOT NULL"
        " AND (id = ? OR json_extract(result, '$.adapter_run') = ?) ORDER BY id DESC LIMIT 1"
    )
    for found, path, *parts in await store.tuples(sql, (run_id, run_id)):
        comparison, knowledge = (json.loads(part) if part else None for part in parts)
        return RunReport(int(found), str(path), comparison, knowledge)
    return None


async def newest_conversation(store: Store) -> int | None:
    """Return the id of the newest conversation that has messages, or None."""
    newest: int | None = await store.value("SELECT MAX(conversation_id) FROM turns")
    return newest


async def step_columns(store: Store, run_id: int, after_step: int = 0) -> StepColumns:
    """Return the optimizer steps of a run after step `after_step`, as columns of equal length."""
    columns = StepColumns()
    names = StepColumns.__dataclass_fields__
    query = f"SELECT {', '.join(names)} FROM steps WHERE run_id=? AND step>? ORDER BY step LIMIT ?"
    arrays = [getattr(columns, name) for name in names]
    while True:
        block = await store.columns(query, (run_id, after_step, _BLOCK))
        if not block:
            return columns
        for column, values in zip(arrays, block, strict=True):
            column.extend([math.nan if value is None else value for value in values] if None in values else values)
        after_step = columns.step[-1]


async def newest_event(store: Store, run_id: int, kind: str) -> Event | None:
    """Return the newest event of a kind, or None."""
    return await store.one(
        Event, "SELECT * FROM events WHERE run_id=? AND kind=? ORDER BY id DESC LIMIT 1", (run_id, kind)
    )


async def events_of_kinds(
    store: Store, run_id: int, kinds: Sequence[str], after: int = 0, limit: int = 1000
) -> list[Event]:
    """Return up to `limit` events of these kinds with an id above `after`, in order."""
    if not kinds:
        return []
    # Each kind is an ordered range of the index. With kind IN (…) SQLite would read all of them and sort.
    one_kind = "SELECT * FROM (SELECT id FROM events WHERE run_id=? AND kind=? AND id>? ORDER BY id LIMIT ?)"
    return await store.all(
        Event,
        f"SELECT * FROM events WHERE id IN ({' UNION ALL '.join([one_kind] * len(kinds))}) ORDER BY id LIMIT ?",
        (*(value for kind in kinds for value in (run_id, kind, after, limit)), limit),
    )


async def checkpoints(store: Store, run_id: int) -> list[Checkpoint]:
    """Return the checkpoints of a run, the newest first; the folders of older ones may have been deleted."""
    return await store.all(Checkpoint, "SELECT * FROM checkpoints WHERE run_id=? ORDER BY id DESC", (run_id,))


async def weight_history(store: Store, scope: str, limit: int = 1000) -> list[WeightVersion]:
    """Return the newest versions of a scope's weights (``evaluation`` or ``generation``), the oldest first."""
    newest = await store.all(
        WeightVersion, "SELECT * FROM weight_versions WHERE scope=? ORDER BY id DESC LIMIT ?", (scope, limit)
    )
    return newest[::-1]
