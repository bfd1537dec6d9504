"""Loader of the configuration: file, environment and command line, merged and checked into `Settings`.

Three layers are laid over the defaults, later ones winning: the file (the one named, ``./config.toml``, or the user's),
environment variables such as ``LORA_TUI__FINE_TUNING__LORA__R``, and ``--set fine_tuning.lora.r=8``. All of them are
taken apart into single keys that remember where they come from, and checked together once, so that an error can name
the file and line, the option or the variable, whichever brought the value in.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lora_tui.config.document import Document, parse_key, parse_value, read_document
from lora_tui.config.keys import all_keys, all_sections, join_open_word, open_tables, settings_value
from lora_tui.config.models import Settings
from lora_tui.config.paths import config_folder
from lora_tui.config.problems import (
    Problem,
    Source,
    config_error,
    dotted,
    most_urgent_first,
    printable_value,
    secret_inside,
    secret_path,
    secret_problem,
    section_value_problem,
    unknown_problem,
    value_problem,
)
from lora_tui.config.written import copied_keys, with_written, written_keys
from lora_tui.errors import ConfigError
from lora_tui.outputs import protect
from lora_tui.text import one_line

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FILE_NAME = "config.toml"

_PREFIX = "LORA_TUI__"
_KEY_NAME = "data_generation.api_key_env"
_HOST_KEYS = ("data_generation", "api_key_envs")
_ADDRESSES = frozenset(f"data_generation.{name}" for name in ("base_url", "base_urls", "judge_base_urls"))
_NOTIFY = ("notify.on_finish", "notify.webhook", "notify.webhook_token_env")
_COMMANDS = ("data_generation", "extractors")
_SET = Source("--set")

KeyPath = tuple[str, ...]
SourceOf = Callable[[KeyPath], Source]
"""Returns the source of the key at a path."""


def _change(_path: KeyPath) -> Source:
    return Source("the change")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration and the file it was read from; None where there is no file.

    The settings know which of their keys were written (`lora_tui.config.written`).
    """

    settings: Settings
    path: Path | None
    key_named_in: Path | None = None
    """The file, where it is the one that names ``data_generation.api_key_env``."""
    address_named_in: Path | None = None
    """The file, where it is the one that names addresses of endpoints, and the variable was not typed."""
    commands_named_in: Path | None = None
    """The file, where it names a command of ``data_generation.extractors`` that was not typed."""
    notify_named_in: Path | None = None
    """The file, where it names the command or the address of ``[notify]``, or the variable of its token."""
    hosts_named_in: Path | None = None
    """The file, where it names a variable of ``data_generation.api_key_envs`` that was not typed."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One key with its value, as one layer gives it."""

    path: KeyPath
    value: Any
    source_of: SourceOf


def load_settings(
    config_file: Path | None = None, overrides: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
) -> Loaded:
    """Return the checked configuration: defaults, then the file, then `environment`, then `overrides`.

    `config_file` is what ``--config`` names, `overrides` what each ``--set`` holds ("dotted.key=VALUE"), `environment`
    the process's own unless another is given. Raises `ConfigError`, one or two lines long, for every mistake.
    """
    path, document = _find_file(config_file)
    if path is not None:
        protect(path, "the configuration")
    problems: list[Problem] = []
    in_file: list[_Entry] = []
    if document is not None:
        in_file += _entries(document.values, source_in(document), problems)
    given = _from_environment(os.environ if environment is None else environment, problems)
    given += _from_overrides(overrides, problems)
    settings = _validated([*in_file, *given], problems)
    copied = copied_keys({".".join(entry.path): entry.value for entry in in_file})
    by_file = set() if _KEY_NAME in _names(given) else _names(in_file) - _names(given)
    written = with_written(settings, (_names(in_file) - copied) | _names(given))
    typed_paths = {entry.path for entry in given}
    chosen = settings.data_generation
    has_commands = _has_own(_COMMANDS, chosen.extractors, in_file, given)
    has_hosts = _has_own(_HOST_KEYS, chosen.api_key_envs, in_file, given)
    return Loaded(
        written,
        path,
        path if _KEY_NAME in by_file else None,
        path if _ADDRESSES & by_file else None,
        path if has_commands else None,
        path if any(_is_notify(entry) for entry in in_file if entry.path not in typed_paths) else None,
        path if has_hosts else None,
    )


def with_values(settings: Settings, changes: Mapping[str, Any], *, named: str = "the change") -> Settings:
    """Return `settings` with each dotted key of `changes` set to its value, checked. Raises `ConfigError`.

    What is changed counts as written, the rest as before. `named` is what errors call the changes.
    """

    def source(_path: KeyPath) -> Source:
        return Source(named)

    problems: list[Problem] = []
    entries = [_Entry(tuple(name.split(".")), settings_value(settings, name), source) for name in all_keys()]
    changed: list[_Entry] = []
    for name, value in changes.items():
        changed += _override(key_path(name), value, source, problems)
    return with_written(_validated([*entries, *changed], problems), written_keys(settings) | _names(changed))


