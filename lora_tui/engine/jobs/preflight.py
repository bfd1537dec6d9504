"""Preflight checks of the jobs that need a model: all that can be refused before torch is imported.

torch, transformers and PEFT take ten seconds to import on a slow machine: a long wait for the message that a file is
missing. The jobs themselves are `lora_tui.engine.jobs.train`, `evaluate` beside it, and `lora_tui.engine.chat.session`.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from lora_tui.config.keys import settings_value
from lora_tui.config.models import Settings
from lora_tui.config.written import written_keys
from lora_tui.engine.data.hub_dataset import FETCHING, look_up
from lora_tui.engine.data.read import (
    ReadResult,
    hub_name,
    judgements_file,
    read_examples,
    read_judgements,
    training_file,
)
from lora_tui.engine.data.survey import survey_of
from lora_tui.engine.evaluation.own_prompts import TEST_PROMPTS
from lora_tui.engine.forecast.recipe import Recipe, cannot_learn, choose_prompts, resolve_model, resolve_recipe
from lora_tui.engine.jobs.starting_adapter import form_warning, starting_adapter, with_shape_of
from lora_tui.engine.models.adapter_source import AdapterSource, base_model_name, find_adapter
from lora_tui.engine.models.hub_info import check_source, fetch_config
from lora_tui.engine.review.preferences import PREFERENCES_FILE, said_preferences
from lora_tui.engine.runtime.context import STARTING_TORCH, RunContext, progress_events
from lora_tui.engine.serving.address import check_installed, is_loopback, open_listener, server_key
from lora_tui.engine.serving.choice import Served, choose_served
from lora_tui.engine.training.data_plan import summarize_failures
from lora_tui.engine.training.trackers import check_trackers
from lora_tui.errors import OtherRunError, UsageError
from lora_tui.protocol.backend import LoadProgress
from lora_tui.protocol.choice import Choice
from lora_tui.protocol.comparison import NO_HELD_OUT
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import events_of_kinds

if TYPE_CHECKING:
    from lora_tui.engine.chat.session import ChatHost, ChatSession

T = TypeVar("T")


async def train(ctx: RunContext) -> dict[str, Any]:
    """Run ``--run train``; returns the adapter's folder, the best score and how training ended."""
    check_trackers(ctx.settings)
    before = await runs.get(ctx.store, ctx.run_id) if ctx.resumed else None
    ready = await _ready_to_train(ctx)
    job = await _imported(ctx, _train_job)
    ctx.raise_if_stopping()
    choices = await _earlier_choices(ready.ctx) or ready.choices
    try:
        return await job(ready.ctx, ready.data_file, ready.data, choices, ready.begins_with)
    except OtherRunError:
        if before is not None and before.written is not None:  # else nothing was chosen, and they are as they were
            await runs.set_settings(ctx.store, ctx.run_id, before.settings, before.written)
        raise


async def probe(ctx: RunContext) -> dict[str, Any]:
    """Run ``--run probe``; returns the learning rate that it proposes, with its curve."""
    if ctx.settings.fine_tuning.method != "sft":
        raise UsageError('A probe finds the rate for fine_tuning.method = "sft"; other methods want a tenth of it.')
    ready = await _ready_to_train(ctx)
    job = await _imported(ctx, _probe_job)
    ctx.raise_if_stopping()
    return await job(ready.ctx, ready.data)


class _Ready(NamedTuple):
    """What a run trains on: its context with the settings that were chosen, and why; the adapter it begins with."""

    ctx: RunContext
    data_file: Path
    data: ReadResult
    choices: Sequence[Choice]
    begins_with: AdapterSource | None


async def _ready_to_train(ctx: RunContext) -> _Ready:
    """Read the data and choose what nobody has written; refuse what cannot be."""
    data_file, data = await _training_data(ctx)
    heading = f"{data_file} holds records that cannot be trained on"
    for warning in summarize_failures(heading, [(record.location, record.reason) for record in data.skipped]):
        ctx.warn(warning)
    for warning in data.warnings(data_file):
        ctx.warn(warning)
    begins_with = await starting_adapter(ctx, said=bool(data.judgements) and data_file == ctx.store.path)
    if begins_with is not None:
        ctx = ctx.with_settings(await asyncio.to_thread(with_shape_of, ctx.settings, begins_with))
        if data.judgements and (otherwise := form_warning(begins_with, data.examples)):
            ctx.warn(otherwise)
    recipe = await asyncio.to_thread(_recipe, ctx.settings, data_file, data, resumed=ctx.resumed)
    if recipe.settings is not ctx.settings or begins_with is not None:
        await runs.set_settings(
            ctx.store, ctx.run_id, recipe.settings.model_dump(mode="json"), written_keys(recipe.settings)
        )
        ctx = ctx.with_settings(recipe.settings)
    check_source(ctx.settings.fine_tuning.model_name)
    return _Ready(ctx, data_file, data, recipe.choices, begins_with)


