"""Editor of TOML text: changed keys are written into a configuration file, all else stays to the character.

The text is a list of statements: headers, pairs of key and value, and notes (comments and blank lines). A changed key
means that one statement is rewritten, a new one that a statement is put where its section ends, a removed one that a
statement goes. Nothing is known here of files; the caller parses the result and compares it with what was wanted.

This is the only module that imports tomlkit, and it gives it a single statement at a time. Whole files stay out of its
reach: it would put a new key below the comment that belongs to the next section.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, Literal

import tomlkit
from tomlkit.items import Array, Item

from lora_tui.config.document import header_path, parse_key, statements
from lora_tui.config.keys import all_keys, all_sections
from lora_tui.config.load import KeyPath
from lora_tui.config.reference import comment, toml_key, toml_value

_REMOVED = object()
"""In place of a value: the key is to be taken out."""


@dataclass(frozen=True, slots=True)
class _Statement:
    """One statement. `table` is the section that it names or stands in, `path` the whole path of a pair's key."""

    text: str
    kind: Literal["note", "table", "array", "pair"]
    table: KeyPath
    path: KeyPath = ()


def edit_text(text: str, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return `text`, whose content is `before`, with the fewest changes that make its content `wanted`.

    Raises `ValueError` for a text that cannot be taken apart.
    """
    editor = _Editor(list(_parse_statements(text)))
    for path, value in _changed_keys(before, wanted):
        editor.change(path, value)
    return "".join(statement.text for statement in editor.statements)


def same_toml(left: Any, right: Any) -> bool:
    """Return whether two TOML values are equal in value and type: 1, 1.0 and true differ."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_toml(value, right[name]) for name, value in left.items())
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same_toml, left, right))
    return repr(left) == repr(right)


def _parse_statements(text: str) -> Iterator[_Statement]:
    table: KeyPath = ()
    for _, statement, parsed in statements(text):
        if parsed is None:
            raise ValueError("a statement is too long to be taken apart")
        if not parsed:
            yield _Statement(statement, "note", table)
        elif statement.lstrip().startswith("["):
            table = header_path(parsed)
            yield _Statement(statement, "array" if statement.lstrip().startswith("[[") else "table", table)
        else:
            yield _Statement(statement, "pair", table, (*table, *_key_of(statement)))


def _changed_keys(
    before: Mapping[str, Any], wanted: Mapping[str, Any], above: KeyPath = ()
) -> Iterator[tuple[KeyPath, Any]]:
    for name in before:
        if name not in wanted:
            yield (*above, name), _REMOVED
    for name, value in wanted.items():
        path, old = (*above, name), before.get(name, _REMOVED)
        if isinstance(value, dict) and (isinstance(old, dict) or (old is _REMOVED and value)):
            yield from _changed_keys(old if isinstance(old, dict) else {}, value, path)
        elif old is _REMOVED or not same_toml(old, value):
            yield path, value


