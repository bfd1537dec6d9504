"""Checkpoints: adapter, optimizer moments, random states and counters, from which a killed run goes on exactly.

Everything is safetensors and JSON; nothing is pickled. A checkpoint is written to a temporary folder, synced and
renamed, so a folder that has its name is complete. The run's folder holds the newest ``step-N`` for resuming and
``best``, the adapter with the highest evaluation score, which is what other programs load.

Each holds the SHA-256 of its files. A checkpoint that is not as it was written is put aside as ``step-N.damaged``, and
the one before it is gone on with: a run is exact from either. Neither ``best`` nor the newest is ever deleted.

The form of a ``step-N`` is numbered in its ``trainer_state.json``: 1 (or no number) had no checksums, and its tensors
are only looked at for values that are not finite.
"""

import hashlib
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel, set_peft_model_state_dict
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_tui.config.models import FineTuning
from lora_tui.engine.models.adapter_source import BEST, WEIGHTS, best_folder, step_folders
from lora_tui.engine.models.checksums import DamagedError, has_checksums, verify, write_checksums
from lora_tui.engine.training import pissa
from lora_tui.errors import LoraTuiError, OtherRunError, UsageError
from lora_tui.files import atomic_folder, unwritable
from lora_tui.text import count

_STATE_FILE = "trainer_state.json"

_FORM = 2
"""The form of a checkpoint that is written; `trainer_state.json` has it as ``format``."""

KEPT = 3
"""Step checkpoints that are kept where nothing else is said: the newest, and those to fall back to."""

_DAMAGED = ".damaged"

_NAMED = 3
"""Keys that a refusal names at most."""


class Fingerprinted(Protocol):
    """Training data as a checkpoint knows it."""

    def fingerprint(self) -> str:
        """Return a hash of all that is trained on."""


@dataclass(frozen=True)
class _Known:
    """Training data whose hash is known: that of a large set takes a second."""

    digest: str

    def fingerprint(self) -> str:
        return self.digest


@dataclass
class TrainerState:
    """Counters of a run, as ``trainer_state.json`` holds them.

    `identity` is `run_identity`, `dtype` the precision of the base. `rate_scale` is what the learning rate is
    multiplied by after the run went back to a checkpoint `times_back` times. `tokens_per_row` and
    `long_rows_that_fit` are the `fallback` ladder's state: what memory has been found to hold (None: as configured),
    and how many longer rows side by side. They are kept since how many cores a product has changes its last bits.
    `made_with` is what `identity` is a hash of, as `identity_settings` has it; nothing in older checkpoints.
    `ranks` is by how many processes the steps were computed; `rank_ladders` has the ladders' state of each, 0 for as
    configured. `best_score`, `best_rank` and `best_may_end` are the best evaluation's `Verdict`; older checkpoints have
    no rank.
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
    ranks: int = 1
    rank_ladders: list[list[int]] = field(default_factory=list)
    made_with: dict[str, Any] = field(default_factory=dict)


_ADDED_LATER = ("reworded_share", "everyday_examples")
"""Keys of ``fine_tuning.training`` that count for an identity only where they are not 0."""

_WITHOUT_VALIDATION, _WITHOUT_VARIANTS = 1, 2
"""Forms of an identity: of before there was a validation share, and before LoRA's variants."""

