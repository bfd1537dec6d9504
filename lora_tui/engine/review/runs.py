"""Renaming and deleting runs."""

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_tui.config.models import Training
from lora_tui.errors import UsageError
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import LIVE_STATES, Run

_RUN_FOLDER = re.compile(r"run-\d+(-\d+)?")
_MAX_NAME = 80
_ROWS_PER_TRANSACTION = 5000
"""Rows of a table that are deleted in one transaction: other writers wait for a tenth of a second."""


@dataclass(frozen=True, slots=True)
class DeletedRun:
    """A deleted run. `removed` is the folder that was deleted with it; `kept` says why it was not, if it was to be."""

    run_id: int
    removed: Path | None = None
    kept: str | None = None

    @property
    def message(self) -> str:
        """The outcome as a sentence for people."""
        more = f", and {self.removed}" if self.removed is not None else f"; {self.kept}" if self.kept else ""
        return f"run {self.run_id} is deleted{more}"


async def rename_run(store: Store, run_id: int, name: str) -> str:
    """Give a run a name, live or not; returns it as it is stored: on one line and of at most 80 characters.

    Raises `UsageError` where there is no such run.
    """
    name = " ".join(name.split())[:_MAX_NAME].strip()
    if not await runs.rename(store, run_id, name):
        raise _no_run(store, run_id)
    return name


async def delete_run(store: Store, run_id: int, *, with_files: bool) -> DeletedRun:
    """Delete a run with everything that the store has of it; raises `UsageError` for one that is live.

    With `with_files` its folder goes too, if this program made it and no other run has results there.
    """
    await runs.mark_interrupted(store)
    gone = False
    while not gone:
        run, others, gone = await _delete_part(store, run_id)
    if not with_files or not run.folder:
        return DeletedRun(run_id)
    folder = Path(run.folder)
    save_dir = run.settings.get("fine_tuning", {}).get("training", {}).get("save_dir", Training().save_dir)
    kept = await asyncio.to_thread(_remove, folder, Path(save_dir), [Path(other) for other in others], store.path)
    return DeletedRun(run_id, None if kept else folder, kept)


async def _delete_part(store: Store, run_id: int) -> tuple[Run, list[str], bool]:
    """Delete part of a run's rows; returns the run, the folders of other runs, and whether all is deleted."""
    async with store.transaction() as t:
        run = await runs.get(t, run_id)
        if run is None:
            raise _no_run(store, run_id)
        if run.state in LIVE_STATES:  # checked each time: it can be resumed between two parts
            raise UsageError(f"Run {run_id} is live (process {run.pid} on {run.host}). Stop it before you delete it.")
        others = await runs.folders_of_others(t, run_id)
        return run, others, await runs.delete_part(t, run_id, _ROWS_PER_TRANSACTION)


def _no_run(store: Store, run_id: int) -> UsageError:
    return UsageError(f"There is no run {run_id} in {store.path}; `lora-tui --runs` lists them.")


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
