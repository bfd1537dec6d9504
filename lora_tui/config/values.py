"""Types of configuration values, each with bounds and an error message of its own, and `Section`, which holds them.

A type carries its bounds, or a check with a message of its own where a bound cannot say it. The messages follow the
key's name in a sentence ("… must be …"), and none of them repeats a value that may hold a key or a password. Whether
a possible value is also a wise one is asked in `advice`, not here.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from lora_tui.config.hub_names import hub_dataset
from lora_tui.outputs import MAX_NAME_BYTES, MAX_PATH_BYTES

LARGEST = 10**12
"""The bound of every count: far beyond any use, and safely inside SQLite's 64-bit integers."""

_KEY = re.compile(r"(?:(?:ctrl|shift|alt|meta|super|hyper)\+)+(?:[^\s+,A-Z]|[a-z0-9_]+)|[^\s,]|[a-z0-9_]+")
"""One key as Textual names it: a character, a name such as ``f2`` or ``question_mark``, modifiers before either."""

KEYS_COME_FROM_THE_ENVIRONMENT = "keys come from the environment: export OPENAI_API_KEY=…"


class Section(BaseModel):
    """What all sections share: strict, closed, unchangeable, and silent about their input in error texts."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


def conflict(keys: list[str], why: str) -> PydanticCustomError:
    """Return the error for keys of one section that contradict each other; `why` follows the first key's name."""
    return PydanticCustomError("conflict", "{why}", {"why": why, "keys": keys})


TEXT_FORMS = ("qa", "rewrite", "summary", "dialogue")
"""What generation writes: pairs, documents in other words, short documents, conversations."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value is, in words that follow "must be", where the Python type does not say it."""

    text: str


def refusal(why: str) -> PydanticCustomError:
    """Return the error that a check raises; `why` follows the key's name ("must be …") and is shown as it stands."""
    return PydanticCustomError("refused", "{why}", {"why": why})


def _check(
    holds: Callable[[Any], object], why: str, when: type[AfterValidator | BeforeValidator] = AfterValidator
) -> AfterValidator | BeforeValidator:
    """Return the validator that refuses a value unless `holds` is true of it; a `BeforeValidator` sees any type."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise refusal(why)
        return value

    return when(check)


def _base_url(text: str) -> str:
    if not text:
        return text
    try:
        parts = urlsplit(text)
        well_formed = bool(parts.hostname) and parts.port != 0 and not re.search(r"[\s\x00-\x1f]", text)
    except ValueError:
        raise refusal("is not a web address; write something like http://localhost:8000/v1") from None
    if parts.username is not None or parts.password is not None:
        raise refusal(f"must not carry a user name or password; {KEYS_COME_FROM_THE_ENVIRONMENT}")
    if parts.query or parts.fragment:
        raise refusal(
            f"must not carry a query (?…) or fragment (#…), which may hold a key; {KEYS_COME_FROM_THE_ENVIRONMENT}"
        )
    if parts.scheme not in ("http", "https"):
        raise refusal("must begin with http:// or https://, for example http://localhost:8000/v1")
    if not well_formed:
        raise refusal("is not a web address; write something like http://localhost:8000/v1")
    return text


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= 4096


def _are_device_numbers(value: Any) -> bool:
    """Tell whether a value is a list of devices by their numbers, each once."""
    if not isinstance(value, list) or not value or len(set(map(repr, value))) != len(value):
        return False
    return all(_is_count(number) and not isinstance(number, bool) for number in value)


def _is_initialisation(value: Any) -> bool:
    named = r"gaussian|orthogonal|olora|pissa|pissa_niter_[1-9]\d{0,2}"
    return value is True or (isinstance(value, str) and re.fullmatch(named, value, re.ASCII) is not None)


def _pattern(table: Any) -> Any:
    if isinstance(table, dict):
        if any(isinstance(value, dict) for value in table.values()):
            raise refusal('must hold a number in every line; a name with a dot goes in quotes: "layers.0.q_proj" = 8')
        for name in table:
            if not isinstance(name, str) or not name.strip():
                raise refusal("must hold the name of a module in every line")
            try:
                re.compile(name)
            except re.error:
                raise refusal("must hold names of modules, or regular expressions for them") from None
    return table


def _commands(commands: dict[str, str]) -> dict[str, str]:
    for word, reply in commands.items():
        if not word.strip() or not reply.strip():
            raise refusal("must hold a word and a reply that are not empty in every line")
        if word.strip().lower() == "exit":
            raise refusal('must not hold "exit": that word leaves the chat')
    return commands


def _extractors(commands: dict[str, str]) -> dict[str, str]:
    for suffix, command in commands.items():
        if not re.fullmatch(r"\.?[A-Za-z0-9_+-]{1,16}", suffix, re.ASCII):
            raise refusal('must hold the suffix of a file, such as rtf or ".rtf", and a command in every line')
        try:
            words = shlex.split(command)
        except ValueError:
            words = []
        if not words:
            raise refusal(f'must hold a command whose quotation marks are closed, such as {suffix} = "unrtf {{file}}"')
    return commands


def _hosts(table: dict[str, str]) -> dict[str, str]:
    for host in table:
        if not re.fullmatch(r"[A-Za-z0-9._-]+(?::\d{1,5})?|\[[0-9A-Fa-f:]+\](?::\d{1,5})?", host):
            raise refusal('must hold a host in every line, such as "api.groq.com" or "localhost:8001"')
    return table


def _are_keys(text: str) -> bool:
    return all(_KEY.fullmatch(key.strip()) for key in text.split(","))


Count = Annotated[int, Field(ge=1, le=LARGEST)]
"""How many of something there must be at least one of."""

Limit = Annotated[int, Field(ge=0, le=LARGEST)]
"""How many, where 0 has a meaning."""

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What random numbers start from; the bound is numpy's."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Share = Annotated[float, Field(gt=0, le=1)]
"""A part of the whole, above 0 and up to 1."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
"""From 0 up to, but not including, 1."""

