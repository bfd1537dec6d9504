"""What hypothesis makes up: configurations, raw lines, training files, replies and model folders.

Whatever a user or a model can write is read, or refused in the words of one error class: nothing else is raised, and
nothing that is said carries active characters or many lines. CI has a small budget; FUZZ_EXAMPLES=5000 is a long one.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.keys import all_keys
from lora_tui.config.load import load_settings
from lora_tui.engine.data.raw_lines import RawPair, parse_raw_line
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.generation.client.wire import ChatReply
from lora_tui.engine.generation.replies import MAX_PAIRS, MalformedReply, parse_pairs, read_judgement, read_yes_or_no
from lora_tui.errors import ConfigError, LoraTuiError, UsageError
from lora_tui.store.rows import AttemptEnd
from tests.engine.tiny import save_base, tiny_settings
from tests.extras import needed

hypothesis = needed("hypothesis")
given, st = hypothesis.given, hypothesis.strategies


def examples(number: int) -> Any:
    """So many examples, the same ones each time; FUZZ_EXAMPLES asks for more, and for others."""
    more = int(os.environ.get("FUZZ_EXAMPLES", "0"))
    return hypothesis.settings(max_examples=more or number, derandomize=not more, deadline=None, database=None)


def said_well(problem: Exception, *named: str) -> None:
    """Fail where a message is long, or does not name these."""
    assert 0 < len(str(problem).splitlines()) <= 4
    assert len(str(problem)) < 4000
    for name in named:
        assert name in str(problem)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)

# Configurations

KEYS = sorted(all_keys())
TOML_VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text(max_size=30).map(json.dumps),
    st.lists(st.text(max_size=8), max_size=3).map(json.dumps),
    st.sampled_from(["", "{}", "[]", "[[]]", "nan", "-inf", "1e999", "1979-05-27", "'", '"""', "0x", "{a={b=1}}"]),
    st.text(max_size=20),
)
NAMES = st.sampled_from(KEYS) | st.sampled_from(KEYS).map(lambda key: key.replace("_", "-")) | st.text(max_size=20)


@given(st.lists(st.tuples(NAMES, TOML_VALUES), max_size=4))
@examples(60)
def test_any_override_is_taken_or_refused_by_name(entries: list[tuple[str, str]]) -> None:
    try:
        load_settings(None, [f"{key}={value}" for key, value in entries], environment={})
    except ConfigError as problem:
        said_well(problem)


@given(st.lists(st.tuples(NAMES, TOML_VALUES), max_size=5), st.binary(max_size=40))
@examples(60)
def test_any_configuration_file_is_taken_or_refused_with_its_name(entries: list[tuple[str, str]], tail: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        lines = "\n".join(f"{key} = {value}" for key, value in entries)
        file.write_bytes(lines.encode("utf-8", "surrogatepass") + tail)
        try:
            load_settings(file, environment={})
        except ConfigError as problem:
            said_well(problem, "config.toml")


# Training data

WORDS = st.sampled_from(
    [
        "Question:",
        "Answer:",
        "Q:",
        "A:",
        "?",
        "|",
        "\t",
        "- ",
        "**",
        "1.",
        "{",
        '"question":',
        "#",
        "why",
        "bees",
        "\\n",
    ]
)
LINES = st.lists(WORDS | st.text(max_size=10), max_size=12).map(" ".join) | JSON.map(json.dumps)


@given(LINES)
@examples(200)
def test_any_raw_line_is_a_pair_or_has_a_reason(line: str) -> None:
    result = parse_raw_line(line)
    if isinstance(result, RawPair):
        assert result.question.strip()
        assert result.answer.strip()
    else:
        assert str(result)


RECORD_KEYS = ["question", "answer", "messages", "prompt", "completion", "instruction", "input", "output"]
RECORD_KEYS += ["conversations", "text", "role", "content", "from", "value", "weight", "train", "tools", "chosen"]
RECORDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["user", "assistant", "system"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(RECORD_KEYS), inner, min_size=1, max_size=4)
    ),
    max_leaves=10,
)
TRAINING_FILES = st.one_of(
    st.tuples(
        st.just("t.txt"), st.lists(LINES, max_size=8).map(lambda lines: "\n".join(lines).encode(errors="replace"))
    ),
    st.tuples(
        st.sampled_from(["t.jsonl", "t.json", "t.csv"]),
        st.lists(RECORDS.map(json.dumps), max_size=5).map(lambda lines: "\n".join(lines).encode()),
    ),
    st.tuples(st.just("t.json"), st.lists(RECORDS, max_size=4).map(lambda records: json.dumps(records).encode())),
    st.tuples(st.sampled_from(["t.txt", "t.jsonl", "t.json", "t.csv"]), st.binary(max_size=200)),
)


