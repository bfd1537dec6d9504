"""The job of ``--run export``: writes an adapter, merged weights, GGUF or a dataset. Only models need torch."""

import asyncio
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lora_tui.config.hub_names import data_name
from lora_tui.engine.data.examples import Conversation, Example, PlainText
from lora_tui.engine.data.read import hub_name, read_examples, training_file
from lora_tui.engine.data.results import keep_foreign, remember_result
from lora_tui.engine.data.text_lines import require_text_file
from lora_tui.engine.evaluation.held_out import documents_by_question, questions_of, read_held_out
from lora_tui.engine.export.dataset_folder import TRAIN, VALIDATION, FolderPlan, write_dataset, write_records
from lora_tui.engine.export.datasets import CONVERSATIONS, FORMS, dataset_text, holds, record_of
from lora_tui.engine.export.lm_eval import FORM as LM_EVAL
from lora_tui.engine.export.lm_eval import TaskFacts, lm_eval_command, task_name, write_tasks
from lora_tui.engine.export.provenance import Origins, find_origins
from lora_tui.engine.export.public_names import UNKNOWN_BASE, public_base
from lora_tui.engine.jobs.export_hub import adapter_to_hub, check_hub_options, dataset_to_hub
from lora_tui.engine.models.adapter_source import AdapterSource, check_intact, find_adapter
from lora_tui.engine.models.builtin import BUILTIN, HUB_NAME, cached_folder
from lora_tui.engine.models.hub_info import check_source
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.files import atomic_folder, unwritable, write_atomically
from lora_tui.outputs import check_name, check_output
from lora_tui.text import count

MODEL_FORMS = ("adapter", "merged", "gguf", "gguf-lora")
"""The forms of an adapter, alone or with its base model; all others are a dataset's."""


async def export(ctx: RunContext) -> dict[str, Any]:
    """Write what ``--format`` names (``adapter`` by default) to ``--output``; returns the form and the path."""
    form = str(ctx.options.get("format") or "adapter")
    check_hub_options(ctx)
    if form in FORMS:
        return await _dataset_to_hub(ctx, form) if ctx.options.get("to_hub") else await _export_dataset(ctx, form)
    if given := [name for name in ("split", "with_provenance", "parquet") if ctx.options.get(name) is not None]:
        raise UsageError(f"--{given[0].replace('_', '-')} is for datasets: add --format messages.")
    if form not in (*MODEL_FORMS, LM_EVAL):
        raise UsageError(f"--format {form}: unknown. Choose {', '.join((*MODEL_FORMS, *FORMS, LM_EVAL))}.")
    quantize = str(ctx.options.get("quantize") or "").lower()
    if quantize and form != "gguf":
        raise UsageError(f"--quantize says how --format gguf writes its numbers; --format is {form}.")
    source = await find_adapter(ctx.store, ctx.options)
    if source is None:
        raise UsageError("There is no finished training run to export. Train first, or name one with --adapter FOLDER.")
    if ctx.options.get("to_hub"):
        if form != "adapter":
            raise UsageError(
                f"--to-hub sends an adapter or a dataset. Write the {form} with --output FOLDER, then: "
                f"hf upload --private {ctx.options['to_hub']} FOLDER"
            )
        return await adapter_to_hub(ctx, source)
    if form == LM_EVAL:
        return await _export_tasks(ctx, source)
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


