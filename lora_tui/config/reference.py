"""Generator of the documented configuration file: every key at its default, its description as the comment above it;
and of its JSON schema.

``config.toml`` at the project's root is this text (a test holds the two together), so a description is written once,
in `models`, and the file cannot lag behind the program.
"""

import json
from decimal import Decimal
from textwrap import wrap
from typing import Any

import tomli_w

from lora_tui.config.keys import all_keys, all_sections, open_tables, plain_value
from lora_tui.config.models import Settings

_WIDTH = 116

_HEADER = """\
# The configuration of lora-tui: every key, at its default. Copy what you want to change; the rest may be left out.
#
# Looked for in this order: --config FILE, ./config.toml, config.toml in the user's configuration folder, defaults.
# A single key is changed with --set fine_tuning.lora.r=8 or LORA_TUI__FINE_TUNING__LORA__R=8 in the environment.
# Secrets never go in here: export OPENAI_API_KEY=… (or the variable that data_generation.api_key_env names).
"""


def reference_text() -> str:
    """Return the documented configuration file as text."""
    parts = [_HEADER]
    for name, model in all_sections().items():
        keys = [key for key in all_keys().values() if key.section == name]
        tables = [key for key in keys if key.name in open_tables()]
        parts.append(f"\n{comment(model.__doc__ or '')}[{name}]\n")
        parts += [
            f"{comment(key.description)}{key.leaf} = {toml_value(key.default)}\n" for key in keys if key not in tables
        ]
        for key in tables:
            parts.append(f"\n{comment(key.description)}[{key.name}]\n")
            parts += [f"{toml_key(word)} = {toml_value(reply)}\n" for word, reply in key.default.items()]
    return "".join(parts)


def schema_text() -> str:
    """Return the JSON schema of the configuration, for editors that check TOML as it is typed.

    Made from the same models as the file: types, bounds, allowed values, descriptions and defaults of every key.
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    return json.dumps({**schema, "title": "Configuration of lora-tui"}, indent=2, ensure_ascii=False) + "\n"


def toml_value(value: Any, *, on_one_line: bool = False) -> str:
    """Return a key's value as TOML: lists on one line where they fit, small numbers with an exponent (2e-4)."""
    value = plain_value(value)
    if isinstance(value, list):
        items = [toml_value(item, on_one_line=True) for item in value]
        line = f"[{', '.join(items)}]"
        short = on_one_line or len(line) <= _WIDTH // 2
        return line if short else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    if isinstance(value, dict):
        pairs = [f"{toml_key(name)} = {toml_value(inner, on_one_line=True)}" for name, inner in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return f"{Decimal(repr(value)):e}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def toml_key(*path: str) -> str:
    """Return a key as TOML, dotted where it has several parts, each in quotes where it needs them."""
    return ".".join(tomli_w.dumps({part: 0}).removesuffix(" = 0\n") for part in path)


def comment(text: str) -> str:
    """Return text as the lines of a comment."""
    return "".join(f"# {line}\n" for line in wrap(text, _WIDTH - 2))
