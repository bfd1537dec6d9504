"""Runs in the store without starting one: the list, following another process's run, and the overview."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lora_tui.cli.follow import RunFollower, follow_any_run
from lora_tui.cli.narration import make_narrator
from lora_tui.cli.tables import write_runs
from lora_tui.engine.runtime.engine import Outcome
from lora_tui.engine.runtime.resume import find_run, open_existing, store_flag
from lora_tui.errors import UsageError
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.damage import StoreError
from lora_tui.store.queries.run_figures import RunFigures, run_figures
from lora_tui.store.queries.runs import RunLine, run_lines
from lora_tui.store.rows import LIVE_STATES, Run, worked_seconds
from lora_tui.terminal.report import Report, json_line, timestamp
from lora_tui.terminal.signals import BROKEN_PIPE_STATUS, Interrupts
from lora_tui.terminal.streams import Streams
from lora_tui.text import clean, duration, file_size

_FIGURES = ("right", "asked", "steps", "total_steps", "rate", "batch", "accepted", "adapter_run")
"""Figures of a run that a ``run`` line has under their own names."""

_OVERVIEW = """\
lora-tui takes you from a folder of text to a fine-tuned model you can talk to:
text files -> judged questions and answers -> LoRA adapter -> score -> chat.

`lora-tui` alone is the full-screen app, in a terminal that it can draw on.
Here it cannot: {why}. Three ways to begin without it:

  lora-tui --run quickstart
      The whole way on packaged lessons with a small built-in model: no key,
      no GPU.

  lora-tui --run generate --set data_generation.input_folder=FOLDER
      Pairs from your own text. Export OPENAI_API_KEY, name any compatible
      endpoint with --set data_generation.base_url=URL, or take the built-in
      model with --set data_generation.model=builtin

  lora-tui --run train --train-data-file FILE
      You have the data: train on it, then chat.

`lora-tui --help` shows every option, `lora-tui --doctor` what this machine has."""


def overview(streams: Streams, report: Report, store_path: Path) -> int:
    """Write what the program does, why its app is not on the screen, how to begin, and the runs if there are some."""
    report.data(_OVERVIEW.format(why=clean(streams.cannot_draw or "other options are given")))
    lines = asyncio.run(_read_runs(store_path))
    if lines:
        report.data(f"\nRuns in {clean(str(store_path))}:\n")
        write_runs(streams, [_row(*line) for line in lines])
    return 0


def list_runs(streams: Streams, report: Report, store_path: Path) -> int:
    """List every run, newest first; with ``--json`` one ``run`` line each."""
    lines = asyncio.run(_read_runs(store_path))
    if report.json_lines:
        for run, figures in lines:
            report.data(json_line("run", run.id, run.created_at, _fields(run, figures)))
        report.done("finished", 0, {"runs": len(lines), "store": str(store_path)})
    elif lines:
        write_runs(streams, [_row(*line) for line in lines])
        _report_damaged(report, lines)
    else:
        report.message(f"no runs yet in {store_path}. Begin with: lora-tui --run quickstart")
    return 0


def write_run_table(streams: Streams, store_path: Path, run_ids: Sequence[int]) -> None:
    """Write these runs as the list does, in the order of their numbers."""
    lines = [line for line in asyncio.run(_read_runs(store_path)) if line[0].id in run_ids]
    write_runs(streams, [_row(*line) for line in lines[::-1]])


def compact(report: Report, store_path: Path) -> int:
    """Compact the store, and write its size before and after; refused while a run is live."""
    before, after = asyncio.run(_compact(store_path))
    if report.json_lines:
        result = {"store": str(store_path), "bytes_before": before, "bytes_after": after}
        report.done("finished", 0, result)
    else:
        sizes = f"{file_size(before)} before ({before:,} bytes), {file_size(after)} after ({after:,} bytes)"
        report.data(clean(f"{store_path}: {sizes}"))
    return 0


async def _compact(store_path: Path) -> tuple[int, int]:
    async with await open_existing(store_path) as store:
        await runs.mark_interrupted(store)
        live = [run.id for run in await run_lines(store, limit=-1) if run.state in LIVE_STATES]
        if live:
            raise UsageError(
                f"Run {live[0]} is at work in {store_path}: compacting would hold it up. Wait for it or stop it, then "
                f"give --vacuum again; watch it with --attach {live[0]}{store_flag(store_path)}."
            )
        return await store.compact()


def attach(run_id: int, streams: Streams, report: Report, store_path: Path) -> int:
    """Write a run's events from its beginning to its end; ctrl+c leaves it running."""
    narrator = make_narrator(streams, report)

    async def follow() -> int:
        async with await open_existing(store_path) as store:
            await find_run(store, run_id)
            report.run_id = run_id
            follower = RunFollower(store, run_id, narrator, streams)
            run = await follow_any_run(follower, interrupts)
            if run is None:
                status = BROKEN_PIPE_STATUS if follower.reader_left else interrupts.exit_status or 0
                narrator.close()
                report.done("detached", status, {})
                again = f"lora-tui --attach {run_id}{store_flag(store_path)}"
                report.message(f"run {run_id} goes on; watch it again with: {again}")
                return status
            outcome = _outcome(run, follower)
            await follower.narrate(narrator.end, follower.ending(outcome, run))
            return BROKEN_PIPE_STATUS if follower.reader_left else outcome.exit_status

    with Interrupts(streams, lambda status: ("", "")).handled() as interrupts:
        try:
            return asyncio.run(follow())
        finally:
            narrator.close()