@given(TRAINING_FILES)
@examples(150)
def test_any_training_file_is_read_or_refused_with_its_name(named: tuple[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / named[0]
        file.write_bytes(named[1])
        try:
            read = read_examples(file)
        except UsageError as problem:
            said_well(problem, named[0])
        else:
            assert sum(read.forms.values()) == len(read.examples) > 0


# Replies

PAIR = {"question": "Why?", "answer": "Because.", "evidence": "It is so.", "topic": "why"}
WHOLE = json.dumps({"pairs": [PAIR, PAIR]})


@st.composite
def damaged(draw: Callable[[Any], Any], text: str) -> str:
    """A text with some of its characters taken out, doubled or replaced, and something round it."""
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text(max_size=3)) + text[at + draw(st.integers(0, 3)) :]
    return str(draw(st.sampled_from(["", "<think>", "Here you are:\n```json\n", "\ufeff"]))) + text


REPLIES = damaged(WHOLE) | JSON.map(json.dumps) | JSON.map(lambda value: json.dumps({"pairs": value})) | st.text()


def reply_of(text: str) -> ChatReply:
    return ChatReply(1, text, "stop", "", (), AttemptEnd("ok"))


@given(REPLIES)
@examples(200)
def test_any_reply_holds_pairs_or_is_malformed(text: str) -> None:
    try:
        proposals = parse_pairs(text)
    except MalformedReply as problem:
        said_well(problem)
        return
    assert len(proposals.pairs) <= MAX_PAIRS
    for pair in proposals.pairs:
        assert isinstance(pair.question, str)
        assert isinstance(pair.answer, str)


@given(damaged("5 4 5") | damaged("**5** **4** **5**") | damaged('{"groundedness": 5}') | st.text())
@examples(200)
def test_any_judgement_has_three_levels_or_is_malformed(text: str) -> None:
    for read in (read_judgement, read_yes_or_no):
        try:
            found: Any = read(reply_of(text))
        except MalformedReply as problem:
            said_well(problem)
            continue
        assert all(0 <= level <= 1 for level in (found.metrics.values() if read is read_judgement else [found]))


# Model folders

MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a sound model."""
    folder = save_base(tmp_path_factory.mktemp("models") / "tiny")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(st.data())
@examples(8)
def test_any_model_folder_is_loaded_or_refused(sound: dict[str, bytes], data: Any) -> None:
    from lora_tui.engine.models.base_model import load_base

    files = dict(sound)
    name = data.draw(st.sampled_from([file for file in MODEL_FILES if file in files]))
    how = data.draw(st.sampled_from(["value", "bytes", "cut", "missing"]))
    if how == "missing":
        del files[name]
    elif how == "cut":
        files[name] = files[name][: data.draw(st.integers(0, len(files[name])))]
    elif how == "bytes" or not name.endswith(".json"):
        at = data.draw(st.integers(0, len(files[name])))
        files[name] = files[name][:at] + data.draw(st.binary(max_size=4)) + files[name][at + 2 :]
    else:
        values = json.loads(files[name])
        key = data.draw(st.sampled_from(sorted(values)))
        values[key] = data.draw(JSON)
        files[name] = json.dumps(values).encode()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        try:
            load_base(tiny_settings({"model_name": str(folder)}), lambda *_: None)
        except LoraTuiError as problem:
            said_well(problem)
