"""Runs a mode: plans the run, submits it to the engine, follows its events; its ending becomes the exit status."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_tui.cli.chat import chat_mode
from lora_tui.cli.endings import EndingTeller
from lora_tui.cli.follow import RunFollower, follow_own_run, resume_command
from lora_tui.cli.narration import Narrator, make_narrator
from lora_tui.cli.queue import add_run, tell_added, work_queue
from lora_tui.cli.rate import rate_mode
from lora_tui.cli.request import NEWEST, Request
from lora_tui.cli.sweep import plan_sweep
from lora_tui.config.command_consent import CommandQuestion, allow_commands, command_question
from lora_tui.config.key_consent import KEY_SETTINGS, KeyQuestion, allow_key, key_question
from lora_tui.config.load import Loaded
from lora_tui.config.models import Settings
from lora_tui.config.written import written_keys
from lora_tui.engine.data.read import training_file
from lora_tui.engine.models.adapter_source import require_trained
from lora_tui.engine.runtime.engine import Engine
from lora_tui.engine.runtime.process import torchrun_rank
from lora_tui.engine.runtime.resume import open_existing, resume_run, stored_run
from lora_tui.engine.training.rank_worker import serve_under_torchrun
from lora_tui.errors import UsageError
from lora_tui.secrets import register_key_variable
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import RESUMABLE_MODES, TRAINING_MODES
from lora_tui.terminal.report import PREFIX, Report, done_line
from lora_tui.terminal.signals import BROKEN_PIPE_STATUS, Interrupts, chat_signals
from lora_tui.terminal.streams import Streams
from lora_tui.text import clean

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunPlan:
    """What to submit to the engine; `resume` is the run that goes on, `warnings` are about the choice itself."""

    mode: str
    settings: Settings
    options: dict[str, Any]
    resume: int | None = None
    warnings: Sequence[str] = ()


def run(request: Request, streams: Streams, report: Report, loaded: Loaded, store_path: Path) -> int:
    """Do what ``--run``, ``--resume`` or ``--generate-training-file`` asks for; returns the exit status."""
    if (started := torchrun_rank()) is not None:
        several = request.queue or bool(request.sweep) or request.run == "queue"
        if started[0] > 0:  # rank 0 does alone, or refuses, what is not one training
            return serve_under_torchrun() if request.run in (None, *TRAINING_MODES) and not several else 0
        if several:
            raise UsageError(
                "torchrun starts the devices of one run. For a queue or a sweep start lora-tui without it: "
                "fine_tuning.parallel divides each run over the devices of this machine."
            )
    teller = EndingTeller(streams, report, loaded, store_path)
    if request.run == "queue":
        teller.ask(can_ask=_can_ask(request, streams))
        return work_queue(streams, report, loaded.settings, store_path, teller)
    if (purpose := None if request.queue else _needs_trained(request, loaded.settings)) is not None:
        asyncio.run(require_trained(store_path, purpose, training_file(loaded.settings)))
    if request.run == "chat":
        return _chat(request, streams, loaded.settings, store_path)
    if request.run == "rate":
        return _rate(request, streams, store_path)
    plan = asyncio.run(_plan_run(request, loaded, store_path))
    if started is not None and request.run is None and plan.mode not in TRAINING_MODES:  # the others wait for a model
        raise UsageError(f"Run {plan.resume} is a {plan.mode} run: resume it without torchrun.")
    for variable in (*plan.settings.data_generation.key_variables, plan.settings.serving.api_key_env):
        register_key_variable(variable)
    if plan.mode in ("generate", "format"):
        _ask_about_key(plan, request, loaded, store_path, streams)
    if plan.mode in ("generate", "quickstart"):
        _ask_about_commands(plan, request, loaded, store_path, streams)
    if request.sweep:
        group_id = plan_sweep(report, request.sweep, plan.settings, plan.options, store_path)
        if request.queue:
            return tell_added(report, group_id, store_path)
        teller.ask(can_ask=_can_ask(request, streams))
        return work_queue(streams, report, plan.settings, store_path, teller, group_id)
    if request.queue:
        return add_run(report, plan.mode, plan.settings, plan.options, store_path)
    teller.ask(can_ask=_can_ask(request, streams))
    narrator = make_narrator(streams, report)
    with Interrupts(streams, lambda status: _final_output(report, store_path, status)).handled() as interrupts:
        engine = Engine(store_path)
        try:
            engine.start()
            status = asyncio.run(
                _follow_to_end(plan, engine, streams, report, narrator, interrupts, store_path, teller)
            )
        finally:
            narrator.close()
            engine.close()
    terminals = streams.in_is_terminal and streams.out_is_terminal and not streams.hung_up
    if plan.mode == "train" and status == 0 and request.chat_after and terminals and not request.json_lines:
        assert report.run_id is not None, "the run that has just finished"
        return _chat(Request(run="chat", resume=report.run_id), streams, plan.settings, store_path)
    return status


def _ask_about_key(plan: RunPlan, request: Request, loaded: Loaded, store_path: Path, streams: Streams) -> None:
    """Ask whether the key that a file names may be sent; raises `UsageError` where the answer is no, or nobody answers.

    A run that goes on may name another variable than the configuration: the store is the file then.
    """
    chosen = plan.settings.data_generation
    now = loaded.settings.data_generation
    files = (loaded.key_named_in, loaded.address_named_in, loaded.hosts_named_in)
    if any(getattr(chosen, name) != getattr(now, name) for name in KEY_SETTINGS):
        files = (store_path, None, store_path)  # its address may have been typed when it began
    while (question := key_question(chosen, *files)) is not None:  # one for each endpoint
        if plan.mode == "format" and not _can_ask(request, streams):  # most raw files hold ready pairs, need no model
            plan.options["no_model"] = question.refusal
            return
        _require_yes(question, request, streams)
        allow_key(question)


def _ask_about_commands(plan: RunPlan, request: Request, loaded: Loaded, store_path: Path, streams: Streams) -> None:
    """Ask whether the commands that a file names may read files; raises `UsageError` as `_ask_about_key` does."""
    chosen = plan.settings.data_generation
    same = chosen.extractors == loaded.settings.data_generation.extractors
    question = command_question(chosen, loaded.commands_named_in if same else store_path)
    if question is not None:
        _require_yes(question, request, streams)
        allow_commands(question)


def _can_ask(request: Request, streams: Streams) -> bool:
    return streams.in_is_terminal and streams.err_is_terminal and not request.json_lines


def _require_yes(question: KeyQuestion | CommandQuestion, request: Request, streams: Streams) -> None:
    """Ask in the terminal; raises `UsageError` where the answer is no, or nobody can be asked."""
    if not _can_ask(request, streams):
        raise UsageError(question.refusal)
    streams.err.write(f"{clean(question.text)} [y/N] ")
    streams.err.flush()
    if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
        raise UsageError(question.refusal)


def _needs_trained(request: Request, settings: Settings) -> str | None:
    """What a request needs a finished training run of the store for; None where it needs none.

    Whoever has named a base model of their own may chat with it alone.
    """
    if request.adapter is not None or isinstance(request.resume, int):
        return None
    if request.run == "chat":
        return None if "fine_tuning.model_name" in written_keys(settings) else "chat with"
    if request.run == "export":
        of_adapters = (None, "adapter", "merged", "gguf", "gguf-lora", "lm-eval")
        return "export" if request.export_format in of_adapters else None
    if request.run == "serve":
        return None if "fine_tuning.model_name" in written_keys(settings) else "serve"
    return "evaluate" if request.run == "evaluate" else None


async def _plan_run(request: Request, loaded: Loaded, store_path: Path) -> RunPlan:
    """Decide what to run; raises `UsageError` when the run that is to go on cannot."""
    if request.training_file is not None:
        raw, out = (path.expanduser() for path in request.training_file)
        return RunPlan("format", loaded.settings, {"raw": str(raw), "out": str(out)})
    options = _options(request)
    if request.resume is not None and request.run in (None, *RESUMABLE_MODES):
        resumed = await resume_run(
            store_path,
            None if request.resume == NEWEST else request.resume,
            request.run,
            settings=loaded.settings if request.config is not None else None,
            overrides=request.overrides,
        )
        run = resumed.run
        return RunPlan(run.mode, resumed.settings, {**run.options, **options}, run.id, resumed.changes)
    assert request.run is not None, "a request for nothing has no plan"
    if isinstance(request.resume, int):
        run = await stored_run(store_path, request.resume)
        if run.mode not in TRAINING_MODES:
            raise UsageError(f"Run {run.id} is a {run.mode} run and has no adapter; `lora-tui --runs` lists the runs.")
        options["adapter_run"] = run.id
    return RunPlan(request.run, loaded.settings, options)


def _options(request: Request) -> dict[str, Any]:
    """Return the options of the command line that the job itself reads."""
    given = {
        "train_data_file": request.train_data_file,
        "adapter": request.adapter if request.run != "serve" else None,
        "adapters": [str(path) for path in request.adapters] or None if request.run == "serve" else None,
        "format": request.export_format,
        "quantize": request.quantize,
        "output": request.output,
        "split": request.split,
        "with_provenance": request.with_provenance or None,
        "parquet": request.parquet or None,
        "to_hub": request.to_hub,
        "send": request.send or None,
        "public": request.public or None,
        "license": request.license,
    }
    return {
        name: str(value.expanduser()) if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None
    }


async def _follow_to_end(
    plan: RunPlan,
    engine: Engine,
    streams: Streams,
    report: Report,
    narrator: Narrator,
    interrupts: Interrupts,
    path: Path,
    teller: EndingTeller,
) -> int:
    """Submit a run to the engine and write it to its end; returns the exit status."""
    async with await Store.open(path) as store:
        follower = RunFollower(store, plan.resume or 0, narrator, streams, warnings=plan.warnings)
        if plan.resume is not None:
            await follower.skip_past()
        # In a thread: a signal must find the main thread free.
        run_id, submitted = await asyncio.to_thread(engine.submit, plan.mode, plan.settings, plan.options, plan.resume)
        follower.run_id = report.run_id = run_id
        ending = asyncio.wrap_future(submitted)
        try:
            outcome = await follow_own_run(follower, ending, interrupts, lambda: engine.stop(run_id), plan.mode)
        finally:
            # The engine closes only when its runs have ended, also where following this one has failed.
            if not ending.done():
                engine.stop(run_id)
                await asyncio.wait([ending])
        if outcome.state == "stopped":
            signalled = BROKEN_PIPE_STATUS if follower.reader_left else interrupts.exit_status
            outcome = replace(outcome, exit_status=signalled or outcome.exit_status)
        run = await runs.get(store, run_id)
        await follower.narrate(narrator.end, follower.ending(outcome, run))
        teller.run_ended(run)
        if streams.hung_up:
            log.info("run %s went on without its terminal and is %s", run_id, outcome.state)
        return BROKEN_PIPE_STATUS if follower.reader_left else outcome.exit_status


def _final_output(report: Report, store_path: Path, status: int) -> tuple[str, str]:
    """What a process that leaves at once still writes: the closing data line, and how to go on."""
    run_id = report.run_id
    data = ""
    if report.json_lines and not report.is_done:
        data = done_line(run_id, time.time(), "interrupted", status, {}, None) + "\n"
    if run_id is None:
        return data, f"\n{PREFIX}left at once\n"
    return data, f"\n{PREFIX}left at once. Go on with: {resume_command(run_id, store_path)}\n"


def _chat(request: Request, streams: Streams, settings: Settings, store_path: Path) -> int:
    """Chat until the person leaves; returns the exit status."""
    engine = Engine(store_path)
    with chat_signals(streams):
        engine.start()
        try:
            status = chat_mode(engine, settings, request, streams.out)
        finally:
            engine.close()
    if streams.in_is_terminal:  # a person waits: torch takes seconds to be taken down, or to be imported to the end
        os._exit(BROKEN_PIPE_STATUS if streams.close() else status)
    return status


def _rate(request: Request, streams: Streams, store_path: Path) -> int:
    """Ask for ratings until the person leaves; returns the exit status."""

    async def look() -> None:
        await (await open_existing(store_path)).close()  # a store that is not there is not made by looking for it

    asyncio.run(look())
    engine = Engine(store_path)
    with chat_signals(streams):
        engine.start()
        try:
            return rate_mode(engine, request, streams.out)
        finally:
            engine.close()
