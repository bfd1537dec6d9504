"""Adapters on disk: those in a run's folder, which one the options mean, and its metadata. Without torch.

What the options mean is checked before torch is imported; `lora_tui.engine.models.adapters` loads what is found here.
"""

import asyncio
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_tui.config.hub_names import is_hub_name
from lora_tui.config.models import Settings
from lora_tui.engine.models.adapter_config import check_adapter_config
from lora_tui.engine.models.base_location import base_of_adapter, is_same_base
from lora_tui.engine.models.checksums import DamagedError, has_checksums, verify
from lora_tui.engine.models.model_files import wrong_entry
from lora_tui.engine.models.weight_files import tensors_in
from lora_tui.engine.runtime.resume import require_run, store_flag
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import Run

BEST = "best"
"""Folder of the adapter with the highest evaluation score."""

WEIGHTS = "adapter_model.safetensors"
"""File in an adapter's folder that holds its matrices."""

ADAPTER_METADATA = "lora_tui.json"
"""The file in an adapter's folder that names its base model, data, test prompts, step and score."""

THIS_FOLDER = "THIS_FOLDER"
"""Stands for an adapter's folder in its card: nobody knows yet where it will be read."""

_STEP_FOLDER = re.compile(r"step-(\d+)(\.old)?")

CHECKPOINTS = ("best", "last")
"""Which adapter of a run: that of the best evaluation, or the newest, also while the run goes on."""


class AdapterGoneError(UsageError):
    """An adapter's folder has vanished since it was found: a run that trains replaces its checkpoints."""


@dataclass(frozen=True)
class AdapterSource:
    """An adapter on disk: its folder, the run that trained it, and its metadata (`ADAPTER_METADATA`)."""

    folder: Path
    run_id: int | None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The optimizer step it was saved at; 0 where that is not known."""
        return int(self.metadata.get("step", 0))

    @property
    def run_folder(self) -> Path | None:
        """The folder of the run that wrote it, which holds its ``best`` and steps; None for another program's."""
        known = self.folder.name.removesuffix(".old")
        return self.folder.parent if self.metadata and (known == BEST or _STEP_FOLDER.fullmatch(known)) else None

    @property
    def training_file(self) -> Path | None:
        """The file that it was trained on, as its metadata has it: from its folder, or absolute in older ones.

        A data set of the hub has its name in place of a path.
        """
        file = (self.metadata.get("data") or {}).get("file")
        if file and is_hub_name(file):
            return Path(file)
        return self.folder / file if file else None

    @property
    def trained_on(self) -> str | None:
        """The base model it was trained on; None where that is not known."""
        return str(self.metadata["base_model"]) if self.metadata.get("base_model") else None

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """The fields of the test prompts it was evaluated with; none for an adapter of another program."""
        return list(self.metadata.get("prompts", []))

    def base_model(self, settings: Settings) -> str:
        """Return the base model to load; raises `UsageError` where the configuration names another, or it is gone."""
        return base_of_adapter(self.folder, self.metadata, settings.fine_tuning.model_name)


async def find_adapter(store: Store, options: Mapping[str, Any]) -> AdapterSource | None:
    """Return the adapter that the options name, else that of the newest finished run; None when there is no run.

    ``adapter`` names a folder, ``adapter_run`` a run and ``checkpoint`` which of its adapters (`CHECKPOINTS`). Raises
    `LoraTuiError` when the one that is named cannot be used.
    """
    if (named := options.get("adapter")) is not None:
        return open_adapter(Path(named), None)
    run_id = options.get("adapter_run")
    run = await (runs.newest_trained(store) if run_id is None else require_run(store, int(run_id)))
    if run is None:
        return None
    which = options.get("checkpoint", "best")
    folder = _folder_of_run(run, which)
    try:
        source = open_adapter(folder, run.id)
    except LoraTuiError:
        if _folder_of_run(run, which) == folder:
            raise
    else:
        if _folder_of_run(run, which) == folder:
            return source
    return open_adapter(_folder_of_run(run, which), run.id)  # a trainer has replaced it while it was being read


async def require_trained(store_path: Path, purpose: str, training_data: Path) -> None:
    """Raise `UsageError` where the store has no finished training run; `purpose` completes "no model to …".

    The message has the command that leads on; `training_data` is the file that training would read. No store is made.
    """
    unfinished = None
    if await asyncio.to_thread(store_path.is_file):
        async with await Store.open(store_path) as store:
            if await runs.newest_trained(store) is not None:
                return
            unfinished = await runs.newest_unfinished_training(store)
    flag = store_flag(store_path)
    if unfinished is not None:
        raise UsageError(
            f"Run {unfinished.id} ({unfinished.mode}) is {unfinished.state}, and no other has trained a model to "
            f"{purpose}.\nGo on with it: lora-tui --resume {unfinished.id}{flag}"
        )
    named = shlex.quote(str(training_data)) if await asyncio.to_thread(training_data.is_file) else "FILE"
    raise UsageError(
        f"Nothing is trained yet in {store_path.name}: there is no model to {purpose}. See how it goes with\n"
        f"lora-tui --run quickstart, or train on your data: lora-tui --run train --train-data-file {named}{flag}"
    )


