"""What people change of a run as a whole: its name, the weights of its topics, and whether it is kept.

Apart from `pairs` and `ratings`, since it needs no aggregator and removes folders.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lora_tui.config.models import Training
from lora_tui.engine.runtime.resume import no_such_run, require_run
from lora_tui.errors import UsageError
from lora_tui.store import events, runs, topics
from lora_tui.store.connection import Store
from lora_tui.store.rows import LIVE_STATES

_RUN_FOLDER = re.compile(r"run-\d+(-\d+)?")
_MAX_NAME = 80
_MOST_WEIGHT = 8.0
_ROWS_PER_TRANSACTION = 5000
"""Rows of a table that are deleted in one transaction: other writers wait for a tenth of a second."""


async def rename_run(store: Store, run_id: int, name: str) -> None:
    """Name a run, live or not, in one line of at most 80 characters; raises `UsageError` where it does not exist."""
    await require_run(store, run_id)
    await runs.rename(store, run_id, " ".join(name.split())[:_MAX_NAME].strip())


async def weigh_topic(store: Store, run_id: int, number: int, weight: float) -> None:
    """Set the weight of a topic's quota, 0-8: 0 leaves it out. Raises `UsageError` for one that there is not.

    A live run takes the change over when its owner gets the command ``topics``; one that has ended when it is resumed.
    """
    if not 0 <= weight <= _MOST_WEIGHT:
        raise UsageError(f"A topic's weight is 0 to {_MOST_WEIGHT:g}, not {weight:g}.")
    async with store.transaction() as t:
        if all(topic.number != number for topic in await topics.topics_of(t, run_id)):
            raise UsageError(f"Run {run_id} has no topic {number}.")
        await topics.set_weight(t, run_id, number, weight)
        run = await runs.get(t, run_id)
        if run is not None and run.state in LIVE_STATES:
            await events.add_command(t, run_id, "topics")


async def delete_run(store: Store, run_id: int, *, with_files: bool) -> str:
    """Delete a run with everything that the store has of it; raises `UsageError` for one that is live.

    With `with_files` its folder goes too, if this program made it and no other run has results there. Returns a
    sentence that says what became of it.
    """
    await runs.mark_interrupted(store)
    gone = False
    while not gone:
        run, others, gone = await _delete_part(store, run_id)
    if not with_files or not run.folder:
        return f"Run {run_id} is deleted."
    folder = Path(run.folder)
    save_dir = Path(run.save_dir or Training().save_dir)
    kept = await asyncio.to_thread(_remove, folder, save_dir, [Path(other) for other in others], store.path)
    return f"Run {run_id} is deleted. {kept}" if kept else f"Run {run_id} is deleted, with {folder}."


async def _delete_part(store: Store, run_id: int) -> tuple[runs.DeletableRun, list[str], bool]:
    """Delete part of a run's rows; returns the run, the folders of other runs, and whether all is deleted."""
    async with store.transaction() as t:
        run = await runs.deletable(t, run_id)
        if run is None:
            raise no_such_run(t, run_id)
        if run.state in LIVE_STATES:  # checked each time: it can be resumed between two parts
            raise UsageError(f"Run {run_id} is live (process {run.pid} on {run.host}). Stop it before you delete it.")
        others = await runs.folders_of_others(t, run_id)
        return run, others, await runs.delete_part(t, run_id, _ROWS_PER_TRANSACTION)


def _remove(folder: Path, save_dir: Path, others: Sequence[Path], store_file: Path) -> str | None:
    """Remove a run's folder; returns why not, where it stays."""
    if not folder.is_dir():
        return f"{folder} was gone already"
    if not _made_by_us(folder, save_dir):
        return f"{folder} stays: it does not look like a folder that this program made"
    inside = folder.resolve()
    if any(place.resolve().is_relative_to(inside) for place in (Path.cwd(), Path.home(), store_file)):
        return f"{folder} stays: it holds more than the run"
    if any(other.resolve().is_relative_to(inside) for other in others):
        return f"{folder} stays: another run has its results there"
    try:
        shutil.rmtree(folder)
    except OSError as problem:
        return f"{folder} cannot be removed whole: {problem.strerror or problem}"
    return None


def _made_by_us(folder: Path, save_dir: Path) -> bool:
    """Tell whether this program made the folder, by its name and place or the adapters in it; a link never."""
    if folder.is_symlink():
        return False
    in_place = Path(os.path.abspath(folder.parent)) == Path(os.path.abspath(save_dir))  # noqa: PTH100  # links stay
    if in_place and _RUN_FOLDER.fullmatch(folder.name):
        return True
    adapters = (folder / "best", *folder.glob("step-*"))
    return any((adapter / "adapter_config.json").is_file() for adapter in adapters)
