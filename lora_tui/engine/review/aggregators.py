"""The metric aggregators as people's stored feedback makes them: a pure function of priors, learning rate and log.

There are two, one for each scope: ``generation`` judges pairs, ``evaluation`` scores answers to test prompts. Small and
apart because both the jobs that score and the ratings that teach replay them; it needs neither torch nor nltk.
"""

from collections.abc import Iterable

from lora_tui.config.models import Aggregator
from lora_tui.scoring.aggregator import EVALUATION_PRIORS, GENERATION_PRIORS, AdaptiveAggregator, Feedback
from lora_tui.store import feedback, runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import FeedbackRow

GENERATION, EVALUATION = "generation", "evaluation"

PRIORS = {GENERATION: GENERATION_PRIORS, EVALUATION: EVALUATION_PRIORS}
"""The weights of each scope before any feedback."""

_LEARNING_RATES = {
    GENERATION: "data_generation.adaptive_aggregator.learning_rate",
    EVALUATION: "fine_tuning.evaluation.adaptive_aggregator.learning_rate",
}


def replay_feedback(scope: str, rows: Iterable[FeedbackRow], learning_rate: float) -> AdaptiveAggregator:
    """Return the aggregator that a log of feedback makes of the priors."""
    return AdaptiveAggregator.replay(PRIORS[scope], [Feedback(row.metrics, row.target) for row in rows], learning_rate)


async def stored_aggregator(t: Store, scope: str, learning_rate: float) -> tuple[AdaptiveAggregator, int]:
    """Replay the feedback in force inside the caller's transaction; returns the aggregator and its stored version."""
    aggregator = replay_feedback(scope, await feedback.in_force(t, scope), learning_rate)
    return aggregator, await feedback.record_weights(t, scope, aggregator.version, aggregator.weights)


async def evaluation_aggregator(store: Store, settings: Aggregator) -> tuple[AdaptiveAggregator, int]:
    """Replay the evaluation's feedback in a transaction of its own; returns the aggregator and its stored version."""
    async with store.transaction() as t:
        return await stored_aggregator(t, EVALUATION, settings.learning_rate)


async def learning_rate_of_run(t: Store, scope: str, run_id: int) -> float:
    """Return the aggregator's learning rate in a run's own configuration, the default where it names none."""
    return float(await runs.setting(t, run_id, _LEARNING_RATES[scope], Aggregator().learning_rate))
