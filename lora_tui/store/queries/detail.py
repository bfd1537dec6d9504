"""One pair, opened: everything that is known of it."""

from dataclasses import dataclass

from lora_tui.store import generation
from lora_tui.store.connection import Store
from lora_tui.store.generation import PairRow
from lora_tui.store.reviews import PairEdit, run_of_pair


@dataclass(frozen=True, slots=True)
class MetricLine:
    """A metric of a pair (0-1), and how it was measured where that is known."""

    name: str
    value: float
    detail: str | None


@dataclass(frozen=True, slots=True)
class DecisionLine:
    """A verdict with the weights it was made with; `undone_at` is set where it was taken back. Scores are 0-10."""

    id: int
    verdict: str
    score: float | None
    threshold: float | None
    weights_version: int
    weights: dict[str, float] | None
    decided_by: str
    cause: str
    reason: str
    at: float
    undone_at: float | None


@dataclass(frozen=True, slots=True)
class PairDetail:
    """A pair with its passage (empty where there is none), metrics by name, decisions and edits, the newest first."""

    pair: PairRow
    run_id: int
    heading: str
    passage: str
    metrics: tuple[MetricLine, ...]
    decisions: tuple[DecisionLine, ...]
    edits: tuple[PairEdit, ...]


async def pair_detail(store: Store, pair_id: int) -> PairDetail | None:
    """Return everything about a pair, or None where it does not exist."""
    pair = await generation.pair(store, pair_id)
    if pair is None:
        return None
    run_id = await run_of_pair(store, pair_id)
    chunk = await store.tuples("SELECT heading, text FROM chunks WHERE id=?", (pair.chunk_id,))
    heading, passage = chunk[0] if chunk else ("", "")
    metrics = await store.all(
        MetricLine, "SELECT name, value, detail FROM pair_metrics WHERE pair_id=? ORDER BY name", (pair_id,)
    )
    decisions = await store.all(
        DecisionLine,
        "SELECT decisions.*, weight_versions.weights FROM decisions"
        " LEFT JOIN weight_versions ON weight_versions.id = weights_version WHERE pair_id=? ORDER BY decisions.id DESC",
        (pair_id,),
    )
    edits = await store.all(PairEdit, "SELECT * FROM pair_edits WHERE pair_id=? ORDER BY id DESC", (pair_id,))
    return PairDetail(pair, run_id, heading, passage, tuple(metrics), tuple(decisions), tuple(edits))
