"""A sweep on the command line: its plan, its runs added to the queue as one group, and the table of results."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from lora_tui.cli.tables import new_table, print_table
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.sweep import read_sweep
from lora_tui.engine.forecast.forecast import forecast_with_history
from lora_tui.engine.runtime.queue import add_sweep
from lora_tui.engine.runtime.resume import open_existing, store_flag
from lora_tui.errors import UsageError
from lora_tui.protocol.choice import axis_names, point_text, setting_text, varied_names
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import run_lines_of
from lora_tui.store.queries.sweeps import SweepRow, best_of, groups_of, ranked, sweep_rows
from lora_tui.store.training import planned_runs
from lora_tui.terminal.report import Report, json_line
from lora_tui.terminal.streams import Streams
from lora_tui.text import clean, count, duration


def plan_sweep(
    report: Report, specs: Sequence[str], settings: Settings, options: Mapping[str, Any], store_path: Path
) -> int:
    """Add the runs of a sweep to the queue as one group, and write the plan; returns the group's number.

    Every run's settings are checked before the first is added: raises `UsageError` or `ConfigError`.
    """
    points = read_sweep(specs)
    group_id, run_ids, seconds = asyncio.run(_add(points, settings, options, store_path))
    if report.json_lines:
        runs = [
            {"run": run_id, "sets": point, "seconds": takes}
            for run_id, point, takes in zip(run_ids, points, seconds, strict=True)
        ]
        report.data(json_line("sweep", None, time.time(), {"sweep": group_id, "runs": runs}))
        return group_id
    names = axis_names(points)
    report.message(f"sweep {group_id}: {count(len(points), 'training run')}, one after the other")
    for run_id, point, takes in zip(run_ids, points, seconds, strict=True):
        report.message(f"  run {run_id}: {point_text(point, names)}" + (f", about {duration(takes)}" if takes else ""))
    known = [takes for takes in seconds if takes is not None]
    if len(known) == len(points):
        report.message(f"in all about {duration(sum(known))}, without the evaluations")
    else:
        report.message("how long it takes is known when a run like these has trained here")
    return group_id


async def _add(
    points: Sequence[Mapping[str, Any]], settings: Settings, options: Mapping[str, Any], store_path: Path
) -> tuple[int, list[int], list[float | None]]:
    """Add the runs; returns the group, its runs, and the seconds that each is expected to take."""
    named = options.get("train_data_file")
    planned = [with_values(settings, point, named="the sweep") for point in points]  # before a store is made
    async with await Store.open(store_path) as store:
        history = await planned_runs(store)
        seconds = [
            (await asyncio.to_thread(forecast_with_history, chosen, history, named and Path(named))).training.seconds
            for chosen in planned
        ]
        return *await add_sweep(store, points, settings, options), [one.value for one in seconds]


def show_sweep(streams: Streams, report: Report, group_id: int, store_path: Path) -> int:
    """Write the table of a sweep as it is now; returns the exit status."""

    async def read() -> list[SweepRow]:
        async with await open_existing(store_path) as store:
            return await sweep_rows(store, group_id)

    rows, flag = asyncio.run(read()), store_flag(store_path)
    if not rows:
        raise UsageError(f"There is no sweep {group_id} in {store_path}; `lora-tui --runs{flag}` lists the runs.")
    if report.json_lines:
        report.done("finished", 0, sweep_fields(group_id, rows, flag))
    else:
        write_sweep(streams, group_id, rows, flag)
    return 0


async def read_sweeps(store_path: Path, run_ids: Sequence[int], group_id: int | None) -> dict[int, list[SweepRow]]:
    """Return the sweeps that these runs belong to, by number, or the one that is named."""
    async with await Store.open(store_path) as store:
        groups = groups_of(await run_lines_of(store, run_ids)) if group_id is None else [group_id]
        return {number: await sweep_rows(store, number) for number in groups}


def sweep_fields(group_id: int, rows: Sequence[SweepRow], flag: str) -> dict[str, Any]:
    """Return a sweep as ``--json`` has it: its runs, the best first, the best one's number, and what to go on with."""
    best = best_of(rows)
    return {
        "sweep": group_id,
        "runs": [
            {
                "run": row.run_id,
                "status": row.state,
                "sets": dict(row.point),
                "loss": row.loss,
                "held_out_loss": row.held_out_loss,
                "score": row.score,
                "right": row.right,
                "asked": row.asked,
                "seconds": row.seconds,
            }
            for row in ranked(rows)
        ],
        "best": best and best.run_id,
        "commands": [] if best is None else _commands(best.run_id, flag),
    }


def write_sweep(streams: Streams, group_id: int, rows: Sequence[SweepRow], flag: str) -> None:
    """Write the runs of a sweep as a table, the best first, and how to go on with the best."""
    names = varied_names([row.point for row in rows])
    table = new_table()
    table.add_column("Run", justify="right", no_wrap=True)
    for name in names.values():
        table.add_column(clean(name), justify="right", overflow="fold")
    for title in ("Loss", "Held-out", "Score", "Right", "Time"):
        table.add_column(title, justify="right", no_wrap=True)
    has_problem = any(row.state != "finished" for row in rows)
    if has_problem:
        table.add_column("State", no_wrap=True)
    for row in ranked(rows):
        cells = [str(row.run_id)]
        cells += [clean(setting_text(key, row.point[key])) if key in row.point else "–" for key in names]
        cells += [_figure(row.loss, ".3g"), _figure(row.held_out_loss, ".3f"), _figure(row.score, ".2f")]
        cells += ["–" if row.asked is None else f"{row.right}/{row.asked}"]
        cells += ["–" if row.seconds is None else duration(row.seconds)]
        table.add_row(*map(Text, cells), *([Text(row.state)] if has_problem else []))
    streams.out.write(f"sweep {group_id}:\n")
    print_table(streams, table)
    if (best := best_of(rows)) is not None:
        sets = clean(point_text(best.point, axis_names(row.point for row in rows)))
        streams.out.write(f"best: run {best.run_id} ({sets})\n\nGo on with:\n")
        streams.out.write("".join(f"  {command}\n" for command in _commands(best.run_id, flag)))
    streams.out.flush()


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _commands(run_id: int, flag: str) -> list[str]:
    """What can be done with the best run."""
    return [
        f"lora-tui --run evaluate --resume {run_id}{flag}",
        f"lora-tui --run chat --resume {run_id}{flag}",
        f"lora-tui --run export --format merged --resume {run_id}{flag}",
    ]
