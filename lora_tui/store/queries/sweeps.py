"""The runs of a sweep with what they have come to, for the command line's table and the app's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store
from lora_tui.store.queries.run_figures import RunFigures, run_figures
from lora_tui.store.queries.runs import RunLine, run_lines_of
from lora_tui.store.rows import worked_seconds


@dataclass(frozen=True, slots=True)
class SweepRow:
    """A run of a sweep: what it sets by dotted key, and what it has come to; None where there is nothing yet.

    `score` (0-1) is that of its best evaluation, `held_out_loss` the lowest (nats a label token), `loss` that of the
    newest step; `right` of `asked` test prompts were answered right.
    """

    run_id: int
    state: str
    point: Mapping[str, Any]
    loss: float | None
    held_out_loss: float | None
    score: float | None
    right: int | None
    asked: int | None
    seconds: float | None


def ranked(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """Return the rows, the best first: by score, then right answers, then held-out loss; unfinished ones last."""

    def rank(row: SweepRow) -> tuple[bool, float, int, float, float]:
        worst = float("inf")
        return (
            row.state != "finished",
            -(row.score if row.score is not None else -1.0),
            -(row.right or 0),
            worst if row.held_out_loss is None else row.held_out_loss,
            worst if row.loss is None else row.loss,
        )

    return sorted(rows, key=rank)


def best_of(rows: Sequence[SweepRow]) -> SweepRow | None:
    """Return the best finished run; None where none has finished."""
    first = next(iter(ranked(rows)), None)
    return first if first is not None and first.state == "finished" else None


async def sweep_rows(store: Store, group_id: int) -> list[SweepRow]:
    """Return the runs of a sweep in the order in which they were added; none where there is no such sweep."""
    rows = await store.tuples("SELECT run_id FROM queue WHERE group_id=? ORDER BY run_id", (group_id,))
    lines = await run_lines_of(store, [int(run_id) for (run_id,) in rows])
    figures = await run_figures(store, [line.id for line in lines])
    return [sweep_row(line, figures.get(line.id, RunFigures(line.id))) for line in lines]


def sweep_row(line: RunLine, figures: RunFigures) -> SweepRow:
    """Return a run of a sweep as a row of its table."""
    return SweepRow(
        run_id=line.id,
        state=line.state,
        point=point_of(line),
        loss=figures.last_loss,
        held_out_loss=line.held_out_loss,
        score=line.best_score,
        right=figures.right,
        asked=figures.asked,
        seconds=worked_seconds(line, line.ended_at or line.heartbeat),
    )


def point_of(line: RunLine) -> dict[str, Any]:
    """Return what a run sets in its sweep, by dotted key; empty for one that belongs to none."""
    try:
        found = json.loads(line.point or "{}")
    except ValueError:  # damaged
        return {}
    return found if isinstance(found, dict) else {}


def groups_of(lines: Sequence[RunLine]) -> list[int]:
    """Return the sweeps that runs belong to, each once."""
    return list(dict.fromkeys(line.group_id for line in lines if line.group_id is not None))
