"""The aggregators as the stored feedback makes them: a pure function of priors, learning rate and the log in force.

There are two, one for each scope: ``generation`` judges pairs, ``evaluation`` scores answers to test prompts.
"""

from collections.abc import Iterable

from lora_tui.scoring.aggregator import EVALUATION_PRIORS, GENERATION_PRIORS, AdaptiveAggregator, Feedback
from lora_tui.store import feedback
from lora_tui.store.connection import Store
from lora_tui.store.rows import FeedbackRow

GENERATION, EVALUATION = "generation", "evaluation"

PRIORS = {GENERATION: GENERATION_PRIORS, EVALUATION: EVALUATION_PRIORS}
"""The weights of each scope before any feedback."""


def replayed(scope: str, rows: Iterable[FeedbackRow], learning_rate: float) -> AdaptiveAggregator:
    """Return the aggregator that a log of feedback makes of the priors."""
    return AdaptiveAggregator.replay(PRIORS[scope], [Feedback(row.metrics, row.target) for row in rows], learning_rate)


async def noted(t: Store, scope: str, learning_rate: float) -> tuple[AdaptiveAggregator, int]:
    """Replay the feedback in force inside the caller's transaction; returns the aggregator and its stored version."""
    aggregator = replayed(scope, await feedback.in_force(t, scope), learning_rate)
    return aggregator, await feedback.note_weights(t, scope, aggregator.version, aggregator.weights)
