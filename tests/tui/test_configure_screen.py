"""Configuration: every key, checked while it is typed, saved where it is said."""

from pathlib import Path

import pytest
from textual.widgets import Input

from lora_tui.config.keys import all_keys
from lora_tui.config.load import load_settings, with_values
from lora_tui.config.models import Settings
from lora_tui.config.written import left_to_recipe
from lora_tui.protocol.choice import Choice
from lora_tui.tui.screens.configure import ConfigureScreen
from tests.tui.app_harness import AppHarness, screen_text, wait_for_text, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def find(pilot: object, words: str) -> None:
    await pilot.press("slash", *words, "enter")  # type: ignore[attr-defined]


async def test_every_key_is_listed_under_its_section_with_its_value(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "6")
        await wait_for_text(app, "input_folder")
        screen = app.screen
        assert isinstance(screen, ConfigureScreen)
        assert [row.key.name for row in screen._rows if row.key is not None] == list(all_keys())
        text = screen_text(app)
        assert "Folder of .txt, .md, .html" in text
        assert "default" in text
        assert "120, 40 an epoch" in text, "what this will do"


async def test_a_value_is_edited_marked_forecast_anew_and_used_for_the_next_run(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "6")
        await find(pilot, "lora_lr")
        await pilot.press("enter")
        await wait_for_text(app, "lora_lr = …")
        before = len(harness.backend.calls_of("forecast_training"))
        app.screen.query_one("#edit", Input).value = "5e-4"
        await pilot.press("enter")
        await wait_until(lambda: app.services.state.settings.fine_tuning.optimizer.lora_lr == 5e-4)
        await wait_for_text(app, "● 1 unsaved")
        await wait_until(lambda: len(harness.backend.calls_of("forecast_training")) > before)
        await pilot.press("2", "s")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.settings.fine_tuning.optimizer.lora_lr == 5e-4, "saved or not"


async def test_what_cannot_be_meant_is_said_while_it_is_typed_and_not_taken(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "6")
        await find(pilot, "lora.r")
        await pilot.press("enter")
        app.screen.query_one("#edit", Input).value = "many"
        await wait_for_text(app, "fine_tuning.lora.r must be a whole number")
        await pilot.press("enter")
        assert app.services.state.settings.fine_tuning.lora.r == 16
        await pilot.press("escape", "escape")
        await wait_for_text(app, "input_folder")


async def test_advice_stands_beside_a_value_that_runs_but_will_surprise(harness: AppHarness) -> None:
    harness.settings = with_values(Settings(), {"fine_tuning.optimizer.lora_lr": 3e-5})
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "6")
        await find(pilot, "lora_lr")
        await wait_for_text(app, "LoRA learns very")


async def test_a_key_that_is_left_alone_shows_what_is_chosen_and_why_until_it_is_set(harness: AppHarness) -> None:
    file = Path.cwd() / "config.toml"
    harness.backend.choices = (Choice("fine_tuning.optimizer.lora_lr", 1e-3, "the optimum of its width"),)
    async with harness.app((120, 40)) as (app, pilot):
        await pilot.press("escape", "6")
        await find(pilot, "lora_lr")
        await wait_for_text(app, "1e-3, chosen: the optimum of its width")
        assert "LoRA learns very" not in screen_text(app), "no advice on a value that is not taken"
        await pilot.press("enter")
        app.screen.query_one("#edit", Input).value = "3e-5"  # the documented default, and yet written
        await pilot.press("enter")
        await wait_for_text(app, "● 1 unsaved")
        assert not left_to_recipe(app.services.state.settings, "fine_tuning.optimizer.lora_lr")
        await pilot.press("ctrl+s")
        await wait_for_text(app, "saved to")
        assert file.read_text() == "[fine_tuning.optimizer]\nlora_lr = 3e-05\n"
        await pilot.press("r", "ctrl+s")
        await wait_until(lambda: "lora_lr" not in file.read_text())
        assert left_to_recipe(app.services.state.saved, "fine_tuning.optimizer.lora_lr")


async def test_switches_and_choices_go_round_by_key_and_back_to_their_default(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "6")
        await find(pilot, "scheduler.type")
        await pilot.press("space")
        assert app.services.state.settings.fine_tuning.scheduler.type == "linear"
        await pilot.press("r")
        assert app.services.state.settings.fine_tuning.scheduler.type == "cosine"


async def test_saving_keeps_the_file_and_its_comments_and_says_where(harness: AppHarness) -> None:
    file = Path.cwd() / "config.toml"
    file.write_text("# mine\n[fine_tuning.lora]\nr = 8  # small on purpose\n")
    loaded = load_settings(file)
    harness.settings, harness.config = loaded.settings, file
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "6")
        await find(pilot, "lora.alpha")
        await pilot.press("enter")
        app.screen.query_one("#edit", Input).value = "64"
        await pilot.press("enter", "ctrl+s")
        await wait_for_text(app, "saved to")
        assert file.read_text() == "# mine\n[fine_tuning.lora]\nr = 8  # small on purpose\nalpha = 64\n"
        assert load_settings(file).settings == app.services.state.saved
        assert "unsaved" not in screen_text(app)


async def test_a_folder_that_cannot_be_written_costs_the_save_and_nothing_else(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_tui.errors import LoraTuiError
    from lora_tui.tui.screens import configure

    def refuse(*_: object, **__: object) -> None:
        raise LoraTuiError("config.toml cannot be saved: Read-only file system.")

    monkeypatch.setattr(configure, "save_keys", refuse)
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "6")
        await find(pilot, "scheduler.type")
        await pilot.press("space", "ctrl+s")
        await wait_for_text(app, "Read-only file system")
        await pilot.press("escape")
        await wait_for_text(app, "● 1 unsaved")


async def test_changes_are_taken_back_as_a_whole(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("escape", "6")
        await find(pilot, "scheduler.type")
        await pilot.press("space", "w")
        assert app.services.state.settings == app.services.state.saved


async def test_eighty_columns_show_key_meaning_and_editor(harness: AppHarness) -> None:
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("escape", "6")
        await find(pilot, "lora_lr")
        await pilot.press("enter")
        await wait_for_text(app, "lora_lr = …")
        assert "Highest learning rate" in screen_text(app)


async def test_a_long_section_keeps_the_end_that_tells_it_from_others(harness: AppHarness) -> None:
    async with harness.app((120, 60)) as (app, pilot):
        await pilot.press("escape", "6")
        await wait_for_text(app, "generation.evaluation]")
        assert "[data_generation]" in screen_text(app), "what fits is whole"
