"""The job of ``--run generate``: reads the folder, opens the model, runs the pipeline, and reports how the run ended.

A run that reaches its target finishes, and so does one that has found all its files hold, if that is a pair or more:
"done: 31 of 40 found in these files". One that cannot go on fails, with the reason and what to do in its message and
everything it has done in its result; its accepted pairs are written all the same, and ``--resume`` goes on from there.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_tui.config.addresses import OPENAI_URL
from lora_tui.config.advice import advise
from lora_tui.config.generation import DataGeneration
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.prices import token_prices
from lora_tui.config.written import written_keys
from lora_tui.engine.data.results import remember_result
from lora_tui.engine.forecast.generation import charge_text, forecast_generation, forget_listing
from lora_tui.engine.generation.background_reading import BackgroundReading, report_folder
from lora_tui.engine.generation.client.wire import is_loopback, is_own_network, shown_url
from lora_tui.engine.generation.corpus import Corpus, Source
from lora_tui.engine.generation.earlier import EarlierPairs, seeded_for_run
from lora_tui.engine.generation.folder_changes import EarlierReading, FolderChanges
from lora_tui.engine.generation.folder_reader import FolderReader
from lora_tui.engine.generation.generation_model import EndpointGoneError, GenerationModel
from lora_tui.engine.generation.judging import PairJudge
from lora_tui.engine.generation.ledger import (
    Ledger,
    keep_pair_tokens,
    unknown_outcome,
)
from lora_tui.engine.generation.output import (
    back_up,
    check_writable,
    last_writer,
    write_accepted,
    write_accepted_of_runs,
)
from lora_tui.engine.generation.passage_turns import PassageTurns
from lora_tui.engine.generation.pipeline import Pipeline, RunControl, RunEnd
from lora_tui.engine.generation.planner import Planner
from lora_tui.engine.generation.progress import GenerationProgress
from lora_tui.engine.generation.texts.text_plan import wanted_texts
from lora_tui.engine.generation.texts.text_stage import TextStage
from lora_tui.engine.generation.topic_grouping import group_topics
from lora_tui.engine.generation.topic_tree import load_tree
from lora_tui.engine.generation.workers import UnfitJudgeError, Workers
from lora_tui.engine.jobs.generation_result import all_found, next_commands, result_of, shortfall
from lora_tui.engine.models.builtin import BUILTIN, ensure_builtin
from lora_tui.engine.review.aggregators import GENERATION, replay_and_record
from lora_tui.engine.review.agreement import rating_statistics
from lora_tui.engine.runtime.commands import DONE
from lora_tui.engine.runtime.context import STARTING_TORCH, RunContext, Stopped, progress_events
from lora_tui.errors import LoraTuiError, UnreachableError, UsageError
from lora_tui.protocol.agreement import missing_text
from lora_tui.store import generation as store_generation
from lora_tui.store import runs, tasks
from lora_tui.store import topics as store_topics
from lora_tui.store.queries.runs import newest_event
from lora_tui.text import count, one_line

if TYPE_CHECKING:
    from lora_tui.engine.generation.builtin_model import BuiltinModel

_PROGRESS_SECONDS = 0.3


class GenerationFailedError(LoraTuiError):
    """A run ended short of its target; `result` is what it has done."""

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result


class EndpointFailedError(GenerationFailedError, UnreachableError):
    """A run ended because its endpoint cannot be used; `result` is what it has done."""


async def generate(ctx: RunContext) -> dict[str, Any]:
    """Generate judged pairs until there are enough; returns the run's result.

    Raises `LoraTuiError` if the target is not reached, `UnreachableError` if the endpoint is at fault, `Stopped` when
    asked to stop.
    """
    ctx = await _with_promised_threshold(await _with_own_seed(ctx))
    settings = ctx.settings.data_generation
    for advice in advise(ctx.settings):
        if advice.startswith("data_generation"):
            ctx.warn(advice)
    if lost := await tasks.mark_lost_attempts(ctx.store, ctx.run_id):
        ctx.warn(unknown_outcome(lost, await tasks.attempt_totals(ctx.store, ctx.run_id)))
    await ctx.flush()  # "started" comes before the first event that is stored directly
    output = Path(settings.output_file)
    _refuse_unknown_price(ctx.settings)
    if not ctx.resumed and (charge := await asyncio.to_thread(_charge, ctx.settings)):
        ctx.emit("note", message=f"{charge}\nIt stops by itself with data_generation.budget_tokens, or budget_dollars.")
    check_writable(output)
    await _keep_older(ctx, output)
    await _report_pause_ended(ctx)
    control = RunControl(ctx.stop_async, ctx.emit)
    with control.handles(ctx.commands):
        earlier = await EarlierReading.load(ctx)
        with await _open_folder(ctx, earlier) as reader:
            await _read_first(ctx, reader, earlier)
            corpus = reader.corpus
            changes = await earlier.compare(ctx, corpus)
            ledger = Ledger.taken_up(settings, await tasks.attempt_totals(ctx.store, ctx.run_id))
            try:
                end: RunEnd | UnreachableError | UnfitJudgeError = await _run_pipeline(
                    ctx, control, reader, earlier, changes, ledger
                )
            except (UnreachableError, UnfitJudgeError) as problem:
                end = problem
    if isinstance(end, UnreachableError):
        reason = "endpoint gone" if isinstance(end, EndpointGoneError) else "endpoint cannot be used"
        result = await _finish(ctx, corpus, output, reason)
        raise EndpointFailedError(str(end), result) from end
    if isinstance(end, UnfitJudgeError):
        raise GenerationFailedError(str(end), await _finish(ctx, corpus, output, "judge unfit")) from end
    result = await _finish(ctx, corpus, output, end.value)
    if end is RunEnd.STOPPED:
        raise Stopped(result)
    if end is RunEnd.NOTHING_NEW and not result["accepted"]:
        known = await EarlierPairs.load(ctx.store, ctx.run_id, settings.model)
        if known.known:
            raise GenerationFailedError(known.nothing_new(), result)
    if end is RunEnd.NOTHING_NEW and result["accepted"] and not result["dead_reasons"]:
        ctx.emit("note", message=all_found(result, ctx.settings))
        return {**result, "commands": next_commands(result, ctx.settings)}
    if end is not RunEnd.TARGET:
        raise GenerationFailedError(shortfall(end, result, ctx.settings, ledger), result)
    return {**result, "commands": next_commands(result, ctx.settings)}


async def _with_own_seed(ctx: RunContext) -> RunContext:
    """The run with a seed of its own, kept with its settings: it is the same when the run is resumed."""
    if ctx.resumed:
        return ctx
    settings = await seeded_for_run(ctx.store, ctx.run_id, ctx.settings)
    if settings is ctx.settings:
        return ctx
    await runs.set_settings(ctx.store, ctx.run_id, settings.model_dump(mode="json"), written_keys(settings))
    return ctx.with_settings(settings)


async def _with_promised_threshold(ctx: RunContext) -> RunContext:
    """The run with the lowest threshold that keeps ``target_precision``, where one is named and ratings promise it."""
    settings = ctx.settings.data_generation
    wanted = settings.target_precision
    if ctx.resumed or not wanted:
        return ctx
    statistics = await rating_statistics(ctx.store, GENERATION, settings.adaptive_aggregator.learning_rate)
    promise = statistics.threshold_for(wanted)
    share = f"{100 * wanted:g} %"
    if promise is None:
        known = statistics.agreement
        lacking = missing_text(known) if known.auroc is None else statistics.why_no_threshold(wanted)
        ctx.warn(
            f"data_generation.target_precision = {wanted:g}: {lacking}. The threshold stays at"
            f" {settings.evaluation_threshold:g}; rate more pairs with lora-tui --run rate --what pairs."
        )
        return ctx
    chosen = with_values(ctx.settings, {"data_generation.evaluation_threshold": promise.threshold})
    await runs.set_settings(ctx.store, ctx.run_id, chosen.model_dump(mode="json"), written_keys(chosen))
    ctx.emit(
        "note",
        message=f"The threshold is {promise.threshold:g}: from there on at least {share} of pairs are good"
        f" ({promise.good} of {count(promise.ratings, 'rating')} at random were, 95 %).",
    )
    return ctx.with_settings(chosen)


def _refuse_unknown_price(settings: Settings) -> None:
    """Raise `UsageError` for a budget of dollars that could not be kept, because nobody knows what a token costs."""
    chosen = settings.data_generation
    said = {"data_generation.prompt_price", "data_generation.completion_price"} & set(written_keys(settings))
    if not chosen.budget_dollars or chosen.budget_tokens or chosen.model == BUILTIN or said:
        return
    if not token_prices(chosen).known:
        raise UsageError(
            f"data_generation.budget_dollars = {chosen.budget_dollars:g} cannot be kept: what"
            f" {one_line(chosen.model, 60)} costs is not listed.\nSet data_generation.prompt_price and completion_price"
            " (dollars for a million tokens; 0 says that it is free), or data_generation.budget_tokens."
        )


def _charge(settings: Settings) -> str:
    try:
        return charge_text(settings.data_generation, forecast_generation(settings))
    finally:
        forget_listing()


async def _keep_older(ctx: RunContext, output: Path) -> None:
    """Keep the file of an earlier run under another name, and say so."""
    if ctx.resumed:
        return
    writer = await last_writer(ctx.store, output)
    older = await asyncio.to_thread(back_up, output, writer)
    if older is not None:
        what = "its pairs stay" if writer is None else f"the pairs of run {writer} stay"
        ctx.warn(f"{output} is there already: {what} in {older}, and this run writes its own to {output}.")
        async with ctx.store.transaction() as t:
            await remember_result(t, output)  # that it is kept


def _warn_of_copy(ctx: RunContext, output: Path) -> Callable[[Path], None]:
    return lambda kept: ctx.warn(f"{output} was changed by hand since it was written: that stays in {kept}.")


async def _report_pause_ended(ctx: RunContext) -> None:
    """Report that a run which was killed while it was paused goes on now."""
    paused = await newest_event(ctx.store, ctx.run_id, "paused") if ctx.resumed else None
    if paused is not None and paused.payload.get("paused"):
        ctx.emit("paused", paused=False)


def _rewrite_on_recount(ctx: RunContext, output: Path, *, ours: bool) -> None:
    """Write the file again whenever people have changed pairs, to the end of the run.

    A quickstart goes on for minutes after its pairs. `ours` is whether this run has written the file. In a transaction,
    so that whoever writes last has also read last, whichever process it is.
    """

    async def write() -> str:
        async with ctx.store.transaction() as t:
            kept = _warn_of_copy(ctx, output)
            await write_accepted_of_runs(t, (ctx.run_id,), output, even_if_none=ours, on_kept=kept)
        return DONE

    ctx.commands.handle_until_end("recount", write)


async def _run_pipeline(
    ctx: RunContext,
    control: RunControl,
    reader: FolderReader,
    earlier: EarlierReading,
    changes: FolderChanges | None,
    ledger: Ledger,
) -> RunEnd:
    model = await open_model(ctx)
    corpus = reader.corpus
    try:
        new = changes.new if changes else await earlier.new_passages(ctx, corpus, corpus.sources)
        workers = await _workers(ctx, control, model, corpus, new, ledger)
        ctx.commands.handle_until_end("topics", _reweigh(ctx, workers.planner))

        async def compare(sources: Sequence[Source]) -> Mapping[str, Sequence[int]]:
            if corpus.is_whole:
                await earlier.compare(ctx, corpus)
                await workers.recount()
            return await earlier.new_passages(ctx, corpus, sources)

        reading = BackgroundReading(ctx, reader, workers, compare)
        reading.changed = control.changed.set
        reading.start()
        try:
            if ctx.settings.data_generation.model != BUILTIN:
                async with workers.planner.growing:
                    await group_topics(workers, model)
            end = await Pipeline(ctx, workers, control, reading).run()
        finally:
            await reading.stop()
        if (
            end not in (RunEnd.TARGET, RunEnd.NOTHING_NEW, RunEnd.FRUITLESS)
            or await TextStage(ctx, workers, model, corpus).run()
        ):
            return RunEnd.STOPPED if ctx.stop_async.is_set() else end
        return RunEnd.BUDGET
    finally:
        await model.close()


def _reweigh(ctx: RunContext, planner: Planner) -> Callable[[], Awaitable[str]]:
    """A handler that takes over the weights of topics as people have changed them."""

    async def reweigh() -> str:
        stored = await store_topics.topics_of(ctx.store, ctx.run_id)
        planner.reweigh({topic.number: topic.weight for topic in stored})
        return DONE

    return reweigh


async def open_model(ctx: RunContext) -> GenerationModel:
    """Open the model that ``data_generation.model`` names.

    Raises `UnreachableError` if it needs a key and there is none, or cannot be fetched.
    """
    if ctx.settings.data_generation.model == BUILTIN:
        await asyncio.to_thread(ensure_builtin, progress_events(ctx.emit))  # before torch, which takes ten seconds
        ctx.emit("progress", phase=STARTING_TORCH, done=0, total=1)
        builtin_model = await asyncio.to_thread(_import_builtin_model)
        ctx.emit("progress", phase=STARTING_TORCH, done=1, total=1)
        ctx.raise_if_stopping()
        return await builtin_model.load(ctx)
    return await asyncio.to_thread(_open_remote, ctx)


def _import_builtin_model() -> "type[BuiltinModel]":
    """The class whose module imports torch; in a thread, because that takes seconds."""
    from lora_tui.engine.generation.builtin_model import BuiltinModel

    return BuiltinModel


def _open_remote(ctx: RunContext) -> GenerationModel:
    """Open the model of the endpoint, or of several; in a thread, because importing the client takes a second."""
    from lora_tui.engine.generation.remote_model import RemoteModel

    chosen = ctx.settings.data_generation
    if len(chosen.urls) > 1:
        if chosen.batch:
            raise UsageError(
                "data_generation.batch works with one endpoint alone: name it as data_generation.base_url."
            )
        return _open_fleet(ctx)
    chosen = chosen.at(chosen.urls[0])
    return RemoteModel(chosen, _key_of(ctx, chosen), ctx.warn, ctx.stop_async, ctx.emit, (ctx.store, ctx.run_id))


def _open_fleet(ctx: RunContext) -> GenerationModel:
    """Open the models of several endpoints as one."""
    from lora_tui.engine.generation.fleet import Fleet
    from lora_tui.engine.generation.fleet_members import JUDGES, WRITES, Member, Members
    from lora_tui.engine.generation.remote_model import RemoteModel

    chosen = ctx.settings.data_generation
    members = Members(chosen.give_up_after, ctx.stop_async, ctx.warn, ctx.emit)
    for place, url in enumerate(chosen.urls):
        own, others = chosen.at(url), partial(members.others_have_room, place)
        roles = [WRITES] * (url in chosen.writer_urls) + [JUDGES] * (url in chosen.judge_urls)
        model = RemoteModel(own, _key_of(ctx, own), ctx.warn, ctx.stop_async, ctx.emit, None, others)
        members.all.append(Member(model, roles))
    return Fleet(chosen.model, chosen.judges, members)


def _key_of(ctx: RunContext, chosen: DataGeneration) -> str:
    """Return the key for the one address of settings, empty where it needs none; raises `UnreachableError`."""
    key = os.environ.get(chosen.api_key_env, "").strip()
    if not key and not chosen.base_url:
        raise UnreachableError(
            f"{chosen.api_key_env} is not set: export it, or set {chosen.address_key} to a server of your own, or "
            'data_generation.model="builtin".'
        )
    if not key.isascii() or not key.isprintable():
        raise UnreachableError(f"{chosen.api_key_env} holds characters that no key has; export it again.")
    url = chosen.base_url or OPENAI_URL
    if key and url.startswith("http://") and not is_loopback(url):
        ctx.warn(f"{shown_url(url)} is not encrypted: the key and every passage can be read on the way. Prefer https.")
    return key


async def _open_folder(ctx: RunContext, earlier: EarlierReading) -> FolderReader:
    settings = ctx.settings.data_generation
    urls = [] if settings.model == BUILTIN else [url or OPENAI_URL for url in settings.urls]
    sent_to = " and ".join(shown_url(url) for url in urls if not is_loopback(url)) or None
    return await FolderReader.open(ctx.store, ctx.run_id, settings, ctx.warn, sent_to, earlier.order)


async def _read_first(ctx: RunContext, reader: FolderReader, earlier: EarlierReading) -> None:
    reported_at = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal reported_at
        ctx.raise_if_stopping()
        if done in (0, total) or time.monotonic() - reported_at > _PROGRESS_SECONDS:
            reported_at = time.monotonic()
            ctx.emit("progress", phase="reading", done=done, total=total, note="")

    await reader.read_first(progress, earlier.asked)
    if not reader.corpus.is_whole:
        report_folder(ctx, reader)
        await ctx.flush()  # before the first task: whoever resumes the run takes no file that was unread for a new one


async def _workers(
    ctx: RunContext,
    control: RunControl,
    model: GenerationModel,
    corpus: Corpus,
    new: Mapping[str, Sequence[int]],
    ledger: Ledger,
) -> Workers:
    """Build the run's planner, judge and workers over what the store knows of the run."""
    store, run_id, settings = ctx.store, ctx.run_id, ctx.settings.data_generation
    async with store.transaction() as t:
        aggregator, version = await replay_and_record(t, GENERATION, settings.adaptive_aggregator.learning_rate)
    earlier = await EarlierPairs.load(store, run_id, settings.model)
    if note := earlier.note():
        ctx.emit("note", message=note)
    tree = await load_tree(store, run_id, corpus) if settings.diversity else None
    asked = await store_topics.asked_by_source(store, run_id)
    turns = PassageTurns(corpus.sources, tree, asked) if tree is not None else None
    first = max(1, await tasks.last_round(store, run_id))
    planner = Planner(store, run_id, corpus, settings, first, earlier.runs, turns, tree, new, asked)
    counts = await store_generation.pair_counts(store, run_id)
    progress = GenerationProgress(settings.total_examples, planner.fruitless_limit, model.concurrency, counts)
    workers = Workers(
        ctx=ctx,
        model=model,
        ledger=ledger,
        pair_judge=PairJudge(aggregator, version, settings.evaluation_threshold),
        planner=planner,
        progress=progress,
        corpus=corpus,
        wait_while_paused=control.wait_while_paused,
        check_first=bool(settings.judge_must_tell)
        or not all(is_own_network(url or OPENAI_URL) for url in settings.urls),
        earlier=earlier,
    )
    await workers.restore()
    judges = ", ".join(judge.name for judge in model.judges) + (" judges" if len(model.judges) == 1 else " judge")
    ctx.emit(
        "note",
        message=f"{_read_text(corpus)}; {model.name} writes, "
        f"{judges}; {progress.accepted} of {settings.total_examples} accepted",
    )
    has_all = not progress.missing and not any(wanted_texts(settings, progress.accepted).values())
    if settings.check_judge and not has_all:
        await workers.plan_checks()
    if not progress.missing and not await tasks.last_round(store, run_id):
        workers.analyst.skip(progress.accepted)  # an earlier run has analysed the pairs that are kept
    return workers


def _read_text(corpus: Corpus) -> str:
    files, passages = corpus.size
    if corpus.is_whole:
        return f"{count(files, 'file')}, {count(passages, 'passage')}"
    of = count(len(corpus.paths), "file")
    return f"{files:,} of {of} with {count(passages, 'passage')} are read, the others meanwhile"


async def _finish(ctx: RunContext, corpus: Corpus, output: Path, reason: str) -> dict[str, Any]:
    """Write the accepted pairs and return the run's result."""
    _rewrite_on_recount(ctx, output, ours=False)
    written = await write_accepted(ctx.store, ctx.run_id, output, on_kept=_warn_of_copy(ctx, output))
    _rewrite_on_recount(ctx, output, ours=written > 0)
    result = await result_of(ctx, corpus, reason, str(output) if written else None)
    await keep_pair_tokens(ctx.store, ctx.run_id, ctx.settings.data_generation, result["accepted"])
    return result
