"""What a report on an adapter says, gathered from its run in the store; written beside the adapter.

The text and the pictures are made by `lora_tui.engine.evaluation.report`.
"""

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_tui import __version__
from lora_tui.config.hub_names import data_name
from lora_tui.engine.evaluation.report import ReportFacts, write_report
from lora_tui.engine.evaluation.scoring import EvaluationResult
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.review.agreement import RatingStatistics
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import LoraTuiError
from lora_tui.protocol.agreement import agreement_text
from lora_tui.protocol.choice import chosen_rows, short_key
from lora_tui.protocol.comparison import NO_HELD_OUT, HeldOutComparison
from lora_tui.protocol.knowledge import KnowledgeTest
from lora_tui.store.queries.runs import newest_event, step_columns
from lora_tui.store.rows import Evaluation
from lora_tui.store.training import evaluations
from lora_tui.text import count


async def write_adapter_report(
    ctx: RunContext,
    source: AdapterSource,
    base_model: str,
    base: EvaluationResult,
    tuned: EvaluationResult,
    comparison: HeldOutComparison | None,
    ratings: RatingStatistics,
    knowledge: KnowledgeTest | None = None,
) -> Path | None:
    """Write the report on an adapter; returns the page's path. Where it cannot be written that is warned of, not fatal.

    It goes into the run's folder; of an adapter of another program, into its own.
    """
    curves = await _curves(ctx, source)
    plan = await newest_event(ctx.store, source.run_id, "plan") if source.run_id is not None else None
    facts = ReportFacts(
        title=f"Report on {'run ' + str(source.run_id) if source.run_id is not None else source.folder.name}",
        facts=_training_facts(source, base_model, {} if plan is None else plan.payload),
        base_score=base.score,
        tuned_score=tuned.score,
        rows=compare_rows(base, tuned),
        controls=tuned.controls,
        controls_kept=tuned.controls_kept,
        base_controls_kept=base.controls_kept,
        comparison=comparison,
        knowledge=knowledge,
        without_comparison=NO_HELD_OUT,
        agreement=agreement_text(ratings.agreement),
        **curves,
    )
    folder = (source.run_folder or source.folder).absolute()
    try:
        return await asyncio.to_thread(write_report, folder, facts)
    except LoraTuiError as problem:
        ctx.warn(f"The report is missing: {problem}")
        return None


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


async def _curves(ctx: RunContext, source: AdapterSource) -> dict[str, list[tuple[float, float]]]:
    """The curves of the run that trained the adapter, as far as this store knows it."""
    if source.run_id is None:
        return {}
    steps = await step_columns(ctx.store, source.run_id)
    rows = await evaluations(ctx.store, source.run_id)
    tuned = sorted((row for row in rows if row.model == "tuned"), key=lambda row: row.step)
    base: Sequence[Evaluation] = [row for row in rows if row.model == "base"][-1:]
    losses = zip(steps.step, steps.loss, strict=True)
    return {
        "loss": [(float(step), loss) for step, loss in losses if not math.isnan(loss)],
        "held_out_loss": [(float(row.step), row.held_out_loss) for row in tuned if row.held_out_loss is not None],
        "score": [(0.0, row.score) for row in base] + [(float(row.step), row.score) for row in tuned],
    }


def _training_facts(source: AdapterSource, base_model: str, plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and value of what is known of the training."""
    data = source.metadata.get("data") or {}
    held_out = f", {plan['held_out']:,} held out" if plan.get("held_out") else ""
    examples = f"{count(int(data['examples']), 'example')}{held_out}" if data.get("examples") is not None else ""
    trained = plan.get("trainable_parameters")
    known = [
        ("base model", base_model),
        ("adapter", str(source.folder.absolute())),
        ("training data", ", ".join(filter(None, (data_name(data.get("file") or ""), examples)))),
        ("optimizer step", f"{source.step:,}" + (f" of {plan['steps']:,}" if plan.get("steps") else "")),
        ("trained parameters", f"{trained:,} of {plan.get('parameters', 0):,}" if trained else ""),
        *((short_key(key), f"{value} ({reason})") for key, value, reason in chosen_rows(plan.get("chosen") or ())),
        ("written by", f"lora-tui {__version__}"),
    ]
    return [(label, value) for label, value in known if value]
