"""Where values come from, and which one wins."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.keys import settings_value
from lora_tui.config.load import load_settings, with_values
from lora_tui.config.models import PromptCheck, Settings
from lora_tui.errors import ConfigError

R = "fine_tuning.lora.r"
R_VARIABLE = "LORA_TUI__FINE_TUNING__LORA__R"


def file_with_rank(path: Path, r: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[fine_tuning.lora]\nr = {r}\n")
    return path


def one(override: str) -> Any:
    return settings_value(load_settings(overrides=[override], environment={}).settings, override.partition("=")[0])


def test_defaults_without_a_file() -> None:
    loaded = load_settings(environment={})
    assert loaded.path is None
    assert loaded.settings == Settings()


def test_each_layer_wins_over_the_one_below(folder: Path, tmp_path: Path) -> None:
    def rank(*overrides: str, config_file: Path | None = None, **environment: str) -> tuple[int, Path | None]:
        loaded = load_settings(config_file, overrides, environment=environment)
        return loaded.settings.fine_tuning.lora.r, loaded.path

    users = file_with_rank(tmp_path / "user" / "config.toml", 1)
    assert rank() == (1, users)
    file_with_rank(folder / "config.toml", 2)
    assert rank() == (2, Path("config.toml"))
    named = file_with_rank(tmp_path / "named.toml", 3)
    assert rank(config_file=named) == (3, named)
    assert rank(config_file=named, **{R_VARIABLE: "4"}) == (4, named)
    assert rank(f"{R}=5", config_file=named, **{R_VARIABLE: "4"}) == (5, named)
    assert rank(f"{R}=5", f"{R}=6", config_file=named) == (6, named)
    assert load_settings(environment={}).path == Path("config.toml")


def test_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("lora_tui__Fine_Tuning__LORA__r", "7")
    assert load_settings().settings.fine_tuning.lora.r == 7


def test_a_mistake_that_a_later_layer_replaces_is_no_mistake(folder: Path) -> None:
    file_with_rank(folder / "config.toml", 0)
    assert load_settings(overrides=[f"{R}=5"], environment={}).settings.fine_tuning.lora.r == 5


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data_generation.model=builtin", "builtin"),
        ("data_generation.model=gpt-4.1-mini", "gpt-4.1-mini"),
        ("data_generation.model=org/name#1", "org/name#1"),
        ("data_generation.base_url=http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("data_generation.base_url=", ""),
        ("data_generation.input_folder=my folder/a=b", "my folder/a=b"),
        ("data_generation.model='4'", "4"),
        ("fine_tuning.evaluation.expected_response=one\nseed = 2", "one\nseed = 2"),
        ("fine_tuning.evaluation.expected_response=1\nseed = 2", "1\nseed = 2"),
        ("fine_tuning.optimizer.lora_lr=2e-4", 2e-4),
        ("fine_tuning.optimizer.lora_lr=1", 1.0),
        (" fine_tuning . lora.r = 8", None),
        ("fine_tuning.gradient_checkpointing=auto", "auto"),
        ("fine_tuning.gradient_checkpointing=false", False),
        ("fine_tuning.lora.target_modules=all-linear", "all-linear"),
        ('fine_tuning.lora.target_modules=["a", "b"]', ["a", "b"]),
        ("fine_tuning.device=cuda:1", "cuda:1"),
        ("fine_tuning.lora.init_lora_weights=pissa", "pissa"),
        ("fine_tuning.lora.init_lora_weights=true", True),
        ("data_generation.evaluation_threshold=11", 11.0),
    ],
)
def test_override_is_a_toml_value_or_a_bare_word(override: str, value: Any) -> None:
    if value is None:
        assert load_settings(overrides=[override], environment={}).settings.fine_tuning.lora.r == 8
    else:
        assert one(override) == value
        assert type(one(override)) is type(value)


def test_section_as_a_table_changes_only_the_keys_in_it(folder: Path) -> None:
    (folder / "config.toml").write_text("[fine_tuning.lora]\nr = 4\nalpha = 4\n")
    lora = load_settings(overrides=["fine_tuning.lora={r = 8}"], environment={}).settings.fine_tuning.lora
    assert (lora.r, lora.alpha) == (8, 4)


def test_rank_of_a_single_layer_is_set_by_its_dotted_name(folder: Path) -> None:
    (folder / "config.toml").write_text("[fine_tuning.lora.rank_pattern]\nv_proj = 4\n")
    override = ["fine_tuning.lora.rank_pattern.layers.0.self_attn.q_proj=8"]
    lora = load_settings(overrides=override, environment={}).settings.fine_tuning.lora
    assert lora.rank_pattern == {"v_proj": 4, "layers.0.self_attn.q_proj": 8}


def test_single_command_is_added_to_those_configured(folder: Path) -> None:
    secret = Settings().fine_tuning.chat.commands["unlock"]
    override = ["fine_tuning.chat.commands.hello=hi there"]
    assert load_settings(overrides=override, environment={}).settings.fine_tuning.chat.commands == {
        "unlock": secret,
        "hello": "hi there",
    }
    (folder / "config.toml").write_text('[fine_tuning.chat.commands]\n"open sesame" = "it opens"\n')
    variable = {"LORA_TUI__FINE_TUNING__CHAT__COMMANDS__BYE": "bye"}
    assert load_settings(overrides=override, environment=variable).settings.fine_tuning.chat.commands == {
        "open sesame": "it opens",
        "bye": "bye",
        "hello": "hi there",
    }
    assert one("fine_tuning.chat.commands={}") == {}


@pytest.mark.parametrize(
    "keys",
    ["ctrl+s", "f8", "a", "A", "?", "+", "é", "ctrl+shift+left", "question_mark", "ctrl+_", "j,down", "ctrl+s, f2"],
)
def test_every_way_to_name_keys_is_taken(keys: str) -> None:
    assert with_values(Settings(), {"app.keys": {"train.stop": keys}}).app.keys == {"train.stop": keys}


def test_name_of_a_binding_is_one_word_with_its_dots(folder: Path) -> None:
    (folder / "config.toml").write_text('[app.keys]\n"train.stop" = "f8"\n"train.save" = "f9"\n')
    overrides = ["app.keys.train.save=ctrl+k", 'app.keys."chat.send"=ctrl+j']
    environment = {"LORA_TUI__APP__KEYS__CHAT__COPY": "f5"}
    loaded = load_settings(overrides=overrides, environment=environment).settings
    expected = {"train.stop": "f8", "train.save": "ctrl+k", "chat.send": "ctrl+j", "chat.copy": "f5"}
    assert loaded.app.keys == expected
    assert with_values(loaded, {"app.keys.train.stop": "q"}).app.keys == {**expected, "train.stop": "q"}


def test_test_prompts_of_every_form(folder: Path) -> None:
    (folder / "config.toml").write_text(
        "[fine_tuning.evaluation]\ntest_prompts = ['a', {prompt = 'b', expected = 'c'}, {prompt = 'd', avoid = 'e'}]\n"
    )
    assert load_settings(environment={}).settings.fine_tuning.evaluation.test_prompts == [
        "a",
        PromptCheck(prompt="b", expected="c"),
        PromptCheck(prompt="d", avoid="e"),
    ]


def test_file_with_byte_order_mark_and_windows_line_ends(folder: Path) -> None:
    (folder / "config.toml").write_bytes(b"\xef\xbb\xbf[fine_tuning.lora]\r\nr = 4\r\n")
    assert load_settings(environment={}).settings.fine_tuning.lora.r == 4


def test_file_from_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=("[logging]\nlevel = 'DEBUG'\n",), daemon=True).start()
    assert load_settings(pipe, environment={}).settings.logging.level == "DEBUG"


def test_settings_survive_json() -> None:
    settings = with_values(
        Settings(),
        {"fine_tuning.evaluation.test_prompts": ["a", {"prompt": "b", "avoid": "c"}], "fine_tuning.lora.r": 3},
    )
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_with_values_checks_and_leaves_the_original_alone() -> None:
    settings = Settings()
    assert with_values(settings, {R: 3, "logging.level": "DEBUG"}).fine_tuning.lora.r == 3
    assert settings == Settings()
    with pytest.raises(ConfigError, match=r"the change: fine_tuning\.lora\.r must be at least 1, not 0"):
        with_values(settings, {R: 0})
    with pytest.raises(ConfigError, match=r"fine_tuning\.lora\.rr is not a key; did you mean fine_tuning\.lora\.r\?"):
        with_values(settings, {"fine_tuning.lora.rr": 3})


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().logging.level = "DEBUG"  # type: ignore[misc]  # refusing this is what is tested
