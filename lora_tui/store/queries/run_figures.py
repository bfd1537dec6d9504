"""Figures of runs for a list: right answers, steps, a few points of loss and score, what a run was made from.

They are read for many runs at once, from indexes and a few rows of each: a run of a million steps costs what one of a
hundred does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.values import to_json
from lora_tui.text import is_right

LOSS_POINTS = 7
"""Points of a run's loss, each the mean of a few neighbouring steps."""

_NEIGHBOURS = 16
"""Steps at most that a point of the loss is the mean of."""


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What a run has come to, beside its `RunLine`; None where it has none of it.

    `right` of `asked` test prompts were answered right at the best evaluation. `loss` are means over a few steps each,
    `last_loss` is that of the newest; `score` are those of the tuned model's evaluations in order. `rate` is the
    configured learning rate, `batch` the examples a step. `accepted` counts pairs. `adapter_run` is the run whose
    adapter an evaluation or export took, `path` what an export has written or is to write.
    """

    id: int
    right: int | None = None
    asked: int | None = None
    loss: tuple[float, ...] = ()
    last_loss: float | None = None
    score: tuple[float, ...] = ()
    base_score: float | None = None
    steps: int | None = None
    total_steps: int | None = None
    rate: float | None = None
    batch: int | None = None
    accepted: int | None = None
    adapter_run: int | None = None
    form: str = ""
    path: str = ""


_SETTINGS = """
SELECT id,
    CASE WHEN mode IN ('train', 'quickstart') THEN json_extract(settings, '$.fine_tuning.optimizer.lora_lr') END,
    CASE WHEN mode IN ('train', 'quickstart') THEN json_extract(settings, '$.fine_tuning.training.batch_size')
        * json_extract(settings, '$.fine_tuning.training.gradient_accumulation_steps') END,
    CASE WHEN mode IN ('generate', 'quickstart')
        THEN (SELECT COUNT(*) FROM pairs WHERE run_id = runs.id AND state = 'accepted') END,
    COALESCE(json_extract(options, '$.adapter_run'), json_extract(result, '$.adapter_run')),
    CASE WHEN mode = 'export' THEN COALESCE(json_extract(result, '$.format'), json_extract(options, '$.format')) END,
    CASE WHEN mode = 'export' THEN COALESCE(json_extract(result, '$.path'), json_extract(options, '$.output')) END,
    CASE WHEN mode IN ('train', 'quickstart') THEN (SELECT MAX(step) FROM steps WHERE run_id = runs.id) END,
    CASE WHEN mode IN ('train', 'quickstart') THEN COALESCE(
        (SELECT json_extract(payload, '$.steps') FROM events WHERE run_id = runs.id AND kind = 'step'
            ORDER BY id DESC LIMIT 1),
        (SELECT json_extract(payload, '$.steps') FROM events WHERE run_id = runs.id AND kind = 'plan'
            ORDER BY id DESC LIMIT 1)) END
FROM runs WHERE id IN (SELECT value FROM json_each(?))"""

_LOSSES = """
SELECT json_extract(part.value, '$[0]'), AVG(loss) FROM json_each(?) AS part
JOIN steps ON run_id = json_extract(part.value, '$[0]')
    AND step BETWEEN json_extract(part.value, '$[1]') AND json_extract(part.value, '$[2]')
GROUP BY part.id ORDER BY part.id"""


async def run_figures(store: Store, run_ids: Iterable[int]) -> dict[int, RunFigures]:
    """Return the figures of these runs by id; those that do not exist are left out."""
    ids = to_json(list(run_ids))
    rows = await store.tuples(_SETTINGS, (ids,))
    ends = {row[0]: row[7] for row in rows if row[7]}
    losses: dict[int, list[float]] = {}
    for run_id, loss in await store.tuples(_LOSSES, (to_json(_parts(ends)),)):
        if loss is not None:
            losses.setdefault(run_id, []).append(loss)
    newest = await store.mapping(
        "SELECT run_id, loss FROM json_each(?) AS ends JOIN steps"
        " ON run_id = CAST(ends.key AS INTEGER) AND step = ends.value",
        (to_json({str(run_id): step for run_id, step in ends.items()}),),
    )
    scores, best, base = await _evaluations(store, ids)
    right = await _right_answers(store, best)
    figures = {}
    for run_id, rate, batch, accepted, adapter_run, form, path, steps, total in rows:
        right_answers, asked = right.get(run_id, (None, None))
        figures[run_id] = RunFigures(
            run_id,
            right=right_answers,
            asked=asked,
            loss=tuple(losses.get(run_id, ())),
            last_loss=newest.get(run_id),
            score=tuple(scores.get(run_id, ())),
            base_score=base.get(run_id),
            steps=steps,
            total_steps=total,
            rate=rate,
            batch=batch,
            accepted=accepted,
            adapter_run=adapter_run,
            form=form or "",
            path=path or "",
        )
    return figures


def _parts(ends: dict[int, int]) -> list[tuple[int, int, int]]:
    """The ranges of steps whose mean losses stand for a run, 1 to `LOSS_POINTS` each: its id, first and last step."""
    parts = []
    for run_id, steps in ends.items():
        number = min(LOSS_POINTS, steps)
        for part in range(number):
            first, last = steps * part // number + 1, steps * (part + 1) // number
            parts.append((run_id, max(first, last - _NEIGHBOURS + 1), last))
    return parts


async def _evaluations(store: Store, ids: str) -> tuple[dict[int, list[float]], dict[int, int], dict[int, float]]:
    """The tuned model's scores by run, the id of each run's best evaluation, and the base model's newest score."""
    scores: dict[int, list[float]] = {}
    best: dict[int, tuple[float, int]] = {}
    base: dict[int, float] = {}
    found = await store.tuples(
        "SELECT run_id, id, model, score, COALESCE(overall, score) FROM evaluations"
        " WHERE run_id IN (SELECT value FROM json_each(?)) ORDER BY run_id, step, id",
        (ids,),
    )
    for run_id, evaluation, model, score, rank in found:
        if model == "tuned":
            scores.setdefault(run_id, []).append(score)
            if run_id not in best or rank > best[run_id][0]:
                best[run_id] = rank, evaluation
        elif model == "base":
            base[run_id] = score
    return scores, {run_id: evaluation for run_id, (_, evaluation) in best.items()}, base


async def _right_answers(store: Store, best: dict[int, int]) -> dict[int, tuple[int, int]]:
    """How many answers were right, and how many there are, by run; `best` has the evaluation of each."""
    run_of = {evaluation: run_id for run_id, evaluation in best.items()}
    counts: dict[int, tuple[int, int]] = {}
    rows: Sequence[tuple[Any, ...]] = await store.tuples(
        "SELECT evaluation_id, kind, reference, answer, score FROM samples"
        " WHERE evaluation_id IN (SELECT value FROM json_each(?))",
        (to_json(list(run_of)),),
    )
    for evaluation, *sample in rows:
        right, asked = counts.get(run_of[evaluation], (0, 0))
        counts[run_of[evaluation]] = right + is_right(*sample), asked + 1
    return counts
