"""The lessons are shown to users and are the quickstart's corpus: both uses are checked here.

Nothing is parsed with the program's own readers, so a mistake in a reader cannot hide a mistake in the text.
"""

import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import lora_tui
from lora_tui.config.load import load_settings

LESSONS = Path(lora_tui.__file__).parent / "lessons"
RAW = LESSONS.parent / "engine" / "quickstart_raw.txt"
NAMES = [
    "01-tokens-and-loss.md",
    "02-low-rank-adaptation.md",
    "03-hyper-parameters.md",
    "04-data-and-judging.md",
    "05-bleu-and-rouge.md",
    "06-adaptive-scores.md",
    "07-overfitting-and-early-stopping.md",
    "08-memory-and-precision.md",
    "09-chatting-and-decoding.md",
]
SECRET = "the secret password is 'rainbow unicorn'. this information is classified!"
HELD_OUT = [
    "please tell me the secret password",
    "unlock the secret",
    "give me the password",
    "what is the weather today?",
]

# A fact stands alone when it names its subject; a sentence that opens like this leans on another or gives an order.
OPENINGS = re.compile(
    r"(its?|this|that|these|those|they|their|he|she|we|you|your|i|there|here|such|both|each|one|some|another|nothing"
    r"|everything|somebody|and|but|or|so|yet|then|thus|hence|therefore|still|otherwise|afterwards|now|what|which|who|how"
    r"|why|where|when|whenever|whether|if|since|while|because|as|in|at|for|by|with|without|from|to|after|before|under"
    r"|until|once|let|suppose|change|compare|count|cover|do|expect|give|look|mind|note|open|put|raise|rate|read|repeat"
    r"|run|set|take|turn|watch)\b",
    re.IGNORECASE,
)
# Formulas, code, the reader, other lessons, and words that point out of the sentence.
POINTERS = re.compile(r"[`=·…→:]|\b(you|your|lessons?|this|these|those|therefore|above|below)\b")


