"""Saving changed keys to a configuration file, whole or not at all.

Only the keys that are named change; all others stay as the file has them at that moment, so an edit made elsewhere in
the meantime is kept. The new content is checked before anything is written, goes to a temporary file in the same
folder, reaches the disk, and takes the old file's place in one step. Comments of the file are not kept yet.
"""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from lora_tui.config.document import Document, read_document
from lora_tui.config.keys import all_keys, plain_value, settings_value
from lora_tui.config.load import KeyPath, check_values, source_in
from lora_tui.config.models import Settings
from lora_tui.config.paths import private_folder
from lora_tui.config.problems import Source
from lora_tui.errors import LoraTuiError
from lora_tui.text import one_line

_NEW_FILE_MODE = 0o600


def changed_keys(settings: Settings) -> dict[str, Any]:
    """Return the values that differ from the defaults, by dotted key, in forms that TOML can hold."""
    values = {name: settings_value(settings, name) for name in all_keys()}
    return {name: plain_value(value) for name, value in values.items() if value != all_keys()[name].default}


def save_keys(path: Path, changes: Mapping[str, Any]) -> None:
    """Set each dotted key of `changes` in the file at `path` to its value; None takes the key out again.

    The file and its folder are created (for the user alone) where they are missing; a file keeps its mode, and a link
    stays a link to the file that it names. Raises `ConfigError` when the result would not load, with nothing written,
    and `LoraTuiError` when it cannot be written.
    """
    target = path.resolve()
    try:
        document = read_document(target)
    except FileNotFoundError:
        document = Document(one_line(str(path), 200), "", {})
    paths = {tuple(name.split(".")) for name in changes}
    for name, value in changes.items():
        _put(document.values, tuple(name.split(".")), plain_value(value))

    def source_of(key: KeyPath) -> Source:
        return Source("the change") if any(key[: len(path)] == path for path in paths) else source_in(document)(key)

    check_values(document.values, source_of)
    try:
        private_folder(target.parent)
        _replace(target, tomli_w.dumps(document.values).encode())
    except OSError as problem:
        why = problem.strerror or str(problem)
        raise LoraTuiError(
            f"{one_line(str(path), 200)} cannot be saved: {why}. Nothing was changed in it."
        ) from problem


def _put(values: dict[str, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(inner := values.setdefault(part, {}), dict):
            return  # the file has a value where a section belongs; the check that follows names it
        values = inner
    if value is None:
        values.pop(path[-1], None)
    else:
        values[path[-1]] = value


def _replace(target: Path, content: bytes) -> None:
    """Put `content` in the place of the file `target`, which at every moment is the old or the new one. `OSError`."""
    mode = target.stat().st_mode & 0o7777 if target.exists() else _NEW_FILE_MODE
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".new")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where the file system lets folders be synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