OptionalText = Annotated[str, _check(lambda text: "\0" not in text, "must not contain a NUL character")]
Text = Annotated[OptionalText, _check(str.strip, "must not be empty")]
TextForm = Annotated[
    str, _check(lambda name: name in TEXT_FORMS, f"must be one of {', '.join(TEXT_FORMS)}"), Kind("text")
]
Texts = list[Text]


def _is_possible_path(text: str) -> bool:
    names = text.split("/")
    return len(text.encode()) <= MAX_PATH_BYTES and max(len(name.encode()) for name in names) <= MAX_NAME_BYTES


OptionalPath = Annotated[
    OptionalText,
    _check(_is_possible_path, f"has a name of more than {MAX_NAME_BYTES} bytes, which no file or folder can have"),
]


def _training_data(text: str) -> str:
    try:
        hub_dataset(text)
    except ValueError as problem:
        raise refusal(str(problem)) from None
    return text


TrainingData = Annotated[OptionalPath, AfterValidator(_training_data)]
"""A file, or a data set of the Hugging Face hub."""

PathText = Annotated[OptionalPath, _check(str.strip, "must not be empty")]
Url = Annotated[str, AfterValidator(_base_url), Kind("a web address (http:// or https://) or empty")]
Urls = Annotated[
    list[Annotated[Url, _check(len, "must not be empty")]],
    Kind('a list of web addresses, as in ["http://one:8000/v1"]'),
]


def _webhook(text: str) -> str:
    return text if re.fullmatch(r"\$[A-Z_][A-Z0-9_]{0,63}", text) else _base_url(text)


WebhookAddress = Annotated[
    OptionalText, AfterValidator(_webhook), Kind('a web address, or "$NAME" of an environment variable, or empty')
]
Device = Annotated[
    str,
    _check(
        re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?", re.ASCII).fullmatch,
        'must be "auto", "cpu", "mps", "cuda" or "cuda:N" with the number of the card',
    ),
    Kind('"auto", "cpu", "mps", "cuda" or "cuda:N"'),
]
Devices = Annotated[
    int | list[int],
    _check(
        lambda value: not isinstance(value, bool) and (_is_count(value) or _are_device_numbers(value)),
        "must be a number of devices (0 = all), or a list of their numbers, such as [0, 2]",
        BeforeValidator,
    ),
    Kind("a number of devices or a list of their numbers"),
]
EnvironmentName = Annotated[
    str,
    _check(
        # Lower-case names are possible but rare; a key that was pasted here by mistake nearly always has some.
        re.compile(r"[A-Z_][A-Z0-9_]{0,63}").fullmatch,
        "must be the name of an environment variable (capital letters, digits, _), never the key itself; "
        + KEYS_COME_FROM_THE_ENVIRONMENT,
    ),
    Kind("the name of an environment variable"),
]
SwitchOrAuto = Annotated[
    bool | Literal["auto"],
    _check(
        lambda value: isinstance(value, bool) or value == "auto",
        'must be true, false (lower case, without quotes) or "auto"',
        BeforeValidator,
    ),
    Kind('true, false or "auto"'),
]
TargetModules = Annotated[
    list[str] | Literal["all-linear"],
    _check(
        lambda value: value == "all-linear" or (value and _are_names(value)),
        'must be a list of module names, such as ["q_proj", "v_proj"], or "all-linear"',
        BeforeValidator,
    ),
    Kind('a list of module names or "all-linear"'),
]
Initialisation = Annotated[
    bool | str,
    _check(
        _is_initialisation,
        'must be true, "gaussian", "orthogonal", "pissa", "pissa_niter_16" or "olora"; '
        "PEFT's others need data, or do not begin at the base model",
        BeforeValidator,
    ),
    Kind('true, "gaussian", "orthogonal", "pissa", "pissa_niter_16" or "olora"'),
]
ModuleNames = Annotated[
    list[str],
    _check(_are_names, 'must be a list of module names, such as ["lm_head"]', BeforeValidator),
    Kind("a list of module names"),
]
Pattern = Annotated[dict[str, Count], BeforeValidator(_pattern), Kind("a table of module names and whole numbers")]
_flat = _check(
    lambda table: not isinstance(table, dict) or not any(isinstance(value, dict) for value in table.values()),
    'must hold text in every line; a name with a dot goes in quotes, as in "train.stop" = "ctrl+s"',
    BeforeValidator,
)
Commands = Annotated[dict[str, OptionalText], _flat, AfterValidator(_commands), Kind("a table of words and replies")]
Extractors = Annotated[
    dict[str, OptionalText], _flat, AfterValidator(_extractors), Kind("a table of suffixes and commands")
]
HostKeys = Annotated[
    dict[str, EnvironmentName], _flat, AfterValidator(_hosts), Kind("a table of hosts and environment variables")
]
HostModels = Annotated[dict[str, Text], _flat, AfterValidator(_hosts), Kind("a table of hosts and models")]
Keys = Annotated[
    str,
    _check(
        _are_keys, 'must be keys such as "ctrl+s", "f2" or "a,shift+tab": lower case, joined by +, no blanks inside'
    ),
]
Bindings = Annotated[
    dict[str, Keys],
    _flat,
    _check(lambda bindings: all(name.strip() for name in bindings), "must hold the name of a binding in every line"),
    Kind("a table of the names of bindings and their keys"),
]