async def _training_data(ctx: RunContext) -> tuple[Path, ReadResult]:
    """Read what the run trains on: examples, or judgements where it learns from those."""
    named, tuning = ctx.options.get("train_data_file"), ctx.settings.fine_tuning
    if tuning.method == "sft":
        data_file = await _pinned_file(ctx, training_file(ctx.settings, named))
        return data_file, await asyncio.to_thread(read_examples, data_file, _fetch_progress(ctx))
    judged = judgements_file(ctx.settings, named)
    if judged is None:
        return ctx.store.path, await _said(ctx)
    data_file = await _pinned_file(ctx, judged)
    return data_file, await asyncio.to_thread(read_judgements, data_file, _fetch_progress(ctx))


async def _said(ctx: RunContext) -> ReadResult:
    """What people have said in the store: as when the run began, for one that goes on."""
    run = await runs.get(ctx.store, ctx.run_id) if ctx.resumed else None
    kept = None if run is None or run.folder is None else Path(run.folder) / PREFERENCES_FILE
    if kept is not None and await asyncio.to_thread(kept.is_file):
        return await asyncio.to_thread(read_judgements, kept)
    tuning = ctx.settings.fine_tuning
    return await said_preferences(ctx.store, tuning.chat.commands, unpaired=tuning.method == "kto")


async def _pinned_file(ctx: RunContext, data_file: Path) -> Path:
    """The training file; of a data set on the hub by its commit, which the run keeps: it goes on with the same."""
    dataset = hub_name(data_file)
    if dataset is None or dataset.is_pinned:
        return data_file
    ctx.emit("progress", phase=FETCHING, done=0, total=0)
    found = (await asyncio.to_thread(look_up, dataset)).dataset
    await runs.set_options(ctx.store, ctx.run_id, {**ctx.options, "train_data_file": str(found)})
    ctx.emit("note", message=f"{dataset} is at commit {found.revision[:12]}: the run keeps to it.")
    return Path(str(found))


def _fetch_progress(ctx: RunContext) -> LoadProgress:
    """Report what is fetched, and end where the run is to stop."""
    report = progress_events(ctx.emit)

    def progress(phase: str, done: int, total: int) -> None:
        ctx.raise_if_stopping()
        report(phase, done, total)

    return progress


async def _earlier_choices(ctx: RunContext) -> tuple[Choice, ...]:
    """What a run that goes on was given when it began: its stored settings have it, and leave nothing to choose.

    Without what has been written since: a run with no checkpoint yet may go on with other settings.
    """
    plans = await events_of_kinds(ctx.store, ctx.run_id, ["plan"], limit=1) if ctx.resumed else []
    found = [one for plan in plans for one in plan.payload.get("chosen") or ()]
    choices = (Choice(one["key"], one["value"], one["reason"]) for one in found)
    return tuple(choice for choice in choices if choice.key == TEST_PROMPTS or _is_in_force(choice, ctx.settings))


def _is_in_force(choice: Choice, settings: Settings) -> bool:
    return bool(settings_value(settings, choice.key) == choice.value)


def _recipe(settings: Settings, data_file: Path, data: ReadResult, *, resumed: bool) -> Recipe:
    """What nobody has written, chosen for this data. A model on the hub tells its size first: a few kB are fetched.

    Raises `UsageError` for a run that cannot learn because of what was written; one that goes on is past that.
    """
    hub = fetch_config(settings.fine_tuning.model_name) if settings.fine_tuning.recipe == "auto" else None
    counts = survey_of(data_file, data)
    recipe = resolve_recipe(settings, counts, hub=hub)
    refusal = None if resumed else cannot_learn(settings, recipe, counts)
    if refusal is not None:
        keys = ", ".join(refusal.keys)
        raise UsageError(f"This run cannot learn ({keys}): {refusal.why}.\nThese can: {refusal.remedy}")
    asked = choose_prompts(recipe.settings, data.wanted)
    return Recipe(asked.settings, (*recipe.choices, *asked.choices))


