"""Works the queue of runs: which one is next, on which device, with which settings.

A process takes one run at a time, and a device has one run at a time, whoever works there. On a machine with several
CUDA devices one process each works the queue, with the device in its own configuration (``--set
fine_tuning.device=cuda:1``); a run that leaves the device open is then given that one. A run that is divided among
several devices has all of them to itself.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lora_tui.config.command_consent import CommandQuestion, allow_commands, command_question
from lora_tui.config.key_consent import KeyQuestion, allow_key, key_question
from lora_tui.config.keys import settings_value
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.written import written_keys
from lora_tui.engine.jobs.quickstart_settings import quickstart_settings
from lora_tui.engine.runtime.device_lock import lock_device
from lora_tui.engine.runtime.engine import Engine, Outcome
from lora_tui.engine.runtime.resume import require_run, stored_settings
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.machine import gpu_names, has_apple_gpu
from lora_tui.store import events, queue, runs
from lora_tui.store.connection import Store
from lora_tui.store.owner import new_token
from lora_tui.store.queue import QueueEntry
from lora_tui.store.rows import QUEUED_MODES, RESUMABLE_MODES, TRAINING_MODES, WAITING

log = logging.getLogger(__name__)

_PATH_KEYS = (
    "data_generation.input_folder",
    "data_generation.output_file",
    "fine_tuning.train_data_file",
    "fine_tuning.preferences.data_file",
    "fine_tuning.training.save_dir",
)
_PATH_OPTIONS = ("train_data_file", "adapter", "output")


@dataclass(frozen=True, slots=True)
class BegunRun:
    """A run that this process has begun: the last event of before, and the future of how it ends."""

    run_id: int
    mode: str
    settings: Settings
    seen: int
    group_id: int | None
    ending: Future[Outcome]


async def add_to_queue(
    store: Store,
    mode: str,
    settings: Settings,
    options: Mapping[str, Any],
    *,
    group_id: int | None = None,
    point: Mapping[str, Any] | None = None,
) -> int:
    """Add a run with these settings behind the others, `store` inside a transaction; returns its id."""
    if mode not in QUEUED_MODES:
        raise UsageError(f"A {mode} run does not wait in the queue; these do: {', '.join(QUEUED_MODES)}.")
    if mode == "quickstart":
        settings = quickstart_settings(settings)
    values, written = settings.model_dump(mode="json"), written_keys(settings)
    return await queue.add(store, mode, values, options, written, folder=Path.cwd(), group_id=group_id, point=point)


async def add_run(store: Store, mode: str, settings: Settings, options: Mapping[str, Any]) -> int:
    """Add a run with these settings behind the others; returns its id. Its key and commands have been agreed to."""
    async with store.transaction() as t:
        run_id = await add_to_queue(t, mode, settings, options)
    _remember_consent(mode, settings, store.path)
    return run_id


async def add_sweep(
    store: Store, points: Sequence[Mapping[str, Any]], settings: Settings, options: Mapping[str, Any]
) -> tuple[int, list[int]]:
    """Add a training run for each point as one group; returns its number and the runs.

    Every run's settings are checked before the first is added: raises `ConfigError`.
    """
    planned = [with_values(settings, point) for point in points]
    async with store.transaction() as t:
        group_id = await queue.add_group(t, "sweep", {"points": [dict(point) for point in points]})
        run_ids = [
            await add_to_queue(t, "train", chosen, options, group_id=group_id, point=point)
            for chosen, point in zip(planned, points, strict=True)
        ]
    return group_id, run_ids


async def add_copy(store: Store, run_id: int) -> int:
    """Add a run with the settings and options of another behind the others; returns its id."""
    run = await require_run(store, run_id)
    return await add_run(store, run.mode, stored_settings(run), run.options)


async def move(store: Store, run_id: int, by: int) -> None:
    """Move a run of the queue by one place, towards the front where `by` is below zero."""
    async with store.transaction() as t:
        await queue.move(t, run_id, by)


async def take_out(store: Store, run_id: int) -> bool:
    """Take a run out of the queue; False where it has begun, or is not in it."""
    async with store.transaction() as t:
        return await queue.remove(t, run_id)


def _remember_consent(mode: str, settings: Settings, store_path: Path) -> None:
    """Remember that whoever adds a run to this store has answered what it asks: nobody is there when it begins."""
    while (key := _key_question(mode, settings, store_path)) is not None:  # one for each endpoint
        allow_key(key)
    if (command := _command_question(mode, settings, store_path)) is not None:
        allow_commands(command)


def _refuse_unasked(mode: str, settings: Settings, store_path: Path) -> None:
    """Raise `UsageError` for a run of a store from elsewhere that would send a key or run a command."""
    question = _key_question(mode, settings, store_path) or _command_question(mode, settings, store_path)
    if question is not None:
        raise UsageError(question.refusal)


def _key_question(mode: str, settings: Settings, store_path: Path) -> KeyQuestion | None:
    chosen = settings.data_generation
    return key_question(chosen, store_path, store_path, store_path) if mode == "generate" else None


def _command_question(mode: str, settings: Settings, store_path: Path) -> CommandQuestion | None:
    generates = mode in ("generate", "quickstart")
    return command_question(settings.data_generation, store_path) if generates else None


def devices_here() -> tuple[str, ...]:
    """Return the devices of this machine that runs are kept apart by, as torch names them, the best first."""
    if cards := gpu_names():
        try:
            if not version("torch").endswith("+cpu"):
                return tuple(f"cuda:{number}" for number in range(len(cards)))
        except PackageNotFoundError:
            pass
    return ("mps",) if has_apple_gpu() else ("cpu",)


def device_for(entry: QueueEntry, wanted: str, busy: Collection[str | None]) -> str | None:
    """Return the device that a run is to have: empty where it needs none, None where it cannot have one now.

    `wanted` is the device of whoever works the queue, "auto" for any; `busy` are those that are taken, None among them
    for a run that has not said where it computes.
    """
    if entry.mode == "generate" and entry.writer != "builtin":
        return ""
    asked, several = _full_name(entry.device), len(devices_here()) > 1
    spread = ("auto", "cuda") if entry.parallel == "auto" else ("auto", "cuda", entry.device)
    divided = several and entry.mode in TRAINING_MODES and entry.parallel != "none" and entry.device in spread
    divided &= entry.device != "cpu"
    if divided and (wanted == "auto" or entry.parallel != "auto"):
        return queue.ALL_DEVICES if wanted == "auto" and not busy else None
    if asked == "auto":
        choices = devices_here() if wanted == "auto" else (_full_name(wanted),)
    elif wanted in ("auto", entry.device) or _full_name(wanted) == asked:
        choices = (asked,)
    else:
        return None
    return next((device for device in choices if not any(queue.in_the_way(taken, device) for taken in busy)), None)


def _is_taken_elsewhere(device: str) -> bool:
    """Whether a run of another store trains on a GPU that this one is to have: it would be refused, so it waits."""
    names = devices_here() if device == queue.ALL_DEVICES else (device,)
    for name in names:
        lock = lock_device(name, "the queue, for a moment") if name.startswith("cuda") else None
        if isinstance(lock, str):
            return True
        if lock is not None:
            lock.release()
    return False


def _full_name(device: str) -> str:
    return "cuda:0" if device == "cuda" else device


class QueueWorker:
    """Takes runs out of the queue of an engine's store, one after the other.

    `device` is ``fine_tuning.device`` of whoever works it; with `group_id` only runs of that group are taken.
    """

    def __init__(self, engine: Engine, device: str = "auto", group_id: int | None = None) -> None:
        self._engine = engine
        self._device = device
        self._group_id = group_id

    async def begin_next(self) -> BegunRun | None:
        """Begin the first run whose device is free, on the engine's loop; None where there is none at the moment."""
        store = self._engine.open_store
        await runs.mark_interrupted(store)
        busy = [other.device for other in await queue.busy(store)]
        for entry in await self.left():
            if entry.tries >= queue.MOST_TRIES and not entry.progressed:
                problem = (
                    f"Its process was lost {entry.tries} times at the same place (memory? power?). "
                    "Run it alone to see why: lora-tui --resume " + str(entry.run_id)
                )
                await queue.give_up(store, entry, problem)
                continue
            device = device_for(entry, self._device, busy)
            if device is None or await asyncio.to_thread(_is_taken_elsewhere, device):
                continue
            token = new_token()
            if await queue.take(store, entry, device, token):
                return await self._begin(entry, device, token)
        return None

    async def left(self) -> list[QueueEntry]:
        """Return the runs that are still to be worked, by this worker or another."""
        found = await queue.entries(self._engine.open_store)
        return [entry for entry in found if self._group_id in (None, entry.group_id)]

    async def _begin(self, entry: QueueEntry, device: str, token: str) -> BegunRun:
        store = runs.owned_by(self._engine.open_store, entry.run_id, token)
        seen = await events.last_id(store, entry.run_id)
        run = await require_run(store, entry.run_id)
        resumed = entry.state != WAITING and entry.mode in RESUMABLE_MODES
        try:
            settings, options = stored_settings(run), run.options
            changes = _rebased(settings, Path(entry.folder)) if Path(entry.folder) != Path.cwd() else {}
            if len(devices_here()) > 1 and device not in ("", queue.ALL_DEVICES):
                changes["fine_tuning.device"] = device
            if changes:
                settings = with_values(settings, changes)
                options = _rebased_options(options, Path(entry.folder))
                await runs.set_settings(store, run.id, settings.model_dump(mode="json"), written_keys(settings))
                await runs.set_options(store, run.id, dict(options))
            _refuse_unasked(run.mode, settings, store.path)
        except LoraTuiError as problem:  # of an older version, or damaged: the next one begins all the same
            await runs.end(store, run.id, "failed", {}, str(problem))
            failed: Future[Outcome] = Future()
            failed.set_result(Outcome(run.id, "failed", problem.exit_status, {}, str(problem)))
            return BegunRun(run.id, run.mode, Settings(), seen, entry.group_id, failed)
        ending = self._engine.begin_taken(run.id, token, run.mode, settings, options, resumed=resumed)
        return BegunRun(run.id, run.mode, settings, seen, entry.group_id, ending)


def _rebased(settings: Settings, folder: Path) -> dict[str, Any]:
    """Return the paths of settings that began in another folder, as they are from here."""
    found: dict[str, Any] = {}
    for key in _PATH_KEYS:
        value = str(settings_value(settings, key))
        if value and not value.startswith("hf:"):
            found[key] = str(folder / Path(value).expanduser())
    model = Path(settings.fine_tuning.model_name).expanduser()
    if not model.is_absolute() and (folder / model).exists():
        found["fine_tuning.model_name"] = str(folder / model)
    return found


def _rebased_options(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    changed = {
        name: str(folder / value)
        for name in _PATH_OPTIONS
        if isinstance(value := options.get(name), str)
        and not value.startswith("hf:")
        and (name != "adapter" or (folder / value).exists())  # else it is a run's: run-3
    }
    return {**options, **changed}


async def stop_and_go_on_later(engine: Engine, run_id: int) -> None:
    """Stop a run because this process leaves: the next one that works the queue goes on with it."""
    await queue.go_on_later(engine.open_store, run_id)
    await asyncio.to_thread(engine.stop, run_id)
