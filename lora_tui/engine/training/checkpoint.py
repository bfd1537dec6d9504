"""Checkpoints: adapter, optimizer moments, random states and counters, from which a killed run goes on exactly.

Everything is safetensors and JSON; nothing is pickled. A checkpoint is written to a temporary folder, synced and
renamed, so a folder that has its name is complete. The run's folder holds the newest ``step-N`` for resuming and
``best``, the adapter with the highest evaluation score, which is what other programs load.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_tui.config.models import FineTuning
from lora_tui.engine.models.adapter_source import BEST, WEIGHTS, step_folders
from lora_tui.engine.training import pissa
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.files import atomic_folder, unwritable

_STATE_FILE = "trainer_state.json"


@dataclass
class TrainerState:
    """Counters of a run, as ``trainer_state.json`` holds them.

    `identity` is `run_identity`, `dtype` the precision of the base. `rate_scale` is what the learning rate is
    multiplied by after the run went back to a checkpoint `times_back` times. `tokens_per_row` and
    `long_rows_that_fit` are the `fallback` ladder's state: what memory has been found to hold (None: as configured),
    and how many longer rows side by side. They are kept since how many cores a product has changes its last bits.
    `best_score`, `best_rank` and `best_may_end` are the best evaluation's `Verdict`; older checkpoints have no rank.
    """

    identity: str
    dtype: str
    step: int = 0
    tokens: int = 0
    best_score: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    skipped_in_a_row: int = 0
    rate_scale: float = 1.0
    times_back: int = 0
    tokens_per_row: int | None = None
    long_rows_that_fit: int = 1
    best_rank: float | None = None
    best_may_end: bool = True


def run_identity(dataset: TextDataset, settings: FineTuning, dtype: str) -> str:
    """Hash everything the mathematics of a run depend on: a checkpoint of another identity is not continued.

    How long to train may change between a stop and a resumption only if the schedule does not depend on it, so the
    epochs and steps count; when to evaluate, stop early or save does not.
    """
    not_in_identity = {"target_score", "patience", "eval_frequency", "eval_steps", "save_dir", "save_steps"}
    parts = {"qlora", "lora", "optimizer", "scheduler", "sampling", "training"}
    relevant = settings.model_dump(mode="json", include=parts, exclude={"training": not_in_identity})
    for added_later in ("reworded_share", "everyday_examples"):  # off, they are in no older checkpoint's identity
        if not relevant["training"][added_later]:
            del relevant["training"][added_later]
    relevant |= {"data": dataset.fingerprint(), "model": settings.model_name, "dtype": dtype}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def save_step(
    folder: Path,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    names: Mapping[int, str],
    state: TrainerState,
    write_metadata: Callable[[Path, int], None] = lambda target, step: None,
) -> Path:
    """Write ``folder/step-N`` and remove the older ones; returns its path. `names` maps id(parameter) to its name.

    `write_metadata` adds what loading the adapter of that step needs to know of it.
    """

    def write(target: Path) -> None:
        save_adapter(model, target)
        moments = {
            f"{names[id(parameter)]}::{kind}": torch.as_tensor(value).detach().cpu().contiguous()
            for parameter, values in optimizer.state.items()
            for kind, value in values.items()
        }
        save_file(moments, target / "optimizer.safetensors")
        save_file(_random_states(), target / "random.safetensors")
        (target / _STATE_FILE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        write_metadata(target, state.step)

    path = _write_folder(folder / f"step-{state.step}", write)
    for older in step_folders(folder)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return path


def save_best(folder: Path, write: Callable[[Path], None]) -> Path:
    """Replace ``folder/best`` by what `write` writes; the older one stays until the new one is complete."""
    return _write_folder(folder / BEST, write)


def save_adapter(model: PeftModel, target: Path) -> None:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json`` as any PEFT user can load them."""
    model.save_pretrained(str(target), safe_serialization=True, save_embedding_layers=False)
    if pissa.initial_matrices(model):
        pissa.save_as_plain(model, target)


def restore(
    folder: Path, model: PeftModel, optimizer: torch.optim.Optimizer, names: Mapping[int, str], identity: str
) -> TrainerState | None:
    """Load the newest step checkpoint into model, optimizer and random generators; returns None when there is none.

    Raises `UsageError` when data or settings differ from those of the checkpoint.
    """
    folders = step_folders(folder)
    if not folders:
        return None
    path = folders[-1]
    state = _read_state(path)
    with _readable(path):
        adapter, moments, random_states = (
            load_file(path / f"{name}.safetensors") for name in ("adapter_model", "optimizer", "random")
        )
    if state.identity != identity:
        raise UsageError(
            f"{path} was made with other training data or settings, so the run cannot go on exactly. "
            "Restore them, or start a new run without --resume."
        )
    if first := pissa.initial_matrices(model):
        adapter, saved_first = pissa.split_saved(adapter)
        if any(not torch.equal(matrix.cpu(), saved_first[name]) for name, matrix in first.items()):
            raise UsageError(f"{path} began with other first matrices than this run has, so it cannot go on exactly.")
    set_peft_model_state_dict(model, adapter)
    _load_optimizer(optimizer, names, moments)
    _set_random_states(random_states)
    return state


def newest_initial_matrices(folder: Path) -> dict[str, Tensor]:
    """Return the matrices that a resumed run with PiSSA or OLoRA began with; nothing where there is no checkpoint."""
    for path in step_folders(folder)[-1:]:
        with _readable(path):
            return pissa.split_saved(load_file(path / WEIGHTS))[1]
    return {}


def newest_state(folder: Path) -> TrainerState | None:
    """Return where the newest step checkpoint is, without loading it; None when there is none."""
    folders = step_folders(folder)
    return _read_state(folders[-1]) if folders else None


def _read_state(path: Path) -> TrainerState:
    with _readable(path):
        return TrainerState(**json.loads((path / _STATE_FILE).read_text(encoding="utf-8")))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what a damaged checkpoint raises inside the block into a `LoraTuiError`."""
    try:
        yield
    except (OSError, ValueError, TypeError, SafetensorError) as problem:
        raise LoraTuiError(
            f"The checkpoint {path} cannot be read: {problem}. Remove that folder to start again."
        ) from problem


def _write_folder(path: Path, write: Callable[[Path], None]) -> Path:
    try:
        with atomic_folder(path, replace=True) as scratch:
            write(scratch)
    except (OSError, SafetensorError) as problem:  # safetensors tells of a full disk in a type of its own
        raise unwritable(f"The checkpoint {path}", problem) from problem
    return path


def _load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
    """Put saved moments back, step counters included, on each parameter's device, where fused AdamW wants them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            keys = {kind: f"{names[id(parameter)]}::{kind}" for kind in ("step", "exp_avg", "exp_avg_sq")}
            if tensors.keys() >= set(keys.values()):
                moments = {kind: tensors[key].to(parameter.device) for kind, key in keys.items()}
                optimizer.state[parameter] = moments


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_random_states(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if (state := states.get(f"cuda{index}")) is not None:
                torch.cuda.set_rng_state(state, index)