_PLAIN: dict[str, Any] = {
    "use_rslora": False,
    "use_dora": False,
    "init_lora_weights": True,
    "modules_to_save": [],
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""LoRA without a variant: with these values, and only then, it is what it was before there were any."""


def run_identity(dataset: Fingerprinted, settings: FineTuning, dtype: str, *, form: int = 0) -> str:
    """Hash everything the mathematics of a run depend on: a checkpoint of another identity is not continued.

    How long to train may change between a stop and a resumption only if the schedule does not depend on it, so the
    epochs and steps count; when to evaluate, stop early or save does not. `form` is that of an earlier version.
    """
    relevant = _relevant(dataset, settings, dtype)
    if form >= _WITHOUT_VALIDATION and not relevant["training"]["validation_share"]:
        del relevant["training"]["validation_share"]
    if form >= _WITHOUT_VARIANTS and relevant["lora"] | _PLAIN == relevant["lora"] and not relevant["qlora"]:
        relevant["lora"] = {key: value for key, value in relevant["lora"].items() if key not in _PLAIN}
        if relevant["optimizer"].pop("loraplus_lr_ratio") == 1.0:
            del relevant["qlora"]
    relevant["model"] = relevant.pop("model_name")
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def _relevant(dataset: Fingerprinted, settings: FineTuning, dtype: str) -> dict[str, Any]:
    """The settings that a run's mathematics depend on, with the hash of its data and the precision of its base."""
    not_in_identity = {
        *("target_score", "patience", "eval_frequency", "eval_steps", "save_dir", "save_steps", "keep_checkpoints")
    }
    parts = {"qlora", "lora", "optimizer", "scheduler", "sampling", "training"}
    relevant = settings.model_dump(mode="json", include=parts, exclude={"training": not_in_identity})
    for added_later in _ADDED_LATER:  # off, they are in no older checkpoint's identity
        if not relevant["training"][added_later]:
            del relevant["training"][added_later]
    if settings.method != "sft":  # nor is there one of an objective that it did not know
        judged = settings.preferences.model_dump(mode="json", exclude={"data_file"})
        relevant |= {"method": settings.method, "preferences": judged}
    return relevant | {"data": dataset.fingerprint(), "model_name": settings.model_name, "dtype": dtype}


def run_identities(dataset: Fingerprinted, settings: FineTuning, dtype: str) -> list[str]:
    """Return the identity of a run, and those that earlier versions gave it, which knew fewer settings."""
    forms, once = (0, _WITHOUT_VALIDATION, _WITHOUT_VARIANTS), _Known(dataset.fingerprint())
    return [run_identity(once, settings, dtype, form=form) for form in forms]


def identity_settings(dataset: Fingerprinted, settings: FineTuning, dtype: str) -> dict[str, Any]:
    """Return what `run_identity` hashes, also what is 0, by dotted key; ``data`` is the data's hash."""
    relevant = _relevant(dataset, settings, dtype)
    relevant["training"] |= {name: getattr(settings.training, name) for name in _ADDED_LATER}
    data = relevant.pop("data")
    return {"data": data, "fine_tuning.method": settings.method, **dict(_flat(relevant, "fine_tuning."))}


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@dataclass(frozen=True)
class _Checkpoint:
    """A step checkpoint as it was read: whole, as far as its form can tell."""

    path: Path
    state: TrainerState
    adapter: dict[str, Tensor]
    moments: dict[str, Tensor]
    random_states: dict[str, Tensor]


def _ignore(message: str) -> None:
    """Tell nobody."""


def save_step(
    folder: Path,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    names: Mapping[int, str],
    state: TrainerState,
    write_metadata: Callable[[Path, int], None] = lambda target, step: None,
    keep: int = KEPT,
) -> Path:
    """Write ``folder/step-N`` and remove all but the newest `keep`; returns its path.

    `names` maps id(parameter) to its name. `write_metadata` adds what loading the adapter of that step needs to know of
    it.
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
        entries = asdict(state)
        if state.ranks == 1:  # as versions wrote it that knew one process alone
            del entries["ranks"], entries["rank_ladders"]
        content = json.dumps({"format": _FORM} | entries, indent=2) + "\n"
        (target / _STATE_FILE).write_text(content, encoding="utf-8")
        write_metadata(target, state.step)

    path = _write_folder(folder / f"step-{state.step}", write)
    for older in (*step_folders(folder)[: -max(1, keep)], *folder.glob(f"step-*{_DAMAGED}")):
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
    folder: Path,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    names: Mapping[int, str],
    identities: Sequence[str],
    made_with: Mapping[str, Any],
    warn: Callable[[str], None] = _ignore,
) -> TrainerState | None:
    """Load the newest whole step checkpoint into model, optimizer and random generators; None when there is none.

    `warn` is told of those that are damaged. `identities` are the run's own and those of earlier versions, `made_with`
    what its own is a hash of (`identity_settings`). Raises `OtherRunError` when data or settings differ from those of
    the checkpoint, and `LoraTuiError` where there are only damaged ones.
    """
    found = _newest_whole(folder, warn)
    if found is None:
        return None
    path, state, adapter = found.path, found.state, found.adapter
    if state.identity not in identities:
        raise OtherRunError(_refusal(path, state.made_with, made_with))
    if first := pissa.initial_matrices(model):
        adapter, saved_first = pissa.split_saved(adapter)
        if any(not torch.equal(matrix.cpu(), saved_first[name]) for name, matrix in first.items()):
            raise UsageError(f"{path} began with other first matrices than this run has, so it cannot go on exactly.")
    if state.identity != identities[0]:
        warn(f"{path} was written by an earlier version: the run goes on, but not to the last bit as it would have.")
        state.identity = identities[0]
    state.made_with = dict(made_with)
    with _readable(path):
        set_peft_model_state_dict(model, adapter)
        _load_optimizer(optimizer, names, found.moments)
        _set_random_states(found.random_states)
    return state


def _refusal(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The message where a checkpoint is another run's: what differs, where that is known, and what to do."""
    what = f"{path} was made with other training data or settings, so the run cannot go on exactly"
    keys = [key for key, value in then.items() if key != "data" and key in now and now[key] != value]
    differ = [f"{key} was {json.dumps(then[key])}, now {json.dumps(now[key])}" for key in keys[:_NAMED]]
    if len(keys) > _NAMED:
        differ.append(f"and {count(len(keys) - _NAMED, 'more key')}")
    if then and then["data"] != now["data"]:
        differ.append("the training data are others")
    told = f"{what}: {'; '.join(differ)}." if differ else f"{what}."
    if not keys:
        return f"{told} Restore them, or start a new run without --resume."
    again = " ".join(f"--set {shlex.quote(f'{key}={json.dumps(then[key])}')}" for key in keys[:_NAMED])
    more = " and so on" if len(keys) > _NAMED else ""
    return f"{told}\nResume without --config and --set (a run keeps its own settings), or add {again}{more}."


def newest_initial_matrices(folder: Path) -> dict[str, Tensor]:
    """Return the matrices that a resumed run with PiSSA or OLoRA began with; nothing where there is no checkpoint."""
    found = _newest_whole(folder, _ignore)
    return {} if found is None else pissa.split_saved(found.adapter)[1]


def newest_state(folder: Path, warn: Callable[[str], None] = _ignore) -> TrainerState | None:
    """Return where the newest whole step checkpoint is; None when there is none. `warn` is told of damaged ones."""
    found = _newest_whole(folder, warn)
    return None if found is None else found.state


def forget_lost_best(folder: Path, state: TrainerState, warn: Callable[[str], None]) -> None:
    """Take the best evaluation out of a resumed run's state where its adapter is gone or not as it was written.

    Otherwise the run would end without an adapter. One that is damaged is put aside; `warn` is told of either.
    """
    if state.best_score is None:
        return
    best = best_folder(folder)
    try:
        if best is None:
            raise DamagedError("it is gone")
        if has_checksums(best):
            verify(best, [WEIGHTS])
    except (OSError, DamagedError) as problem:
        kept = "" if best is None else f" It is kept as {_put_aside(best)}."
        warn(f"The best adapter in {folder} is damaged: {problem}.{kept} The next evaluation chooses a new one.")
        state.best_score, state.best_rank, state.best_step, state.best_may_end = None, None, 0, True
        state.evaluations_without_gain = 0


def _newest_whole(folder: Path, warn: Callable[[str], None]) -> _Checkpoint | None:
    """Read the newest checkpoint that is whole; newer ones that are damaged are told, and put aside.

    Raises `LoraTuiError` where there are checkpoints and all are damaged: those are left where they are.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(step_folders(folder)):
        try:
            found = _read(path)
        except (DamagedError, OSError, ValueError, TypeError, SafetensorError) as problem:
            damaged.append((path, str(problem)))
            continue
        for broken, reason in damaged:
            aside = _put_aside(broken)
            warn(
                f"The checkpoint {broken} is damaged: {reason}. Training goes on from the one before it, that of step "
                f"{found.state.step}; the damaged one is kept as {aside.name} until the next is saved."
            )
        return found
    if damaged:
        path, reason = damaged[0]
        others = "" if len(damaged) == 1 else f" The {len(damaged) - 1} before it are damaged, too."
        raise LoraTuiError(
            f"The checkpoint {path} cannot be read: {reason}.{others} Remove "
            f"{'that folder' if len(damaged) == 1 else 'those folders'} to start again."
        )
    return None


def _put_aside(path: Path) -> Path:
    """Give a damaged folder a name that nothing looks for; it goes when the next checkpoint is saved."""
    aside = path.with_name(path.name + _DAMAGED)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    except OSError:  # a folder that cannot be written to: it is looked at and refused again
        return path
    return aside


def _read(path: Path) -> _Checkpoint:
    """Read a step checkpoint. Raises `DamagedError` and what its readers raise, `UsageError` for one of the future."""
    content = json.loads((path / _STATE_FILE).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise DamagedError(f"{_STATE_FILE} holds no table")
    form = content.pop("format", 1)
    if form != 1 or has_checksums(path):
        verify(path)
    if form not in range(1, _FORM + 1):
        raise UsageError(f"{path} was written by a newer version of lora-tui (form {form}). Resume it with that one.")
    if form == 1 and "long_rows_at_once" in content:  # what it was called for some days
        content["long_rows_that_fit"] = content.pop("long_rows_at_once")
    if unknown := content.keys() - TrainerState.__dataclass_fields__.keys():
        raise DamagedError(f"{_STATE_FILE} has an unknown entry {min(unknown)}")
    state = TypeAdapter(TrainerState).validate_json(json.dumps(content), strict=True)
    tensors = [load_file(path / name) for name in (WEIGHTS, "optimizer.safetensors", "random.safetensors")]
    for name, tensor in (entry for file in tensors[:2] for entry in file.items()):
        if not torch.isfinite(tensor).all():
            raise DamagedError(f"{name} holds values that are not finite")
    return _Checkpoint(path, state, *tensors)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what a damaged checkpoint raises inside the block into a `LoraTuiError`."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as problem:
        raise LoraTuiError(
            f"The checkpoint {path} cannot be read: {problem}. Remove that folder to start again."
        ) from problem


def _write_folder(path: Path, write: Callable[[Path], None]) -> Path:
    try:
        with atomic_folder(path, replace=True) as scratch:
            write(scratch)
            write_checksums(scratch)
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
