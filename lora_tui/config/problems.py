"""Error messages of the configuration: where a mistake stands, what is wrong, and which key was probably meant.

A `Problem` is one mistake; `config_error` turns all that were found into one `ConfigError` of one or two lines. Values
are shown only where they help and cannot hold a secret, and always made safe for a terminal.

Three mistakes get a suggestion: a key is misspelt, a right key stands in the wrong section, or a name is the one that
other training tools use. Section names are compared as well, so that ``[lora]`` finds ``[fine_tuning.lora]``.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, time
from difflib import SequenceMatcher, get_close_matches
from typing import TYPE_CHECKING, Any

from lora_tui.config.keys import BOUNDS, Key, all_keys, all_sections, open_tables
from lora_tui.config.values import KEYS_COME_FROM_THE_ENVIRONMENT
from lora_tui.errors import ConfigError
from lora_tui.secrets import may_be_secret, may_hold_secret
from lora_tui.text import one_line

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_NAMED_AT_MOST = 6
_DEEPEST = 20
"""Parts of a path; what lies deeper is refused for what lies above it."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")

# Names that ask for a secret. Names of numbers of tokens (max_tokens, also misplaced or misspelt) are none of them.
_SECRET_NAME = re.compile(
    r"^(tokens?|secrets?)$"
    r"|(^|_)(pass(wd|word|words|phrase)|credentials?|secret)$"
    r"|(^|_)(api|access|openai|secret|private)_?keys?$"
    r"|(^|_)(access|api|auth|bearer|hf|hub|session|user)_?token$"
)
_CERTAIN_SECRET_NAME = re.compile(r"(^|_)api_?keys?$")

