"""Queries on training runs: optimizer steps, evaluations with their samples, and what earlier runs planned.

Training emits events; `insert_typed_rows` writes the typed rows that follow from them in the same transaction, so that
events and rows never disagree. A resumed run repeats the steps after its last checkpoint: its rows replace the older
ones.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.rows import Evaluation, PlannedRun, Sample, StepColumns
from lora_tui.store.values import to_json


async def insert_typed_rows(t: Store, run_id: int, at: float, kind: str, payload: Mapping[str, Any]) -> None:
    """Insert the rows of one ``step``, ``evaluation`` or ``checkpoint`` event; other kinds have none."""
    if kind == "step":
        await _put_step(t, run_id, at, payload)
    elif kind == "evaluation":
        await _put_evaluation(t, run_id, at, payload)
    elif kind == "checkpoint":
        columns = {name: payload[name] for name in ("step", "kind", "path")}
        await t.insert("checkpoints", run_id=run_id, **columns, score=payload.get("score"), at=at)


async def _put_step(t: Store, run_id: int, at: float, payload: Mapping[str, Any]) -> None:
    values = {name: at if name == "at" else payload[name] for name in StepColumns.__dataclass_fields__}
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    await t.insert("steps", otherwise="OR REPLACE", run_id=run_id, **finite)


async def _put_evaluation(t: Store, run_id: int, at: float, payload: Mapping[str, Any]) -> None:
    columns = {name: payload[name] for name in ("step", "model", "score", "metrics", "weights", "weights_version")}
    columns |= {name: payload.get(name) for name in ("held_out_loss", "controls", "controls_kept", "overall")}
    columns |= {"run_id": run_id, "at": at}
    evaluation_id = await t.insert("evaluations", otherwise="OR REPLACE", **columns)
    await t.execute_many(
        "INSERT INTO samples(evaluation_id, ordinal, prompt, kind, reference, answer, metrics, score)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (evaluation_id, n, s["prompt"], s["kind"], s["reference"], s["answer"], to_json(s["metrics"]), s["score"])
            for n, s in enumerate(payload["samples"])
        ],
    )


async def evaluations(store: Store, run_id: int) -> list[Evaluation]:
    """Return the evaluations of a run, oldest first."""
    return await store.all(Evaluation, "SELECT * FROM evaluations WHERE run_id=? ORDER BY id", (run_id,))


async def samples(store: Store, evaluation_id: int) -> list[Sample]:
    """Return the samples of an evaluation in the order of the test prompts."""
    return await store.all(Sample, "SELECT * FROM samples WHERE evaluation_id=? ORDER BY ordinal", (evaluation_id,))


def passed_over(found: Sequence[Evaluation]) -> Evaluation | None:
    """Return the evaluation that scored highest where another is the best of the run for its controls; else None.

    `found` are the tuned model's; scores that are shown alike are taken for equal.
    """
    best = max(found, key=lambda one: (one.rank, -one.step), default=None)
    highest = max(found, key=lambda one: one.score, default=None)
    if best is None or highest is None or round(highest.score, 2) <= round(best.score, 2):
        return None
    return highest


async def answers_to(store: Store, run_id: int, prompt: str) -> list[tuple[int, str, float, str]]:
    """Return (step, model, score, answer) for a test prompt at every evaluation of a run, oldest first."""
    rows = await store.tuples(
        "SELECT step, model, samples.score, answer FROM samples JOIN evaluations ON evaluations.id = evaluation_id"
        " WHERE run_id=? AND prompt=? ORDER BY evaluations.id",
        (run_id, prompt),
    )
    return [(int(step), str(model), float(score), str(answer)) for step, model, score, answer in rows]


# A run's plan is among its first events, so the index on (run, id) finds it without a walk through all of them. A run
# that was taken up again has planned again, and its last plan is what its steps belong to; the first is near enough.
_PLANNED = """
SELECT runs.id AS id, runs.state AS state, runs.host AS host,
    CASE mode WHEN 'train' THEN COALESCE(
        NULLIF(json_extract(options, '$.train_data_file'), ''),
        CASE WHEN json_extract(settings, '$.fine_tuning.method') IN ('dpo', 'kto')
            THEN COALESCE(json_extract(settings, '$.fine_tuning.preferences.data_file'), '') END,
        NULLIF(json_extract(settings, '$.fine_tuning.train_data_file'), ''),
        json_extract(settings, '$.data_generation.output_file'), '') ELSE '' END AS data,
    COALESCE(json_extract(settings, '$.fine_tuning.training.max_length'), 0) AS max_length,
    events.at AS planned_at, events.payload AS plan,
    COALESCE((SELECT SUM(tokens) FROM steps WHERE run_id = runs.id), 0) AS tokens,
    COALESCE((SELECT SUM(seconds) FROM steps WHERE run_id = runs.id), 0.0) AS seconds
FROM runs JOIN events ON events.id = (
    SELECT id FROM events WHERE run_id = runs.id AND kind = 'plan' ORDER BY id LIMIT 1)
WHERE mode IN ('train', 'quickstart') ORDER BY runs.id DESC LIMIT ?"""


async def planned_runs(store: Store, most: int = 20) -> list[PlannedRun]:
    """Return the newest training runs that have planned what they do, newest first."""
    return await store.all(PlannedRun, _PLANNED, (most,))