async def _export_tasks(ctx: RunContext, source: AdapterSource) -> dict[str, Any]:
    """Write held-out questions as tasks of lm-evaluation-harness: the run's own, or those of ``--train-data-file``."""
    target, named = _target(ctx, f"export-{LM_EVAL}"), ctx.options.get("train_data_file")
    if named is not None:
        examples = (await asyncio.to_thread(read_examples, Path(named))).examples
        found = questions_of(examples, await documents_by_question(ctx.store), None)
        if left_out := sum(isinstance(example, Conversation) for example in examples):
            ctx.warn(f"{count(left_out, 'conversation')} of {named} left out: a task asks one question.")
        made_from = f"of {data_name(named)}"
    else:
        kept = await asyncio.to_thread(read_held_out, source.run_folder) if source.run_folder is not None else None
        if kept is None:
            raise UsageError(
                "Training held no questions out. Hold some out with fine_tuning.training.validation_share = 0.1 and "
                "train again, or name a file of other questions: --train-data-file FILE."
            )
        found, made_from = kept, "that training held out"
    if not found.prompts:
        raise UsageError(f"{named} holds no question with an answer.")
    name = task_name(f"held_out_run_{source.run_id}" if source.run_id is not None else f"held_out_{target.name}")
    tokens = int(source.metadata.get("max_new_tokens", ctx.settings.fine_tuning.evaluation.max_new_tokens))
    base = source.base_model(ctx.settings)
    base = str(cached_folder() or HUB_NAME) if base == BUILTIN else base
    local = TaskFacts(name, base, str(source.folder), tokens, made_from)
    shown = replace(local, base_model=public_base(source) or UNKNOWN_BASE, adapter="ADAPTER_FOLDER")

    def write() -> dict[str, int]:
        try:
            with atomic_folder(target) as scratch:
                return write_tasks(scratch, found.prompts, found.documents, shown)
        except OSError as problem:
            raise unwritable(target, problem) from problem

    tasks = await asyncio.to_thread(write)
    return {
        "format": LM_EVAL,
        "path": str(target.absolute()),
        "adapter_run": source.run_id,
        "questions": len(found.prompts),
        "task_names": [name, *tasks],
        "commands": [lm_eval_command(local, str(target))],
    }


async def _dataset_to_hub(ctx: RunContext, form: str) -> dict[str, Any]:
    """List or send a dataset: always as a folder, all of it to train on where no share is given."""
    if form == "text":
        raise UsageError("--to-hub needs a form of records, which text is not: add --format messages.")
    share = ctx.options.get("split")

    async def write(folder: Path) -> None:
        await _export_dataset(ctx.with_settings(ctx.settings, split=share or 0.0, output=str(folder)), form)

    data_file = training_file(ctx.settings, ctx.options.get("train_data_file"))
    if hub_name(data_file) is None:
        require_text_file(data_file, "training file", "Name one with --train-data-file FILE.")
    return await dataset_to_hub(ctx, form, data_file, write)


async def _export_dataset(ctx: RunContext, form: str) -> dict[str, Any]:
    """Write the examples of a training file: one file, or with ``--split`` a folder."""
    data_file = training_file(ctx.settings, ctx.options.get("train_data_file"))
    in_folder, parquet = ctx.options.get("split") is not None, bool(ctx.options.get("parquet"))
    with_provenance = bool(ctx.options.get("with_provenance"))
    if form == "text" and (in_folder or parquet or with_provenance):
        option = "--split" if in_folder else "--parquet" if parquet else "--with-provenance"
        raise UsageError(f"{option} needs a form of records, which text is not: add --format messages.")
    suffix = "" if in_folder else ".parquet" if parquet else ".txt" if form == "text" else ".jsonl"
    target = _target(ctx, f"{_stem(data_file)}-{form}") if in_folder else _file(ctx, data_file, form, suffix)
    data = await asyncio.to_thread(read_examples, data_file)
    if data.skipped:
        first = data.skipped[0]
        ctx.warn(f"{count(len(data.skipped), 'record')} of {data_file} left out: {first.location}: {first.reason}, …")
    for warning in data.warnings(data_file):
        ctx.warn(warning)
    examples = _held(ctx, form, data_file, data.examples, in_folder=in_folder)
    origins = Origins([None] * len(examples))
    if in_folder or with_provenance:
        origins = await find_origins(ctx.store, examples)
        if with_provenance and origins.known < len(examples):
            unknown = count(len(examples) - origins.known, "example")
            ctx.warn(f"{unknown} of {data_file} as they are worded there stand in no run of the store: no provenance.")
    done: dict[str, Any] = {"format": form, "path": str(target.absolute()), "examples": len(examples)}
    if left_out := len(data.examples) - len(examples):
        done["left_out"] = left_out
    if in_folder:
        return done | await _export_folder(ctx, form, data_file, target, examples, origins)
    if (kept := await keep_foreign(ctx.store, target)) is not None:
        ctx.warn(f"{target} is there already: it stays as {kept}.")
    if parquet or with_provenance:
        records = [record_of(example, form) for example in examples]
        if with_provenance:
            records = [record | {"provenance": one} for record, one in zip(records, origins.of_examples, strict=True)]
            done["provenance"] = origins.known
        await asyncio.to_thread(_write_records, target, records)
    else:
        await asyncio.to_thread(lambda: write_atomically(target, dataset_text(examples, form)))
    async with ctx.store.transaction() as t:
        await remember_result(t, target)
    return done


