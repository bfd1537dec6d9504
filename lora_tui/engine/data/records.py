"""Parsers of JSON Lines, JSON documents and CSV tables into records with named fields and line numbers.

What the fields mean is decided in `forms`. Everything here raises `Malformed` with the line at fault.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lora_tui.engine.data.forms import (
    EXAMPLE_FORMS,
    Fields,
    Form,
    FormSet,
    Malformed,
    form_of,
    form_of_fields,
    lower_keys,
)
from lora_tui.text import count, one_line

_WHITESPACE = " \t\n"
_FIX = "Correct it or remove it."
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_FIX_LINE = "Correct the line or remove it."
_TOO_DEEP = "nested too deeply"
_TOO_LONG = "an integer of more than 4,300 digits"  # what int() refuses, to keep hostile input from costing hours


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its fields with keys in lower case, its form, and its place in the file."""

    fields: Fields
    form: Form[Any]
    line: int | None
    number: int
    """Counts from 1."""


class InvalidJson(Malformed):
    """The text is not JSON; `fault` is the decoder's error with its column."""

    def __init__(self, fault: str, line: int | None = None) -> None:
        super().__init__(f"not valid JSON ({fault})", line)
        self.fault = fault


def decode_json(text: str) -> Any:
    """Return the JSON value in `text`; raises `InvalidJson`, whose `line` counts within `text`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidJson(f"{error.msg}, column {error.colno}", error.lineno) from error
    except RecursionError as error:
        raise InvalidJson(_TOO_DEEP) from error
    except ValueError as error:
        raise InvalidJson(_TOO_LONG) from error


def json_lines(lines: Sequence[str], forms: FormSet[Any] = EXAMPLE_FORMS) -> Iterator[Record]:
    """Yield the records of JSON Lines: one object of a known form a line, blank lines ignored. Raises `Malformed`."""
    number = 0
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        number += 1
        try:
            value = decode_json(text)
        except Malformed as error:
            raise Malformed(f"{error}. {_FIX_LINE}", line) from error
        yield _record(value, number, line, forms)


def json_document(text: str, forms: FormSet[Any] = EXAMPLE_FORMS) -> Iterator[Record]:
    """Yield the records of one JSON value: a list of objects, an object with one list inside, or a single record.

    Records of a list know their line; those of a list inside an object know their number only. Raises `Malformed` where
    the document is not valid JSON, or a record in it is not an object of a known form.
    """
    if text.lstrip(_WHITESPACE).startswith("["):
        for number, (line, value) in enumerate(_list_items(text), start=1):
            yield _record(value, number, line, forms)
        return
    try:
        document = decode_json(text)
    except InvalidJson as error:
        raise Malformed(f"{error}. {_FIX_LINE}", error.line) from error
    if not isinstance(document, dict):
        raise Malformed("expected a list of records", 1)
    try:
        form = form_of_fields(lower_keys(document), forms)
    except Malformed:
        for number, value in enumerate(_only_list(document, forms), start=1):
            yield _record(value, number, None, forms)
    else:
        yield Record(lower_keys(document), form, 1, 1)


def csv_rows(lines: Sequence[str], forms: FormSet[Any] = EXAMPLE_FORMS) -> Iterator[Record]:
    """Yield the rows of a table with a header, separated by commas, semicolons or tabs, whichever fits the header.

    The header alone identifies the form. A cell may hold line breaks in quotes; a conversation is JSON in its cell.
    Raises `Malformed` where the header identifies no form, or a row is not valid CSV or has another number of cells.
    """
    csv.field_size_limit(2**31 - 1)  # a cell is as long as an answer is; the module's own limit is 131,072
    at = next((index for index, line in enumerate(lines) if line.strip()), 0)
    if (table := table_form(lines[at], forms)) is None:
        raise Malformed(
            f"the header '{one_line(lines[at], 80)}' tells no known form; expected columns {forms.expected}", at + 1
        )
    form, delimiter = table
    # Strict, or a quote that is never closed would swallow the rest of the file as one cell.
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 0
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise Malformed(f"not valid CSV ({error}). Correct the row that begins here or remove it.", line) from error
        if row is None:
            return
        if not row:
            continue
        if not header:
            header = row
            continue
        number += 1
        if len(row) != len(header):
            raise Malformed(
                f"the row has {count(len(row), 'cell')}, the header {len(header)}. "
                f"Put quotes around a cell that holds {_DELIMITERS[delimiter]}.",
                line,
            )
        yield Record(_table_fields(header, row, form, line), form, line, number)


def _record(value: Any, number: int, line: int | None, forms: FormSet[Any]) -> Record:
    if not isinstance(value, dict):
        raise Malformed(f"not an object; expected one with the keys {forms.expected}. {_FIX}", line, number)
    fields = lower_keys(value)
    try:
        return Record(fields, form_of_fields(fields, forms), line, number)
    except Malformed as error:
        raise Malformed(f"{error}. {_FIX}", line, number) from error


def _list_items(text: str) -> Iterator[tuple[int, Any]]:
    """Yield line and value of each item of the list that `text` holds, decoding one item at a time."""
    decoder = json.JSONDecoder()
    at = _skip_space(text, text.index("[") + 1)
    line = 1 + text.count("\n", 0, at)
    closed = text[at : at + 1] == "]"
    while not closed:
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _invalid(text, error.pos, error.msg) from error
        except RecursionError as error:
            raise _invalid(text, at, _TOO_DEEP) from error
        except ValueError as error:
            raise _invalid(text, at, _TOO_LONG) from error
        yield line, value
        separator = _skip_space(text, end)
        if text[separator : separator + 1] not in (",", "]"):
            raise _invalid(text, separator, "Expecting ',' or ']'")
        closed = text[separator] == "]"
        following = separator if closed else _skip_space(text, separator + 1)
        line += text.count("\n", at, following)
        at = following
    if (rest := _skip_space(text, at + 1)) < len(text):
        raise _invalid(text, rest, "Extra data after the list")


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITESPACE:
        at += 1
    return at


def _invalid(text: str, at: int, reason: str) -> Malformed:
    column = at - text.rfind("\n", 0, at)
    fault = InvalidJson(f"{reason}, column {column}", text.count("\n", 0, at) + 1)
    return Malformed(f"{fault}. {_FIX_LINE}", fault.line)


def _only_list(document: dict[str, Any], forms: FormSet[Any]) -> list[Any]:
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    if len(lists) > 1:
        lists = {key: value for key, value in lists.items() if any(isinstance(item, dict) for item in value)}
    if len(lists) == 1:
        return next(iter(lists.values()))
    found = f"{len(lists)} lists ({one_line(', '.join(lists), 60)})" if lists else "no list"
    raise Malformed(
        f"the object holds {found}; expected one list of records, or a record with the keys {forms.expected}", 1
    )


def table_form(header: str, forms: FormSet[Any] = EXAMPLE_FORMS) -> tuple[Form[Any], str] | None:
    """Return the form that `header`, the first line of a table, identifies, if it does, and with which delimiter."""
    for delimiter in _DELIMITERS:
        with suppress(csv.Error, Malformed):
            names = next(csv.reader([header], delimiter=delimiter), [])
            return form_of([name.strip().lower() for name in names], forms), delimiter
    return None


def _table_fields(header: list[str], row: list[str], form: Form[Any], line: int) -> Fields:
    fields = dict(lower_keys(dict(zip(header, row, strict=True))))
    for key in form.lists:
        cell = fields.get(key, "")
        try:
            fields[key] = decode_json(cell) if cell.strip() else None
        except Malformed as error:
            raise Malformed(f"the cell '{key}' is {error}. Correct the row or remove it.", line) from error
    return fields
