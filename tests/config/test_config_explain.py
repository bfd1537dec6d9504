"""One key on a screen: the advice that is its own, its value as one line, and what somebody typed as a value."""

import subprocess
import sys
import tomllib
from typing import Any

import pytest

from lora_tui.config.advice import advise
from lora_tui.config.explain import SECTION_TITLES, advice_for, format_value, parse_edit
from lora_tui.config.keys import all_keys, all_sections, plain_value
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.errors import ConfigError

MODEL = "data_generation.model"
TOPICS = "data_generation.topics"
TARGETS = "fine_tuning.lora.target_modules"
PROMPTS = "fine_tuning.evaluation.test_prompts"
COMMANDS = "fine_tuning.chat.commands"
R = "fine_tuning.lora.r"
RATE = "fine_tuning.optimizer.lora_lr"
SHUFFLE = "fine_tuning.training.shuffle"
CHECKPOINTING = "fine_tuning.gradient_checkpointing"


def test_every_section_has_a_title_of_its_own() -> None:
    assert list(SECTION_TITLES) == list(all_sections())
    assert len(set(SECTION_TITLES.values())) == len(SECTION_TITLES)


@pytest.mark.parametrize("key", all_keys())
def test_default_of_every_key_survives_being_shown_and_typed(key: str) -> None:
    default = plain_value(all_keys()[key].default)
    line = format_value(key, all_keys()[key].default)
    assert "\n" not in line
    if line or not isinstance(default, str) or default:
        assert parse_edit(key, line) == default
        assert type(parse_edit(key, line)) is type(default)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        (MODEL, "gpt-4.1 mini", "gpt-4.1 mini"),
        (MODEL, "4", "4"),
        (MODEL, "true", "true"),
        (MODEL, "C:\\models\\a", "C:\\models\\a"),
        (MODEL, "a#b = [c", "a#b = [c"),
        (MODEL, "it's", "it's"),
        (MODEL, "'quoted'", "\"'quoted'\""),
        (MODEL, '"', '"\\""'),
        (MODEL, " padded ", '" padded "'),
        (MODEL, "two\nlines", '"two\\nlines"'),
        (MODEL, "\u200bhidden", '"\u200bhidden"'),
        ("data_generation.judge_model", "", ""),
        (TOPICS, [], ""),
        (TOPICS, ["bees"], "bees"),
        (TOPICS, ["bees", "wasps and ants"], "bees, wasps and ants"),
        (TOPICS, ["1", "2"], "1, 2"),
        (TOPICS, ["1979-05-27", "1980-01-01"], "1979-05-27, 1980-01-01"),
        (TOPICS, ["true", "x"], "true, x"),
        (TOPICS, ["a, b", "c"], '["a, b", "c"]'),
        (TOPICS, ["[a", "b"], '["[a", "b"]'),
        (TOPICS, ["'a'"], "[\"'a'\"]"),
        (TOPICS, ["x" * 70, "y"], "x" * 70 + ", y"),
        (TOPICS, ["x" * 70 + ",", "y"], f'["{"x" * 70},", "y"]'),
        (TARGETS, "all-linear", "all-linear"),
        (TARGETS, ["all-linear"], '["all-linear"]'),
        (TARGETS, ["q_proj"], "q_proj"),
        (PROMPTS, [{"prompt": "a", "avoid": "b"}, "c\n"], '[{ prompt = "a", avoid = "b" }, "c\\n"]'),
        (PROMPTS, ["one", "two"], "one, two"),
        (COMMANDS, {}, ""),
        (COMMANDS, {"open sesame": "yes", "b": "c"}, '{ "open sesame" = "yes", b = "c" }'),
        ("app.keys", {"train.stop": "ctrl+s,f8"}, '{ "train.stop" = "ctrl+s,f8" }'),
        (f"{COMMANDS}.unlock", "sesame", "sesame"),
        (RATE, 2e-4, "2e-4"),
        (RATE, 1.0, "1.0"),
        (R, 8, "8"),
        (SHUFFLE, False, "false"),
        (CHECKPOINTING, "auto", "auto"),
        (CHECKPOINTING, True, "true"),
        ("data_generation.base_url", "http://localhost:8000/v1", "http://localhost:8000/v1"),
    ],
)
def test_value_is_shown_as_one_line_that_means_the_same(key: str, value: Any, line: str) -> None:
    assert format_value(key, value) == line
    assert parse_edit(key, line) == value
    assert type(parse_edit(key, line)) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        (MODEL, "  gpt-4  ", "gpt-4"),
        (MODEL, '"gpt-4"', "gpt-4"),
        (MODEL, "'C:\\x'", "C:\\x"),
        (R, " 0x10 ", 16),
        (R, "1_0", 10),
        (R, "08", 8),
        (RATE, "1", 1.0),
        (RATE, ".5", 0.5),
        (RATE, "5.", 5.0),
        (RATE, "2E-4", 2e-4),
        (SHUFFLE, "True", True),
        (SHUFFLE, "FALSE", False),
        (CHECKPOINTING, "false", False),
        (CHECKPOINTING, '"auto"', "auto"),
        (TOPICS, "a,b ,c,", ["a", "b", "c"]),
        (TOPICS, "\"a, b\", 'c', d", ["a, b", "c", "d"]),
        (TOPICS, '["a", "b"]', ["a", "b"]),
        (TOPICS, "[]", []),
        (TARGETS, '"all-linear"', ["all-linear"]),
        (TARGETS, "q_proj, v_proj", ["q_proj", "v_proj"]),
        (PROMPTS, "{ prompt = 'a', expected = 'b' }", [{"prompt": "a", "expected": "b"}]),
        (COMMANDS, "a = 'b', c = 'd'", {"a": "b", "c": "d"}),
        (COMMANDS, "{}", {}),
        ("app.keys.train.stop", "ctrl+s", "ctrl+s"),
        ("fine_tuning.lora.rank_pattern.q_proj", "8", 8),
        ("fine_tuning.lora.rank_pattern", "q_proj = 8, 'layers.0.v_proj' = 4", {"q_proj": 8, "layers.0.v_proj": 4}),
        ("fine_tuning.lora.init_lora_weights", "pissa_niter_16", "pissa_niter_16"),
        ("fine_tuning.lora.init_lora_weights", "True", True),
        ("fine_tuning.lora.modules_to_save", "lm_head", ["lm_head"]),
        ("fine_tuning.scheduler.type", "linear", "linear"),
        ("data_generation.chunk_tokens", "30", 30),
    ],
)
def test_what_is_clear_is_taken(key: str, text: str, value: Any) -> None:
    assert parse_edit(key, text) == value
    assert type(parse_edit(key, text)) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (R, "", "fine_tuning.lora.r must be a whole number, not empty text (the default is 16)."),
        (R, "many", 'fine_tuning.lora.r must be a whole number, not the text "many" (the default is 16).'),
        (R, "0", "fine_tuning.lora.r must be at least 1, not 0 (the default is 16)."),
        (R, "1.5", "fine_tuning.lora.r must be a whole number, not 1.5 (the default is 16)."),
        (RATE, "nan", "fine_tuning.optimizer.lora_lr must be a finite number, not nan (the default is 3e-05)."),
        (RATE, "fast", "fine_tuning.optimizer.lora_lr must be a number"),
        (SHUFFLE, "yes", "fine_tuning.training.shuffle must be true or false"),
        (MODEL, "", "data_generation.model must not be empty."),
        (MODEL, '"gpt', "data_generation.model is not valid TOML: close every bracket and quote"),
        (TOPICS, "a,,b", "data_generation.topics item 2 must not be empty."),
        (TOPICS, '["a", 3]', "data_generation.topics item 2 must be text, not 3"),
        (TOPICS, '"a, b', "data_generation.topics is not valid TOML"),
        (TOPICS, "[a, b]", "data_generation.topics is not valid TOML"),
        (TARGETS, "", "fine_tuning.lora.target_modules must be a list of module names"),
        (COMMANDS, "unlock", 'fine_tuning.chat.commands must be written as name = "text"'),
        ("fine_tuning.lora.rank_pattern", "q_proj", "fine_tuning.lora.rank_pattern must be written as name = 8"),
        (COMMANDS, "exit = 'x'", 'fine_tuning.chat.commands must not hold "exit"'),
        ("app.keys", "train.stop = 'f8'", "app.keys must hold text in every line; a name with a dot goes in quotes"),
        ("app.keys.train.stop", "Ctrl+S", 'app.keys "train.stop" must be keys such as "ctrl+s"'),
        ("fine_tuning.scheduler.type", "cosin", 'did you mean "cosine"?'),
        ("fine_tuning.lora.rank", "8", "fine_tuning.lora.rank is not a key; did you mean fine_tuning.lora.r?"),
        ("data_generation.base_url", "https://me:VERYSECRET@host", "must not carry a user name or password"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(key: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_edit(key, text)
    told = str(caught.value)
    assert message in told
    assert told.startswith(key.partition(".train")[0])
    assert "\n" not in told
    assert "VERYSECRET" not in told
    assert told.endswith((".", "?", "…"))


def test_contradiction_to_another_key_is_not_this_keys_mistake() -> None:
    assert parse_edit("fine_tuning.training.max_epochs", "0") == 0
    with pytest.raises(ConfigError, match="needs max_steps"):
        with_values(Settings(), {"fine_tuning.training.max_epochs": 0})


def test_advice_is_given_with_its_key() -> None:
    settings = with_values(Settings(), {RATE: 0.5, "fine_tuning.training.patience": 0})
    every = advise(settings, optimizer_steps=60, trainable_parameters=10**9)
    found = {key: advice_for(settings, key, optimizer_steps=60, trainable_parameters=10**9) for key in all_keys()}
    assert sorted(line for lines in found.values() for line in lines) == sorted(every)
    assert [key for key, lines in found.items() if lines] == [
        R,
        RATE,
        "fine_tuning.scheduler.warmup_steps",
        "fine_tuning.training.patience",
    ]
    assert advice_for(Settings(), R) == []


def test_shown_values_are_toml_that_a_file_could_hold() -> None:
    settings = with_values(Settings(), {COMMANDS: {"a.b": 'c"d'}})
    assert tomllib.loads(f"v = {format_value(COMMANDS, settings.fine_tuning.chat.commands)}") == {"v": {"a.b": 'c"d'}}


def test_explaining_loads_no_library_that_only_saving_needs() -> None:
    code = "import sys, lora_tui.config.explain; assert 'tomlkit' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