def _held(
    ctx: RunContext, form: str, data_file: Path, examples: Sequence[Example], *, in_folder: bool
) -> list[Example]:
    """Return the examples that the form can hold, and warn of the others; a folder has a file for plain texts.

    Raises `LoraTuiError` where nothing is left.
    """
    kept, reasons = list[Example](), list[str]()
    conversations, documents = list[Example](), list[Example]()
    for example in examples:
        if holds(form, example) or (in_folder and isinstance(example, PlainText)):
            kept.append(example)
        else:
            (documents if isinstance(example, PlainText) else conversations).append(example)
    if conversations:
        ways = " or ".join(f"--format {name}" for name in CONVERSATIONS)
        reasons.append(
            f"{count(len(conversations), 'record')} of {data_file} left out, as {form} holds one question with one"
            f" answer: {_first_of(conversations)}. {ways} holds conversations."
        )
    if documents:
        reasons.append(
            f"{count(len(documents), 'plain text')} of {data_file} left out, as {form} has no place for them:"
            f" {_first_of(documents)}. --format messages --split 0.1 writes them to a file of their own."
        )
    if reasons and not kept:
        raise LoraTuiError("\n".join([f"The form {form} can hold nothing of {data_file}.", *reasons]))
    for reason in reasons:
        ctx.warn(reason)
    return kept


def _first_of(examples: Sequence[Example]) -> str:
    return examples[0].source + (", …" if len(examples) > 1 else "")


async def _export_folder(
    ctx: RunContext, form: str, data_file: Path, target: Path, examples: Sequence[Example], origins: Origins
) -> dict[str, Any]:
    """Write a dataset as a folder; returns what there is to say of it beside its path."""
    share, seed = float(ctx.options["split"]), ctx.settings.fine_tuning.training.seed
    name = re.sub(r"[^A-Za-z0-9]+", "_", target.name).strip("_") or "dataset"
    plan = FolderPlan(
        name, form, share, seed, bool(ctx.options.get("with_provenance")), bool(ctx.options.get("parquet"))
    )

    def write() -> dict[str, Any]:
        try:
            with atomic_folder(target) as scratch:
                return write_dataset(scratch, examples, origins, plan, data_file)
        except OSError as problem:
            raise unwritable(target, problem) from problem

    files = await asyncio.to_thread(write)
    held_out = sum(facts["records"] for file, facts in files.items() if VALIDATION in file)
    if share > 0 and not held_out:
        ctx.warn("All examples are about one document, which is not divided: there is no validation file.")
    counts = {TRAIN: len(examples) - held_out, VALIDATION: held_out}
    return {
        "files": {name: facts["records"] for name, facts in files.items()},
        **counts,
        "documents": len(origins.documents),
        "provenance": origins.known,
    }


def _file(ctx: RunContext, data_file: Path, form: str, suffix: str) -> Path:
    """The file to write, which must not be the one that is exported."""
    target = _expanded(ctx.options.get("output") or f"{_stem(data_file)}-{form}{suffix}")
    if target.absolute() == data_file.absolute():
        raise UsageError(f"--output {target} is the file that is exported; name another.")
    check_output(target, "--output")
    return target


def _stem(data_file: Path) -> str:
    """What a result is called after: the file without its suffix, or the data set's own name."""
    dataset = hub_name(data_file)
    return data_file.stem if dataset is None else dataset.repo.partition("/")[2]


def _write_records(target: Path, records: list[dict[str, Any]]) -> None:
    """Write records as JSON Lines or Parquet so that the file has its name only when it is complete."""
    with TemporaryDirectory() as folder:
        scratch = Path(folder) / f"records{target.suffix}"
        write_records(scratch, records)
        write_atomically(target, scratch.read_bytes())


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
