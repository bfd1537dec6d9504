"""The documented configuration file, the list of keys, and what importing them costs."""

import itertools
import json
import operator
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.keys import all_keys, all_sections, open_tables
from lora_tui.config.load import load_settings
from lora_tui.config.models import Settings
from lora_tui.config.reference import reference_text, schema_text, toml_value

ROOT = Path(__file__).parents[2]
CONTRACT_ORDER = [
    "data_generation",
    "data_generation.api_key_envs",
    "data_generation.models_by_host",
    "data_generation.extractors",
    "data_generation.generation",
    "data_generation.evaluation",
    "data_generation.batch_analysis",
    "data_generation.adaptive_aggregator",
    "data_generation.mix",
    "fine_tuning",
    "fine_tuning.lora",
    "fine_tuning.lora.rank_pattern",
    "fine_tuning.lora.alpha_pattern",
    "fine_tuning.optimizer",
    "fine_tuning.scheduler",
    "fine_tuning.training",
    "fine_tuning.sampling",
    "fine_tuning.preferences",
    "fine_tuning.evaluation",
    "fine_tuning.evaluation.adaptive_aggregator",
    "fine_tuning.chat",
    "fine_tuning.chat.commands",
    "serving",
    "logging",
    "notify",
    "app",
    "app.keys",
]


def test_documented_file_is_what_the_program_writes() -> None:
    assert (ROOT / "config.toml").read_text(encoding="utf-8") == reference_text()


def test_documented_file_loads_to_exactly_the_defaults() -> None:
    assert load_settings(ROOT / "config.toml", environment={}).settings == Settings()


def test_documented_file_has_a_comment_above_every_key_and_section() -> None:
    lines = (ROOT / "config.toml").read_text(encoding="utf-8").splitlines()
    seen, section = [], ""
    for above, line in itertools.pairwise(lines):
        if header := re.fullmatch(r"\[(.+)\]", line):
            section = header[1]
            if section in open_tables():
                seen.append(section)
        elif name := re.match(r"([a-z_0-9]+) = ", line):
            if section in open_tables():
                continue
            seen.append(f"{section}.{name[1]}")
        else:
            continue
        assert re.match(r"# \S", above), line
    assert seen == list(all_keys())


def test_documented_file_has_the_sections_in_order() -> None:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    assert re.findall(r"^\[(.+)\]$", text, re.MULTILINE) == CONTRACT_ORDER


def test_tables_of_the_users_own_words_are_known_by_their_defaults() -> None:
    patterns = ("fine_tuning.lora.rank_pattern", "fine_tuning.lora.alpha_pattern")
    hosts = ("data_generation.api_key_envs", "data_generation.models_by_host")
    assert open_tables() == (*hosts, "data_generation.extractors", *patterns, "fine_tuning.chat.commands", "app.keys")


def test_every_key_is_described() -> None:
    for key in all_keys().values():
        assert key.description.endswith("."), key.name
        assert key.kind, key.name
        assert key.section in all_sections(), key.name
        assert key.name == f"{key.section}.{key.leaf}"


def test_keys_carry_kind_bounds_and_choices() -> None:
    keys = all_keys()
    assert (keys["fine_tuning.lora.r"].kind, keys["fine_tuning.lora.r"].bounds) == ("a whole number", "at least 1")
    assert keys["fine_tuning.lora.dropout"].bounds == "at least 0, below 1"
    assert keys["data_generation.generation.top_p"].bounds == "above 0, at most 1"
    assert keys["data_generation.evaluation_threshold"].bounds == ""
    assert keys["fine_tuning.scheduler.type"].choices == ("cosine", "linear", "constant")
    assert keys["fine_tuning.scheduler.type"].kind == '"cosine", "linear" or "constant"'
    assert keys["fine_tuning.training.shuffle"].kind == "true or false"
    assert keys["fine_tuning.chat.commands"].default == Settings().fine_tuning.chat.commands


def test_values_are_written_as_toml_that_reads_back() -> None:
    values = [3e-5, 1e-8, 0.7, 1.0, 1e22, True, 3, "a\n'b'\"", [], ["x" * 80, "y"], {"a b": "c"}]
    values += [["p", {"prompt": "a", "avoid": "b"}]]
    for value in values:
        assert tomllib.loads(f"v = {toml_value(value)}") == {"v": value}
    assert toml_value(3e-5) == "3e-5"


