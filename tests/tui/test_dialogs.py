"""Dialogs: answered once, whatever is pressed after that."""

import importlib
import pkgutil

import pytest
from textual import events
from textual.screen import ModalScreen
from textual.widgets import Button

from lora_tui.tui import screens
from lora_tui.tui.app import LoraApp
from lora_tui.tui.dialogs import Choice, ChoiceDialog, Dialog
from lora_tui.tui.screens.welcome import WelcomeScreen
from tests.tui.app_harness import AppHarness, create_training_run, screen_text, wait_for_text, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def at_once(app: LoraApp, keys: str) -> None:
    """Keys that arrive together: the second is on its way before the first has done anything."""
    for key in keys:
        app.post_message(events.Key(key, key))


def test_every_screen_over_a_mode_is_answered_once() -> None:
    for module in pkgutil.iter_modules(screens.__path__, f"{screens.__name__}."):
        importlib.import_module(module.name)
    waiting, ours = [ModalScreen], []
    while waiting:
        found = waiting.pop().__subclasses__()
        waiting += found
        ours += [screen for screen in found if screen.__module__.startswith("lora_tui.")]
    assert len(ours) > 10
    assert [screen for screen in ours if not issubclass(screen, Dialog)] == []


async def test_two_quick_keys_answer_a_question_once(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "✓ finished")
        await pilot.press("e")
        await wait_until(lambda: isinstance(app.screen, ChoiceDialog))
        at_once(app, "ccc")
        await wait_until(lambda: not isinstance(app.screen, ChoiceDialog))
        await pilot.press("c", "c")
        assert app.is_running
        assert app.current_mode == "runs"
        await pilot.press("e")
        await wait_for_text(app, "Merged weights")
        at_once(app, "aa")
        await wait_for_text(app, "Write the adapter")
        await pilot.press("escape")
        await wait_until(lambda: len(app.screen_stack) == 1)


async def test_any_keys_after_the_question_how_to_leave(harness: AppHarness) -> None:
    run_id = await harness.populate(lambda store: create_training_run(store, "running"))
    harness.backend.own_runs = [run_id]
    async with harness.app() as (app, pilot):
        await pilot.press("2", "q")
        await wait_for_text(app, "still at work")
        at_once(app, "xcvcc")
        await wait_until(lambda: not isinstance(app.screen, ChoiceDialog))
        await pilot.press("1", "2")
        assert app.is_running
        assert app.current_mode == "train"


async def test_two_quick_clicks_begin_one_quickstart(harness: AppHarness) -> None:
    async with harness.app() as (app, pilot):
        await wait_until(lambda: isinstance(app.screen, WelcomeScreen))
        welcome = app.screen
        assert isinstance(welcome, WelcomeScreen)
        for _ in range(2):  # as two clicks do that are on their way before the first has closed it
            welcome.action_choose("show")
        await wait_until(lambda: harness.backend.calls_of("start"))
        await pilot.pause(0.2)
        assert harness.backend.calls_of("start") == [("quickstart", {}, None)]


async def test_what_lies_under_another_does_not_close_it(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        below, above = (ChoiceDialog(question, [Choice("x", "x", "Yes")], safe="x") for question in ("below", "above"))
        await app.push_screen(below)
        await app.push_screen(above)
        below.dismiss(None)
        await pilot.pause()
        assert app.screen is above
        above.dismiss(None)
        await pilot.pause()
        assert app.screen is below


def labels_that_fit(app: LoraApp) -> int:
    """How many answers there are; fails where one is cut."""
    answers = list(app.screen.query(Button))
    for answer in answers:
        lines = str(answer.label).split("\n")
        assert max(len(words) for words in lines) <= answer.content_size.width, answer.label
        assert len(lines) <= answer.content_size.height, answer.label
    return len(answers)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_no_answer_is_cut(harness: AppHarness, size: tuple[int, int]) -> None:
    run_id = await harness.populate(create_training_run)
    harness.backend.own_runs = [run_id]
    async with harness.app(size) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "✓ finished")
        for key, answers in (("e", 6), ("d", 3), ("q", 3)):
            await pilot.press(key)
            await wait_until(lambda: isinstance(app.screen, ChoiceDialog))
            await pilot.pause()
            assert labels_that_fit(app) == answers
            await pilot.press("escape")


async def test_what_does_not_fit_beside_an_answer_stands_below_it(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        app.push_screen(
            ChoiceDialog("?", [Choice("x", "x", "Delete it", f"{'/a-long-folder' * 3}/run-1 and more")], safe="x")
        )
        await wait_for_text(app, "run-1 and more")
        assert labels_that_fit(app) == 1
        assert "Delete it  /" not in screen_text(app)
        app.push_screen(ChoiceDialog("?", [Choice("x", "x", "Delete it", "/a-long-folder" * 8)], safe="x"))
        await pilot.pause()
        assert labels_that_fit(app) == 1
