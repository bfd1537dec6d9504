"""``--queue`` and ``--run queue``: adds a run to the queue; works through it, run after run, to its end."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_tui.cli.endings import EndingTeller
from lora_tui.cli.follow import RunFollower, follow_own_run
from lora_tui.cli.narration import make_narrator
from lora_tui.cli.runs import write_run_table
from lora_tui.cli.sweep import read_sweeps, sweep_fields, write_sweep
from lora_tui.config.models import Settings
from lora_tui.engine.data.read import hub_name, training_file
from lora_tui.engine.runtime.engine import Engine, Outcome
from lora_tui.engine.runtime.queue import BegunRun, QueueWorker, stop_and_go_on_later
from lora_tui.engine.runtime.queue import add_run as add_run_to
from lora_tui.engine.runtime.resume import store_flag
from lora_tui.secrets import register_key_variable
from lora_tui.store import queue, runs
from lora_tui.store.connection import Store
from lora_tui.store.queue import QueueEntry
from lora_tui.terminal.report import PREFIX, Report, done_line, json_line
from lora_tui.terminal.signals import BROKEN_PIPE_STATUS, Interrupts
from lora_tui.terminal.streams import Streams
from lora_tui.text import count

_POLL_SECONDS = 1.0


def add_run(report: Report, mode: str, settings: Settings, options: Mapping[str, Any], store_path: Path) -> int:
    """Add a run to the queue and say where it stands; returns the exit status."""
    run_id, entries = asyncio.run(_add(mode, settings, options, store_path))
    # one that has begun by now, in an app that is open, is no longer among them: it was the first
    place = next((number for number, entry in enumerate(entries, 1) if entry.run_id == run_id), 1)
    report.run_id = run_id
    if mode == "train":
        file = training_file(settings, options.get("train_data_file"))
        if hub_name(file) is None and not file.expanduser().exists():
            report.message(f"warning: {file} does not exist yet; it has to be there when the run begins.")
    if report.json_lines:
        report.data(json_line("queued", run_id, time.time(), {"mode": mode, "position": place, "queue": len(entries)}))
        report.done("waiting", 0, {"position": place, "queue": len(entries)})
        return 0
    report.message(
        f"run {run_id} ({mode}) waits in the queue, {place} of {len(entries)}. "
        f"`lora-tui --run queue{store_flag(store_path)}` works through it; so does an app that is open on this store."
    )
    return 0


async def _add(
    mode: str, settings: Settings, options: Mapping[str, Any], store_path: Path
) -> tuple[int, list[QueueEntry]]:
    async with await Store.open(store_path) as store:
        run_id = await add_run_to(store, mode, settings, options)
        return run_id, await queue.entries(store)


def tell_added(report: Report, group_id: int, store_path: Path) -> int:
    """Say how the runs of a sweep that were added are worked; returns the exit status."""
    report.message(f"they wait in the queue: `lora-tui --run queue{store_flag(store_path)}` works through it.")
    report.done("waiting", 0, {"sweep": group_id})
    return 0


def work_queue(
    streams: Streams,
    report: Report,
    settings: Settings,
    store_path: Path,
    teller: EndingTeller,
    group_id: int | None = None,
) -> int:
    """Work through the queue, or through one sweep of it, until nothing is left to do; returns the exit status."""
    flag = store_flag(store_path)

    def final_output(status: int) -> tuple[str, str]:
        """What a process that leaves at once still writes."""
        data = ""
        if report.json_lines and not report.is_done:
            data = done_line(report.run_id, time.time(), "interrupted", status, {}, None) + "\n"
        return data, f"\n{PREFIX}left at once. Go on with: lora-tui --run queue{flag}\n"

    with Interrupts(streams, final_output).handled() as interrupts:
        engine = Engine(store_path)
        try:
            engine.start()
            worker = QueueWorker(engine, settings.fine_tuning.device, group_id)
            work = _Work(engine, streams, report, interrupts, worker, teller)
            asyncio.run(work.to_end(store_path))
        finally:
            engine.close()
    if interrupts.stopped_by is None and not work.reader_left:
        teller.queue_ended(work.outcomes)
    return BROKEN_PIPE_STATUS if work.reader_left else _end(report, streams, work, store_path, group_id)


def _end(report: Report, streams: Streams, work: "_Work", store_path: Path, group_id: int | None) -> int:
    """Write what became of the runs, and how to go on; returns the exit status."""
    flag, outcomes = store_flag(store_path), work.outcomes
    stopped = work.interrupts.exit_status
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    status = stopped or (1 if failed else 0)
    sweeps = asyncio.run(read_sweeps(store_path, [outcome.run_id for outcome in outcomes], group_id))
    report.run_id = None
    if report.json_lines:
        report.is_done = False
        ended = [{"run": one.run_id, "status": one.state, "exit_status": one.exit_status} for one in outcomes]
        result = {"runs": ended, "left": work.left, "sweeps": [sweep_fields(*one, flag) for one in sweeps.items()]}
        report.done("stopped" if stopped else "finished", status, result)
        return status
    in_sweeps = {row.run_id for rows in sweeps.values() for row in rows}
    if alone := [outcome.run_id for outcome in outcomes if outcome.run_id not in in_sweeps]:
        write_run_table(streams, store_path, alone)
    for number, rows in sweeps.items():
        write_sweep(streams, number, rows, flag)
    if stopped:
        report.message(f"{count(work.left, 'run')} left in the queue. Go on with: lora-tui --run queue{flag}")
    elif not outcomes:
        report.message("nothing waits in the queue. Add a run with --queue, such as: lora-tui --run train --queue")
    else:
        problems = f", {len(failed)} of them failed" if failed else ""
        done = "the queue" if group_id is None else f"sweep {group_id}"
        others = f"; {count(work.left, 'other run')} in the queue: lora-tui --run queue{flag}" if work.left else ""
        report.message(f"{done} is done: {count(len(outcomes), 'run')}{problems}{others}")
    return status


class _Work:
    """The loop of a process that works the queue: begin a run, write it to its end, begin the next."""

    def __init__(
        self,
        engine: Engine,
        streams: Streams,
        report: Report,
        interrupts: Interrupts,
        worker: QueueWorker,
        teller: EndingTeller,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.interrupts = interrupts
        self.reader_left = False
        self.left = 0
        self._engine = engine
        self._streams = streams
        self._report = report
        self._worker = worker
        self._teller = teller

    async def to_end(self, store_path: Path) -> None:
        """Work until nothing is left, or a signal or the reader ends it."""
        told = ""
        async with await Store.open(store_path) as store:
            while self.interrupts.stopped_by is None and not self.reader_left:
                begun = await asyncio.wrap_future(self._engine.call(self._worker.begin_next()))
                if begun is not None:
                    told = ""
                    self.outcomes.append(await self._follow(store, begun))
                    continue
                entries = await asyncio.wrap_future(self._engine.call(self._worker.left()))
                if not entries:
                    break
                if (why := await self._waits_for(store, entries)) != told:
                    told = why
                    self._report.message(why)
                await self._pause()
            self.left = len(await queue.entries(store))

    async def _pause(self) -> None:
        for _ in range(10):
            if self.interrupts.stopped_by is None:
                await asyncio.sleep(_POLL_SECONDS / 10)

    async def _waits_for(self, store: Store, entries: Sequence[QueueEntry]) -> str:
        """Return why the next run cannot begin."""
        others = ", ".join(f"run {other.run_id}" for other in await queue.busy(store))
        first = f"run {entries[0].run_id} waits"
        return f"{first} until {others} has ended" if others else f"{first} for its device ({entries[0].device})"

    async def _follow(self, store: Store, begun: BegunRun) -> Outcome:
        """Write a run to its end; returns how it ended."""
        run_id, report = begun.run_id, self._report
        for variable in begun.settings.data_generation.key_variables:
            register_key_variable(variable)
        report.run_id, report.is_done = run_id, False
        narrator = make_narrator(self._streams, report)
        follower = RunFollower(store, run_id, narrator, self._streams)
        ending = asyncio.wrap_future(begun.ending)

        def stop() -> None:
            self._engine.call(stop_and_go_on_later(self._engine, run_id))

        try:
            await follower.skip_past(begun.seen)
            outcome = await follow_own_run(follower, ending, self.interrupts, stop, begun.mode)
            run = await runs.get(store, run_id)
            told = follower.ending(outcome, run)
            goes_on = replace(told, resume_command=f"lora-tui --run queue{store_flag(store.path)}")
            if not report.json_lines and begun.group_id is not None:  # the table of the sweep has what it came to
                goes_on = replace(goes_on, outcome=replace(outcome, result={}))
            elif not report.json_lines and outcome.result:
                narrator.close()
                self._streams.out.write(f"run {run_id} ({begun.mode}):\n")
            await follower.narrate(narrator.end, goes_on)
            self._teller.run_ended(run)
        finally:
            narrator.close()
            if not ending.done():  # following it has failed: the engine closes only when its runs have ended
                stop()
                await asyncio.wait([ending])
        self.reader_left = follower.reader_left
        return outcome