def test_importing_the_configuration_loads_nothing_heavy() -> None:
    code = """
import sys, lora_tui.config.paths
assert "pydantic" not in sys.modules, "paths alone need no pydantic"
import lora_tui.config.advice, lora_tui.config.explain, lora_tui.config.load, lora_tui.config.save
heavy = {"torch", "transformers", "peft", "openai", "nltk", "numpy", "textual", "rich", "aiosqlite", "httpx"}
print(*sorted(heavy & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == ""


def test_importing_the_configuration_is_quick_once_pydantic_is_there() -> None:
    code = """
import time
from pydantic import AfterValidator, BaseModel, ValidationError, model_validator
class First(BaseModel):
    value: int = 1
start = time.process_time()
from lora_tui.config.advice import advise
from lora_tui.config.load import load_settings
from lora_tui.config.save import save_keys
load_settings(environment={})
print(time.process_time() - start)
"""
    run = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        for _ in "123"
    ]
    assert min(float(one.stdout) for one in run) < 0.15


_TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "number": (int, float), "integer": int,
    "null": type(None),
}  # fmt: skip
_BOUNDS: dict[str, Callable[[Any, Any], Any]] = {
    "minimum": operator.ge, "exclusiveMinimum": operator.gt, "maximum": operator.le, "exclusiveMaximum": operator.lt,
    "minItems": lambda value, least: len(value) >= least, "minLength": lambda value, least: len(value) >= least,
    "pattern": lambda value, rule: re.search(rule, value),
}  # fmt: skip
_REMARKS = {"$schema", "$defs", "title", "description", "default", "discriminator", "format", "examples"}


def refused(value: Any, schema: dict[str, Any], whole: dict[str, Any], where: str = "") -> list[str]:
    """Where a value does not keep to a schema, for the part of JSON schema that ours uses."""
    found: list[str] = []
    if "type" in schema and (
        not isinstance(value, _TYPES[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean")
    ):
        return [f"{where} is no {schema['type']}"]
    for word, rule in schema.items():
        if word == "$ref":
            found += refused(value, whole["$defs"][rule.removeprefix("#/$defs/")], whole, where)
        elif word in ("anyOf", "oneOf"):
            fitting = [one for one in rule if not refused(value, one, whole)]
            found += [] if fitting else [f"{where} fits none of {rule}"]
        elif word in ("enum", "const"):
            found += [] if value in (rule if word == "enum" else [rule]) else [f"{where} is none of {rule}"]
        elif word == "properties":
            for name, inner in value.items():
                found += refused(inner, rule[name], whole, f"{where}.{name}") if name in rule else []
        elif word == "additionalProperties":
            others = [name for name in value if name not in schema.get("properties", {})]
            for name in others:
                inner = value[name]
                found += [f"{where}.{name} is unknown"] if rule is False else []
                found += refused(inner, rule, whole, f"{where}.{name}") if isinstance(rule, dict) else []
        elif word == "required":
            found += [f"{where}.{name} is missing" for name in rule if name not in value]
        elif word == "items":
            found += [fault for item in value for fault in refused(item, rule, whole, f"{where}[]")]
        elif word in _BOUNDS:
            found += [] if _BOUNDS[word](value, rule) else [f"{where} is not {word} {rule}"]
        else:
            assert word in {"type", *_REMARKS}, f"{word} is not checked here"
    return found


def test_the_documented_file_keeps_to_the_schema_and_every_key_is_in_it() -> None:
    schema = json.loads(schema_text())
    defaults = tomllib.loads(reference_text())
    assert refused(defaults, schema, schema) == []
    for key in all_keys().values():
        place = schema
        for word in key.name.split("."):
            place = place["properties"][word]
            place = {**schema["$defs"].get(place.get("$ref", "").removeprefix("#/$defs/"), {}), **place}
        assert place["description"] == key.description, key.name


@pytest.mark.parametrize(
    "mistake",
    [
        "[fine_tuning]\nmodel_nam = 'x'",
        "[fine_tuning.lora]\nr = 'many'",
        "[fine_tuning.lora]\nr = 0",
        "[fine_tuning.lora]\ndropout = 1.0",
        "[fine_tuning.scheduler]\ntype = 'cosin'",
        "[fine_tuning.evaluation]\ntest_prompts = [1]",
        "[fine_tuning.chat.commands]\nunlock = 1",
    ],
)
def test_what_the_program_refuses_the_schema_refuses(mistake: str, tmp_path: Path) -> None:
    schema = json.loads(schema_text())
    assert refused(tomllib.loads(mistake), schema, schema)