def _outcome(run: Run, follower: RunFollower) -> Outcome:
    """Return how a run of any process ended; the ``done`` event knows more than the row, where there is one."""
    done = follower.done.payload if follower.done is not None else {}
    status = int(done.get("exit_status") or run.state in ("failed", "interrupted"))
    return Outcome(run.id, run.state, status, run.result or {}, run.error)


async def _read_runs(store_path: Path) -> list[tuple[RunLine, RunFigures]]:
    """Return every run with its figures, newest first; none where there is no store, and none is created."""
    if not await asyncio.to_thread(store_path.is_file):
        return []
    async with await Store.open(store_path) as store:
        await runs.mark_interrupted(store)
        lines = await run_lines(store, limit=-1)
        try:
            figures = await run_figures(store, [run.id for run in lines])
        except StoreError:  # a page of the file is damaged: the list itself says more than nothing
            figures = {}
        return [(run, figures.get(run.id, RunFigures(run.id))) for run in lines]


def _report_damaged(report: Report, lines: Sequence[tuple[RunLine, RunFigures]]) -> None:
    damaged = [str(run.id) for run, _ in lines if run.damaged]
    if damaged:
        report.message(
            f"warning: what the store has of run {', '.join(damaged)} is damaged, and not shown whole. "
            "Delete it in the app (Runs), or bring the store back from a copy."
        )


def _shortened_path(folder: str | None) -> str:
    """Return a folder as it can be typed: relative where it lies below the current one."""
    if folder is None:
        return ""
    path = Path(folder)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else folder


def _seconds(run: RunLine) -> float | None:
    """Return how long a run was worked on; the heartbeat stands for the end of one that is live."""
    return worked_seconds(run, run.ended_at or run.heartbeat)


def _row(run: RunLine, figures: RunFigures) -> dict[str, str]:
    """The cells of a run by the heading of their column."""
    started = datetime.fromtimestamp(run.started_at or run.created_at).astimezone()
    seconds = _seconds(run)
    loss, steps, total = figures.last_loss, figures.steps, figures.total_steps
    return {
        "Run": str(run.id),
        "Mode": run.mode,
        "State": f"{run.state}, damaged" if run.damaged else run.state,
        "Started": started.strftime("%m-%d %H:%M" if started.year == datetime.now().astimezone().year else "%Y-%m-%d"),
        "Took": "–" if seconds is None else duration(seconds),
        "Model and results": " on ".join(part for part in (run.shown_model, run.data) if part),
        "Steps": "" if steps is None else f"{steps:,}/{total:,}" if total else f"{steps:,}",
        "Loss": "" if loss is None else f"{loss:.2g}".replace("e-0", "e-"),
        "Right": "" if figures.right is None else f"{figures.right}/{figures.asked}",
        "Score": "–" if run.best_score is None else f"{run.best_score:.2f}",
        "Folder": figures.path or _shortened_path(run.folder),
    }


def _fields(run: RunLine, figures: RunFigures) -> dict[str, Any]:
    times = {
        "started": None if run.started_at is None else timestamp(run.started_at),
        "ended": None if run.ended_at is None else timestamp(run.ended_at),
        "seconds": _seconds(run),
    }
    rest = ("model", "data", "best_score", "held_out_loss", "folder", "device", "host", "pid", "error")
    names = ("mode", "name", "state", *times, *rest)
    fields = {name: times[name] if name in times else getattr(run, name) for name in names}
    counted = {name: getattr(figures, name) for name in _FIGURES}
    return {**fields, **counted, "loss": figures.last_loss, "path": figures.path or None}
