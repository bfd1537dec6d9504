"""Which file is the store, and opening one that must be there already: looking for a run creates no file."""

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lora_tui.errors import UsageError
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import Run

if TYPE_CHECKING:
    from lora_tui.cli.request import Request
    from lora_tui.config import Settings

_DEFAULT = "training_data.db"


def choose_store(request: "Request", settings: "Settings") -> Path:
    """Return the store file: ``--store``, else what the configuration names, relative to the current folder."""
    return Path(request.store or settings.data_generation.db_path).expanduser().absolute()


def store_option(store_path: Path) -> str:
    """Return what a command must add to find this store from the current folder; empty for the default one."""
    here = Path.cwd()
    if store_path == here / _DEFAULT:
        return ""
    shown = store_path.relative_to(here) if store_path.is_relative_to(here) else store_path
    return f" --store {shlex.quote(str(shown))}"


async def open_existing(store_path: Path) -> Store:
    """Open the store; raises `UsageError` where there is none yet."""
    if not await asyncio.to_thread(store_path.is_file):
        raise UsageError(f"There are no runs yet: {store_path} does not exist. Name another store with --store.")
    return await Store.open(store_path)


async def find_run(store: Store, run_id: int) -> Run:
    """Return a run as it is now; raises `UsageError` where it does not exist."""
    await runs.mark_interrupted(store)
    run = await runs.get(store, run_id)
    if run is None:
        hint = store_option(store.path)
        raise UsageError(f"There is no run {run_id} in {store.path}; `lora-tui --runs{hint}` lists them.")
    return run