_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_type": "text",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from: a file with the key's line, ``--set``, or an environment variable."""

    name: str
    line: int | None = None

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}, line {self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `text` begins with the key's dotted name and says what is wrong and what to do."""

    source: Source
    key: str
    text: str
    urgent: bool = False
    """Reported before all others: a secret stands where it must not."""

    def __str__(self) -> str:
        return self.text + ("" if self.text.endswith(("?", "…")) else ".")


def most_urgent_first(problems: Sequence[Problem]) -> list[Problem]:
    """Return `problems` with the one to report in full in front: a secret, else the one highest in the file."""
    return sorted(problems, key=lambda problem: (not problem.urgent, problem.source.line or sys.maxsize))


def config_error(problems: Sequence[Problem]) -> ConfigError:
    """Return the error for `problems` (at least one): the first in full, the others by name and place."""
    first, *others = most_urgent_first(problems)
    message = f"{first.source}: {first}"
    if others:
        named = [f"{other.key} ({_place_beside(other.source, first.source)})" for other in others[:_NAMED_AT_MOST]]
        rest = "…" if len(others) > _NAMED_AT_MOST else "."
        message += f"\nand {len(others)} more: {', '.join(named)}{rest}"
    return ConfigError(message)


def _place_beside(source: Source, first: Source) -> str:
    return f"line {source.line}" if source.line is not None and source.name == first.name else str(source)


def dotted(path: Sequence[str]) -> str:
    """Return the dotted name of `path`, its parts quoted where TOML asks for it and safe to show."""
    parts = ("(hidden)" if may_hold_secret(part) else one_line(part, 60) for part in path)
    return ".".join(shown if _BARE.fullmatch(part) else f'"{shown}"' for part, shown in zip(path, parts, strict=True))


def secret_path(path: tuple[str, ...], value: Any) -> tuple[str, ...] | None:
    """Return the path of a key that is named like a secret, at `path` or inside `value`; None where there is none.

    Words of open tables, such as the chat's special commands, are the user's own ("password" may be one), so of them
    only those that name an API key count.
    """
    name = re.sub(r"\W", "_", path[-1].lower())
    pattern = _CERTAIN_SECRET_NAME if ".".join(path[:-1]) in open_tables() else _SECRET_NAME
    return path if pattern.search(name) else secret_inside(path, value)


def secret_inside(path: tuple[str, ...], value: Any) -> tuple[str, ...] | None:
    """Return the path of a key inside `value`, which stands at `path`, that is named like a secret."""
    if len(path) > _DEEPEST:
        return None
    tables = [table for table in (value if isinstance(value, list) else [value]) if isinstance(table, dict)]
    entries = [entry for table in tables for entry in table.items()]
    return next((found for name, inner in entries if (found := secret_path((*path, name), inner))), None)


def secret_problem(source: Source, path: tuple[str, ...]) -> Problem:
    """Return the refusal of a key that asks for a secret; its value is never shown."""
    key = dotted(path)
    text = f"{key} does not belong in the configuration; {KEYS_COME_FROM_THE_ENVIRONMENT}"
    return Problem(source, key, text, urgent=True)


def unknown_problem(source: Source, path: tuple[str, ...], *, is_section: bool) -> Problem:
    """Return the refusal of a key or section that does not exist, with the one that was probably meant."""
    key = dotted(path)
    what = "section" if is_section else "key"
    plain = ".".join(path)[:200]
    near_key, near_section = _nearest_key(plain), _nearest(plain, all_sections())
    if near := (near_section or near_key) if is_section else (near_key or near_section):
        meant = f"[{near}]" if near in (*all_sections(), *open_tables()) else near
        return Problem(source, key, f"{key} is not a {what}; did you mean {meant}?")
    return Problem(source, key, f"{key} is not a {what}; {_alternatives(path)}")


def section_value_problem(source: Source, path: tuple[str, ...], value: Any) -> Problem:
    """Return the refusal of a value where a section stands."""
    key = dotted(path)
    text = f"{key} is a section, not a key, and cannot be {_describe_value(value)}; {_alternatives((*path, ''))}"
    return Problem(source, key, text)


def value_problem(source: Source, key: Key, details: "ErrorDetails", rest: Sequence[int | str]) -> Problem:
    """Return the refusal of a value that pydantic's `details` complain of; `rest` is its place inside the value."""
    where = "".join(f" item {part + 1}" if isinstance(part, int) else f" {dotted([part])}" for part in rest)
    text = f"{key.name}{where} {_what_is_wrong(key, details, inside=bool(rest))}"
    if not rest and details["type"] != "refused" and (default := _short_default(key)):
        text += f" (the default is {default})"
    return Problem(source, key.name + where, text)


def _what_is_wrong(key: Key, details: "ErrorDetails", *, inside: bool) -> str:
    error, value, context = details["type"], details["input"], details.get("ctx", {})
    match error:
        case "refused":
            return str(context.get("why", details["msg"]))
        case "extra_forbidden":
            return "is not known here; remove it"
        case "missing":
            return "is missing"
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            ((bound, limit),) = context.items()
            return f"must be {BOUNDS[bound]} {limit:g}, not {_describe_value(value)}"
        case "finite_number":
            return f"must be a finite number, not {value}"
        case "too_short":
            return f"must hold at least {context['min_length']}"
        case "literal_error" if inside:
            expected = str(context["expected"]).replace("'", '"')
            return f"must be {expected}, not {_describe_value(value)}"
        case "literal_error":
            near = _nearest_choice(value, key.choices) if isinstance(value, str) else None
            return f"must be {key.kind}, not {_describe_value(value)}" + (f'; did you mean "{near}"?' if near else "")
    wanted = key.kind if not inside else _WANTED.get(error, "something else")
    return f"must be {wanted}, not {_describe_value(value)}{_how_to_write(error, value)}"


def _how_to_write(error: str, value: Any) -> str:
    """Return what to write instead, where it can be seen from the value."""
    if error == "string_type" and isinstance(value, bool | int | float):
        return "; put it in quotes"
    if not isinstance(value, str):
        return ""
    if error == "bool_type" and value.lower() in ("true", "false"):
        return f"; write {value.lower()} without quotes"
    if error in ("int_type", "float_type"):
        try:
            float(value)
        except ValueError:
            return ""
        return f"; write {one_line(value, 20)} without quotes"
    if error == "list_type":
        return '; put it in brackets, as in ["…"]'
    return ""


def _alternatives(path: Sequence[str]) -> str:
    section = ".".join(path[:-1])
    leaves = [key.leaf for key in all_keys().values() if key.section == section]
    if leaves:
        return f"[{section}] has {', '.join(leaves[:8])}{' …' if len(leaves) > 8 else ''}"
    around = section if section in all_sections() else ""
    inner = [name for name in all_sections() if name.rpartition(".")[0] == around]
    return f"there are the sections {', '.join(f'[{name}]' for name in inner)}"


def _short_default(key: Key) -> str:
    if isinstance(key.default, bool):
        return str(key.default).lower()
    if isinstance(key.default, int | float):
        return f"{key.default:g}"
    return f'"{key.default}"' if isinstance(key.default, str) and 0 < len(key.default) <= 40 else ""


def _describe_value(value: Any) -> str:
    """Return `value` as a person would call it, short, without what may be a secret."""
    match value:
        case bool():
            return str(value).lower()
        case int() if abs(value) >= 10**18:
            return "so large a number"
        case int() | float():
            return str(value)
        case str():
            return "empty text" if not value else f'the text "{printable_value(value, 40)}"'
        case list():
            return "a list"
        case dict():
            return "a table"
        case date() | time():
            return f"the date or time {value}"
        case _:
            return f"a {type(value).__name__}"


def printable_value(text: str, limit: int) -> str:
    """Return `text` safe to show, on one line and cut to `limit`; nothing of it where it looks like a key."""
    return "(hidden)" if may_be_secret(text) else one_line(text, limit)


_CLOSE_ENOUGH = 0.66

# Names that other tools (transformers, peft, trl, axolotl, openai) give to the same thing.
_OTHER_NAMES = {
    "adapter_r": "fine_tuning.lora.r",
    "api_base": "data_generation.base_url",
    "base_model": "fine_tuning.model_name",
    "bf16": "fine_tuning.dtype",
    "database": "data_generation.db_path",
    "dataset": "fine_tuning.train_data_file",
    "endpoint": "data_generation.base_url",
    "epochs": "fine_tuning.training.max_epochs",
    "fps": "app.refresh_per_second",
    "grad_clip": "fine_tuning.optimizer.max_grad_norm",
    "gradient_accumulation": "fine_tuning.training.gradient_accumulation_steps",
    "keybindings": "app.keys",
    "keymap": "app.keys",
    "learning_rate": "fine_tuning.optimizer.lora_lr",
    "log_level": "logging.level",
    "lora_alpha": "fine_tuning.lora.alpha",
    "lora_dropout": "fine_tuning.lora.dropout",
    "lora_r": "fine_tuning.lora.r",
    "lora_rank": "fine_tuning.lora.r",
    "lr": "fine_tuning.optimizer.lora_lr",
    "lr_scheduler_type": "fine_tuning.scheduler.type",
    "max_cost": "data_generation.budget_dollars",
    "max_seq_len": "fine_tuning.training.max_length",
    "max_seq_length": "fine_tuning.training.max_length",
    "micro_batch_size": "fine_tuning.training.batch_size",
    "num_epochs": "fine_tuning.training.max_epochs",
    "num_train_epochs": "fine_tuning.training.max_epochs",
    "openai_api_base": "data_generation.base_url",
    "openai_base_url": "data_generation.base_url",
    "output_dir": "fine_tuning.training.save_dir",
    "per_device_train_batch_size": "fine_tuning.training.batch_size",
    "rank": "fine_tuning.lora.r",
    "sequence_len": "fine_tuning.training.max_length",
    "threshold": "data_generation.evaluation_threshold",
    "torch_dtype": "fine_tuning.dtype",
    "train_file": "fine_tuning.train_data_file",
    "warmup": "fine_tuning.scheduler.warmup_steps",
    "weight_decay": "fine_tuning.optimizer.lora_weight_decay",
}


def _nearest_key(dotted: str) -> str | None:
    """Return the valid dotted key nearest to `dotted`, or None where nothing is near."""
    section, _, leaf = dotted.rpartition(".")
    meant = None if "aggregator" in section else _OTHER_NAMES.get(leaf.lower().replace("-", "_"))
    return meant or _nearest(dotted, all_keys())


def _nearest_choice(value: str, choices: Iterable[str]) -> str | None:
    """Return the choice nearest to `value`, in whatever case either is written, or None where nothing is near."""
    by_folded = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(value.casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None


def _nearest(dotted: str, names: Iterable[str]) -> str | None:
    """Return the name whose last part is likest to that of `dotted`; among equals, the one with the likest section."""
    section, _, leaf = dotted.rpartition(".")
    leaf = leaf.lower().replace("-", "_")
    best, best_score = None, (_CLOSE_ENOUGH, 0.0)
    for name in names:
        its_section, _, its_leaf = name.rpartition(".")
        score = (_likeness(leaf, its_leaf), _likeness(section, its_section))
        if score > best_score:
            best, best_score = name, score
    return best


def _likeness(left: str, right: str) -> float:
    return SequenceMatcher(a=left, b=right, autojunk=False).ratio()
