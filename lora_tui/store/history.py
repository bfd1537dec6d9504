"""What earlier training runs tell of the next one: what they planned, and how fast they were."""

from dataclasses import dataclass
from typing import Any

from lora_tui.store.connection import Store

# A run's plan is among its first events, so the index on (run, id) finds it without a walk through all of them. A run
# that was taken up again has planned again, and its last plan is what its steps belong to; the first is near enough.
_PLANNED = """
SELECT runs.id AS id, runs.state AS state, runs.host AS host,
    CASE mode WHEN 'train' THEN COALESCE(
        NULLIF(json_extract(options, '$.train_data_file'), ''),
        NULLIF(json_extract(settings, '$.fine_tuning.train_data_file'), ''),
        json_extract(settings, '$.data_generation.output_file'), '') ELSE '' END AS data,
    COALESCE(json_extract(settings, '$.fine_tuning.training.max_length'), 0) AS max_length,
    events.at AS planned_at, events.payload AS plan,
    COALESCE((SELECT SUM(tokens) FROM steps WHERE run_id = runs.id), 0) AS tokens,
    COALESCE((SELECT SUM(seconds) FROM steps WHERE run_id = runs.id), 0.0) AS seconds
FROM runs JOIN events ON events.id = (
    SELECT id FROM events WHERE run_id = runs.id AND kind = 'plan' ORDER BY id LIMIT 1)
WHERE mode IN ('train', 'quickstart') ORDER BY runs.id DESC LIMIT ?"""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A training run that got as far as its plan.

    `data` is the training file as the run was given it, empty where the run made its own; `plan` is what its ``plan``
    event says; `tokens` and `seconds` are sums over its optimizer steps.
    """

    id: int
    state: str
    host: str
    data: str
    max_length: int
    planned_at: float
    plan: dict[str, Any]
    tokens: int
    seconds: float


async def planned_runs(store: Store, most: int = 20) -> list[PlannedRun]:
    """Return the newest training runs that have planned what they do, newest first."""
    return await store.all(PlannedRun, _PLANNED, (most,))
