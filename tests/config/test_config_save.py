"""Saving changes what it was asked to change, completely or not at all."""

import os
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.keys import all_keys, plain_value, settings_value
from lora_tui.config.load import load_settings, with_values
from lora_tui.config.models import Settings
from lora_tui.config.save import save_keys
from lora_tui.errors import ConfigError, LoraTuiError

# One value for every key that is not its default.
CHANGES: dict[str, Any] = {
    "data_generation.input_folder": "C:\\data \"quoted\" 'twice'\nsecond line ü 🦄",
    "data_generation.topics": ["a", "b\tc"],
    "data_generation.judge_models": ["one", "other"],
    "fine_tuning.gradient_checkpointing": "auto",
    "fine_tuning.device": "cuda:1",
    "fine_tuning.dtype": "float32",
    "fine_tuning.parallel": "ddp",
    "fine_tuning.devices": [0, 2],
    "fine_tuning.method": "dpo",
    "fine_tuning.lora.target_modules": "all-linear",
    "fine_tuning.lora.init_lora_weights": "gaussian",
    "fine_tuning.lora.modules_to_save": ["lm_head"],
    "fine_tuning.lora.rank_pattern": {"q_proj": 4, "layers.0.v_proj": 2},
    "fine_tuning.lora.alpha_pattern": {"q_proj": 3},
    "app.drawing": "ascii",
    "fine_tuning.recipe": "as written",
    "fine_tuning.report_to": ["tensorboard", "trackio"],
    "fine_tuning.optimizer.loraplus_lr_ratio": 16.0,
    "fine_tuning.scheduler.type": "linear",
    "fine_tuning.evaluation.test_prompts": ["a", {"prompt": "b", "expected": "c"}, {"prompt": "d\ne", "avoid": "f"}],
    "fine_tuning.chat.commands": {"open sesame": "it's open", "ünlock": "x.y"},
    "data_generation.api_key_env": "OTHER_KEY",
    "data_generation.base_url": "http://localhost:8000/v1",
    "data_generation.base_urls": ["http://one:8000/v1", "http://two:8000/v1"],
    "data_generation.judge_base_urls": ["http://three:8000/v1"],
    "data_generation.api_key_envs": {"api.groq.com": "GROQ_API_KEY", "localhost:8001": "OTHER_KEY"},
    "data_generation.models_by_host": {"api.groq.com": "llama-3.3-70b-versatile"},
    "serving.api_key_env": "OTHER_SERVER_KEY",
    "logging.level": "ERROR",
    "fine_tuning.sampling.keywords": [],
    "app.refresh_per_second": 2,
    "data_generation.forms": ["qa", "dialogue"],
    "data_generation.extractors": {"rtf": "unrtf --text {file}", ".odt": "odt2txt"},
    "app.animation": "none",
    "notify.webhook": "https://hooks.example/runs",
    "notify.webhook_token_env": "OTHER_TOKEN",
    "app.keys": {"train.stop": "ctrl+s,f8", "chat.send": "?"},
}


def changed_keys(settings: Settings) -> dict[str, Any]:
    """Return the values that differ from the defaults, by dotted key, in forms that TOML can hold."""
    values = {name: settings_value(settings, name) for name in all_keys()}
    return {name: plain_value(value) for name, value in values.items() if value != all_keys()[name].default}


def another_value(name: str) -> Any:
    default = all_keys()[name].default
    if name in CHANGES:
        return CHANGES[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default / 2 if default else 0.123456789012345
    return f"{default} changed"


def test_every_key_survives_saving_and_loading(tmp_path: Path) -> None:
    settings = with_values(Settings(), {name: another_value(name) for name in all_keys()})
    changes = changed_keys(settings)
    assert changes.keys() == all_keys().keys()
    path = tmp_path / "new" / "config.toml"
    save_keys(path, changes)
    loaded = load_settings(path, environment={})
    assert loaded.settings == settings
    assert changed_keys(loaded.settings) == changes


def test_nothing_differs_from_the_defaults_at_first() -> None:
    assert changed_keys(Settings()) == {}


def test_only_the_named_keys_change(folder: Path) -> None:
    path = folder / "config.toml"
    path.write_text("[fine_tuning.lora]\nr = 4\nalpha = 4\n\n[data_generation]\nmodel = 'x'\n")
    save_keys(path, {"fine_tuning.lora.r": 8, "logging.level": "DEBUG", "fine_tuning.lora.alpha": None})
    assert changed_keys(load_settings(environment={}).settings) == {
        "data_generation.model": "x",
        "fine_tuning.lora.r": 8,
        "logging.level": "DEBUG",
    }


def test_file_keeps_its_mode_and_a_new_one_is_private(folder: Path) -> None:
    old, new = folder / "old.toml", folder / "new.toml"
    old.touch()
    old.chmod(0o640)
    for path in (old, new):
        save_keys(path, {"logging.level": "DEBUG"})
    assert old.stat().st_mode & 0o777 == 0o640
    assert new.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in folder.iterdir()} == {"old.toml", "new.toml"}


def test_link_stays_a_link(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles.toml"
    target.touch()
    link = folder / "config.toml"
    link.symlink_to(target)
    save_keys(link, {"logging.level": "DEBUG"})
    assert link.is_symlink()
    assert "DEBUG" in target.read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_tuning.lora.r": 0}, r"the change: fine_tuning\.lora\.r must be at least 1, not 0"),
        ({"fine_tuning.lora.rr": 1}, r"fine_tuning\.lora\.rr is not a key"),
        ({"data_generation.api_key": "sk-VERYSECRET"}, "keys come from the environment"),
    ],
)
def test_impossible_change_writes_nothing(changes: dict[str, Any], message: str, folder: Path) -> None:
    path = folder / "config.toml"
    path.write_text("[logging]\n")
    with pytest.raises(ConfigError, match=message) as caught:
        save_keys(path, changes)
    assert "VERYSECRET" not in str(caught.value)
    assert path.read_text() == "[logging]\n"


def test_mistake_already_in_the_file_is_told_with_its_line(folder: Path) -> None:
    path = folder / "config.toml"
    path.write_text("[logging]\nlevl = 'INFO'\n")
    with pytest.raises(ConfigError, match=r"config\.toml, line 2: logging\.levl is not a key"):
        save_keys(path, {"fine_tuning.lora.r": 8})


def test_value_where_a_section_belongs_is_told(folder: Path) -> None:
    path = folder / "config.toml"
    path.write_text("logging = 3\n")
    with pytest.raises(ConfigError, match="logging is a section, not a key"):
        save_keys(path, {"logging.level": "DEBUG"})


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_failure_half_way_leaves_the_old_file_and_no_rubbish(
    call: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = folder / "config.toml"
    path.write_text("[logging]\nlevel = 'ERROR'\n")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(LoraTuiError, match=r"config\.toml cannot be saved: No space left on device\."):
        save_keys(path, {"logging.level": "DEBUG"})
    assert path.read_text() == "[logging]\nlevel = 'ERROR'\n"
    assert [entry.name for entry in folder.iterdir()] == ["config.toml"]


def test_folder_that_cannot_be_made_is_told(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(LoraTuiError, match=r"cannot be (saved|read): Not a directory"):
        save_keys(folder / "file" / "config.toml", {"logging.level": "DEBUG"})
