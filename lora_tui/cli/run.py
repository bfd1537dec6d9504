"""Running a mode: start the engine, submit, tell what the store says, and turn the ending into an exit status."""

import asyncio
import logging
import os
import sys
import time
from pathlib import Path

from lora_tui.cli.chat import chat_mode
from lora_tui.cli.follow import Watch, follow_own
from lora_tui.cli.lines import done_line
from lora_tui.cli.narration import Ending, Narrator, make_narrator
from lora_tui.cli.plan import Plan, make_plan
from lora_tui.cli.report import PREFIX, Report
from lora_tui.cli.request import Request
from lora_tui.cli.signals import BROKEN_PIPE_STATUS, Interrupts, chat_signals
from lora_tui.cli.stores import store_option
from lora_tui.cli.streams import Streams
from lora_tui.config import Loaded, Settings
from lora_tui.engine.runtime.engine import Engine, Outcome
from lora_tui.secrets import register_key_variable
from lora_tui.store import runs
from lora_tui.store.connection import Store

log = logging.getLogger(__name__)


def run(request: Request, streams: Streams, report: Report, loaded: Loaded, store_path: Path) -> int:
    """Do what ``--run``, ``--resume`` or ``--generate-training-file`` asks for; returns the exit status."""
    if request.run == "chat":
        return chat(request, streams, loaded.settings, store_path)
    plan = asyncio.run(make_plan(request, loaded, store_path))
    register_key_variable(plan.settings.data_generation.api_key_env)
    narrator = make_narrator(streams, report, dumb=os.environ.get("TERM") == "dumb")
    last_words = _LastWords(report, store_path)
    with Interrupts(streams, last_words) as interrupts:
        engine = Engine(store_path)
        try:
            engine.start()
            session = _Session(plan, engine, streams, report, narrator, interrupts, store_path)
            status = asyncio.run(session.run())
        finally:
            narrator.close()
            engine.close()
    if plan.mode == "train" and status == 0 and _wants_chat(request, streams):
        assert report.run_id is not None, "the run that has just finished"
        return chat(Request(run="chat", resume=report.run_id), streams, plan.settings, store_path)
    return status


class _LastWords:
    """What a process that leaves at once still says: the closing data line and how to go on."""

    def __init__(self, report: Report, store_path: Path) -> None:
        self._report = report
        self._store_path = store_path

    def __call__(self, status: int) -> tuple[str, str]:
        run_id = self._report.run_id
        data = ""
        if self._report.json_lines and not self._report.is_done:
            data = done_line(run_id, time.time(), "interrupted", status, {}, None) + "\n"
        if run_id is None:
            return data, f"\n{PREFIX}left at once\n"
        return data, f"\n{PREFIX}left at once. Go on with: {_resume_command(run_id, self._store_path)}\n"


class _Session:
    """One run of this process, from submission to exit status."""

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        streams: Streams,
        report: Report,
        narrator: Narrator,
        interrupts: Interrupts,
        store_path: Path,
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._streams = streams
        self._report = report
        self._narrator = narrator
        self._interrupts = interrupts
        self._store_path = store_path

    async def run(self) -> int:
        """Submit the run and stay with it to its end."""
        plan = self._plan
        async with await Store.open(self._store_path) as store:
            watch = Watch(store, plan.resume or 0, self._narrator, self._streams, remarks=plan.remarks)
            if plan.resume is not None:
                await watch.recall()
            # In a thread: a signal must find the main thread free.
            watch.run_id, submitted = await asyncio.to_thread(
                self._engine.submit, plan.mode, plan.settings, plan.options, plan.resume
            )
            ending = asyncio.wrap_future(submitted)
            self._report.run_id = watch.run_id
            try:
                outcome = await follow_own(watch, ending, self._interrupts, lambda: self._engine.stop(watch.run_id))
            finally:
                await self._let_it_end(watch.run_id, ending)
            status = self._exit_status(outcome, reader_left=watch.reader_left)
            row = await runs.get(store, watch.run_id)
            seconds = row.ended_at - row.started_at if row and row.ended_at and row.started_at else None
            at = watch.done.at if watch.done is not None else time.time()
            go_on = _resume_command(watch.run_id, self._store_path)
            result, error = outcome.result, outcome.error
            end = Ending(watch.run_id, plan.mode, at, outcome.state, status, result, error, seconds, go_on)
            await watch.tell(self._narrator.end, end)
            if self._streams.hung_up:
                log.info("run %s went on without its terminal and is %s", watch.run_id, outcome.state)
            return BROKEN_PIPE_STATUS if watch.reader_left else status

    def _exit_status(self, outcome: Outcome, *, reader_left: bool) -> int:
        if outcome.state != "stopped":
            return outcome.exit_status
        if reader_left:
            return BROKEN_PIPE_STATUS
        return self._interrupts.exit_status or outcome.exit_status

    async def _let_it_end(self, run_id: int, ending: asyncio.Future[Outcome]) -> None:
        """Wait for the run where following it has failed: the engine closes only when its runs have ended."""
        if not ending.done():
            self._engine.stop(run_id)
            await asyncio.wait([ending])


def _resume_command(run_id: int, store_path: Path) -> str:
    return f"lora-tui --resume {run_id}{store_option(store_path)}"


def _wants_chat(request: Request, streams: Streams) -> bool:
    terminals = streams.in_is_terminal and streams.out_is_terminal and not streams.hung_up
    return request.chat_after and terminals and not request.json_lines


def chat(request: Request, streams: Streams, settings: Settings, store_path: Path) -> int:
    """Talk to a model until the person leaves; returns the exit status. The one place that starts a conversation."""
    if streams.in_is_terminal and not request.json_lines:
        print(f"{PREFIX}loading …", file=sys.stderr, flush=True)

    engine = Engine(store_path)
    with chat_signals(streams):
        engine.start()
        try:
            return chat_mode(
                engine,
                settings,
                store_path,
                resume=request.resume,
                adapter=request.adapter.expanduser() if request.adapter else None,
                prompt=request.prompt,
                json_lines=request.json_lines,
                out=streams.out,
            )
        finally:
            engine.close()
