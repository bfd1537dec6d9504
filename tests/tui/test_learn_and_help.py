"""Learn and help: the lessons, what they say about the user's own run, and the keys where the focus is."""

import pytest

from lora_tui.tui.screens.help import HelpScreen, help_for
from lora_tui.tui.views.lessons import lessons
from lora_tui.tui.views.own_run import NONE_YET
from tests.tui.app_harness import Workplace, make_training, screen_text, shown, until
from tests.tui.test_generate_screen import make_generation

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


async def test_every_lesson_fills_its_panel_from_the_users_own_runs(place: Workplace) -> None:
    await place.fill(make_training)
    await place.fill(lambda store: make_generation(store, "finished"))
    async with place.app((140, 45)) as (app, pilot):
        await pilot.press("5")
        for lesson in lessons():
            await until(lambda lesson=lesson: app.screen._shown == lesson.id)  # type: ignore[attr-defined,misc]
            if lesson.id in OWN:
                await shown(app, OWN[lesson.id])
            await pilot.press("]")


async def test_before_any_run_panels_say_that_they_will_fill(place: Workplace) -> None:
    await place.fill(lambda store: make_training(store, steps=0))
    async with place.app() as (app, pilot):
        await pilot.press("5")
        await shown(app, NONE_YET[:22])


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
    place: Workplace, keys: tuple[str, ...], lesson: str
) -> None:
    await place.fill(make_training)
    async with place.app() as (app, pilot):
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await until(lambda: help_for(app.screen)[1] == lesson)
        await pilot.press("question_mark")
        await until(lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("l")
        await until(lambda: app.current_mode == "learn")
        await until(lambda: app.screen._shown == lesson)  # type: ignore[attr-defined]


async def test_help_lists_the_keys_that_work_here_with_what_they_do(place: Workplace) -> None:
    await place.fill(lambda store: make_training(store, "running"))
    async with place.app() as (app, pilot):
        await pilot.press("2")
        await shown(app, "Checkpoint now")
        await pilot.press("question_mark")
        await shown(app, "Keys here")
        text = screen_text(app)
        assert "Checkpoint now" in text
        assert "Finish the step, save, end" in text
        assert "Resume" not in text, "that cannot be done now"
        await pilot.press("escape")
        await until(lambda: not isinstance(app.screen, HelpScreen))
        assert app.current_mode == "train"


async def test_a_small_terminal_has_lesson_and_panel(place: Workplace) -> None:
    await place.fill(make_training)
    async with place.app((80, 24)) as (app, pilot):
        await pilot.press("5")
        await shown(app, "1 · Tokens and loss")
        await shown(app, "now, smoothed")
        await pilot.press("]")
        await shown(app, "2 · Low-rank adaptation")
