"""One TOML statement, changed in its own style: its comment, its spaces, and what else it holds stay as they are.

This is the only module that imports tomlkit, and it gives it a single statement at a time. Whole files stay out of its
reach: it would put a new key below the comment that belongs to the next section.
"""

from difflib import SequenceMatcher
from typing import Any

import tomlkit
from tomlkit.items import Array, Item

from lora_tui.config.document import parse_key
from lora_tui.config.reference import toml_key, toml_value


def key_of(statement: str) -> tuple[str, ...]:
    """Return the parts of the key of a pair, ``a."b c" = 1``. Raises `ValueError` where the statement is none."""
    for at, character in enumerate(statement):
        if character == "=":
            try:
                return parse_key(statement[:at])
            except ValueError:  # an equals sign inside a quoted key
                continue
    raise ValueError("not a pair of key and value")


def new_pair(path: tuple[str, ...], value: Any) -> str:
    """Return the statement that gives the dotted key `path` its value."""
    return f"{toml_key(*path)} = {toml_value(value)}\n"


def with_value(statement: str, path: tuple[str, ...], value: Any) -> str:
    """Return a pair with the value at `path` set, which is its own key or lies in its inline table."""
    document = tomlkit.parse(statement)
    table: Any = document
    for part in path[:-1]:
        if part not in table:
            table[part] = tomlkit.inline_table()
        table = table[part]
    current = table.get(path[-1])
    if isinstance(current, Array) and isinstance(value, list) and value:
        _update(current, value)
    else:
        table[path[-1]] = _item(value, on_one_line=len(path) > len(key_of(statement)))
    return tomlkit.dumps(document)


def without(statement: str, path: tuple[str, ...]) -> str:
    """Return a pair without the key at `path`, which lies in its inline table."""
    document = tomlkit.parse(statement)
    table: Any = document
    for part in path[:-1]:
        table = table[part]
    del table[path[-1]]
    return tomlkit.dumps(document)


def _item(value: Any, *, on_one_line: bool = False) -> Item:
    """Return the value in the form of the documented file (2e-4, long lists over several lines)."""
    item = tomlkit.parse(f"value = {toml_value(value, on_one_line=on_one_line)}").item("value")
    assert isinstance(item, Item), "a single pair is no table out of order"
    return item


def _update(array: Array, wanted: list[Any]) -> None:
    """Turn an array into `wanted`, item by item, so that comments stay beside the items that stay."""
    before = [repr(item) for item in array.unwrap()]
    steps = SequenceMatcher(a=before, b=[repr(item) for item in wanted], autojunk=False).get_opcodes()
    for step, first, last, new_first, new_last in reversed(steps):
        if step == "equal":
            continue
        new = wanted[new_first:new_last]
        for place, value in zip(range(first, last), new, strict=False):
            array[place] = _item(value, on_one_line=True)
        for place in range(last - 1, first + len(new) - 1, -1):
            del array[place]
        for offset, value in enumerate(new[last - first :]):
            array.insert(last + offset, _item(value, on_one_line=True))
