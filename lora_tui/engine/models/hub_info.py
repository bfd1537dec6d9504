"""What can be known of a base model by its name, without loading it: where it is read from, and its architecture.

A name is ``builtin``, a folder, a ``.gguf`` file, or ``owner/model`` on the Hugging Face hub. Neither torch nor
transformers is needed, so the forecast and the checks before a job stay fast. Nothing but `locate` and `fetch_config`
fetches anything: a model that is not on this machine yet is simply not known.
"""

import json
import logging
from pathlib import Path
from typing import Any

from lora_tui.engine.models.architecture import Architecture, UnknownArchitectureError, architecture_of
from lora_tui.engine.models.builtin import BUILTIN, cached_folder, ensure_builtin
from lora_tui.engine.models.model_files import check_model_files
from lora_tui.errors import UnreachableError
from lora_tui.protocol.backend import LoadProgress

log = logging.getLogger(__name__)

_LARGEST_CONFIG = 1_000_000
"""Bytes of a config.json that are read: a real one has a few thousand."""


def check_source(name: str) -> None:
    """Raise `UnreachableError` where `name` is a path and no model is there. A name on the hub is not looked up.

    Raises `ModelFileError` where one is there whose files are damaged.
    """
    _check_path(name)
    path = Path(name).expanduser()
    if name != BUILTIN and (path.suffix == ".gguf" or path.is_dir()):
        check_model_files(path)


def _check_path(name: str) -> None:
    if name != BUILTIN and (problem := _problem_of_path(name)) is not None:
        raise UnreachableError(f'fine_tuning.model_name = "{name}": {problem}.')


def locate(name: str, progress: LoadProgress) -> tuple[str, dict[str, str]]:
    """Return what to hand to ``from_pretrained``, and the extra argument that a GGUF file needs.

    The built-in model is fetched if need be. Raises `UnreachableError` as `check_source` does, without a look at files.
    """
    if name == BUILTIN:
        return str(ensure_builtin(progress)), {}
    _check_path(name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    return (str(path) if path.is_dir() else name), {}


def may_be_fetched(name: str) -> bool:
    """Return whether a model of the hub is on this machine or could be fetched, as far as is known without asking."""
    return isinstance(_local_config(name), Path) or not _is_offline()


def fetch_config(name: str) -> bool:
    """Fetch the config.json of a model on the hub, a few kB, unless it is here; returns whether it is now.

    Blocks for up to about ten seconds. Whatever keeps it from coming is left to loading the model to report.
    """
    if name == BUILTIN or not isinstance(_local_config(name), str) or _problem_of_path(name) is not None:
        return isinstance(_local_config(name), Path)
    if _is_offline() or Path(name).expanduser().suffix == ".gguf":
        return False
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name, "config.json", etag_timeout=5)
    except Exception as problem:  # noqa: BLE001  # its own, httpx's and the system's: there is no common one
        log.info("the config.json of %s cannot be fetched: %s", name, problem)
        return False
    return True


def _is_offline() -> bool:
    """Whether the environment says that the hub is not to be asked."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return bool(HF_HUB_OFFLINE)


_CACHE: dict[tuple[Path, int, int], Architecture | str] = {}
"""The last config.json that was read, by path, time of change and size: a form asks again with each key."""


def find_architecture(name: str) -> Architecture | str:
    """Return the architecture of the model that ``fine_tuning.model_name`` names, or why it is not known."""
    try:
        config = _local_config(name)
        if isinstance(config, str):
            return config
        status = config.stat()
    except OSError as problem:
        return f"its config.json cannot be read: {problem.strerror}"
    key = (config, status.st_mtime_ns, status.st_size)
    if key not in _CACHE:
        _CACHE.clear()
        _CACHE[key] = _read_architecture(config)
    return _CACHE[key]


def _problem_of_path(name: str) -> str | None:
    """Return why there is no model at the path `name`; None where there is one, or `name` is one on the hub."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return None if path.is_file() else "there is no such file"
    if path.is_dir():
        return None if (path / "config.json").is_file() else "the folder holds no config.json, so it is not a model"
    return "there is no such folder" if name.startswith(("/", "./", "../", "~")) else None


def _local_config(name: str) -> Path | str:
    """Return the config.json of a model that lies on this machine, or why there is none. Raises `OSError`."""
    if name == BUILTIN:
        folder = cached_folder()
        return "the built-in model is fetched when it is first used" if folder is None else folder / "config.json"
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return "a .gguf file is opened when training begins"
    if (problem := _problem_of_path(name)) is not None:
        return problem
    return path / "config.json" if path.is_dir() else _in_hub_cache(name)


def _in_hub_cache(name: str) -> Path | str:
    from huggingface_hub import try_to_load_from_cache  # a sixth of a second, for names on the hub alone
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return "there is no such folder, and a name on the hub is owner/model"
    return Path(found) if isinstance(found, str) else "it is fetched from the Hugging Face hub when training begins"


def _read_architecture(config: Path) -> Architecture | str:
    """Return the architecture that a config.json tells, or why it does not."""
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
        return architecture_of(content)
    except UnknownArchitectureError as problem:
        return str(problem)
