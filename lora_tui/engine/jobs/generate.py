"""The engine's entry to generation: chooses the model, joins the parts, and says how the run ended.

A run that reaches its target finishes. One that cannot is failed, with the reason and what to do in its message and
everything it has done in its result; its accepted pairs are written all the same, and ``--resume`` goes on from there.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_tui.config import Settings, advise
from lora_tui.engine.generation.client.wire import OPENAI_URL, is_loopback, shown_url
from lora_tui.engine.generation.corpus import Corpus, read_folder
from lora_tui.engine.generation.generation_model import EndpointGoneError, GenerationModel
from lora_tui.engine.generation.judging import PairJudge
from lora_tui.engine.generation.ledger import UNKNOWN_COST, Ledger, dollars_so_far, prices_of, spent_so_far
from lora_tui.engine.generation.output import check_place, keep_older, rewrite, write_accepted
from lora_tui.engine.generation.pipeline import End, Pipeline, RunControl
from lora_tui.engine.generation.planner import ANALYSE, GENERATE, JUDGE, Plan, Planner, SlotCounts
from lora_tui.engine.generation.progress import GenerationProgress
from lora_tui.engine.generation.workers import Workers
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.engine.review.aggregators import GENERATION, stored_aggregator
from lora_tui.engine.runtime.commands import DONE
from lora_tui.engine.runtime.context import RunContext, Stopped
from lora_tui.errors import LoraTuiError, UnreachableError
from lora_tui.store import generation as store_generation
from lora_tui.store import tasks
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import newest_event
from lora_tui.text import count, dollars, one_line

_BETWEEN_PROGRESS = 0.3
_BETWEEN_FILES = 5.0
"""Seconds between two writings of the whole output file while the run lasts; its end always writes it."""


_MOST_NAMED = 50
_STATES = ("done", "dead", "cancelled", "pending")
_VERDICTS = ("accepted", "rejected", "review", "waiting")


class GenerationFailedError(LoraTuiError):
    """A run ended short of its target; `result` is what it has done."""

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result


class EndpointFailedError(UnreachableError):
    """A run ended because its endpoint cannot be used; `result` is what it has done."""

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result


async def generate(ctx: RunContext) -> dict[str, Any]:
    """Generate judged pairs until there are enough; returns the run's result.

    Raises `LoraTuiError` where the target is not reached, `UnreachableError` where the endpoint is at fault, `Stopped`
    when asked to stop.
    """
    settings = ctx.settings.data_generation
    for advice in advise(ctx.settings):
        if advice.startswith("data_generation"):
            ctx.warn(advice)
    await tasks.lose_open_attempts(ctx.store, ctx.run_id)
    await ctx.flush()  # "started" comes before the first event that is stored directly
    output = Path(settings.output_file)
    kept = None if ctx.resumed else await asyncio.to_thread(keep_older, output)
    if kept is not None:
        ctx.warn(f"{output} is there already and will be replaced; the older one is kept as {kept}.")
    check_place(output)
    await _end_old_pause(ctx)
    steering = RunControl(ctx.stop_async, ctx.emit)
    with steering.steers(ctx.commands):
        corpus = await _read(ctx)
        ledger = await _ledger(ctx)
        try:
            end: End | UnreachableError = await _run(ctx, steering, corpus, output, ledger)
        except UnreachableError as problem:
            end = problem
    if isinstance(end, UnreachableError):
        reason = "endpoint gone" if isinstance(end, EndpointGoneError) else "endpoint cannot be used"
        result = await _close(ctx, corpus, output, reason)
        raise EndpointFailedError(str(end), result) from end
    result = await _close(ctx, corpus, output, end.value)
    if end is End.STOPPED:
        raise Stopped(result)
    if end is not End.TARGET:
        raise GenerationFailedError(_shortfall(end, result, ctx.settings, ledger), result)
    return result


async def _end_old_pause(ctx: RunContext) -> None:
    """Tell watchers that a run which was killed while it was paused goes on now."""
    paused = await newest_event(ctx.store, ctx.run_id, "paused") if ctx.resumed else None
    if paused is not None and paused.payload.get("paused"):
        ctx.emit("paused", paused=False)


def _keep_up_to_date(ctx: RunContext, output: Path, *, ours: bool) -> None:
    """Write the file anew whenever people have changed pairs, to the end of the run.

    A quickstart goes on for minutes after its pairs. `ours` is whether this run has written the file.
    """

    async def write() -> str:
        await rewrite(ctx.store, ctx.run_id, output, even_if_none=ours)
        return DONE

    ctx.commands.handle_until_end("recount", write)


async def _ledger(ctx: RunContext) -> Ledger:
    """Return the account of the run, with what was spent before it was taken up again."""
    settings = ctx.settings.data_generation
    totals = await tasks.attempt_totals(ctx.store, ctx.run_id)
    prices = prices_of(settings)
    return Ledger(
        settings.budget_tokens, spent_so_far(totals), prices, settings.budget_dollars, dollars_so_far(totals, prices)
    )


async def _run(ctx: RunContext, steering: RunControl, corpus: Corpus, output: Path, ledger: Ledger) -> End:
    model = await open_model(ctx.settings, ctx)
    try:
        pipeline = await _assemble(ctx, steering, model, corpus, output, ledger)
        return await pipeline.run()
    finally:
        await model.close()


async def open_model(settings: Settings, ctx: RunContext) -> GenerationModel:
    """Return the model that ``data_generation.model`` names, ready to be asked.

    Raises `UnreachableError` where it needs a key and there is none, or cannot be fetched.
    """
    chosen = settings.data_generation
    if chosen.model == BUILTIN:
        from lora_tui.engine.generation.builtin_model import BuiltinModel

        return await BuiltinModel.load(ctx)
    return await asyncio.to_thread(_remote, settings, ctx.warn, ctx.stop_async)


def _remote(settings: Settings, warn: Callable[[str], None], stop: asyncio.Event) -> GenerationModel:
    """Open the endpoint; in a thread, because importing its client takes a second."""
    from lora_tui.engine.generation.client.endpoint import Access
    from lora_tui.engine.generation.remote_model import RemoteModel

    chosen = settings.data_generation
    key = os.environ.get(chosen.api_key_env, "").strip()
    if not key and not chosen.base_url:
        raise UnreachableError(
            f"{chosen.api_key_env} is not set: export it, or set data_generation.base_url to a server of your own, or "
            'data_generation.model="builtin".'
        )
    if not key.isascii() or not key.isprintable():
        raise UnreachableError(f"{chosen.api_key_env} holds characters that no key has; export it again.")
    url = chosen.base_url or OPENAI_URL
    if key and url.startswith("http://") and not is_loopback(url):
        warn(f"{shown_url(url)} is not encrypted: the key and every passage can be read on the way. Prefer https.")
    access = Access(
        base_url=url,
        key=key,
        key_name=chosen.api_key_env,
        timeout=chosen.timeout,
        concurrency=chosen.max_concurrency,
        max_retries=chosen.generation.max_retries,
        initial_delay=chosen.generation.initial_delay,
    )
    return RemoteModel(settings, access, warn, stop)


async def _read(ctx: RunContext) -> Corpus:
    settings = ctx.settings.data_generation
    told_at = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told_at
        ctx.raise_if_stopping()
        if done in (0, total) or time.monotonic() - told_at > _BETWEEN_PROGRESS:
            told_at = time.monotonic()
            ctx.emit("progress", phase="reading", done=done, total=total, note="")

    return await read_folder(
        ctx.store,
        ctx.run_id,
        Path(settings.input_folder),
        settings.chunk_tokens,
        settings.chunk_overlap,
        ctx.warn,
        progress,
        None if settings.model == BUILTIN else _other_machine(settings.base_url),
        Path(settings.output_file),
    )


def _other_machine(base_url: str) -> str | None:
    """Return the address that passages are sent to, or None where they stay on this machine."""
    return None if base_url and is_loopback(base_url) else shown_url(base_url or OPENAI_URL)


async def _assemble(
    ctx: RunContext, steering: RunControl, model: GenerationModel, corpus: Corpus, output: Path, ledger: Ledger
) -> Pipeline:
    """Join the parts over what the store knows of the run."""
    store, run_id, settings = ctx.store, ctx.run_id, ctx.settings.data_generation
    async with store.transaction() as t:
        aggregator, version = await stored_aggregator(t, GENERATION, settings.adaptive_aggregator.learning_rate)
    slots = SlotCounts()
    plan = Plan(settings.num_examples_per_file, settings.generation.max_tokens, settings.seed, tuple(settings.topics))
    planner = Planner(store, run_id, corpus, plan, slots, max(1, await tasks.last_round(store, run_id)))
    counts = await store_generation.pair_counts(store, run_id)
    standing = GenerationProgress(settings.total_examples, planner.fruitless_limit, model.concurrency, counts)
    workers = Workers(
        store=store,
        run_id=run_id,
        model=model,
        ledger=ledger,
        bench=PairJudge(aggregator, version, settings.evaluation_threshold),
        planner=planner,
        slots=slots,
        standing=standing,
        warn=ctx.warn,
        files=len(corpus.sources),
        may_call=steering.may_call,
    )
    await workers.recall()
    ctx.emit(
        "note",
        message=f"{count(len(corpus.sources), 'file')}, {count(corpus.passages, 'passage')}; {model.name} writes, "
        f"{settings.judge_model or model.name} judges; {standing.accepted} of {settings.total_examples} accepted",
    )

    written_at = 0.0

    async def after_analysis() -> None:
        nonlocal written_at
        if time.monotonic() - written_at > _BETWEEN_FILES:
            await write_accepted(store, run_id, output)
            written_at = time.monotonic()

    def progress(done: int, total: int, note: str) -> None:
        ctx.emit("progress", phase="generating", done=done, total=total, note=note)

    interval = settings.batch_analysis_interval
    return Pipeline(workers, planner, standing, ctx.stop_async, steering, interval, progress, after_analysis)


async def _close(ctx: RunContext, corpus: Corpus, output: Path, reason: str) -> dict[str, Any]:
    """Write the accepted pairs and return the summary."""
    _keep_up_to_date(ctx, output, ours=False)
    written = await write_accepted(ctx.store, ctx.run_id, output)
    _keep_up_to_date(ctx, output, ours=written > 0)
    target = ctx.settings.data_generation.total_examples
    result = await summarise(ctx.store, ctx.run_id, target, reason, str(output) if written else None, corpus)
    prices = prices_of(ctx.settings.data_generation)
    totals = await tasks.attempt_totals(ctx.store, ctx.run_id)
    return {**result, "dollars": round(dollars_so_far(totals, prices), 6) if prices.known else None}


def _shortfall(end: End, result: dict[str, Any], settings: Settings, ledger: Ledger) -> str:
    """Return in one or two lines why the target was not reached and what to do."""
    have = f"{result['accepted']} of {result['target']} pairs accepted"
    if end is End.BUDGET:
        chosen = settings.data_generation
        in_dollars = ledger.exceeded == "budget_dollars"
        budget = dollars(chosen.budget_dollars) if in_dollars else f"{chosen.budget_tokens:,} tokens"
        return (
            f"The budget of {budget} is spent: {have}.\n"
            f"Raise data_generation.{ledger.exceeded or 'budget_tokens'} and go on with --resume."
        )
    # A dead call's own reason says more than the cause it is counted under.
    causes = {cause: n for cause, n in result["reasons"].items() if cause != "judge failed"} | result["dead_reasons"]
    causes["the reply held no usable pair"] = result["unusable_items"]
    most = max(causes, key=lambda cause: causes[cause])
    why = f"; most often: {one_line(most, 150)} ({causes[most]})" if causes[most] else ""
    return (
        f"Nothing new was accepted in a whole pass over {result['passages']} passages: {have}{why}.\n"
        "Add files, lower data_generation.evaluation_threshold or total_examples, or change the model, and --resume."
    )


async def summarise(
    store: Store, run_id: int, target: int, reason: str, output_file: str | None, corpus: Corpus
) -> dict[str, Any]:
    """Return the result of a run as it stands; `reason` is why it is over."""
    pairs = await store_generation.pair_counts(store, run_id)
    totals = await tasks.attempt_totals(store, run_id)
    unknown = [total for total in totals if total.status in UNKNOWN_COST]
    analysis = await store_generation.newest_analysis(store, run_id)
    return {
        **{verdict: pairs.get(verdict, 0) for verdict in _VERDICTS},
        "proposed": sum(pairs.values()),
        "target": target,
        "reason": reason,
        "output_file": output_file,
        "calls": sum(total.calls for total in totals),
        "attempts": {total.status: total.calls for total in totals},
        "prompt_tokens": sum(total.prompt_tokens for total in totals),
        "completion_tokens": sum(total.completion_tokens for total in totals),
        "cached_tokens": sum(total.cached_tokens for total in totals),
        "unknown_calls": sum(total.calls for total in unknown),
        "unknown_tokens_up_to": sum(total.estimated_tokens for total in unknown),
        "tasks": await _tasks(store, run_id),
        "reasons": await store_generation.causes(store, run_id),
        "dead_reasons": await tasks.dead_reasons(store, run_id),
        "unusable_items": await tasks.refused_items(store, run_id),
        "passes": await tasks.last_round(store, run_id),
        "analyses": analysis.version if analysis else 0,
        "files": len(corpus.sources),
        "passages": corpus.passages,
        "skipped": len(corpus.skipped),
        "skipped_files": dict(corpus.skipped[:_MOST_NAMED]),
    }


async def _tasks(store: Store, run_id: int) -> dict[str, dict[str, int]]:
    counts = await tasks.task_counts(store, run_id)
    found = {}
    for kind in (GENERATE, JUDGE, ANALYSE):
        states = {state: counts.get((kind, state), 0) for state in _STATES}
        found[kind] = {"planned": sum(states.values()), **states}
    return found
