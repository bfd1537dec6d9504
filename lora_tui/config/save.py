"""Writer of the configuration file: saves changed keys, whole or not at all.

Only the keys that are named change; all others stay as the file has them at that moment, so an edit made elsewhere in
the meantime is kept, and so are comments, order and style. The new content is checked before anything is written, and
takes the old file's place in one step (see `lora_tui.files`).
"""

import codecs
import tomllib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from lora_tui.config.document import Document, read_document
from lora_tui.config.keys import all_sections, plain_value
from lora_tui.config.load import KeyPath, check_values, key_path, source_in
from lora_tui.config.paths import private_folder
from lora_tui.config.problems import Source
from lora_tui.errors import LoraTuiError
from lora_tui.files import UnwritableError, write_atomically
from lora_tui.text import one_line


@dataclass(frozen=True, slots=True)
class Saved:
    """The file that was written, links followed, and whether its comments, order and style are what they were.

    They are lost only where the text could not be changed in place; the values are right either way.
    """

    path: Path
    kept_style: bool


def save_keys(path: Path, changes: Mapping[str, Any]) -> Saved:
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
    paths = {key_path(name) for name in changes}
    wanted = deepcopy(document.values)
    for name, value in changes.items():
        _put(wanted, key_path(name), plain_value(value))

    def source_of(key: KeyPath) -> Source:
        return Source("the change") if any(key[: len(path)] == path for path in paths) else source_in(document)(key)

    check_values(wanted, source_of)
    text = _in_its_style(document, wanted)
    try:
        private_folder(target.parent)
        content = _encoded(tomli_w.dumps(wanted) if text is None else text, document)
        write_atomically(target, content, own=True)
    except (OSError, UnwritableError) as problem:
        why = problem.reason if isinstance(problem, UnwritableError) else problem.strerror or str(problem)
        raise LoraTuiError(
            f"{one_line(str(path), 200)} cannot be saved: {why}. Nothing was changed in it."
        ) from problem
    return Saved(target, kept_style=text is not None or not document.text.strip())


def _in_its_style(document: Document, wanted: dict[str, Any]) -> str | None:
    """Return the file's text with the least changed, or None where there is none or it cannot be changed in place."""
    if not document.text.strip():
        return None
    from tomlkit.exceptions import TOMLKitError  # only a save needs it, and it takes a while to load

    from lora_tui.config.edit import edit_text, same_toml

    text = document.text.replace("\r\n", "\n") if _windows_lines(document.text) else document.text
    try:
        changed = edit_text(text, document.values, wanted)
        right = same_toml(_without_empty_sections(tomllib.loads(changed)), _without_empty_sections(wanted))
    except (TOMLKitError, ValueError, RecursionError):
        return None
    return changed if right else None


def _encoded(text: str, document: Document) -> bytes:
    """Return the bytes of a file with the line ends and the byte order mark that it had."""
    if _windows_lines(document.text):
        text = text.replace("\n", "\r\n")
    return (codecs.BOM_UTF8 if document.marked else b"") + text.encode()


def _windows_lines(text: str) -> bool:
    return "\n" in text and text.count("\n") == text.count("\r\n")


def _without_empty_sections(values: Mapping[str, Any], above: KeyPath = ()) -> dict[str, Any]:
    """Leave out sections without keys, which mean nothing; an empty table of the user's own words means "none"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if ".".join((*above, name)) in all_sections() and isinstance(value, dict):
            if inner := _without_empty_sections(value, (*above, name)):
                found[name] = inner
        else:
            found[name] = value
    return found


def _put(values: dict[str, Any], path: KeyPath, value: Any) -> None:
    for part in path[:-1]:
        if value is None and part not in values:
            return
        if not isinstance(inner := values.setdefault(part, {}), dict):
            return  # the file has a value where a section belongs; the check that follows names it
        values = inner
    if value is None:
        values.pop(path[-1], None)
    else:
        values[path[-1]] = value
