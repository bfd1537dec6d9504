"""Finding an adapter, and putting it on the base model it was trained for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError, safe_open

from lora_tui.config import Settings
from lora_tui.config.models import FineTuning
from lora_tui.engine.base_model import BaseModel
from lora_tui.engine.inference.prompts import TestPrompt
from lora_tui.engine.training.checkpoint import adapter_weights, best_folder, step_folders
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.store import runs
from lora_tui.store.connection import Store

PAPERS = "lora_tui.json"
"""File in an adapter's folder that says what it belongs to: base model, data, test prompts, score."""

_WEIGHTS = "adapter_model.safetensors"
_DEFAULT_MODEL = FineTuning().model_name


@dataclass(frozen=True)
class AdapterSource:
    """An adapter on disk: its folder, the run it comes from, and what its papers say."""

    folder: Path
    run_id: int | None
    papers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The optimizer step it was kept at; 0 where that is not known."""
        return int(self.papers.get("step", 0))

    @property
    def prompts(self) -> list[TestPrompt]:
        """The test prompts it was evaluated with; none for an adapter of another program."""
        return [TestPrompt(**prompt) for prompt in self.papers.get("prompts", [])]

    def base_model(self, settings: Settings) -> str:
        """The base model to load; raises `UsageError` where the configuration names another one."""
        configured = settings.fine_tuning.model_name
        trained_on = str(self.papers.get("base_model") or configured)
        if configured not in (trained_on, _DEFAULT_MODEL):
            raise UsageError(
                f"The adapter {self.folder} was trained on {trained_on}, but fine_tuning.model_name is {configured}. "
                f"Remove the key, or set it to {trained_on}."
            )
        return trained_on


async def find_adapter(store: Store, options: Mapping[str, Any]) -> AdapterSource | None:
    """Return the adapter that the options name, else that of the newest finished run; None when there is no run.

    Raises `LoraTuiError` when the one that is named cannot be used.
    """
    if (named := options.get("adapter")) is not None:
        return open_adapter(Path(named), None)
    run_id = options.get("adapter_run")
    run = await (runs.newest_trained(store) if run_id is None else runs.get(store, int(run_id)))
    if run is None:
        if run_id is not None:
            raise UsageError(f"There is no run {run_id} in {store.path}; `lora-tui --runs` lists them.")
        return None
    adapter = _folder_of_run(run.folder)
    if adapter is None:
        raise LoraTuiError(f"Run {run.id} ({run.mode}, {run.state}) has no adapter in {run.folder or 'any folder'}.")
    return open_adapter(adapter, run.id)


def _folder_of_run(folder: str | None) -> Path | None:
    """The best adapter of a run's folder, or its newest checkpoint when no evaluation has happened yet."""
    if folder is None:
        return None
    return best_folder(Path(folder)) or next(reversed(step_folders(Path(folder))), None)


def open_adapter(folder: Path, run_id: int | None) -> AdapterSource:
    """Check that `folder` holds an adapter in safetensors form, and read its papers."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UsageError(f"--adapter {folder}: there is no such folder.")
    if not (folder / "adapter_config.json").is_file():
        raise UsageError(f"--adapter {folder}: the folder holds no adapter_config.json, so it is not a LoRA adapter.")
    if not (folder / _WEIGHTS).is_file():
        hint = " Pickled weights (.bin) are not opened: they can run code." if list(folder.glob("*.bin")) else ""
        raise UsageError(f"--adapter {folder}: {_WEIGHTS} is missing.{hint}")
    try:
        papers = json.loads((folder / PAPERS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        papers = {}
    except (OSError, ValueError) as problem:
        raise LoraTuiError(f"{folder / PAPERS} cannot be read: {problem}.") from problem
    return AdapterSource(folder, run_id, papers if isinstance(papers, dict) else {})


def load_adapter(base: BaseModel, source: AdapterSource) -> PeftModel:
    """Put the adapter on the base model, in evaluation mode. Raises `UsageError` when it was made for another one."""
    try:
        model = PeftModel.from_pretrained(base.model, str(source.folder), use_safetensors=True)
        _check_layers(model, source.folder / _WEIGHTS)
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as problem:
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        raise UsageError(
            f"The adapter {source.folder} does not fit the base model {base.name}: {' '.join(lines)[:160]}…\n"
            "Name the base model it was trained on with --set fine_tuning.model_name=…"
        ) from problem
    return model.eval()


def _check_layers(model: PeftModel, weights: Path) -> None:
    """Raise ValueError unless the file's matrices are the model's: PEFT ignores those that are too many or too few."""
    with safe_open(weights, framework="pt") as file:
        saved = {name for name in file.keys() if "lora_" in name}  # noqa: SIM118  # no mapping, for all that it has keys
    wanted = {name for name in adapter_weights(model) if "lora_" in name}
    if saved != wanted:
        raise ValueError(
            f"{len(saved - wanted)} of its matrices have no place there, {len(wanted - saved)} are missing"
        )
