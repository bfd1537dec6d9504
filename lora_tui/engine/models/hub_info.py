"""What can be known of a base model without loading it: where its configuration lies on this machine, and its shape.

Nothing is fetched and neither torch nor transformers is needed. A model that is not here yet is simply not known: its
numbers come once it has been fetched.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_tui.engine.models.architecture import Shape, UnknownShapeError, shape_of
from lora_tui.engine.models.builtin import BUILTIN, cached_folder

_LARGEST_CONFIG = 1_000_000


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A base model by its name in the configuration. `problem` says why `shape` is not known."""

    name: str
    config: Path | None
    shape: Shape | None
    problem: str | None


class _NotHereError(Exception):
    """There is no configuration to be read; the text says why."""


_REMEMBERED: dict[tuple[Path, int, int], Shape | str] = {}


def model_facts(name: str) -> ModelFacts:
    """Return what is known of the model that ``fine_tuning.model_name`` names. Never raises."""
    try:
        config = _local_config(name)
        status = config.stat()
    except _NotHereError as reason:
        return ModelFacts(name, None, None, str(reason))
    except OSError as problem:
        return ModelFacts(name, None, None, f"its config.json cannot be read: {problem.strerror}")
    key = (config, status.st_mtime_ns, status.st_size)
    if key not in _REMEMBERED:
        _REMEMBERED.clear()
        _REMEMBERED[key] = _shape_in(config)
    found = _REMEMBERED[key]
    return ModelFacts(name, config, None, found) if isinstance(found, str) else ModelFacts(name, config, found, None)


def _local_config(name: str) -> Path:
    """Return the config.json of a model that lies on this machine. Raises `_NotHereError` and `OSError`."""
    if name == BUILTIN:
        folder = cached_folder()
        if folder is None:
            raise _NotHereError("the built-in model is fetched when it is first used")
        return folder / "config.json"
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        raise _NotHereError("a .gguf file is opened when training begins")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise _NotHereError("the folder holds no config.json, so it is not a model")
        return path / "config.json"
    if name.startswith(("/", "./", "../", "~")):
        raise _NotHereError("there is no such folder")
    return _in_hub_cache(name)


def _in_hub_cache(name: str) -> Path:
    from huggingface_hub import try_to_load_from_cache  # a sixth of a second, for names on the hub alone
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        raise _NotHereError("there is no such folder, and a name on the hub is owner/model") from None
    if not isinstance(found, str):
        raise _NotHereError("it is fetched from the Hugging Face hub when training begins")
    return Path(found)


def _shape_in(config: Path) -> Shape | str:
    """Return the shape that a config.json tells, or why it does not."""
    try:
        with config.open("rb") as file:
            content: Any = json.loads(file.read(_LARGEST_CONFIG))
    except (OSError, ValueError, RecursionError):
        return "its config.json cannot be read"
    if not isinstance(content, dict):
        return "its config.json holds no configuration"
    if content.get("quantization_config"):
        return "its weights are quantised, and what they take is known once it is loaded"
    try:
        return shape_of(content)
    except UnknownShapeError as problem:
        return str(problem)
