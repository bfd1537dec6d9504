"""The job of ``--run export``: what is exported, in which form, and to where.

Merged weights are computed in float32, on the base model as it was published, and checked: the reloaded model must give
the adapter's logits.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lora_tui.config import Settings, with_values
from lora_tui.engine.base_model import load_base
from lora_tui.engine.context import RunContext
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.export.datasets import FORMS, dataset_text
from lora_tui.engine.inference.adapters import AdapterSource, find_adapter, load_adapter
from lora_tui.engine.progress import progress_events
from lora_tui.engine.training.job import training_file
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.files import write_atomically
from lora_tui.text import count

_PROBE = "Question: what is the capital of France?\nAnswer:"
_TOLERANCE = 1e-3
"""Largest difference between the logits of adapter and merged model (float32) that rounding explains."""


async def export(ctx: RunContext) -> dict[str, Any]:
    """Write what ``--format`` names (``adapter`` by default) to ``--output``; returns the form and the path."""
    form = str(ctx.options.get("format") or "adapter")
    if form in FORMS:
        return await asyncio.to_thread(_export_dataset, ctx, form)
    if form not in ("adapter", "merged"):
        raise UsageError(f"--format {form}: unknown. Choose adapter, merged, {', '.join(FORMS)}.")
    source = await find_adapter(ctx.store, ctx.options)
    if source is None:
        raise LoraTuiError(
            "There is no finished training run to export. Train first, or name one with --adapter FOLDER."
        )
    target = _target(ctx, f"export-{form}")
    if form == "adapter":
        await asyncio.to_thread(_copy_folder, source.folder, target)
        return {"format": form, "path": str(target.absolute())}
    difference = await ctx.in_torch_thread(_merge, ctx, source, target)
    return {"format": form, "path": str(target.absolute()), "largest_logit_difference": difference}


def _export_dataset(ctx: RunContext, form: str) -> dict[str, Any]:
    data_file = training_file(ctx)
    suffix = "txt" if form == "text" else "jsonl"
    target = Path(ctx.options.get("output") or f"{data_file.stem}-{form}.{suffix}").expanduser()
    if target.absolute() == data_file.absolute():
        raise UsageError(f"--output {target} is the file that is exported; name another.")
    data = read_examples(data_file)
    if data.skipped:
        first = data.skipped[0]
        ctx.warn(f"{count(len(data.skipped), 'record')} of {data_file} left out: {first.location}: {first.reason}, …")
    write_atomically(target, dataset_text(data.examples, form))
    return {"format": form, "path": str(target.absolute()), "examples": len(data.examples)}


def _target(ctx: RunContext, default: str) -> Path:
    """The folder to write, which must not exist yet."""
    target = Path(ctx.options.get("output") or default).expanduser()
    if target.exists():
        raise UsageError(f"--output {target} exists already; remove it or name another.")
    return target


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder so that it has its name only when it is complete."""
    scratch = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(source, scratch)
        scratch.rename(target)
    except OSError as problem:
        shutil.rmtree(scratch, ignore_errors=True)
        raise LoraTuiError(f"{target} cannot be written: {problem.strerror or problem}.") from problem


def _merge(ctx: RunContext, source: AdapterSource, target: Path) -> float:
    """Add the adapter to the base weights in float32, save, and compare the logits of both on one prompt."""
    settings: Settings = with_values(ctx.settings, {"fine_tuning.dtype": "float32", "fine_tuning.qlora": False})
    progress = progress_events(ctx.emit)
    base = load_base(settings, progress, source.base_model(settings))
    model = load_adapter(base, source)
    encoded = base.tokenizer(_PROBE, return_tensors="pt").to(base.device)
    with torch.inference_mode():
        expected = model(**encoded).logits.clone()
    merged = model.merge_and_unload(safe_merge=True)
    scratch = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        merged.save_pretrained(scratch)
        base.tokenizer.save_pretrained(scratch)
        del base, model, merged
        # What others will load, not what was saved: a head that was tied to its embedding is tied again on loading.
        reloaded = load_base(settings, progress, str(scratch)).model
        with torch.inference_mode():
            difference = float((reloaded(**encoded).logits - expected).abs().max())
        if not difference <= _TOLERANCE:
            shutil.rmtree(scratch)
            raise LoraTuiError(
                f"The merged model's logits differ from the adapter's by {difference:.2g}: nothing was written. "
                "Serve the adapter itself instead."
            )
        scratch.rename(target)
    except (OSError, SafetensorError) as problem:  # safetensors tells of a full disk in a type of its own
        shutil.rmtree(scratch, ignore_errors=True)
        reason = getattr(problem, "strerror", None) or problem
        raise LoraTuiError(f"{target} cannot be written: {reason}.") from problem
    return difference
