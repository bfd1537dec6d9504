"""A run's adapter and the bare base model on the same prompts, side by side."""

import asyncio
from pathlib import Path
from typing import Any

from lora_tui.config.models import Evaluation
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.evaluation.prompts import TestPrompt, plain_prompts, resolve_prompts
from lora_tui.engine.evaluation.scoring import EvaluationResult, score_model
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import load_base
from lora_tui.engine.review.aggregators import evaluation_aggregator
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
    most = _most_tokens(ctx, source)
    aggregator, version = await evaluation_aggregator(ctx.store, evaluation.adaptive_aggregator)
    before = await ctx.in_torch_thread(score_model, base.model, base.tokenizer, prompts, aggregator, most)
    emit_evaluation(ctx, before, aggregator, version, 0, "base")
    ctx.raise_if_stopping()
    model = await ctx.in_torch_thread(load_adapter, base, source)
    after = await ctx.in_torch_thread(score_model, model, base.tokenizer, prompts, aggregator, most)
    emit_evaluation(ctx, after, aggregator, version, source.step, "tuned")
    return {
        "rows": compare_rows(before, after),
        "base_score": before.score,
        "tuned_score": after.score,
        "adapter": str(source.folder),
        "base_model": base.name,
    }


def emit_evaluation(
    ctx: RunContext,
    scored: EvaluationResult,
    aggregator: AdaptiveAggregator,
    version: int,
    step: int,
    name: str,
    held_out_loss: float | None = None,
) -> None:
    """Emit an ``evaluation`` event for the model called `name` (``tuned`` or ``base``).

    `held_out_loss` is the loss on the examples that a training run holds out, where it holds out any.
    """
    ctx.emit(
        "evaluation",
        step=step,
        model=name,
        weights=dict(aggregator.weights),
        weights_version=version,
        held_out_loss=held_out_loss,
        **scored.payload(),
    )


def compare_rows(before: EvaluationResult, after: EvaluationResult) -> list[dict[str, Any]]:
    """One row a prompt: what the base model answers, what the adapter answers, and both scores."""
    return [
        {
            "prompt": new.prompt,
            "kind": new.kind,
            "reference": new.reference,
            "before": old.answer,
            "after": new.answer,
            "before_score": old.score,
            "score": new.score,
        }
        for old, new in zip(before.samples, after.samples, strict=True)
    ]


def _prompts(ctx: RunContext, source: AdapterSource) -> list[TestPrompt]:
    """The prompts of the configuration, told apart by the adapter's training data where that is still there.

    Prompts that the configuration does not change are the adapter's own, as they were when it was trained.
    """
    fine_tuning = ctx.settings.fine_tuning
    if source.prompts and _unchanged(ctx):
        return [TestPrompt(**prompt) for prompt in source.prompts]
    data_file = Path(source.metadata.get("data", {}).get("file", ""))
    if not data_file.is_file():
        return plain_prompts(fine_tuning)
    prompts, warning = resolve_prompts(fine_tuning, read_examples(data_file).examples)
    if warning:
        ctx.warn(warning)
    return prompts


def _most_tokens(ctx: RunContext, source: AdapterSource) -> int:
    """How long answers may be: as in the adapter's training, so that the scores compare, unless the user says so."""
    configured = ctx.settings.fine_tuning.evaluation.max_new_tokens
    return int(source.metadata.get("max_new_tokens", configured)) if _unchanged(ctx) else configured


def _unchanged(ctx: RunContext) -> bool:
    """Tell whether the configuration's evaluation section is still the built-in default."""
    return ctx.settings.fine_tuning.evaluation == Evaluation()
