"""Where a base model is read from, and whether it is there: what can be told of a name without loading anything."""

from pathlib import Path

from lora_tui.engine.models.builtin import BUILTIN, Progress, ensure_builtin
from lora_tui.errors import UnreachableError


def locate(name: str, progress: Progress) -> tuple[str, dict[str, str]]:
    """Return what to hand to ``from_pretrained``, and the extra argument that a GGUF file needs.

    The built-in model is fetched if need be. Raises `UnreachableError` as `check_source` does.
    """
    if name == BUILTIN:
        return str(ensure_builtin(progress)), {}
    check_source(name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    return (str(path) if path.is_dir() else name), {}


def check_source(name: str) -> None:
    """Raise `UnreachableError` where `name` is a path and no model is there. A name on the hub is not looked up."""
    path = Path(name).expanduser()
    missing = None
    if path.suffix == ".gguf":
        missing = None if path.is_file() else "there is no such file"
    elif path.is_dir():
        missing = None if (path / "config.json").is_file() else "the folder holds no config.json, so it is not a model"
    elif name.startswith(("/", "./", "../", "~")):
        missing = "there is no such folder"
    if missing is not None and name != BUILTIN:
        raise UnreachableError(f'fine_tuning.model_name = "{name}": {missing}.')
