"""The metric aggregators as people's stored feedback makes them: a pure function of priors, learning rate and log.

There are two, one for each scope: ``generation`` judges pairs, ``evaluation`` scores answers to test prompts. Small and
apart because both the jobs that score and the ratings that teach replay them; it needs no torch.
"""

import asyncio

from lora_tui.config.generation import Aggregator
from lora_tui.scoring.aggregator import AdaptiveAggregator, Feedback
from lora_tui.scoring.priors import EVALUATION_PRIOR, GENERATION_PRIOR, Prior
from lora_tui.store import feedback, runs
from lora_tui.store.connection import Store

GENERATION, EVALUATION = "generation", "evaluation"

PRIORS: dict[str, Prior] = {GENERATION: GENERATION_PRIOR, EVALUATION: EVALUATION_PRIOR}
"""The weights of each scope before any feedback."""

NEWEST_FEATURE = "containment"
"""A feature that every answer has which was scored since features are part of the score."""

_LEARNING_RATES = {
    GENERATION: "data_generation.adaptive_aggregator.learning_rate",
    EVALUATION: "fine_tuning.evaluation.adaptive_aggregator.learning_rate",
}


async def replay_and_record(t: Store, scope: str, learning_rate: float) -> tuple[AdaptiveAggregator, int]:
    """Replay the feedback in force and record the weights, inside the caller's transaction.

    Returns the aggregator, and the id of its row of weights. Ratings from before the answers had features are given
    theirs first, from the texts that were rated, so that they count as those of today do.
    """
    if scope == EVALUATION:
        for rated in await feedback.answers_without(t, NEWEST_FEATURE):
            await feedback.add_metrics(t, rated.id, await asyncio.to_thread(_features, rated))
    log = [Feedback(row.metrics, row.target) for row in await feedback.in_force(t, scope)]
    aggregator = AdaptiveAggregator.replay(PRIORS[scope], log, learning_rate)
    return aggregator, await feedback.record_weights(
        t, scope, aggregator.version, {"bias": aggregator.bias, **aggregator.weights}
    )


def _features(rated: feedback.RatedAnswer) -> dict[str, float]:
    from lora_tui.scoring.features import answer_features

    return answer_features(rated.answer, rated.reference, rated.prompt)


async def evaluation_aggregator(store: Store, settings: Aggregator) -> tuple[AdaptiveAggregator, int]:
    """Replay the evaluation's feedback in a transaction of its own; returns the aggregator and its stored version."""
    async with store.transaction() as t:
        return await replay_and_record(t, EVALUATION, settings.learning_rate)


async def learning_rate_of_run(t: Store, scope: str, run_id: int) -> float:
    """Return the aggregator's learning rate in a run's own configuration, the default where it names none."""
    return float(await runs.setting(t, run_id, _LEARNING_RATES[scope], Aggregator().learning_rate))
