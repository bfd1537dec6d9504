"""The app as a whole: the first start, leaving, problems, the palette, remapped keys, and what it looks at."""

import os
import sqlite3

import pytest
from textual.command import CommandList, CommandPalette
from textual.content import Content
from textual.widgets import Input

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.written import written_keys
from lora_tui.glyphs import CODE_PAGE_437, Drawing
from lora_tui.protocol.backend import Blocker
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.tui.dialogs import ChoiceDialog, ProblemDialog
from lora_tui.tui.screens.welcome import GenerateForm, WelcomeScreen
from lora_tui.tui.widgets.top_bar import TopBar
from tests.tui.app_harness import AppHarness, create_run, create_training_run, screen_text, wait_for_text, wait_until
from tests.tui.test_generate_screen import create_generation_run

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# The first start


async def test_with_no_run_three_choices_are_offered_and_no_store_is_made(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "Teach a language model something")
        text = screen_text(app)
        for expected in ("Show me", "From my files", "I have the data", "CPU core", "OPENAI_API_KEY is not set"):
            assert expected in text, expected
        await pilot.press("escape", "1", "2", "3", "escape", "4", "5", "6")
    assert not harness.path.exists(), "looking makes no file"


async def test_show_me_starts_the_quickstart(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("enter")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [("quickstart", {}, None)]
        assert not isinstance(app.screen, WelcomeScreen)


async def test_from_my_files_asks_checks_and_starts(harness: AppHarness) -> None:
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("2")
        await wait_for_text(app, "The folder with your text")
        assert "ctrl+s start" in screen_text(app), "how to begin is in view"
        await pilot.press(*"notes", "ctrl+s")
        await wait_for_text(app, "There is no folder notes in")
        (harness.path.parent / "notes").mkdir()
        await pilot.press("ctrl+s")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [("generate", {}, None)]
        assert harness.backend.settings.data_generation.model == "builtin", "there is neither a key nor an endpoint"
        assert harness.backend.settings.data_generation.input_folder == "notes"
        assert app.current_mode == "generate"


async def test_a_path_that_can_still_become_one_that_is_there_is_not_called_wrong(harness: AppHarness) -> None:
    (harness.path.parent / "notes").mkdir()
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("2")
        await wait_for_text(app, "The folder with your text")
        width = app.screen.query_one("#form-plan").region.width
        await pilot.press(*"not")
        await wait_until(lambda: len(harness.backend.calls_of("forecast_generation")) > 1)
        await pilot.pause(0.2)
        assert "There is no folder" not in screen_text(app)
        await pilot.press("x")
        await wait_for_text(app, "There is no folder notx in")
        assert app.screen.query_one("#form-plan").region.width == width, "the line of the problem takes nothing from it"


async def test_a_named_model_needs_its_key_and_the_field_says_so(harness: AppHarness) -> None:
    (harness.path.parent / "training_input").mkdir()
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("2")
        await wait_for_text(app, "The folder with your text")
        await pilot.press("tab")
        await wait_for_text(app, "Which model writes the questions?")
        await pilot.press("ctrl+a", "ctrl+k", *"gpt-4")
        await wait_for_text(app, "OPENAI_API_KEY is not set: type builtin")
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert not harness.backend.calls_of("start")


async def test_the_plan_follows_what_is_typed(harness: AppHarness) -> None:
    (harness.path.parent / "training_input").mkdir()
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("2")
        await wait_for_text(app, "training_input: 9 files")
        before = len(harness.backend.calls_of("forecast_generation"))
        await pilot.press("tab", "tab", "tab", "7")
        await wait_until(lambda: len(harness.backend.calls_of("forecast_generation")) > before)
        await pilot.press("x")
        await wait_for_text(app, "✗ data_generation.total_examples")


async def test_i_have_the_data_asks_for_a_file_that_is_there(harness: AppHarness) -> None:
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("3")
        await wait_for_text(app, "Your examples: Question/Answer text")
        await pilot.press("ctrl+s")
        await wait_for_text(app, "✗ Which file? Type it, or tab takes one that is here.")
        await pilot.press(*"data.txt", "ctrl+s")
        await wait_for_text(app, "There is no file data.txt in")
        (harness.path.parent / "data.txt").write_text("Question: a\nAnswer: b\n")
        await pilot.press("ctrl+s")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [("train", {}, None)]
        assert app.current_mode == "train"


async def test_i_have_the_data_takes_a_data_set_of_the_hub(harness: AppHarness) -> None:
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("3")
        await wait_for_text(app, "Hugging Face hub: hf:OWNER/NAME")
        await pilot.press(*"hf:me", "ctrl+s")
        await wait_for_text(app, "SUBSET@REVISION:SPLIT")
        await pilot.press(*"/notes:test", "ctrl+s")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.settings.fine_tuning.train_data_file == "hf:me/notes:test"


async def test_what_is_left_alone_in_a_form_is_still_chosen_for_the_run(harness: AppHarness) -> None:
    (harness.path.parent / "data.txt").write_text("Question: a\nAnswer: b\n")
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("3")
        await wait_for_text(app, "chosen for this machine and your data")
        await pilot.press("tab", "ctrl+s")
        await wait_until(lambda: harness.backend.calls_of("start"))
        written = written_keys(harness.backend.settings)
        assert "fine_tuning.train_data_file" in written
        assert "fine_tuning.model_name" not in written


async def test_a_start_without_its_text_asks_for_it_and_knows_the_folder_of_the_run_before(
    harness: AppHarness,
) -> None:
    folder = harness.path.parent / "mill"
    folder.mkdir()
    earlier = {"data_generation.input_folder": str(folder)}
    await harness.populate(lambda store: create_run(store, "generate", settings=earlier))
    harness.backend.blocker = Blocker("No folder to read.", "It does not exist.", "Create it.", "files")
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("s")
        await wait_for_text(app, "From my files")
        await wait_for_text(app, folder.name)
        harness.backend.blocker = None
        await pilot.press("ctrl+s")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.settings.data_generation.input_folder == str(folder)
        harness.backend.blocker = Blocker("No folder to read.", "It does not exist.", "Create it.", "files")
        await pilot.press("s")
        await wait_for_text(app, "From my files")
        await pilot.press("x")
        await wait_for_text(app, "Folder     x ")


async def test_commands_are_shown_on_a_screen_while_those_of_another_are_open(harness: AppHarness) -> None:
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("escape")
        for screen in ("generate", "train"):
            await app.switch_mode(screen)
            app.action_command_palette()
            await wait_until(lambda: isinstance(app.screen, CommandPalette))
            app.action_command_palette()
            await pilot.pause()
        assert len(app.screen_stack) == 2


async def test_a_form_that_is_left_keeps_what_was_typed(harness: AppHarness) -> None:
    harness.backend.blocker = Blocker("No folder to read.", "It does not exist.", "Create it.", "files")
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("2")
        await wait_until(lambda: isinstance(app.screen, GenerateForm))
        app.screen.fields["data_generation.model"].value = "my-model"
        await pilot.pause()
        typed = app.services.state.start_forms["files"]
        assert typed == {"data_generation.model": "my-model"}, "what stands there anyway was not typed"
        await pilot.press("escape")
        await wait_until(lambda: not isinstance(app.screen, GenerateForm))
        await pilot.press("s")
        await wait_until(lambda: isinstance(app.screen, GenerateForm))
        assert app.screen.fields["data_generation.model"].value == "my-model"


async def test_a_start_that_is_known_to_fail_is_refused_from_the_form_too(harness: AppHarness) -> None:
    (harness.path.parent / "data.txt").write_text("Question: a\nAnswer: b\n")
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("3")
        await wait_for_text(app, "data.txt")
        await pilot.press("tab")
        await wait_for_text(app, "120, 40 an epoch")
        harness.backend.blocker = Blocker("It cannot learn.", "The rate is 0.", "Set another.")
        await pilot.press("ctrl+s")
        await wait_until(lambda: isinstance(app.screen, ProblemDialog))
        assert harness.backend.calls_of("start") == []


@pytest.mark.parametrize("key", ["1", "2"])
async def test_an_app_without_a_run_polls_no_more_than_it_should(harness: AppHarness, key: str) -> None:
    async with harness.app((80, 24)) as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("escape", key)
        await pilot.pause(0.5)
        before = app.poller.polls
        await pilot.pause(1.0)
        assert app.poller.polls - before <= 2 * harness.settings.app.refresh_per_second


# Leaving


async def test_leaving_with_nothing_at_work_asks_nothing(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("q")
        await wait_until(lambda: not app.is_running)
        assert app.ending == "leave"


@pytest.mark.parametrize(("key", "ending"), [("k", "background"), ("s", "stop"), ("c", None), ("escape", None)])
async def test_leaving_while_a_run_of_this_process_works_asks_what_becomes_of_it(
    harness: AppHarness, key: str, ending: str | None
) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running"))
    harness.backend.own_runs = [run_id]
    async with harness.app() as (app, pilot):
        await pilot.press("q")
        await wait_for_text(app, f"run {run_id} is still at work.")
        await pilot.press("enter")
        await wait_until(lambda: not isinstance(app.screen, ChoiceDialog))
        assert app.is_running, "enter is the safe answer"
        await pilot.press("ctrl+q")
        await wait_until(lambda: isinstance(app.screen, ChoiceDialog))
        await pilot.press(key)
        if ending is None:
            await wait_until(lambda: not isinstance(app.screen, ChoiceDialog))
            assert app.is_running
        else:
            await wait_until(lambda: not app.is_running)
            assert app.ending == ending


async def test_a_terminal_that_has_gone_ends_the_app_without_a_question(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running"))
    harness.backend.own_runs = [run_id]
    async with harness.app() as (app, _):
        app.terminal_gone()
        await wait_until(lambda: not app.is_running)
        assert app.ending == "gone"


async def test_ctrl_c_copies_what_is_selected_and_else_leaves(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("ctrl+c")
        await wait_until(lambda: not app.is_running)


async def test_ctrl_z_does_not_stop_the_run_with_the_app(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("ctrl+z")
        await wait_for_text(app, "ctrl+z would stop the run too")


# What is looked at


async def test_a_run_to_attach_to_is_in_view_at_once(harness: AppHarness) -> None:
    first = await harness.populate(create_training_run)
    await harness.populate(create_training_run)
    async with harness.app(attach=first) as (app, _):
        await wait_until(lambda: app.current_mode == "train")
        await wait_for_text(app, f"✓ run {first} · finished")


async def test_a_live_run_is_in_view_at_once(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, _):
        await wait_until(lambda: app.current_mode == "train")


async def test_a_run_that_fails_while_one_looks_is_told_with_reason_remedy_and_log(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "stopped"))
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("2")
        await wait_for_text(app, "Resume")
        await pilot.press("R")
        await wait_until(lambda: harness.backend.calls_of("start"))
        await runs.take_over(store, run_id)
        await runs.start(store, run_id)
        await wait_for_text(app, "● run 1")
        error = "http://localhost:1 cannot be reached.\nStart the server, or set base_url."
        await runs.end(store, run_id, "failed", {}, error)
        await wait_for_text(app, "Run 1 (train) failed.")
        text = screen_text(app)
        for expected in ("http://localhost:1 cannot be reached.", "Start the server", "/logs/lora-tui.log"):
            assert expected in text, expected
        await pilot.press("y")
        assert error.splitlines()[0] in app.clipboard
        await pilot.press("escape", "exclamation_mark")
        await wait_until(lambda: isinstance(app.screen, ProblemDialog))


async def test_a_run_of_others_that_fails_is_told_without_getting_in_the_way(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await wait_for_text(app, "● run 1")
        await runs.end(store, run_id, "failed", {}, "No space is left.")
        await wait_for_text(app, "Press ! to see more.")
        assert not isinstance(app.screen, ProblemDialog)
        await pilot.press("exclamation_mark")
        await wait_for_text(app, "No space is left.")


async def test_a_run_whose_process_is_gone_is_told_as_interrupted(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, _):
        await wait_for_text(app, "● run 1")
        with sqlite3.connect(harness.path) as file:
            file.execute("UPDATE runs SET pid=2147483000 WHERE id=?", (run_id,))
        await wait_for_text(app, "! run 1 · interrupted", seconds=20)


async def test_a_store_that_breaks_is_told_and_looked_at_again(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):

        async def broken() -> bool:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(app.services.reader, "changed", broken)
        await wait_for_text(app, "disk I/O error")
        monkeypatch.undo()
        await pilot.press("escape", "2")
        await wait_for_text(app, "step 40/60")


# Commands and keys


async def test_the_palette_offers_what_can_be_done_now_and_nothing_else(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "Checkpoint now")
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert "Checkpoint now  (p)" in titles
        assert "Look at run 1" in titles
        assert not any(title.startswith(("Resume", "Start")) for title in titles)
        await pilot.press("ctrl+p")
        await wait_until(lambda: isinstance(app.screen, CommandPalette))
        await pilot.press(*"checkpoint", "down", "enter")
        await wait_until(lambda: harness.backend.calls_of("send_command"))
        assert harness.backend.calls_of("send_command") == [(1, "checkpoint")]


@pytest.mark.parametrize("words", ["quickstart", "quick start", "demo built-in"])
async def test_the_palette_finds_the_quickstart_by_title_and_by_what_it_is(harness: AppHarness, words: str) -> None:
    async with harness.app() as (app, pilot):
        await pilot.press("ctrl+p")
        await wait_until(lambda: isinstance(app.screen, CommandPalette))
        app.screen.query_one(Input).value = words
        await wait_for_text(app, "The demo: generate, train and evaluate")
        await wait_until(lambda: app.screen.query_one(CommandList).option_count == 1)
        await pilot.press("down", "enter")
        await wait_until(lambda: harness.backend.calls_of("start"))


async def test_every_binding_that_people_see_has_an_id_of_its_own_and_can_be_remapped(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, "running"))
    harness.settings = with_values(harness.settings, {"app.keys.train.stop": "f9"})
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "f9 Stop and keep")
        await pilot.press("x", "f9")
        await wait_until(lambda: harness.backend.calls_of("stop"))
        assert len(harness.backend.calls_of("stop")) == 1
        seen: dict[str, str] = {}
        for mode in ("generate", "train", "chat", "runs", "learn", "configure"):
            app.action_go(mode)
            await pilot.pause()
            for active in app.screen.active_bindings.values():
                binding = active.binding
                if binding.show and binding.description and binding.action != "command_palette":
                    assert binding.id, binding
                    assert seen.setdefault(binding.id, binding.action) == binding.action, binding


async def test_no_binding_needs_what_terminals_cannot_send(harness: AppHarness) -> None:
    unsendable = {"ctrl+i", "ctrl+m", "ctrl+h", "ctrl+enter", "shift+enter", "ctrl+space"}
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        for mode in ("generate", "train", "chat", "runs", "learn", "configure"):
            app.action_go(mode)
            await pilot.pause()
            ours = {key for key, active in app.screen.active_bindings.items() if active.binding.id}
            assert not ours & unsendable, mode


async def test_at_most_seven_keys_are_hinted_at(harness: AppHarness) -> None:
    await harness.populate(create_generation_run)
    async with harness.app((200, 50)) as (app, pilot):
        for mode in ("generate", "train", "chat", "runs", "learn", "configure"):
            app.action_go(mode)
            await pilot.pause()
            hints = app.screen.query_one("KeyHints")
            await wait_until(lambda hints=hints: hints._click_areas)  # type: ignore[attr-defined,misc]
            assert 0 < len(hints._click_areas) <= 7, mode  # type: ignore[attr-defined]


async def test_clicks_on_the_bar_and_on_hints_do_what_their_keys_do(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.click("TopBar", offset=(27, 0))
        await wait_until(lambda: app.current_mode == "train")
        hints = app.screen.query_one("KeyHints")
        start = next(start for start, _, key in hints._click_areas if key == "question_mark")  # type: ignore[attr-defined]
        await pilot.click("KeyHints", offset=(start + 1, 0))
        await wait_for_text(app, "Keys here")


async def test_the_bar_names_the_keys_that_work_now_and_whole_modes_where_they_fit(harness: AppHarness) -> None:
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("escape", "2")
        await wait_for_text(app, " 1 Generate  2 TRAIN  3 Chat  4 Runs  5 Learn  6 Config")
        await pilot.press("3")
        await wait_for_text(app, " f1 Generate  f2 Train  f3 CHAT  f4 Runs  f5 Learn  f6 Config")
        await pilot.press("escape")
        await wait_for_text(app, " 1 Generate  2 Train  3 CHAT")
        app.screen.query_one(TopBar).show(Content("run 7 · step 1,234/12,345 · cpu"))
        await wait_for_text(app, " 1 Gen  2 Train  3 CHAT  4 Runs  5 Learn  6 Config  run 7 · step 1,234/12,345")


async def test_a_next_step_that_does_not_fit_is_left_out_whole(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, " e  export it")
        assert "rate its" not in screen_text(app)
        await pilot.resize_terminal(100, 30)
        await wait_for_text(app, " w  rate its answers")


async def test_an_unknown_theme_is_no_reason_not_to_start(harness: AppHarness) -> None:
    harness.settings = with_values(harness.settings, {"app.theme": "no-such-theme"})
    async with harness.app() as (app, _):
        assert app.theme == "lora-dark"


@pytest.mark.parametrize("theme", ["lora-light", "ansi-dark", "ansi-light", "nord"])
async def test_every_mode_is_drawn_in_light_and_terminal_colours_too(harness: AppHarness, theme: str) -> None:
    await harness.populate(create_training_run)
    harness.settings = with_values(harness.settings, {"app.theme": theme})
    async with harness.app() as (app, pilot):
        assert app.theme == theme
        for key in "123":
            await pilot.press(key, "escape")
            await pilot.pause()
        for key in "456":
            await pilot.press(key)
            await pilot.pause()
            assert "lora-tui" in screen_text(app)


async def test_states_are_told_by_glyph_and_word_without_colour(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def several(store: Store) -> None:
        for state in ("finished", "stopped", "failed"):
            await create_run(store, "train", state)

    await harness.populate(several)
    async with harness.app() as (app, pilot):
        assert app.no_color
        await pilot.press("4")
        for words in ("✓ train", "■ train", "✗ train"):
            await wait_for_text(app, words)
        assert "▸" in screen_text(app), "the cursor's row has a glyph"


async def test_forty_by_ten_cells_are_survived(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        for key in "123456":
            await pilot.press("escape", key)
            await pilot.resize_terminal(40, 10)
            await pilot.pause()
            await pilot.resize_terminal(120, 40)
            await pilot.pause()
        assert app.is_running


def test_the_process_is_not_told_to_draw_more_than_a_link_carries() -> None:
    from lora_tui.backend import session

    assert int(session._SLOW_LINK["TEXTUAL_FPS"]) <= 30
    assert os.environ.get("TEXTUAL_FPS") != "30", "only over SSH"


@pytest.mark.parametrize(("key", "mode"), [("1", "generate"), ("2", "train")])
async def test_a_run_that_is_known_to_fail_is_not_begun(harness: AppHarness, key: str, mode: str) -> None:
    harness.backend.blocker = Blocker("There is no such file: pairs.txt", "It does not exist.", "6 names another.")
    async with harness.app() as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("escape", key)
        await wait_for_text(app, "Plan · cannot start yet")
        assert "s starts" not in screen_text(app)
        await pilot.press("s")
        await wait_until(lambda: isinstance(app.screen, ProblemDialog))
        for words in ("There is no such file: pairs.txt", "It does not exist.", "6 names another."):
            assert words in screen_text(app)
        assert harness.backend.calls_of("start") == []
        harness.backend.blocker = None  # the file has been written meanwhile
        await pilot.press("escape", "s")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [(mode, {}, None)]


@pytest.mark.parametrize(("key", "mode"), [("1", "generate"), ("2", "train")])
async def test_a_key_that_is_pressed_twice_begins_one_run(harness: AppHarness, key: str, mode: str) -> None:
    async with harness.app() as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        await pilot.press("escape", key)
        await wait_for_text(app, "Plan")
        for _ in range(3):
            app.screen.action_start()  # type: ignore[attr-defined]  # both screens have it
        await wait_until(lambda: harness.backend.calls_of("start"))
        await pilot.pause(0.5)  # time for more to begin
        assert harness.backend.calls_of("start") == [(mode, {}, None)]


@pytest.mark.parametrize("drawing", ["blocks", "ascii"])
async def test_a_terminal_without_our_characters_gets_none_of_them_on_any_screen(
    harness: AppHarness, drawing: Drawing
) -> None:
    shown = CODE_PAGE_437 if drawing == "blocks" else frozenset()
    await harness.populate(create_training_run)
    await harness.populate(create_training_run)
    harness.settings = Settings.model_validate({"app": {"drawing": drawing}})
    async with harness.app((100, 30)) as (app, pilot):
        for keys in ("2", "3", "4 space down space", "5", "6", "1", "question_mark"):
            await pilot.press(*keys.split())
            await pilot.pause(0.2)
            text = screen_text(app)
            foreign = {character for character in text if not character.isascii()} - shown
            assert not foreign, f"after {keys}: {foreign}"
            assert all(len(line) == 100 for line in text.splitlines()), "every cell is in its place"
        await pilot.press("escape", "2")
        await wait_for_text(app, "smoothed")
        assert ("+- Loss" if drawing == "ascii" else "┌─ Loss") in screen_text(app)
        assert ("''" if drawing == "ascii" else "▀▀") in screen_text(app), "the learning rate is drawn"


async def test_no_terminal_is_too_small(harness: AppHarness) -> None:
    """Parts of Textual fail where no column is left: the placeholder of Chat's prompt, lists of options."""
    await harness.populate(create_training_run)
    async with harness.app((100, 30)) as (app, pilot):
        await pilot.press("f3")
        for columns, rows in ((3, 30), (1, 1), (7, 3), (100, 30)):
            await pilot.resize_terminal(columns, rows)
            await pilot.pause()
        await pilot.press("escape", "f1")
        await wait_for_text(app, "1 GENERATE")


async def test_the_palette_under_the_help_is_not_opened_twice(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("ctrl+p", "f7", "ctrl+p")
        assert sum(isinstance(screen, CommandPalette) for screen in app.screen_stack) == 1
