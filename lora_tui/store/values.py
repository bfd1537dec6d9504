"""Values on their way between Python and SQLite: rows as dataclasses, JSON, and text that UTF-8 can hold.

Nothing here touches a connection. A run that generates passes here for hundreds of rows a second, so what a kind of row
looks like is found out once, and a value that can be stored as it is is not copied. Small, and apart from the
connection, which is long enough.
"""

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def to_json(value: object) -> str:
    """Return `value` as the store writes it: JSON without NaN, which SQLite's JSON functions refuse."""
    return _ENCODER.encode(value)


def storable(parameters: Iterable[Any]) -> tuple[Any, ...]:
    """Replace lone surrogates, which SQLite's UTF-8 cannot hold, in the text among the parameters."""
    values = tuple(parameters)
    for value in values:
        if isinstance(value, str) and not value.isascii():
            break
    else:
        return values
    return tuple(value.encode(errors="replace").decode() if isinstance(value, str) else value for value in values)


@lru_cache(maxsize=256)
def fields_of(row_type: "type[DataclassInstance]", columns: tuple[str, ...]) -> Callable[[sqlite3.Row], Sequence[Any]]:
    """Return what picks the fields of a dataclass out of rows with these columns.

    By place: to look each up by its name takes far longer.
    """
    places = [columns.index(name) for name in field_names(row_type)]
    return itemgetter(*places) if len(places) > 1 else lambda row: [row[place] for place in places]


@lru_cache(maxsize=64)
def field_names(row_type: "type[DataclassInstance]") -> tuple[str, ...]:
    """Return the names of a dataclass's fields."""
    return tuple(field.name for field in dataclasses.fields(row_type))


def columns_of(row: "DataclassInstance") -> dict[str, Any]:
    """Return the fields of a row by their names, as they are: `dataclasses.asdict` copies each all the way down."""
    return {name: getattr(row, name) for name in field_names(type(row))}
