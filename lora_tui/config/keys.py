"""Flat index of the configuration: every key by its dotted name, read off the pydantic models.

The documented ``config.toml``, the app's Configuration screen, the suggestions for misspelt keys and the tests all ask
here, so a key that is added to a model appears everywhere. Nothing here reads files or words error messages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from lora_tui.config.models import PromptCheck, Settings
from lora_tui.config.values import LARGEST, Kind, Section

_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
"""What pydantic's names of bounds are called, in the order in which they are told."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what the app needs to show it and to edit it."""

    name: str
    """Dotted, with its sections: ``fine_tuning.lora.r``."""
    kind: str
    """What a value is, in words that follow "must be": "a whole number", "text", ``"cosine" or "linear"``."""
    default: Any
    description: str
    bounds: str
    """In words, such as "at least 0, below 1"; empty where every value of the kind is possible."""
    choices: tuple[str, ...]
    """The values that can be picked from, where there is a closed list; empty otherwise."""
    word: type | None
    """What the words of an open table stand for, such as ``str`` or ``int``; None for every other key."""

    @property
    def section(self) -> str:
        """The dotted section: ``fine_tuning.lora``."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """The key's own name: ``r``."""
        return self.name.rpartition(".")[2]


@cache
def all_keys() -> dict[str, Key]:
    """Return every key by its dotted name, in the order of the documented configuration file."""
    return {key.name: key for key in _walk(Settings(), "")}


@cache
def open_tables() -> tuple[str, ...]:
    """Return the keys whose value is a table of the user's own words, which can be set one by one."""
    return tuple(key.name for key in all_keys().values() if isinstance(key.default, dict))


def join_open_word(path: Sequence[str]) -> tuple[str, ...]:
    """Return `path` with what follows an open table as one word: ``app.keys.train.stop`` names "train.stop"."""
    for table in open_tables():
        length = table.count(".") + 1
        if ".".join(path[:length]) == table and len(path) > length:
            return (*path[:length], ".".join(path[length:]))
    return tuple(path)


@cache
def all_sections() -> dict[str, type[Section]]:
    """Return the model of every section by its dotted name, in the order of the documented configuration file."""
    return dict(_walk_sections(Settings, ""))


def settings_value(settings: Settings, name: str) -> Any:
    """Return the value of the dotted key `name`. Raises `AttributeError` for a key that does not exist."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def plain_value(value: Any) -> Any:
    """Return a key's value as TOML can hold it: test prompts with a measure of their own become tables."""
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    return value.model_dump(exclude_none=True) if isinstance(value, PromptCheck) else value


def _walk_sections(model: type[Section], prefix: str) -> Iterator[tuple[str, type[Section]]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield prefix + name, field.annotation
            yield from _walk_sections(field.annotation, f"{prefix}{name}.")


def _walk(section: Section, prefix: str) -> Iterator[Key]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield Key(
                name=prefix + name,
                kind=_kind(field),
                default=value,
                description=field.description or "",
                bounds=_bounds(field),
                choices=_choices(field),
                word=_word(field),
            )


def _choices(field: FieldInfo) -> tuple[str, ...]:
    return tuple(get_args(field.annotation)) if get_origin(field.annotation) is Literal else ()


def _word(field: FieldInfo) -> type | None:
    if get_origin(field.annotation) is not dict:
        return None
    content = get_args(field.annotation)[1]
    found: type = getattr(content, "__origin__", content)
    return found


def _kind(field: FieldInfo) -> str:
    for entry in field.metadata:
        if isinstance(entry, Kind):
            return entry.text
    if choices := _choices(field):
        quoted = [f'"{choice}"' for choice in choices]
        return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
    if get_origin(field.annotation) is list:
        return "a list of texts"
    return _KINDS[field.annotation]


def _bounds(field: FieldInfo) -> str:
    found = {name: getattr(entry, name) for entry in field.metadata for name in BOUNDS if hasattr(entry, name)}
    return ", ".join(
        f"{words} {found[name]:g}" for name, words in BOUNDS.items() if found.get(name, LARGEST) != LARGEST
    )
