"""TOML reader with positions: parse errors with file, line and remedy, and the line of every key.

The standard library's parser does not say where a key stands. A TOML statement begins on a line of its own and is
complete as soon as its lines parse by themselves (an open string, list or table does not), so the lines are found by
parsing statement after statement. That costs a few milliseconds and is done only when there is something to report.
"""

import codecs
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_tui.errors import ConfigError
from lora_tui.text import one_line

_LARGEST_FILE = 1_000_000
_DEEPEST = 20
"""Tables inside tables; no key of ours lies so deep."""

_LONGEST_STATEMENT = 1000
"""Lines; finding the end of a longer one would take too long, and keys below it are reported without a line."""

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_WHERE = re.compile(r"\s*\(at (?:line (?P<line>\d+), column \d+|end of document)\)$")

# Messages of tomllib, and the remedy for each.
_REMEDIES = (
    (r"Invalid value \(at end", "a value is missing, or a list is not closed; it ends with ]"),
    (r"Invalid value", 'text needs quotes, as in model = "gpt-4"; true and false are written in lower case'),
    (r"Cannot overwrite a value", "this key stands twice; keep one of the two"),
    (r"Cannot (declare|mutate|redefine)", "this section or key stands twice; keep one of the two"),
    (r"Expected '='|Expected \"=\"|Invalid statement", 'a line is key = value, [section] or # a comment'),
    (r"Expected '\]'|Expected \"\]\"", "a section is written [section] or [section.part]"),
    (r"(?i)unterminated|illegal character '\\n'|Expected \"'\"", "a quote is not closed"),
    (r"(?i)escape|Unescaped '\\", "a backslash in double quotes begins an escape; use single quotes: 'C:\\folder'"),
    (r"(?i)unclosed array", "a list is not closed; it ends with ]"),
    (r"(?i)inline table", "a table is written { prompt = \"…\", expected = \"…\" } on one line"),
    (r"Expected newline or end of document", "one line holds one key; text needs quotes"),
)  # fmt: skip


@dataclass(frozen=True)
class Document:
    """A configuration file: its name as the user knows it, its content, and on demand the line of each key."""

    name: str
    text: str
    values: dict[str, Any]
    marked: bool = False
    """Whether the file begins with a byte order mark, which `text` does not have."""

    @cached_property
    def lines(self) -> dict[tuple[str, ...], int]:
        """The line on which each key and section first stands, by its path; the first line is 1."""
        return _find_lines(self.text)

    def line_of(self, path: tuple[str, ...]) -> int | None:
        """Return the line of the key at `path`, or else of the nearest section around it."""
        for length in range(len(path), 0, -1):
            if (line := self.lines.get(path[:length])) is not None:
                return line
        return None


def read_document(path: Path) -> Document:
    """Read and parse the file at `path`.

    Raises `FileNotFoundError` where there is none, and `ConfigError` (file, line, remedy) where it cannot be read.
    """
    name = one_line(str(path), 200)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        if path.is_symlink():
            raise ConfigError(f"{name} is a link to a file that is not there. Fix the link or remove it.") from None
        raise
    except IsADirectoryError:
        raise ConfigError(f"{name} is a folder; name the configuration file in it.") from None
    except OSError as problem:
        raise ConfigError(f"{name} cannot be read: {problem.strerror}.") from None
    if len(data) > _LARGEST_FILE:
        raise ConfigError(f"{name} is larger than 1 MB, which no configuration file is. Name a TOML file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise ConfigError(f"{name}, line {line}: not UTF-8. Save the file as UTF-8 text.") from None
    return Document(name, text, _parse(name, text), data.startswith(codecs.BOM_UTF8))


def parse_value(text: str) -> Any:
    """Return what `text` means as a TOML value; a bare word that is none, such as ``gpt-4``, is taken as a string.

    Raises `ValueError` with a remedy when it begins as a list, table or quoted string and is not a valid one.
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    if parsed.keys() == {"value"}:  # more keys: the text held a line break and a second statement
        return parsed["value"]
    if text.lstrip()[:1] in ("[", "{", '"', "'"):
        raise ValueError("is not valid TOML: close every bracket and quote, and put each text in quotes")
    return text


def parse_key(text: str) -> tuple[str, ...]:
    """Return the parts of a dotted key, quoted parts included. Raises `ValueError` for what is not one."""
    value: Any = tomllib.loads(f"{text.strip()} = 0")
    parts = []
    while isinstance(value, dict):
        if len(value) != 1:
            raise ValueError("not one key")
        part, value = next(iter(value.items()))
        parts.append(part)
    return tuple(parts)


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{name}: lists or tables are nested too deeply.") from None
    except ValueError as problem:  # TOMLDecodeError is one; so is a number with thousands of digits
        error = one_line(str(problem), 160)
    where = _WHERE.search(error)
    complaint = _WHERE.sub("", error) if where else "a value is out of range"
    remedy = next((advice for pattern, advice in _REMEDIES if re.search(pattern, error)), "correct this line")
    # What is never closed is noticed below, often at the end: the line where it begins is the one to fix.
    opened = next((first for first, _, parsed in statements(text) if parsed is None), None)
    line = int(where["line"]) if where and where["line"] else opened or len(text.splitlines())
    if opened is not None and opened < line:
        if "not closed" in remedy:
            line = opened
        else:
            remedy += f"; or what begins on line {opened} is not closed"
    raise ConfigError(f"{name}, line {line}: not valid TOML ({complaint}). Probably: {remedy}.") from None


def statements(text: str) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
    """Yield the first line, the text and the content of each statement; None for one that does not parse (the last).

    Comments and blank lines are statements without content, so that the texts together are the whole.
    """
    statement, first = "", 1
    for number, line in enumerate(_LINE.findall(text), start=1):
        statement += line
        try:
            parsed = tomllib.loads(statement)
        except (ValueError, RecursionError):
            if number - first > _LONGEST_STATEMENT:
                break
            continue
        yield first, statement, parsed
        statement, first = "", number + 1
    if statement:
        yield first, statement, None


def _find_lines(text: str) -> dict[tuple[str, ...], int]:
    found: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    for first, statement, parsed in statements(text):
        if parsed is None:
            break
        if statement.lstrip().startswith("["):
            section = header_path(parsed)
            for length in range(1, len(section) + 1):
                found.setdefault(section[:length], first)
        else:
            _record_lines(found, section, parsed, first)
    return found


def header_path(parsed: Any) -> tuple[str, ...]:
    """Return the path that a parsed ``[section]`` or ``[[section]]`` line names."""
    parts: list[str] = []
    while parsed:
        if isinstance(parsed, list):
            parsed = parsed[0]
        else:
            part, parsed = next(iter(parsed.items()))
            parts.append(part)
    return tuple(parts)


def _record_lines(found: dict[tuple[str, ...], int], above: tuple[str, ...], values: dict[str, Any], line: int) -> None:
    for name, value in values.items():
        found.setdefault((*above, name), line)
        if isinstance(value, dict) and len(above) < _DEEPEST:
            _record_lines(found, (*above, name), value, line)