class _Editor:
    """The statements of a file while they are changed."""

    def __init__(self, statements: list[_Statement]) -> None:
        self.statements = statements

    def change(self, path: KeyPath, value: Any) -> None:
        """Set the key at `path`, or take it out."""
        holder = next((n for n, s in self._pairs() if path[: len(s.path)] == s.path), None)
        array = [n for n, s in enumerate(self.statements) if s.kind == "array" and s.table == path]
        if holder is not None and (value is not _REMOVED or self.statements[holder].path != path):
            held = self.statements[holder]
            self._put(holder, _with_value(held.text, path[len(held.table) :], value))
        elif array and isinstance(value, list) and all(isinstance(item, dict) for item in value):
            self._update_array(path, array, value)
        elif value is _REMOVED:
            self._remove(path)
        else:
            self._remove(path)  # tables of an array whose items are texts from now on
            self._add(path, value)

    def _pairs(self) -> Iterator[tuple[int, _Statement]]:
        return ((place, statement) for place, statement in enumerate(self.statements) if statement.kind == "pair")

    def _put(self, place: int, text: str) -> None:
        self.statements[place] = replace(self.statements[place], text=text)

    # Taking out

    def _remove(self, path: KeyPath) -> None:
        """Take out every statement of the key or table at `path`; of the notes only our own description goes."""
        length = len(path)
        self._remove_all(
            place
            for place, statement in enumerate(self.statements)
            if path in (statement.table[:length], statement.path[:length])
        )

    def _remove_all(self, places: Iterable[int]) -> None:
        for place in sorted(places, reverse=True):
            if self.statements[place].kind != "note":
                self._remove_one(place)

    def _remove_one(self, place: int) -> None:
        statement = self.statements[place]
        description = _description_comment(statement.path or statement.table).splitlines(keepends=True)
        first = max(0, place - len(description))
        if [other.text for other in self.statements[first:place]] != description:
            first = place
        del self.statements[first : place + 1]
        blank = [not other.text.strip() for other in self.statements[max(0, first - 1) : first + 1]]
        if statement.kind != "pair" and first > 0 and all(blank):  # a section leaves its blank line behind
            del self.statements[first - 1]

    # Putting in

    def _add(self, path: KeyPath, value: Any) -> None:
        """Put a new key where its section ends, or a new section below its neighbours."""
        if value == {}:
            self._add_header(path, [])
            return
        section = path[:-1]
        inside = [n for n, s in enumerate(self.statements) if s.kind == "table" and s.table == section]
        dotted = [n for n, s in self._pairs() if s.path[: len(section)] == section and len(s.table) < len(section)]
        if inside:
            self._insert(self._end_of_block(inside[0]), section, path, _new_pair(path[-1:], value))
        elif dotted:
            table = self.statements[dotted[-1]].table
            self._insert(dotted[-1] + 1, table, path, _new_pair(path[len(table) :], value))
        else:
            pair = _Statement(_new_pair(path[-1:], value), "pair", section, path)
            self._add_header(section, [pair])

    def _insert(self, place: int, table: KeyPath, path: KeyPath, text: str) -> None:
        self._end_line(place)
        self.statements.insert(place, _Statement(text, "pair", table, path))

    def _add_header(self, table: KeyPath, pairs: Sequence[_Statement]) -> None:
        """Put a new section below the last one that shares the most of its path, or at the end."""
        headers = [(n, s) for n, s in enumerate(self.statements) if s.kind in ("table", "array")]
        shared = [_shared_length(s.table, table) for _, s in headers]
        place = len(self.statements)
        if any(shared):
            nearest = max(range(len(headers)), key=lambda number: (shared[number], number))
            place = self._end_of_block(headers[nearest][0])
        self._end_line(place)
        header = _Statement(f"[{toml_key(*table)}]\n", "table", table)
        blank = [_Statement("\n", "note", table)] if place > 0 else []
        self.statements[place:place] = [*blank, header, *pairs]

    def _end_of_block(self, header: int) -> int:
        """Return the place behind the last pair below a header: the notes after it belong to what follows."""
        end = header + 1
        for place in range(header + 1, len(self.statements)):
            if self.statements[place].kind in ("table", "array"):
                break
            if self.statements[place].kind == "pair":
                end = place + 1
        return end

    def _end_line(self, place: int) -> None:
        """Make sure that the statement before a place ends its line; the last one of a file may not."""
        if place > 0 and not self.statements[place - 1].text.endswith("\n"):
            self._put(place - 1, self.statements[place - 1].text + "\n")

    # Arrays of tables

    def _update_array(self, path: KeyPath, headers: list[int], wanted: list[dict[str, Any]]) -> None:
        """Turn ``[[path]]`` tables into `wanted`, table by table, the last change first so that places hold."""
        blocks = [(header, self._end_of_block(header)) for header in headers]
        before = [tomllib.loads("".join(s.text for s in self.statements[first + 1 : end])) for first, end in blocks]
        steps = SequenceMatcher(a=list(map(repr, before)), b=list(map(repr, wanted)), autojunk=False).get_opcodes()
        for step, first, last, new_first, new_last in reversed(steps):
            if step == "equal":
                continue
            new = wanted[new_first:new_last]
            for table in reversed(new[last - first :]):
                behind = blocks[last - 1][1] if last > 0 else blocks[0][0]
                self._insert_table(behind, path, table, before_header=last == 0)
            for number in range(last - 1, first + len(new) - 1, -1):
                self._remove_all(range(*blocks[number]))
            for number in reversed(range(first, min(last, first + len(new)))):
                self._update_block(blocks[number], path, before[number], new[number - first])

    def _update_block(
        self, block: tuple[int, int], path: KeyPath, before: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> None:
        header, *rest = self.statements[slice(*block)]
        part = _Editor([replace(header, kind="table"), *rest])
        for key, value in _changed_keys(before, wanted, path):
            part.change(key, value)
        self.statements[slice(*block)] = [header, *part.statements[1:]]

    def _insert_table(self, place: int, path: KeyPath, table: dict[str, Any], *, before_header: bool) -> None:
        self._end_line(place)
        pairs = [_Statement(_new_pair((name,), value), "pair", path, (*path, name)) for name, value in table.items()]
        block = [_Statement(f"[[{toml_key(*path)}]]\n", "array", path), *pairs]
        blank = _Statement("\n", "note", path)
        self.statements[place:place] = [*block, blank] if before_header else [blank, *block]


def _shared_length(one: KeyPath, other: KeyPath) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _description_comment(path: KeyPath) -> str:
    """Return the comment of the documented file above the key or section at `path`; empty where it has none."""
    name = ".".join(path)
    if name in all_keys():
        return comment(all_keys()[name].description)
    return comment(all_sections()[name].__doc__ or "") if name in all_sections() else ""


def _key_of(statement: str) -> tuple[str, ...]:
    """Return the parts of the key of a pair, ``a."b c" = 1``. Raises `ValueError` where the statement is none."""
    for at, character in enumerate(statement):
        if character == "=":
            try:
                return parse_key(statement[:at])
            except ValueError:  # an equals sign inside a quoted key
                continue
    raise ValueError("not a pair of key and value")


def _new_pair(path: tuple[str, ...], value: Any) -> str:
    """Return the statement that gives the dotted key `path` its value."""
    return f"{toml_key(*path)} = {toml_value(value)}\n"


def _with_value(statement: str, path: tuple[str, ...], value: Any) -> str:
    """Return a pair with the value at `path` set, its own key or one in its inline table, or taken out of that."""
    document = tomlkit.parse(statement)
    table: Any = document
    for part in path[:-1]:
        if part not in table:
            table[part] = tomlkit.inline_table()
        table = table[part]
    current = table.get(path[-1])
    if value is _REMOVED:
        del table[path[-1]]
    elif isinstance(current, Array) and isinstance(value, list) and value:
        _update(current, value)
    else:
        table[path[-1]] = _item(value, on_one_line=len(path) > len(_key_of(statement)))
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
