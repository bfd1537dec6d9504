"""Learn and help: the lessons, what they say about the user's own run, and the keys where the focus is."""

import pytest

from lora_tui.tui.screens.help import HelpScreen, active_keys
from lora_tui.tui.views.lessons import NONE_YET, lessons
from tests.tui.app_harness import AppHarness, create_training_run, screen_text, wait_for_text, wait_until
from tests.tui.test_generate_screen import create_generation_run

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


OWN = {
    "01-tokens-and-loss": "first step",
    "02-low-rank-adaptation": "921,600",
    "03-hyper-parameters": "32 examples a step",
    "04-data-and-judging": "The newest rejected pairs",
    "05-bleu-and-rouge": "says",
    "06-adaptive-scores": "moved by 0 ratings",
    "07-overfitting-and-early-stopping": "0.90 at step 40",
    "08-memory-and-precision": "float32",
}


async def test_every_lesson_fills_its_panel_from_the_users_own_runs(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    await harness.populate(lambda store: create_generation_run(store, "finished"))
    async with harness.app((140, 45)) as (app, pilot):
        await pilot.press("5")
        for lesson in lessons():
            await wait_until(lambda lesson=lesson: app.screen._shown == lesson.id)  # type: ignore[attr-defined,misc]
            if lesson.id in OWN:
                await wait_for_text(app, OWN[lesson.id])
            await pilot.press("]")


async def test_before_any_run_panels_say_that_they_will_fill(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, steps=0))
    async with harness.app() as (app, pilot):
        await pilot.press("5")
        await wait_for_text(app, NONE_YET[:22])


@pytest.mark.parametrize(
    ("keys", "lesson"),
    [
        (("1",), "04-data-and-judging"),
        (("2",), "01-tokens-and-loss"),
        (("2", "enter"), "06-adaptive-scores"),
        (("3", "escape"), "09-chatting-and-decoding"),
        (("4",), "07-overfitting-and-early-stopping"),
        (("6",), "04-data-and-judging"),
        (("6", "end"), "03-hyper-parameters"),
    ],
)
async def test_help_opens_the_lesson_that_belongs_to_the_place(
    harness: AppHarness, keys: tuple[str, ...], lesson: str
) -> None:
    await harness.populate(create_training_run)
    async with harness.app() as (app, pilot):
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await wait_until(lambda: active_keys(app.screen)[1] == lesson)
        await pilot.press("question_mark")
        await wait_until(lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("l")
        await wait_until(lambda: app.current_mode == "learn")
        await wait_until(lambda: app.screen._shown == lesson)  # type: ignore[attr-defined]


async def test_help_lists_the_keys_that_work_here_with_what_they_do(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "Checkpoint now")
        await pilot.press("question_mark")
        await wait_for_text(app, "Keys here")
        text = screen_text(app)
        assert "Checkpoint now" in text
        assert "Finish the step, save, end" in text
        assert "Resume" not in text, "that cannot be done now"
        await pilot.press("escape")
        await wait_until(lambda: not isinstance(app.screen, HelpScreen))
        assert app.current_mode == "train"


async def test_a_small_terminal_has_lesson_and_panel(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("5")
        await wait_for_text(app, "1 · Tokens and loss")
        await wait_for_text(app, "now, smoothed")
        await pilot.press("]")
        await wait_for_text(app, "2 · Low-rank adaptation")
