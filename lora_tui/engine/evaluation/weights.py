"""The evaluation's aggregator as the stored feedback makes it."""

from lora_tui.config.models import Aggregator
from lora_tui.engine.aggregators import EVALUATION, noted
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.store.connection import Store


async def evaluation_aggregator(store: Store, settings: Aggregator) -> tuple[AdaptiveAggregator, int]:
    """Replay the feedback in force; returns the aggregator and the stored version of its weights."""
    async with store.transaction() as t:
        return await noted(t, EVALUATION, settings.learning_rate)
