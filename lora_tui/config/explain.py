"""Configuration keys as form fields: a section's title, advice on a value, and the value as one editable line.

`format_value` writes a value into a field of one line, `parse_edit` reads what somebody has typed into it. Text and
lists of texts go without quotes and brackets where that is clear; everything else is TOML.
"""

import re
from contextlib import suppress
from typing import Any

from lora_tui.config.advice import advise
from lora_tui.config.document import parse_value
from lora_tui.config.keys import all_keys, open_tables, plain_value
from lora_tui.config.load import KeyPath, key_path, key_problem
from lora_tui.config.models import Settings
from lora_tui.config.problems import dotted
from lora_tui.config.reference import toml_value
from lora_tui.errors import ConfigError

SECTION_TITLES: dict[str, str] = {
    "data_generation": "Generation",
    "data_generation.generation": "Writing pairs",
    "data_generation.evaluation": "Judging pairs",
    "data_generation.batch_analysis": "Analysis of batches",
    "data_generation.adaptive_aggregator": "Score of pairs",
    "data_generation.mix": "Texts beside the pairs",
    "fine_tuning": "Fine-tuning",
    "fine_tuning.lora": "LoRA",
    "fine_tuning.optimizer": "Optimizer",
    "fine_tuning.scheduler": "Learning rate",
    "fine_tuning.training": "Training",
    "fine_tuning.sampling": "Sampling",
    "fine_tuning.preferences": "Preferences",
    "fine_tuning.evaluation": "Evaluation",
    "fine_tuning.evaluation.adaptive_aggregator": "Score of evaluations",
    "fine_tuning.chat": "Chat",
    "serving": "Server",
    "logging": "Log file",
    "notify": "When it has ended",
    "app": "App",
}
"""What each section is called on a screen, in the order of the documented file."""

_ITEM = re.compile(r"""\s*(?P<item>"(?:[^"\\]|\\.)*"|'[^']*'|[^,]*?)\s*(?:,|$)""")


def advice_for(settings: Settings, key: str, **known: Any) -> list[str]:
    """Return the lines of `advise` that belong to the key; what is `known` of the run is as there."""
    return [line for line in advise(settings, **known) if line.startswith(f"{key} = ")]


def parse_edit(key: str, text: str) -> Any:
    """Return the value that somebody means who types `text` for the dotted `key`, in a form that TOML can hold.

    A word of an open table (``fine_tuning.chat.commands.unlock``) is a key as well. Raises `ConfigError`, which begins
    with the key's name, where the text is no value of its kind or an impossible one; whether it agrees with the other
    keys is checked by `with_values`.
    """
    path = key_path(key)
    try:
        value = _parse_for_key(path, text.strip())
    except ValueError as problem:
        raise ConfigError(f"{dotted(path)} {problem}.") from None
    if (problem_text := key_problem(path, value)) is not None:
        raise ConfigError(problem_text)
    return float(value) if isinstance(_default(path), float) and isinstance(value, int) else value


def format_value(key: str, value: Any) -> str:
    """Return a value of the dotted `key` as one line that `parse_edit` turns into the same value."""
    value = plain_value(value)
    if isinstance(value, str):
        return value if _is_bare(value) else toml_value(value)
    if isinstance(value, list) and value and all(isinstance(item, str) and _is_bare_item(item) for item in value):
        line = ", ".join(value)
        # A list of one word must not be taken for the word, which may be a value as well ("all-linear").
        if len(value) > 1 or key_problem(key_path(key), line) is not None:
            return line
    return "" if value in ([], {}) else toml_value(value, on_one_line=True)


def _default(path: KeyPath) -> Any:
    """Return the default of the key at `path`, empty text or 0 for a word of an open table, None for what is no key."""
    if (table := ".".join(path[:-1])) in open_tables():
        return (all_keys()[table].word or str)()
    key = all_keys().get(".".join(path))
    return None if key is None else key.default


def _parse_for_key(path: KeyPath, text: str) -> Any:
    match _default(path):
        case str():
            return parse_value(text) if text[:1] in ('"', "'") else text
        case list():
            return _list(path, text)
        case dict():
            return _table(path, text)
        case bool():
            return parse_value(text.lower() if text.lower() in ("true", "false") else text)
        case (int() | float()) as default if isinstance(parse_value(text), str):
            # Numbers that are clear and no TOML, such as ".5" and "08"; other text stays text, to be refused as such.
            with suppress(ValueError):
                return type(default)(text)
    return parse_value(text)


def _list(path: KeyPath, text: str) -> Any:
    if text.startswith("["):
        return parse_value(text)
    if not text:
        return []
    try:
        listed = parse_value(f"[{text}]")
    except ValueError:
        listed = []
    if listed and all(isinstance(item, str | dict) for item in listed):
        return listed
    if key_problem(path, text) is None:
        return text
    items = [found["item"] for found in _ITEM.finditer(text)][:-1]  # behind the last item an empty one is found
    return [parse_value(item) if item[:1] in ('"', "'") else item for item in items]


def _table(path: KeyPath, text: str) -> Any:
    if not text:
        return {}
    try:
        value = parse_value(text if text.startswith("{") else f"{{ {text} }}")
    except ValueError:
        word = "8" if all_keys()[".".join(path)].word is int else '"text"'
        raise ValueError(f"must be written as name = {word}, with a comma between two of them") from None
    return value


def _is_bare(text: str) -> bool:
    """Return whether text can stand without quotes where text is expected."""
    return text == text.strip() and text.isprintable() and text[:1] not in ('"', "'")


def _is_bare_item(text: str) -> bool:
    """Return whether text can stand without quotes in a list."""
    return bool(text) and _is_bare(text) and "," not in text and text[0] not in "[{"