async def evaluate(ctx: RunContext) -> dict[str, Any]:
    """Run ``--run evaluate``; returns the scores of adapter and base model, and a row for each prompt."""
    source = await find_adapter(ctx.store, ctx.options)
    if source is None:
        raise UsageError(
            "There is no finished training run to evaluate. "
            "Train first (--run train), or name an adapter with --adapter FOLDER."
        )
    check_source(source.base_model(ctx.settings))
    if (named := ctx.options.get("train_data_file")) is not None:
        await asyncio.to_thread(read_examples, Path(named))
    job = await _imported(ctx, _evaluate_job)
    ctx.raise_if_stopping()
    result = await job(ctx, source)
    if result["comparison"] is None and ctx.settings.fine_tuning.evaluation.held_out_questions:
        ctx.emit("note", message=NO_HELD_OUT)
    return result


async def serve(ctx: RunContext) -> dict[str, Any]:
    """Run ``--run serve``; returns what was asked and answered until it was stopped."""
    check_installed()
    key = server_key(ctx.settings.serving)
    if not is_loopback(ctx.settings.serving.host):
        ctx.warn(
            "Questions, answers and the key travel unencrypted. On a network that you do not trust leave serving.host "
            "at 127.0.0.1, and reach it through ssh -L."
        )
    resolved = await asyncio.to_thread(resolve_model, ctx.settings)
    served = await choose_served(ctx.store, ctx.settings, ctx.options, resolved.settings.fine_tuning.model_name)
    check_source(served.base_name)
    with await asyncio.to_thread(open_listener, ctx.settings.serving) as listener:
        job = await _imported(ctx, _serve_job)
        ctx.raise_if_stopping()
        return await job(ctx, served, listener, key)


async def check_chat(store: Store, settings: Settings, options: Mapping[str, Any]) -> None:
    """Raise what `open_chat` would raise for an adapter or a model that is missing, or that do not match."""
    await _chat_settings(store, settings, options)


async def _chat_settings(store: Store, settings: Settings, options: Mapping[str, Any]) -> Settings:
    """Check adapter and model; returns the settings with the base model that training would take if none is named."""
    source = None if options.get("base_only") else await find_adapter(store, options)
    if source is None and options.get("adapter_run") is None:
        settings = (await asyncio.to_thread(resolve_model, settings)).settings
    check_source(await base_model_name(store, settings, options, source))
    return settings


async def open_chat(
    host: "ChatHost", settings: Settings, options: Mapping[str, Any], progress: LoadProgress
) -> "ChatSession":
    """Open a conversation on the engine's loop: refuse what can be refused, import torch on a thread, load the model.

    `options` are those of `lora_tui.engine.chat.session.open_session`.
    """
    settings = await _chat_settings(host.open_store, settings, options)
    progress(STARTING_TORCH, 0, 1)
    open_session = await asyncio.to_thread(_chat_opener)
    progress(STARTING_TORCH, 1, 1)
    return await open_session(host, settings, options, progress)


async def _imported(ctx: RunContext, find: Callable[[], T]) -> T:
    """Import the job that `find` returns in a thread, and report that PyTorch is starting."""
    ctx.emit("progress", phase=STARTING_TORCH, done=0, total=1)
    job = await asyncio.to_thread(find)
    ctx.emit("progress", phase=STARTING_TORCH, done=1, total=1)
    return job


def _train_job() -> Callable[
    [RunContext, Path, ReadResult, Sequence[Choice], AdapterSource | None], Awaitable[dict[str, Any]]
]:
    """The job that imports torch; importing it takes seconds, so it is called in a thread."""
    from lora_tui.engine.jobs.train import train

    return train


def _probe_job() -> Callable[[RunContext, ReadResult], Awaitable[dict[str, Any]]]:
    """The job that imports torch; importing it takes seconds, so it is called in a thread."""
    from lora_tui.engine.jobs.probe import probe_rate_of

    return probe_rate_of


def _evaluate_job() -> Callable[[RunContext, AdapterSource], Awaitable[dict[str, Any]]]:
    """The job that imports torch; importing it takes seconds, so it is called in a thread."""
    from lora_tui.engine.jobs.evaluate import evaluate_adapter

    return evaluate_adapter


def _serve_job() -> Callable[[RunContext, Served, socket.socket, str | None], Awaitable[dict[str, Any]]]:
    """The job that imports torch; importing it takes seconds, so it is called in a thread."""
    from lora_tui.engine.jobs.serve import serve_models

    return serve_models


def _chat_opener() -> "Callable[[ChatHost, Settings, Mapping[str, Any], LoadProgress], Awaitable[ChatSession]]":
    """`open_session`, which imports torch; importing it takes seconds, so it is called in a thread."""
    from lora_tui.engine.chat.session import open_session

    return open_session
