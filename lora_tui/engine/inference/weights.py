"""The evaluation's aggregator as the stored feedback makes it: a pure function of the priors and the log."""

from lora_tui.config.models import Aggregator
from lora_tui.scoring.aggregator import EVALUATION_PRIORS, AdaptiveAggregator
from lora_tui.store import feedback
from lora_tui.store.connection import Store

SCOPE = "evaluation"


async def evaluation_aggregator(store: Store, settings: Aggregator) -> tuple[AdaptiveAggregator, int]:
    """Replay the feedback in force; returns the aggregator and the stored version of its weights."""
    rows = await feedback.in_force(store, SCOPE)
    aggregator = AdaptiveAggregator(EVALUATION_PRIORS, settings.learning_rate)
    for row in rows:
        aggregator.update(row.metrics, row.target)
    async with store.transaction() as t:
        version = await feedback.note_weights(t, SCOPE, aggregator.version, aggregator.weights)
    return aggregator, version
