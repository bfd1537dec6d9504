"""Which keys count as written by somebody: what a recipe may choose is the rest."""

from pathlib import Path

import pytest

from lora_tui.config.keys import all_keys
from lora_tui.config.load import load_settings, with_values, without_value
from lora_tui.config.models import Settings
from lora_tui.config.reference import reference_text
from lora_tui.config.save import save_keys
from lora_tui.config.written import RECIPE_KEYS, all_written, left_to_recipe, with_written, written_keys

RATE = "fine_tuning.optimizer.lora_lr"
EPOCHS = "fine_tuning.training.max_epochs"
COMMANDS = "fine_tuning.chat.commands"


def test_nothing_is_written_at_first() -> None:
    assert written_keys(Settings()) == frozenset()
    assert all(left_to_recipe(Settings(), name) for name in RECIPE_KEYS)


def test_every_key_of_the_recipe_exists() -> None:
    assert set(RECIPE_KEYS) <= set(all_keys())


def test_file_environment_and_set_are_written_also_at_the_default(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[fine_tuning.optimizer]\nlora_lr = 3e-5\n")
    environment = {"LORA_TUI__FINE_TUNING__TRAINING__MAX_EPOCHS": "40"}
    overrides = ["fine_tuning.scheduler.warmup_steps=200", "fine_tuning.chat.commands.hello='yes'"]
    settings = load_settings(file, overrides, environment=environment).settings
    assert written_keys(settings) == {RATE, EPOCHS, "fine_tuning.scheduler.warmup_steps", COMMANDS}


def test_a_copy_of_the_documented_file_has_decided_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(reference_text().replace("max_epochs = 40", "max_epochs = 41"))
    settings = load_settings(file, environment={}).settings
    assert not left_to_recipe(settings, EPOCHS)
    assert [name for name in RECIPE_KEYS if not left_to_recipe(settings, name)] == [EPOCHS]
    named = load_settings(file, [f"{RATE}=3e-5"], environment={}).settings
    assert not left_to_recipe(named, RATE)  # --set is written, whatever the file is


def test_a_file_with_most_keys_is_no_copy(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(reference_text().replace("num_beams = 5", ""))
    settings = load_settings(file, environment={}).settings
    assert [name for name in RECIPE_KEYS if left_to_recipe(settings, name)] == ["fine_tuning.chat.num_beams"]


def test_as_written_leaves_nothing_to_choose() -> None:
    settings = load_settings(overrides=['fine_tuning.recipe="as written"'], environment={}).settings
    assert not any(left_to_recipe(settings, name) for name in RECIPE_KEYS)


def test_a_change_is_written_and_keeps_what_was() -> None:
    settings = with_values(with_values(Settings(), {RATE: 3e-5}), {EPOCHS: 3})
    assert written_keys(settings) == {RATE, EPOCHS}
    assert settings.fine_tuning.training.max_epochs == 3
    left = without_value(settings, EPOCHS)
    assert written_keys(left) == {RATE}
    assert left.fine_tuning.training.max_epochs == 40


def test_what_is_written_does_not_make_settings_differ() -> None:
    assert all_written(Settings()) == Settings()
    assert written_keys(all_written(Settings())) == set(all_keys())
    assert written_keys(with_written(all_written(Settings()), [RATE])) == {RATE}


def test_a_key_that_is_taken_out_of_the_file_is_left_alone_again(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    save_keys(file, {RATE: 3e-5, EPOCHS: 40})
    save_keys(file, {RATE: None})
    assert written_keys(load_settings(file, environment={}).settings) == {EPOCHS}


@pytest.mark.parametrize("name", RECIPE_KEYS)
def test_the_documented_file_names_the_recipe(name: str) -> None:
    assert f"{name.rpartition('.')[2]} = " in reference_text()
