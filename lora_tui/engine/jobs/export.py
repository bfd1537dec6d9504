"""The job of ``--run export``: writes an adapter, merged weights, GGUF or a dataset. Only models need torch."""

import asyncio
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lora_tui.engine.data.read import read_examples, training_file
from lora_tui.engine.data.results import keep_foreign, remember_result
from lora_tui.engine.export.datasets import FORMS, dataset_text
from lora_tui.engine.models.adapter_source import AdapterSource, check_intact, find_adapter
from lora_tui.engine.models.hub_info import check_source
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import UsageError
from lora_tui.files import atomic_folder, unwritable, write_atomically
from lora_tui.outputs import check_name, check_output
from lora_tui.text import count

MODEL_FORMS = ("adapter", "merged", "gguf", "gguf-lora")
"""The forms of an adapter, alone or with its base model; all others are a dataset's."""


async def export(ctx: RunContext) -> dict[str, Any]:
    """Write what ``--format`` names (``adapter`` by default) to ``--output``; returns the form and the path."""
    form = str(ctx.options.get("format") or "adapter")
    if form in FORMS:
        return await _export_dataset(ctx, form)
    if form not in MODEL_FORMS:
        raise UsageError(f"--format {form}: unknown. Choose {', '.join((*MODEL_FORMS, *FORMS))}.")
    quantize = str(ctx.options.get("quantize") or "").lower()
    if quantize and form != "gguf":
        raise UsageError(f"--quantize says how --format gguf writes its numbers; --format is {form}.")
    source = await find_adapter(ctx.store, ctx.options)
    if source is None:
        raise UsageError("There is no finished training run to export. Train first, or name one with --adapter FOLDER.")
    target = _target(ctx, f"export-{form}")
    if form == "adapter":
        await asyncio.to_thread(_copy_folder, source.folder, target)
        return {"format": form, "path": str(target.absolute()), "adapter_run": source.run_id}
    check_source(source.base_model(ctx.settings))
    write = await asyncio.to_thread(_writer, form, quantize or "f16")
    ctx.raise_if_stopping()
    found = await ctx.in_torch_thread(write, ctx, source, target)
    return {"format": form, "path": str(target.absolute()), "adapter_run": source.run_id, **found}


def _writer(form: str, number_form: str) -> Callable[[RunContext, AdapterSource, Path], dict[str, Any]]:
    """Return what writes a model; it imports torch, which takes seconds, so this is called in a thread."""
    if form == "merged":
        from lora_tui.engine.export.merge import merge

        return lambda ctx, source, target: {"largest_logit_difference": merge(ctx, source, target)}
    from lora_tui.engine.export.gguf_export import check_number_form, export_gguf, export_gguf_adapter

    if form == "gguf-lora":
        return export_gguf_adapter
    check_number_form(number_form)
    return partial(export_gguf, form=number_form)


async def _export_dataset(ctx: RunContext, form: str) -> dict[str, Any]:
    data_file = training_file(ctx.settings, ctx.options.get("train_data_file"))
    suffix = "txt" if form == "text" else "jsonl"
    target = _expanded(ctx.options.get("output") or f"{data_file.stem}-{form}.{suffix}")
    if target.absolute() == data_file.absolute():
        raise UsageError(f"--output {target} is the file that is exported; name another.")
    check_output(target, "--output")
    data = await asyncio.to_thread(read_examples, data_file)
    if data.skipped:
        first = data.skipped[0]
        ctx.warn(f"{count(len(data.skipped), 'record')} of {data_file} left out: {first.location}: {first.reason}, …")
    for warning in data.warnings(data_file):
        ctx.warn(warning)
    if (kept := await keep_foreign(ctx.store, target)) is not None:
        ctx.warn(f"{target} is there already: it stays as {kept}.")
    await asyncio.to_thread(lambda: write_atomically(target, dataset_text(data.examples, form)))
    async with ctx.store.transaction() as t:
        await remember_result(t, target)
    return {"format": form, "path": str(target.absolute()), "examples": len(data.examples)}


def _expanded(path: str) -> Path:
    return Path(path).expanduser()


def _target(ctx: RunContext, default: str) -> Path:
    """The folder to write, which must not exist yet."""
    target = _expanded(ctx.options.get("output") or default)
    check_name(target, "--output")
    if target.exists():
        raise UsageError(f"--output {target} exists already; remove it or name another.")
    return target


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder so that it has its name only when it is complete."""
    check_intact(source)
    try:
        with atomic_folder(target) as scratch:
            shutil.copytree(source, scratch, dirs_exist_ok=True)
    except OSError as problem:
        raise unwritable(target, problem) from problem
