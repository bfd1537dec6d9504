"""The settings of a sweep: axes of values whose combinations are tried, and points that are listed one by one.

``--sweep KEY=VALUE,VALUE`` is an axis; several multiply. A TOML file has ``[axes]`` of keys with lists of values, and
``[[points]]`` of keys with values; each point is combined with every combination of the axes:

    [axes]
    fine_tuning.optimizer.lora_lr = [1e-4, 3e-4, 1e-3]

    [[points]]
    fine_tuning.lora.r = 8
    fine_tuning.lora.alpha = 16
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from lora_tui.config.document import parse_key, parse_value, read_document
from lora_tui.config.keys import all_keys
from lora_tui.errors import UsageError
from lora_tui.text import one_line

MOST_RUNS = 200
"""Runs that a sweep may have."""

_MOST_COMBINATIONS = 10 * MOST_RUNS
"""Combinations that are laid out to see which are the same: a slip of the hand makes millions."""

_SECTION = "fine_tuning."
_FORM = 'write --sweep "KEY=VALUE,VALUE", such as "fine_tuning.optimizer.lora_lr=1e-4,3e-4", or name a TOML file'


def read_sweep(specs: Sequence[str]) -> list[dict[str, Any]]:
    """Return the points that these options make: what each run sets, by dotted key. Raises `UsageError`."""
    axes: dict[str, list[Any]] = {}
    listed: list[dict[str, Any]] = []
    for spec in specs:
        found, points = _read_file(Path(spec)) if _is_file(spec) else (_read_axis(spec), [])
        for key in found:
            if key in axes:
                raise UsageError(f"--sweep has {key} twice; give all of its values at once.")
        axes |= found
        listed += points
    for key in axes:
        if any(key in point for point in listed):
            raise UsageError(f"--sweep has {key} in [axes] and in [[points]]; give it in one of them.")
    number_of = max(1, len(listed)) * prod(len(values) for values in axes.values())
    if number_of > _MOST_COMBINATIONS:
        raise UsageError(f"--sweep makes {number_of:,} runs; {MOST_RUNS} are the most. Take fewer values.")
    combinations = [
        {**point, **dict(zip(axes, values, strict=True))}
        for point in listed or [{}]
        for values in product(*axes.values())
    ]
    points = [point for number, point in enumerate(combinations) if point not in combinations[:number]]
    if len(points) > MOST_RUNS:
        raise UsageError(f"--sweep makes {len(points):,} runs; {MOST_RUNS} are the most. Take fewer values.")
    if len(points) < 2:
        raise UsageError(f"--sweep has one run alone: {_FORM}.")
    return points


def _is_file(spec: str) -> bool:
    return "=" not in spec and (spec.endswith(".toml") or Path(spec).is_file())


def _read_axis(spec: str) -> dict[str, list[Any]]:
    name, equals, text = spec.partition("=")
    if not equals or not text.strip():
        raise UsageError(f"--sweep {one_line(spec, 80)!r}: {_FORM}.")
    try:
        key = ".".join(parse_key(name))
    except ValueError:
        raise UsageError(f"--sweep {one_line(spec, 80)!r}: {_FORM}.") from None
    try:
        return {_known(key, "--sweep"): _values(text)}
    except ValueError as problem:
        raise UsageError(f"--sweep {one_line(spec, 80)!r} {problem}.") from None


def _values(text: str) -> list[Any]:
    """Return the values of a list with commas: TOML's, or bare words."""
    try:
        found = parse_value(f"[{text}]")
        return list(found)
    except ValueError:
        return [parse_value(part) for part in map(str.strip, text.split(",")) if part]


def _read_file(path: Path) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    name = one_line(str(path), 100)
    try:
        values = read_document(path.expanduser()).values
    except FileNotFoundError:
        raise UsageError(f"--sweep: there is no file {name}.") from None
    if unknown := sorted(set(values) - {"axes", "points"}):
        raise UsageError(f"{name}: a sweep has [axes] and [[points]], not {one_line(unknown[0], 40)}.")
    axes, points = values.get("axes", {}), values.get("points", [])
    if not isinstance(axes, Mapping) or not isinstance(points, list) or not all(isinstance(p, Mapping) for p in points):
        raise UsageError(f"{name}: [axes] holds keys with lists of values, each [[points]] keys with one value.")
    found: dict[str, list[Any]] = {}
    for key, choices in _flat(axes):
        if not isinstance(choices, list) or not choices:
            raise UsageError(f"{name}: {key} in [axes] needs a list of values, such as [8, 16].")
        found[_known(key, name)] = choices
    return found, [{_known(key, name): value for key, value in _flat(point)} for point in points]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a table of tables with their values."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in all_keys():
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _known(key: str, where: str) -> str:
    """Return a key, where a sweep may set it; whether there is one of that name is checked with its values."""
    if not key.startswith(_SECTION):
        meant = [name for name in all_keys() if name.startswith(_SECTION) and name.endswith(f".{key}")]
        hint = f" Did you mean {meant[0]}?" if len(meant) == 1 else ""
        raise UsageError(f"{where}: a sweep trains, so its keys begin with {_SECTION}, not {one_line(key, 60)}.{hint}")
    return key
