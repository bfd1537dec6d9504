"""What a server serves: a base model and adapters by name, chosen before torch is imported.

``run-3`` is the best adapter of run 3, ``run-3:last`` its newest checkpoint, and any folder with an adapter can have a
name of its own. All stand on one base model.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_tui.config.models import Settings
from lora_tui.config.written import written_keys
from lora_tui.engine.models.adapter_source import CHECKPOINTS, AdapterSource, find_adapter, open_adapter
from lora_tui.engine.models.base_location import base_of_adapter
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.text import one_line

BASE = "base"
"""The name of the base model without an adapter."""

MOST_RUNS = 8
"""Runs that are served where none is named: the newest ones on the same base model."""

_RUN = re.compile(r"run-(\d+)(?::(\w+))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients name it: the base model, or an adapter on it; `aliases` mean the same."""

    name: str
    source: AdapterSource | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """Everything that is served: the base model's name for `load_base`, and the models, the base first."""

    base_name: str
    models: tuple[ServedModel, ...]

    def find(self, name: str) -> ServedModel | None:
        """Return the model of this name."""
        return next((model for model in self.models if name == model.name or name in model.aliases), None)

    @property
    def adapters(self) -> Mapping[str, AdapterSource]:
        """The adapters by the names that decoders know them by, which have no dots."""
        sources = [model.source for model in self.models if model.source is not None]
        return {f"adapter{number}": source for number, source in enumerate(sources)}

    def adapter_name(self, model: ServedModel) -> str | None:
        """The name that decoders know a model's adapter by; None for the base model."""
        return next((name for name, source in self.adapters.items() if source is model.source), None)


async def choose_served(store: Store, settings: Settings, options: Mapping[str, Any], default_base: str) -> Served:
    """Return what the options name; without any, the newest runs on the base model of the newest one.

    `default_base` is what is served where there is no adapter at all.
    ``adapters`` has names of runs, folders, or ``NAME=FOLDER``; ``adapter_run`` is a run. Raises `LoraTuiError` for an
    adapter that cannot be used, and `UsageError` for one of another base model.
    """
    named = [str(one) for one in options.get("adapters") or ()]
    if (run_id := options.get("adapter_run")) is not None:
        named.insert(0, f"run-{run_id}")
    if named:
        models = [await _named(store, text) for text in named if text != BASE]
        models = list({model.name: model for model in models}.values())
        _check_names(models)
    else:
        models = await _of_newest_runs(store)
    base_name = _base_name(settings, models, default_base, is_named=bool(named))
    fitting = [model for model in models if _stands_on(model, settings, base_name)]
    if named and (others := [model for model in models if model not in fitting]):
        source = others[0].source
        assert source is not None, "the base model stands on itself"
        raise UsageError(
            f"{others[0].name} was trained on {source.trained_on}, and what is served stands on {base_name}.\n"
            "One server has one base model: serve it from another, with --set serving.port=…"
        )
    base = ServedModel(BASE, None, (base_name,) if base_name != BASE else ())
    return Served(base_name, (base, *fitting))


async def _named(store: Store, text: str) -> ServedModel:
    """Return the adapter that a word of the command line means."""
    if (found := _RUN.fullmatch(text)) is not None:
        return await _of_run(store, int(found[1]), found[2] or "best")
    return await asyncio.to_thread(_in_folder, text)


def _in_folder(text: str) -> ServedModel:
    """The adapter of ``FOLDER`` or ``NAME=FOLDER``."""
    name, separator, folder = text.partition("=")
    path = Path(folder if separator else text).expanduser()
    return ServedModel(name if separator else path.resolve().name, open_adapter(path, None))


async def _of_run(store: Store, run_id: int, which: str) -> ServedModel:
    if which not in CHECKPOINTS:
        raise UsageError(f"A run's adapter is run-{run_id}:best or run-{run_id}:last, not run-{run_id}:{which}.")
    source = await find_adapter(store, {"adapter_run": run_id, "checkpoint": which})
    assert source is not None, "a run that does not exist was refused"
    if which == "last":
        return ServedModel(f"run-{run_id}:last", source)
    return ServedModel(f"run-{run_id}", source, (f"run-{run_id}:best",))


async def _of_newest_runs(store: Store) -> list[ServedModel]:
    """The best adapters of the newest runs that have any, the newest first; one that cannot be opened is left out."""
    models: list[ServedModel] = []
    for run_id in await runs.trained_ids(store, MOST_RUNS):
        try:
            models.append(await _of_run(store, run_id, "best"))
        except LoraTuiError:
            if not models:
                raise  # the one that everybody expects
    return models


def _base_name(settings: Settings, models: Sequence[ServedModel], default_base: str, *, is_named: bool) -> str:
    """The base model to load: that of the first adapter, unless the configuration names another."""
    first = next((model.source for model in models if model.source is not None), None)
    if first is None:
        return default_base
    if "fine_tuning.model_name" not in written_keys(settings):
        return _own_base(first, settings)
    return first.base_model(settings) if is_named or _fits(first, settings) else settings.fine_tuning.model_name


def _own_base(source: AdapterSource, settings: Settings) -> str:
    own = source.trained_on or settings.fine_tuning.model_name
    return base_of_adapter(source.folder, source.metadata, own)


def _fits(source: AdapterSource, settings: Settings) -> bool:
    try:
        source.base_model(settings)
    except LoraTuiError:
        return False
    return True


def _stands_on(model: ServedModel, settings: Settings, base_name: str) -> bool:
    """Whether an adapter belongs to the base model; one of another program that does not say is tried."""
    source = model.source
    if source is None or source.trained_on is None:
        return True
    try:
        own = _own_base(source, settings)
    except LoraTuiError:
        return False
    return own == base_name or _same_place(own, base_name)


def _same_place(one: str, other: str) -> bool:
    paths = Path(one).expanduser(), Path(other).expanduser()
    return all(path.exists() for path in paths) and paths[0].samefile(paths[1])


def _check_names(models: Iterable[ServedModel]) -> None:
    taken = {BASE}
    for model in models:
        if not _NAME.fullmatch(model.name):
            raise UsageError(
                f"--adapter {one_line(model.name, 80)}: clients cannot name that. Give it a name of letters and "
                "digits: --adapter NAME=FOLDER"
            )
        if taken & {model.name, *model.aliases}:
            raise UsageError(f"Two models are called {model.name}. Name one of them: --adapter NAME=FOLDER")
        taken |= {model.name, *model.aliases}
