"""The literals that a text must hold: looking for them first changes nothing that is found."""

import json
import re
from pathlib import Path

import numpy  # noqa: F401  # with it, a table tells what is absent
import pytest

from lora_tui.engine.generation import injection
from lora_tui.engine.generation.literals import PrefilteredPatterns, required_literals

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        ("ignore the (?:above|rules)", [{"ignore the "}, {"above", "rules"}]),
        ("(?:above|rules) x", [{"above", "rules"}, {" x"}]),
        ("(?:the above|rules(?: here)?) x", [{"the above", "rules"}, {" x"}]),
        (r"\bjudg(?:e|ing)\b", [{"judg"}, {"e", "ing"}]),
        ("(?:very )?good", [{"good"}]),
        ("(?:very )+", [{"very "}]),
        ("(?:a|b|)x?", []),
        ("[abc]+", []),
        (r"x(?=[^.]{0,9}above)", [{"x"}, {"above"}]),
        (r"x(?!above)", [{"x"}]),
        ("x(?i:above)", [{"x"}]),
        (r"re\b-\bopened", [{"re-opened"}]),
    ],
)
def test_what_an_expression_needs(pattern: str, needed: list[set[str]]) -> None:
    assert required_literals(re.compile(pattern)) == needed


def test_an_expression_that_ignores_case_needs_nothing() -> None:
    assert required_literals(re.compile("above", re.IGNORECASE)) == []


def texts() -> list[str]:
    phrases = [json.loads(line) for line in (HERE / "instruction_phrases.jsonl").read_text().splitlines()]
    found = [value for phrase in phrases for value in phrase.values() if isinstance(value, str)]
    pairs = json.loads((HERE / "labelled_pairs.json").read_text())
    return [*found, *re.findall(r'"((?:[^"\\]|\\.){20,})"', json.dumps(pairs, ensure_ascii=False))]


def test_words_to_a_model_are_found_as_by_a_loop_over_all_expressions(monkeypatch: pytest.MonkeyPatch) -> None:
    known = texts()
    search = injection._search.__wrapped__
    fast = [search(text) for text in known]

    monkeypatch.setattr(PrefilteredPatterns, "candidates", lambda patterns, text: iter(patterns.patterns))
    assert fast == [search(text) for text in known]
    assert sum(found is not None for found in fast) > 100


def test_most_expressions_need_a_word() -> None:
    patterns = injection._PATTERNS
    assert sum(not needed for needed in patterns._needed) <= 3
    assert isinstance(patterns, PrefilteredPatterns)