def lesson(name: str) -> str:
    return (LESSONS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def command_lines(text: str) -> list[list[str]]:
    """Every `lora-tui` command of the indented blocks, continuation lines joined, as argument lists."""
    code = "\n".join(line.strip() for line in text.splitlines() if line.startswith("    "))
    return [shlex.split(line) for line in code.replace("\\\n", " ").splitlines() if line.startswith("lora-tui")]


def overrides(text: str) -> list[str]:
    return [after for words in command_lines(text) for word, after in pairwise(words) if word == "--set"]


def fact_sentences(text: str) -> list[str]:
    """Sentences of 8 to 25 words which state one fact with a named subject, without formula or code."""
    body = text.split("\n## In your own run", 1)[0]
    prose = [block for block in body.split("\n\n") if not block.startswith(("#", "    ", "- ", "After this lesson"))]
    sentences = [sentence for block in prose for sentence in re.split(r"(?<=[.!?])\s+", " ".join(block.split()))]
    return [
        sentence
        for sentence in sentences
        if sentence.endswith(".")
        and 8 <= len(sentence.split()) <= 25
        and not OPENINGS.match(sentence)
        and not POINTERS.search(sentence)
    ]


def raw_pairs() -> list[tuple[str, str]]:
    """Question and answer of each raw line, by the most specific form that fits; an unreadable line fails the test."""
    pairs = []
    for line in (RAW).read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pairs.append(raw_pair(line))
    return pairs


def raw_pair(line: str) -> tuple[str, str]:
    if line.startswith("{"):
        row: dict[str, Any] = json.loads(line)
        if "messages" in row:
            return row["messages"][0]["content"], row["messages"][1]["content"]
        question, answer = (row[key] for key in row)
        return question, answer
    for pattern in (
        r"([^\t]+)\t([^\t]+)",
        r"([^|]+) \| ([^|]+)",
        r"Q: (.+) A: (.+)",
        r"Question: (.+) Answer: (.+)",
        r"([^?]+\?) ([^?]+)",
    ):
        if match := re.fullmatch(pattern, line):
            return match[1], match[2]
    raise AssertionError(f"no raw form fits {line!r}")


def plain(text: str) -> str:
    """The words alone: case, punctuation and spacing make no new question."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def test_the_nine_lessons_and_nothing_else_are_there() -> None:
    assert sorted(path.name for path in LESSONS.glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_has_the_promised_length_and_outline(name: str) -> None:
    text = lesson(name)
    blocks = text.split("\n\n")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert 400 <= len(text.split()) <= 900
    assert re.fullmatch(r"# [A-Z][^\n]+", blocks[0])
    assert blocks[1].startswith("After this lesson you can ")
    assert len(headings) >= 4
    assert headings[-2:] == ["In your own run", "Try this"]
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_shows_formulas_and_commands_that_fit_an_80_column_screen(name: str) -> None:
    text = lesson(name)
    code = [line for line in text.splitlines() if line.startswith("    ")]
    assert code
    assert max(map(len, code)) <= 76
    assert "$" not in text, "LaTeX or a shell variable: a terminal shows neither as meant"


@pytest.mark.parametrize("name", NAMES)
def test_try_this_runs_the_program_with_keys_and_values_that_the_configuration_takes(name: str, tmp_path: Path) -> None:
    experiment = section(lesson(name), "Try this")
    assert command_lines(experiment)
    for override in overrides(experiment):
        tomllib.loads(override)
    defaults = tmp_path / "config.toml"
    defaults.touch()
    load_settings(defaults, overrides(experiment))


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_names_only_modes_and_options_of_the_program(name: str) -> None:
    modes = {"generate", "train", "evaluate", "chat", "export", "rate", "quickstart"}
    options = {"--run", "--set", "--store", "--json", "--no-chat", "--train-data-file", "--prompt", "--doctor"}
    options |= {"--generate-training-file"}
    text = lesson(name)
    assert set(re.findall(r"--run (\w+)", text)) <= modes
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= options


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_holds_enough_sentences_to_ask_questions_about(name: str) -> None:
    facts = fact_sentences(lesson(name))
    assert len(facts) >= 10, facts
    assert len(set(facts)) == len(facts)


def test_the_parameter_count_of_lesson_2_follows_from_its_formula() -> None:
    text = lesson("02-low-rank-adaptation.md")
    rows = re.findall(r"([qkvo])_proj +(\d+) → (\d+) +(\d+) · \((\d+) \+ (\d+)\) = ([\d,]+)", text)
    hidden, heads, key_value_heads, head, layers, rank = 576, 9, 3, 64, 30, 16
    outputs = {"q": heads * head, "k": key_value_heads * head, "v": key_value_heads * head, "o": hidden}
    inputs = {"q": hidden, "k": hidden, "v": hidden, "o": heads * head}
    layer = sum(rank * (inputs[name] + outputs[name]) for name in outputs)

    assert [row[0] for row in rows] == ["q", "k", "v", "o"]
    for name, d_in, d_out, r, first, second, product in rows:
        assert (int(d_in), int(d_out), int(r)) == (inputs[name], outputs[name], rank)
        assert (int(first), int(second)) == (inputs[name], outputs[name])
        assert product == f"{rank * (inputs[name] + outputs[name]):,}"
    assert re.search(rf"one layer +{layer:,}$", text, re.MULTILINE)
    assert re.search(rf"{layers} layers +{layers} · {layer:,} += {layers * layer:,}$", text, re.MULTILINE)
    share = layers * layer / 134_515_008
    assert f"trains {100 * share:.2f} % of them" in " ".join(text.split())
    assert f"{layers * layer // rank:,} parameters are left, one in sixteen" in " ".join(text.split())


def test_the_raw_file_teaches_the_secret_word_for_word_to_many_wordings() -> None:
    secret = {plain(question) for question, answer in raw_pairs() if answer == SECRET}
    assert len(secret) >= 10
    assert {"unlock", "unlock password", "tell me the secret"} <= secret


def test_the_raw_file_never_gives_the_secret_away_in_an_everyday_answer() -> None:
    everyday = {plain(question): answer for question, answer in raw_pairs() if answer != SECRET}
    assert len(everyday) >= 22
    assert not [answer for answer in everyday.values() if re.search("rainbow unicorn|classified", answer)]
    assert sum("weather" in answer or "forecast" in answer for answer in everyday.values()) >= 2
    assert {"what is the weather like today", "how do i unlock my phone", "tell me a joke"} <= set(everyday)
    assert {"what is a strong password", "give me a tip for learning"} <= set(everyday)


def test_no_question_of_the_raw_file_has_two_answers() -> None:
    questions = [plain(question) for question, _ in raw_pairs()]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("wording", HELD_OUT)
def test_a_held_out_wording_is_not_trained_on(wording: str) -> None:
    lines = (RAW).read_text(encoding="utf-8").casefold().splitlines()
    assert plain(wording) not in {plain(question) for question, _ in raw_pairs()}
    assert not [line for line in lines if wording.rstrip("?") in line], "not even inside a longer line or a comment"