def without_value(settings: Settings, name: str) -> Settings:
    """Return `settings` as if nobody had written the dotted key `name`. Raises `ConfigError` as `with_values` does."""
    changed = with_values(settings, {name: all_keys()[name].default})
    return with_written(changed, written_keys(settings) - {name})


def key_path(name: str) -> KeyPath:
    """Return the path of a dotted key as the program names it; what follows an open table is one word of it."""
    return join_open_word(name.split("."))


def key_problem(path: KeyPath, value: Any) -> str | None:
    """Return what is wrong with `value` for the key at `path` by itself, or None.

    The sentence begins with the key's name. That a value contradicts another key's is left out: which of the two is to
    change only the whole configuration can say.
    """
    problems: list[Problem] = []
    nested, origins = _merge_layers(_override(path, value, _change, problems))
    try:
        Settings.model_validate(nested)
    except ValidationError as invalid:
        errors = [details for details in invalid.errors(include_url=False) if details["type"] != "conflict"]
        problems += [_problem_of_error(details, origins) for details in errors]
    return str(most_urgent_first(problems)[0]) if problems else None


def check_values(values: Mapping[str, Any], source_of: SourceOf) -> Settings:
    """Return the settings that a nested mapping stands for, or raise `ConfigError`."""
    problems: list[Problem] = []
    return _validated(_entries(values, source_of, problems), problems)


def source_in(document: Document) -> SourceOf:
    """Return the lookup of a key's file and line. Finding lines costs a second parse: it waits until the first call."""
    return lambda path: Source(document.name, document.line_of(path))


def _find_file(named: Path | None) -> tuple[Path | None, Document | None]:
    if named is not None:
        try:
            return named, read_document(named)
        except FileNotFoundError:
            shown = one_line(str(named), 200)
            raise ConfigError(f"There is no configuration file {shown}. Check --config, or leave it out.") from None
    for path in (Path(FILE_NAME), config_folder() / FILE_NAME):
        try:
            return path, read_document(path)
        except FileNotFoundError:
            continue
    return None, None


def _entries(
    values: Mapping[str, Any], source_of: SourceOf, problems: list[Problem], above: KeyPath = ()
) -> Iterator[_Entry]:
    """Take nested `values` apart into single known keys; what is unknown or secret goes to `problems`."""
    for name, value in values.items():
        path = (*above, name)
        known = ".".join(path) if "." not in name else ""
        if known in all_sections():
            if isinstance(value, dict):
                yield from _entries(value, source_of, problems, path)
            else:
                problems.append(section_value_problem(source_of(path), path, value))
        elif known in all_keys():
            if (secret := secret_inside(path, value)) is not None:
                problems.append(secret_problem(source_of(secret), secret))
            yield _Entry(path, value, source_of)
        elif (secret := secret_path(path, value)) is not None:
            problems.append(secret_problem(source_of(secret), secret))
        else:
            problems.append(unknown_problem(source_of(path), path, is_section=isinstance(value, dict)))


def _names(entries: Iterable[_Entry]) -> frozenset[str]:
    """Return the dotted keys that entries set; a word of an open table sets the table."""
    paths = (entry.path for entry in entries)
    return frozenset(".".join(path[:-1] if ".".join(path[:-1]) in open_tables() else path) for path in paths)


def _has_own(table: KeyPath, in_force: Mapping[str, Any], in_file: Iterable[_Entry], given: Iterable[_Entry]) -> bool:
    """Whether a line of an open table is the file's: it is in force, and was not typed."""
    typed = _lines_of(table, given)
    own = {name: value for name, value in _lines_of(table, in_file).items() if typed.get(name) != value}
    return any(in_force.get(name) == value for name, value in own.items())


def _lines_of(table: KeyPath, entries: Iterable[_Entry]) -> dict[str, Any]:
    """Return the lines of an open table, which entries set as a whole or one by one."""
    found: dict[str, Any] = {}
    for entry in entries:
        if entry.path == table and isinstance(entry.value, dict):
            found |= entry.value
        elif entry.path[:-1] == table:
            found[entry.path[-1]] = entry.value
    return found


def _is_notify(entry: _Entry) -> bool:
    """Whether an entry has something done at the end of runs that the defaults do not have done."""
    name = ".".join(entry.path)
    return name in _NOTIFY and entry.value != all_keys()[name].default


def _override(path: KeyPath, value: Any, source_of: SourceOf, problems: list[Problem]) -> list[_Entry]:
    """Take one override apart: a key, a section given as a table, or one word of an open table."""
    if ".".join(path[:-1]) in open_tables():
        if (secret := secret_path(path, value)) is not None:
            problems.append(secret_problem(source_of(secret), secret))
        return [_Entry(path, value, source_of)]
    nested: Any = value
    for part in reversed(path):
        nested = {part: nested}
    return list(_entries(nested, source_of, problems))