async def base_model_name(
    store: Store, settings: Settings, options: Mapping[str, Any], source: AdapterSource | None
) -> str:
    """Return the base model to chat with: the adapter's, or without one that of the run which the options name."""
    configured = settings.fine_tuning.model_name
    run_id = options.get("adapter_run")
    if source is None:
        run = None if run_id is None else await require_run(store, int(run_id))
        return configured if run is None else str(run.settings["fine_tuning"]["model_name"])
    if run_id is None or options.get("model_must_match") or is_same_base(source.folder, source.metadata, configured):
        return source.base_model(settings)
    return base_of_adapter(source.folder, source.metadata, source.trained_on or configured)


def _folder_of_run(run: Run, which: str) -> Path:
    """Return a run's best adapter, or its newest: where that is asked for, or no evaluation has happened yet."""
    if which not in CHECKPOINTS:
        raise UsageError(f"A run's adapter is {' or '.join(CHECKPOINTS)}, not {which}.")
    found = None
    if run.folder is not None:
        best = best_folder(Path(run.folder)) if which == "best" else None
        found = best or next(reversed(step_folders(Path(run.folder))), None)
    if found is None:
        missing = "adapter" if which == "best" else "checkpoint"
        raise LoraTuiError(f"Run {run.id} ({run.mode}, {run.state}) has no {missing} in {run.folder or 'any folder'}.")
    return found


def open_adapter(folder: Path, run_id: int | None) -> AdapterSource:
    """Check that `folder` holds an adapter in safetensors form whose configuration can be one, and read its metadata.

    Raises `UsageError` where there is none, and `LoraTuiError` for files that are damaged.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise AdapterGoneError(f"--adapter {folder}: there is no such folder.")
    if not (folder / "adapter_config.json").is_file():
        raise UsageError(f"--adapter {folder}: the folder holds no adapter_config.json, so it is not a LoRA adapter.")
    if not (folder / WEIGHTS).is_file():
        hint = " Pickled weights (.bin) are not opened: they can run code." if list(folder.glob("*.bin")) else ""
        raise UsageError(f"--adapter {folder}: {WEIGHTS} is missing.{hint}")
    check_adapter_config(folder / "adapter_config.json")
    tensors_in(folder / WEIGHTS)
    try:
        metadata = json.loads((folder / ADAPTER_METADATA).read_text(encoding="utf-8"))
    except FileNotFoundError:
        metadata = {}
    except (OSError, ValueError, RecursionError) as problem:
        raise LoraTuiError(f"{folder / ADAPTER_METADATA} cannot be read: {problem}.") from problem
    return AdapterSource(folder, run_id, _checked(folder / ADAPTER_METADATA, metadata))


def _checked(path: Path, metadata: Any) -> dict[str, Any]:
    """Check the entries of an adapter's metadata that are believed later."""
    if not isinstance(metadata, dict):
        return {}
    kinds: list[tuple[str, type, str]] = [
        ("base_model", str, "a name"),
        ("base_path", str, "a path"),
        ("base_sha256", str, "a hash"),
        ("step", int, "a whole number"),
        ("prompts", list, "a list"),
    ]
    for key, kind, wanted in kinds:
        if metadata.get(key) is not None and not isinstance(metadata[key], kind):
            raise wrong_entry(path, key, metadata[key], wanted)
    prompts = metadata.get("prompts") or []
    if not all(isinstance(one, dict) and isinstance(one.get("prompt"), str) for one in prompts):
        raise wrong_entry(path, "prompts", prompts, "a list of tables with a prompt")
    return metadata


def base_began_as(folder: Path, configured: str) -> str | None:
    """Return the name under which a run in `folder` began with the base model that is now `configured`; None if as now.

    A base model that was moved, and is the same by its weights, goes on under its former name.
    """
    for path in step_folders(folder)[-1:]:
        source = open_adapter(path, None)
        if source.trained_on not in (None, configured) and is_same_base(path, source.metadata, configured):
            return source.trained_on
    return None


def check_intact(folder: Path) -> None:
    """Raise `LoraTuiError` where an adapter's weights are not those that were written, as far as that is known."""
    try:
        if has_checksums(folder):
            verify(folder, [WEIGHTS])
    except DamagedError as problem:
        steps = [path for path in step_folders(folder.parent) if path != folder]
        instead = f"Take another one: --adapter {steps[-1]}" if steps else "Take a copy of it, or train again."
        raise LoraTuiError(f"The adapter {folder} is damaged: {problem}.\n{instead}") from problem
    except OSError as problem:
        raise LoraTuiError(f"The adapter {folder} cannot be read: {problem.strerror or problem}.") from problem


def step_folders(folder: Path) -> list[Path]:
    """Return the complete step checkpoints of a run, oldest first.

    A crash between two renames may have left ``step-N.old``, which is as good and counts as older than ``step-N``.
    """
    found = [
        (int(match[1]), match[2] is None, path)
        for path in folder.glob("step-*")
        if (match := _STEP_FOLDER.fullmatch(path.name))
    ]
    return [path for *_, path in sorted(found)]


def best_folder(folder: Path) -> Path | None:
    """Return the run's best adapter, or None; finds the older one if a crash fell between the two renames."""
    for candidate in (folder / BEST, folder / f"{BEST}.old"):
        if (candidate / WEIGHTS).is_file():
            return candidate
    return None
