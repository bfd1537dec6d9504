"""What a sweep's settings are called and how their values are written; small, for both sides."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from lora_tui.protocol.choice import value_text


def axis_names(points: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what each dotted key of a sweep is called in a table: its last part, where no two are called the same."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def varied_names(points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the same for the keys alone in which the points differ; for all where none does."""
    names = axis_names(points)
    varied = {key: name for key, name in names.items() if any(p.get(key) != points[0].get(key) for p in points)}
    return varied or names


def point_text(point: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return what a run sets in words: "lora_lr 1e-4, r 8"."""
    return ", ".join(f"{names[key]} {setting_text(key, value)}" for key, value in point.items())


def setting_text(key: str, value: Any) -> str:
    """Return a value of a sweep as it is shown; learning rates as powers of ten, however large."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float) and value and key.endswith("_lr"):
        return f"{Decimal(repr(value)).normalize():E}".replace("E-0", "e-").replace("E", "e")
    return value_text(value)
