"""Resuming: which run goes on, and with which settings; and looking a run up by its number.

What cannot be is refused as `UsageError`, with the command that can be given instead. Looking for a run creates no
store. No torch.
"""

import asyncio
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lora_tui.config.document import parse_key, parse_value
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.written import all_written, left_to_recipe, with_written
from lora_tui.errors import UsageError
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import LIVE_STATES, RESUMABLE_MODES, RESUMABLE_STATES, WAITING, Run

_DEFAULT_STORE = "training_data.db"


@dataclass(frozen=True)
class Resumption:
    """A run that can go on, the settings it goes on with, and a sentence for each that was another when it started."""

    run: Run
    settings: Settings
    changes: list[str]


async def resume_run(
    store_path: Path,
    run_id: int | None,
    mode: str | None = None,
    *,
    settings: Settings | None = None,
    overrides: Iterable[str] = (),
) -> Resumption:
    """Find the run to go on with, the newest of `mode` (or of any) where no number is given.

    It keeps the settings it was started with, changed by `overrides` (``KEY=VALUE``, which the configuration has
    accepted), unless `settings` take their place. Raises `UsageError` where it cannot go on.
    """
    run = await (_newest_resumable(store_path, mode) if run_id is None else _resumable(store_path, run_id, mode))
    if settings is None:
        pairs = (text.partition("=") for text in overrides)
        changed = {".".join(parse_key(name)): parse_value(value) for name, _, value in pairs}
        settings = with_values(stored_settings(run), changed)
    changes = [
        f"run {run.id} goes on with {key} = {new}; it was started with {old}"
        for key, old, new in _differences(run.settings, settings.model_dump(mode="json"))
        if not _is_chosen_again(run, settings, key)
    ]
    return Resumption(run, settings, changes)


async def open_existing(store_path: Path) -> Store:
    """Open the store; raises `UsageError` where there is none yet."""
    if not await asyncio.to_thread(store_path.is_file):
        raise UsageError(f"There are no runs yet: {store_path} does not exist. Name another store with --store.")
    return await Store.open(store_path)


async def find_run(store: Store, run_id: int) -> Run:
    """Return a run as it is now; raises `UsageError` where it does not exist."""
    await runs.mark_interrupted(store)
    return await require_run(store, run_id)


async def require_run(store: Store, run_id: int) -> Run:
    """Return a run as the store has it; raises `UsageError` where it does not exist."""
    run = await runs.get(store, run_id)
    if run is None:
        raise no_such_run(store, run_id)
    return run


def no_such_run(store: Store, run_id: int) -> UsageError:
    """Return the error for a run that is not in the store."""
    return UsageError(
        f"There is no run {run_id} in {store.path}; `lora-tui --runs{store_flag(store.path)}` lists them."
    )


async def stored_run(store_path: Path, run_id: int) -> Run:
    """Return a run of the store at this path; raises `UsageError` where either does not exist."""
    async with await open_existing(store_path) as store:
        return await find_run(store, run_id)


def store_flag(store_path: Path) -> str:
    """Return what a command must add to find this store from the current folder; empty for the default one."""
    here = Path.cwd()
    if store_path == here / _DEFAULT_STORE:
        return ""
    shown = store_path.relative_to(here) if store_path.is_relative_to(here) else store_path
    return f" --store {shlex.quote(str(shown))}"


async def _newest_resumable(store_path: Path, mode: str | None) -> Run:
    async with await open_existing(store_path) as store:
        newest = await runs.newest_resumable(store, RESUMABLE_MODES if mode is None else (mode,))
    if newest is None:
        what = "run" if mode is None else f"{mode} run"
        start = "`lora-tui --runs` lists what there is." if mode is None else f"Start one with --run {mode}."
        raise UsageError(f"No {what} in {store_path} can be resumed. {start}")
    return newest


async def _resumable(store_path: Path, run_id: int, mode: str | None) -> Run:
    run = await stored_run(store_path, run_id)
    flag = store_flag(store_path)
    if run.mode not in RESUMABLE_MODES:
        raise UsageError(f"Run {run.id} is a {run.mode} run, which is not resumed but run again: --run {run.mode}")
    if mode not in (None, run.mode):
        raise UsageError(f"Run {run.id} is a {run.mode} run, not a {mode} run. Resume it with --resume {run.id}{flag}")
    if run.state in LIVE_STATES:
        raise UsageError(
            f"Run {run.id} is live (process {run.pid} on {run.host}). Watch it with --attach {run.id}{flag}"
        )
    if run.state == WAITING:
        raise UsageError(f"Run {run.id} waits in the queue: `lora-tui --run queue{flag}` works through it.")
    if run.state not in RESUMABLE_STATES:
        use = f" Use its adapter with --run chat --resume {run.id}{flag}" if run.mode != "generate" else ""
        raise UsageError(f"Run {run.id} is {run.state}: there is nothing left to do.{use}")
    return run


def stored_settings(run: Run) -> Settings:
    """Return the settings that a run was started with; raises `UsageError` where they do not fit this version."""
    try:
        settings = Settings.model_validate(run.settings)
    except ValidationError as problem:
        first = problem.errors(include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"The settings that run {run.id} was started with do not fit this version ({key}: {first['msg']}).\n"
            f"Give them again: --resume {run.id} --config FILE"
        ) from problem
    return all_written(settings) if run.written is None else with_written(settings, run.written)


def _is_chosen_again(run: Run, settings: Settings, key: str) -> bool:
    """Whether a run chose a key for itself, and does so again when it goes on with these settings."""
    return run.written is not None and key not in run.written and left_to_recipe(settings, key)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted keys whose values differ, with both values."""
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, value, f"{prefix}{key}.")
        elif value != before and key in old:
            yield f"{prefix}{key}", before, value
