"""What a trainer reports, as columns to be drawn, and the events and checkpoints of a run by their kind."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from lora_tui.store.connection import Store
from lora_tui.store.rows import Checkpoint, Event

_BLOCK = 10_000
"""Steps that are fetched at once: a long run never stands in memory as rows."""


def _integers() -> "array[int]":
    return array("q")


def _reals() -> "array[float]":
    return array("d")


@dataclass(frozen=True, slots=True)
class StepColumns:
    """Optimizer steps in order, one column an array; a loss or gradient norm that was not finite is NaN."""

    step: "array[int]" = field(default_factory=_integers)
    epoch: "array[float]" = field(default_factory=_reals)
    loss: "array[float]" = field(default_factory=_reals)
    lr: "array[float]" = field(default_factory=_reals)
    grad_norm: "array[float]" = field(default_factory=_reals)
    tokens: "array[int]" = field(default_factory=_integers)
    tokens_per_s: "array[float]" = field(default_factory=_reals)
    seconds: "array[float]" = field(default_factory=_reals)
    memory_mb: "array[float]" = field(default_factory=_reals)
    at: "array[float]" = field(default_factory=_reals)

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, slots=True)
class WeightVersion:
    """The aggregator's weights after `version` judgements, as they were at a time."""

    id: int
    scope: str
    version: int
    weights: dict[str, float]
    at: float


_STEPS = """
SELECT step, epoch, loss, lr, grad_norm, tokens, tokens_per_s, seconds, memory_mb, at
FROM steps WHERE run_id=? AND step>? ORDER BY step LIMIT ?"""


async def step_columns(store: Store, run_id: int, after_step: int = 0) -> StepColumns:
    """Return the optimizer steps of a run after step `after_step`, as columns of equal length."""
    columns = StepColumns()
    arrays = [getattr(columns, name) for name in StepColumns.__dataclass_fields__]
    while True:
        block = await store.columns(_STEPS, (run_id, after_step, _BLOCK))
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
    # Each kind has its own ordered range of the index. With kind IN (…) SQLite would read all of them and sort.
    one = "SELECT * FROM (SELECT id FROM events WHERE run_id=? AND kind=? AND id>? ORDER BY id LIMIT ?)"
    return await store.all(
        Event,
        f"SELECT * FROM events WHERE id IN ({' UNION ALL '.join([one] * len(kinds))}) ORDER BY id LIMIT ?",
        (*(value for kind in kinds for value in (run_id, kind, after, limit)), limit),
    )


async def checkpoints(store: Store, run_id: int) -> list[Checkpoint]:
    """Return the checkpoints that a run has reported, the newest first; older folders may be gone from the disk."""
    return await store.all(Checkpoint, "SELECT * FROM checkpoints WHERE run_id=? ORDER BY id DESC", (run_id,))


async def weight_history(store: Store, scope: str, limit: int = 1000) -> list[WeightVersion]:
    """Return the newest versions of a scope's weights (``evaluation`` or ``generation``), the oldest first."""
    newest = await store.all(
        WeightVersion, "SELECT * FROM weight_versions WHERE scope=? ORDER BY id DESC LIMIT ?", (scope, limit)
    )
    return newest[::-1]
