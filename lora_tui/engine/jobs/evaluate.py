"""The job of ``--run evaluate``: an adapter and its base model scored on the same prompts."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_tui.config.models import Evaluation
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.evaluation.prompts import TestPrompt, resolve_prompts
from lora_tui.engine.evaluation.scoring import EvaluationResult, score_model
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import load_base
from lora_tui.engine.review.aggregators import EVALUATION, evaluation_aggregator
from lora_tui.engine.review.agreement import RatingStatistics, rating_statistics
from lora_tui.engine.runtime.context import RunContext, progress_events
from lora_tui.scoring.aggregator import AdaptiveAggregator


async def evaluate_adapter(ctx: RunContext, source: AdapterSource) -> dict[str, Any]:
    """Score one adapter and its base model, and emit an ``evaluation`` event for each."""
    prompts = await asyncio.to_thread(_prompts, ctx, source)
    base = await ctx.in_torch_thread(
        load_base, ctx.settings, progress_events(ctx.emit), source.base_model(ctx.settings)
    )
    ctx.raise_if_stopping()
    evaluation = ctx.settings.fine_tuning.evaluation
    max_new_tokens = evaluation.max_new_tokens
    if max_new_tokens == Evaluation().max_new_tokens:  # as in the adapter's training, so that scores compare
        max_new_tokens = int(source.metadata.get("max_new_tokens", max_new_tokens))
    aggregator, version = await evaluation_aggregator(ctx.store, evaluation.adaptive_aggregator)
    ratings = await rating_statistics(ctx.store, EVALUATION, evaluation.adaptive_aggregator.learning_rate)
    base_result = await ctx.in_torch_thread(
        score_model, base.model, base.tokenizer, prompts, aggregator, max_new_tokens
    )
    emit_evaluation(ctx, base_result, aggregator, version, 0, "base", ratings=ratings)
    ctx.raise_if_stopping()
    model = await ctx.in_torch_thread(load_adapter, base, source)
    tuned_result = await ctx.in_torch_thread(score_model, model, base.tokenizer, prompts, aggregator, max_new_tokens)
    emit_evaluation(ctx, tuned_result, aggregator, version, source.step, "tuned", ratings=ratings)
    return {
        "rows": compare_rows(base_result, tuned_result),
        "base_score": base_result.score,
        "tuned_score": tuned_result.score,
        **compare_controls(base_result, tuned_result),
        "adapter": str(source.folder),
        "base_model": base.name,
        "agreement": ratings.agreement.as_json(),
    }


def emit_evaluation(
    ctx: RunContext,
    result: EvaluationResult,
    aggregator: AdaptiveAggregator,
    version: int,
    step: int,
    name: str,
    held_out_loss: float | None = None,
    ratings: RatingStatistics | None = None,
) -> None:
    """Emit an ``evaluation`` event for the model called `name` (``tuned`` or ``base``).

    `held_out_loss` is the loss on the examples that a training run holds out, where it holds out any. From `ratings`
    come the event's ``agreement``, and in ``people`` the mean that people would give the answers, with its interval.
    """
    people = None
    if ratings is not None:
        people = ratings.mean([sample.score for sample in result.samples if sample.kind == "expected"])
    ctx.emit(
        "evaluation",
        step=step,
        model=name,
        weights=dict(aggregator.weights),
        weights_version=version,
        held_out_loss=held_out_loss,
        agreement=None if ratings is None else ratings.agreement.as_json(),
        people=None if people is None else asdict(people),
        **asdict(result),
    )


def compare_rows(base_result: EvaluationResult, tuned_result: EvaluationResult) -> list[dict[str, Any]]:
    """Return one row a prompt: the answers of base model and adapter, and both scores."""
    return [
        {
            "prompt": tuned_sample.prompt,
            "kind": tuned_sample.kind,
            "reference": tuned_sample.reference,
            "before": base_sample.answer,
            "after": tuned_sample.answer,
            "before_score": base_sample.score,
            "score": tuned_sample.score,
        }
        for base_sample, tuned_sample in zip(base_result.samples, tuned_result.samples, strict=True)
    ]


def compare_controls(base_result: EvaluationResult, tuned_result: EvaluationResult) -> dict[str, int]:
    """Return how many controls there are and how many each model kept; nothing where there are none."""
    if not tuned_result.controls:
        return {}
    return {
        "controls": tuned_result.controls,
        "controls_kept": tuned_result.controls_kept,
        "base_controls_kept": base_result.controls_kept,
    }


def _prompts(ctx: RunContext, source: AdapterSource) -> list[TestPrompt]:
    """Return the test prompts: the adapter's own, from its training, unless the configuration changes them.

    Configured ones are resolved with the adapter's training data where that still exists.
    """
    fine_tuning, documented = ctx.settings.fine_tuning, Evaluation()
    asked, expected = fine_tuning.evaluation.test_prompts, fine_tuning.evaluation.expected_response
    if source.prompts and (asked, expected) == (documented.test_prompts, documented.expected_response):
        return [TestPrompt(**prompt) for prompt in source.prompts]
    data_file = Path(source.metadata.get("data", {}).get("file", ""))
    examples = read_examples(data_file).examples if data_file.is_file() else None
    prompts, warning = resolve_prompts(fine_tuning, examples)
    if warning:
        ctx.warn(warning)
    return prompts