def _from_environment(environment: Mapping[str, str], problems: list[Problem]) -> list[_Entry]:
    entries: list[_Entry] = []
    seen: dict[KeyPath, str] = {}
    for name in sorted(name for name in environment if name.upper().startswith(_PREFIX)):
        path = join_open_word(name[len(_PREFIX) :].lower().split("__"))
        source = Source(f"environment variable {one_line(name)}")
        if path in seen:
            problems.append(
                Problem(source, dotted(path), f"{dotted(path)} is also set by {seen[path]}; unset one of the two")
            )
        seen[path] = one_line(name)
        entries += _parse_entry(path, environment[name], source, problems)
    return entries


def _from_overrides(overrides: Iterable[str], problems: list[Problem]) -> list[_Entry]:
    entries: list[_Entry] = []
    for text in overrides:
        name, equals, value = text.partition("=")
        try:
            path = join_open_word(parse_key(name))
        except ValueError:
            path = ()
        if not path or not equals:
            what = f'"{printable_value(text, 60)}" is not key=VALUE; write for example --set fine_tuning.lora.r=8'
            problems.append(Problem(_SET, dotted([name]), what))
        else:
            entries += _parse_entry(path, value, _SET, problems)
    return entries


def _parse_entry(path: KeyPath, text: str, source: Source, problems: list[Problem]) -> list[_Entry]:
    try:
        text.encode()  # bytes that are not UTF-8 arrive from the system as lone surrogates
        value = parse_value(text)
    except UnicodeEncodeError:
        problems.append(Problem(source, dotted(path), f"{dotted(path)} is not UTF-8 text"))
        return []
    except ValueError as problem:
        problems.append(Problem(source, dotted(path), f"{dotted(path)} {problem}"))
        return []
    return _override(path, value, lambda _: source, problems)


def _validated(entries: Iterable[_Entry], problems: list[Problem]) -> Settings:
    """Merge the entries, later ones winning, and validate the result. Raises `ConfigError`."""
    nested, origins = _merge_layers(entries)
    settings = None
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as invalid:
        problems += [_problem_of_error(details, origins) for details in invalid.errors(include_url=False)]
    if problems or settings is None:
        # Outside the handler: pydantic's error holds the values, and must not hang on ours as its context.
        raise config_error(problems)
    return settings


def _merge_layers(entries: Iterable[_Entry]) -> tuple[dict[str, Any], dict[KeyPath, SourceOf]]:
    """Return the entries as nested values, and where the value at each path comes from."""
    values: dict[KeyPath, Any] = {}
    origins: dict[KeyPath, SourceOf] = {}
    for entry in entries:
        table, name = entry.path[:-1], ".".join(entry.path)
        if ".".join(table) in open_tables():
            current = values.get(table, all_keys()[".".join(table)].default)
            if isinstance(current, dict):  # anything else is refused below, as the value it is
                values[table] = {**current, entry.path[-1]: entry.value}
                origins[entry.path] = entry.source_of
                origins.setdefault(table, entry.source_of)
        else:
            values[entry.path], origins[entry.path] = entry.value, entry.source_of
            if name in open_tables():
                origins = {path: source for path, source in origins.items() if path[:-1] != entry.path}
    nested: dict[str, Any] = {}
    for path, value in values.items():
        section = nested
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = value
    return nested, origins


def _problem_of_error(details: "ErrorDetails", origins: Mapping[KeyPath, SourceOf]) -> Problem:
    """Convert one of pydantic's errors to a problem with the place its value came from."""
    where = details["loc"]
    if details["type"] == "conflict":
        section = tuple(str(part) for part in where)
        keys = [(*section, str(key)) for key in details["ctx"]["keys"]]
        path = next((key for key in keys if key in origins), keys[0])
        return Problem(_source_of(origins, path), dotted(path), f"{dotted(keys[0])} {details['ctx']['why']}")
    length = next(n for n in range(1, len(where) + 1) if ".".join(map(str, where[:n])) in all_keys())
    path = tuple(str(part) for part in where[:length])
    # Behind the number of a list's item stands the name of the form it was tried as; nobody wrote that.
    rest = [part for before, part in pairwise(where[length - 1 :]) if not isinstance(before, int)]
    if ".".join(path) in open_tables() and rest:
        word = (*path, str(rest[0]))
        source = origins.get(word, origins[path])(word)
    else:
        source = _source_of(origins, path)
    return value_problem(source, all_keys()[".".join(path)], details, rest)


def _source_of(origins: Mapping[KeyPath, SourceOf], path: KeyPath) -> Source:
    return origins[path](path) if path in origins else Source("defaults")
