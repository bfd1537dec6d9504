"""Ratings of a model's outputs: answers to test prompts, and replies in a chat.

A rating of 1-5 is a target of 0-1 for the metrics of what was rated. It replaces the rater's earlier one, which comes
back when it is taken back, and the weights follow by replaying the log. A reply without a reference has no metrics: its
rating is only stored. Apart from `pairs`, which writes the files of generation.
"""

import asyncio
import time
from collections.abc import Mapping

from lora_tui.config.models import Settings
from lora_tui.engine.review.aggregators import EVALUATION, PRIORS, learning_rate_of_run, replay_and_record
from lora_tui.errors import UsageError
from lora_tui.protocol.backend import ReviewResult
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.priors import FIXED_REPLY
from lora_tui.store import chat_log, feedback, reviews
from lora_tui.store.connection import Store

CHAT = "chat"
"""The scope of ratings of replies without metrics, which no aggregator replays."""

_LOWEST, _HIGHEST = 1, 5

_KEPT = "kept"
"""The one metric of a control (`lora_tui.engine.evaluation.scoring`), which has no weight in the score."""


async def rate_sample(store: Store, sample_id: int, rating: int, *, asked: str = feedback.FREE) -> ReviewResult:
    """Rate (1-5) the answer to a test prompt; raises `UsageError` where there is no such answer or rating.

    `asked` tells how it came about (`store.feedback`).
    """
    _check_rating(rating)
    async with store.transaction() as t:
        sample = await _sample(t, sample_id)
        learning_rate = await learning_rate_of_run(t, EVALUATION, sample.run_id)
        before, _ = await replay_and_record(t, EVALUATION, learning_rate)
        weighed = sample.metrics if sample.kind == "expected" else {}
        await _replace_rating(t, "sample", sample_id, rating, sample.run_id, weighed, asked)
        after, _ = await replay_and_record(t, EVALUATION, learning_rate)
    more = "." if weighed else ": kept; ratings of controls move no weights."
    return _result(f"Rated {rating} of 5{more}", before, after, sample.metrics)


async def undo_sample_rating(store: Store, sample_id: int) -> ReviewResult | None:
    """Take back the rating of an answer to a test prompt, and restore the one before it; None where there is none."""
    async with store.transaction() as t:
        sample = await _sample(t, sample_id)
        learning_rate = await learning_rate_of_run(t, EVALUATION, sample.run_id)
        before, _ = await replay_and_record(t, EVALUATION, learning_rate)
        if not await _take_rating_back(t, "sample", sample_id):
            return None
        after, _ = await replay_and_record(t, EVALUATION, learning_rate)
    return _result("Took back the rating.", before, after, sample.metrics)


async def _sample(t: Store, sample_id: int) -> reviews.RatedSample:
    sample = await reviews.rated_sample(t, sample_id)
    if sample is None:
        raise UsageError(f"There is no answer {sample_id} in {t.path}.")
    if not sample.metrics.keys() & {_KEPT, *PRIORS[EVALUATION].weights}:
        raise UsageError(f"The answer {sample_id} was stored without metrics, so a rating would teach nothing.")
    return sample


async def rate_turn(store: Store, turn_id: int, rating: int, settings: Settings) -> ReviewResult:
    """Rate (1-5) a reply; raises `UsageError` where there is no such reply or rating.

    It moves the weights where the reply answers one of ``fine_tuning.chat.commands``, by its metrics against the
    predefined answer.
    """
    _check_rating(rating)
    learning_rate = settings.fine_tuning.evaluation.adaptive_aggregator.learning_rate
    turn = await _reply(store, turn_id)
    predefined = settings.fine_tuning.chat.predefined_reply(turn.question)
    metrics = {} if predefined is None else await asyncio.to_thread(_features, turn, predefined)
    async with store.transaction() as t:
        run_id = (await _reply(t, turn_id)).run_id
        before, _ = await replay_and_record(t, EVALUATION, learning_rate)
        await _replace_rating(t, "turn", turn_id, rating, run_id, metrics)
        after, _ = await replay_and_record(t, EVALUATION, learning_rate)
    moved = before.weights != after.weights
    more = "it moved the weights of the score" if moved else "kept; only special commands move the weights"
    return _result(f"Rated {rating} of 5: {more}.", before, after, metrics)


async def undo_turn_rating(store: Store, turn_id: int, settings: Settings) -> ReviewResult | None:
    """Take back the rating of a reply, and restore the one before it; None where there is none to take back."""
    learning_rate = settings.fine_tuning.evaluation.adaptive_aggregator.learning_rate
    async with store.transaction() as t:
        await _reply(t, turn_id)
        before, _ = await replay_and_record(t, EVALUATION, learning_rate)
        if not await _take_rating_back(t, "turn", turn_id):
            return None
        after, _ = await replay_and_record(t, EVALUATION, learning_rate)
    return _result("Took back the rating.", before, after, {})


async def _replace_rating(
    t: Store,
    subject: str,
    subject_id: int,
    rating: int,
    run_id: int | None,
    metrics: Mapping[str, float],
    asked: str = feedback.FREE,
) -> None:
    """Put a rating in place of the earlier one, at one moment."""
    at = time.time()
    asked = await feedback.asked_before(t, subject, subject_id, asked)
    await feedback.withdraw(t, subject, subject_id, at)
    target = (rating - _LOWEST) / (_HIGHEST - _LOWEST)
    scope = EVALUATION if metrics else CHAT
    await feedback.add(t, scope, run_id, subject, subject_id, metrics, target, feedback.PERSON, at, asked)


async def _take_rating_back(t: Store, subject: str, subject_id: int) -> bool:
    """Undo the rating in force and put the one that it replaced back; returns whether there was one."""
    current, former = await feedback.replaced_by(t, subject, subject_id)
    if current is None:
        return False
    await feedback.withdraw(t, subject, subject_id)
    if former is not None:
        await feedback.reinstate(t, former)
    return True


def _result(
    message: str, before: AdaptiveAggregator, after: AdaptiveAggregator, metrics: Mapping[str, float]
) -> ReviewResult:
    """What a rating did to the weights, and to the score of what was rated."""
    weighed = metrics.keys() & PRIORS[EVALUATION].weights.keys()
    return ReviewResult(
        message, before.weights, after.weights, (before.score(metrics), after.score(metrics)) if weighed else None
    )


async def _reply(t: Store, turn_id: int) -> chat_log.RatedTurn:
    turn = await chat_log.rated_turn(t, turn_id)
    if turn is None or turn.role != "assistant":
        raise UsageError(f"There is no reply {turn_id} in {t.path}.")
    return turn


def _features(turn: chat_log.RatedTurn, predefined: str) -> dict[str, float]:
    """The metrics of a reply beside the predefined one, which it must have word for word."""
    from lora_tui.scoring.features import answer_features

    return {**answer_features(turn.text, predefined, turn.question or ""), FIXED_REPLY: 1.0}


def _check_rating(rating: int) -> None:
    if not _LOWEST <= rating <= _HIGHEST:
        raise UsageError(f"A rating is a number from {_LOWEST} to {_HIGHEST}, not {rating}.")
