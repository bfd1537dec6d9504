"""Every number on every screen is explained: a walk through the screens reads what they show, and looks it up."""

import re

import pytest
from textual.content import Content
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Markdown, Static

from lora_tui.store.connection import Store
from lora_tui.tui.app import LoraApp
from lora_tui.tui.screens.help import HelpScreen, explained_parts, shown_text
from lora_tui.tui.views.explanations import explanations, shown_in
from lora_tui.tui.views.lessons import lessons
from lora_tui.tui.widgets.line_plot import LinePlot
from lora_tui.tui.widgets.row_list import RowList
from lora_tui.tui.widgets.top_bar import TopBar
from tests.tui.app_harness import AppHarness, create_training_run, screen_text, wait_for_text, wait_until
from tests.tui.test_generate_screen import create_generation_run
from tests.tui.test_rating_screen import pairs as pairs_to_rate

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def populate(store: Store) -> None:
    """A run of each kind, the pairs and the training ended, so that every panel has its figures."""
    await create_generation_run(store, "finished")
    await create_training_run(store)
    await create_training_run(store, settings={"fine_tuning.optimizer.lora_lr": 2e-4})


def unexplained(app: LoraApp) -> list[str]:
    """What is on the screen with a number in it that no explanation finds: part and text."""
    missing = []
    for widget in app.screen.query("*"):
        if not widget.is_on_screen:
            continue
        if isinstance(widget, RowList) and widget.id is not None:
            names = {entry.name for entry in explanations().get(widget.id, ())}
            if widget._heading_rows:
                missing += [f"{widget.id}: column {one}" for one in widget.headings if one and one not in names]
            text = shown_text(widget).partition("\n")[0]
        elif isinstance(widget, LinePlot):
            text = "0"
        elif isinstance(widget, TopBar):
            text = widget.state_text
        elif widget.id in FOREIGN or any(isinstance(one, Markdown) for one in widget.ancestors):
            continue
        elif isinstance(widget, Static):
            text = "\n".join((title_of(widget), str(widget.content)))
        else:
            text = title_of(widget) if widget.id in explanations() else ""
        missing += [
            f"{part_of(widget)}: {line}" for line in rest(part_of(widget), text).splitlines() if re.search(r"\d", line)
        ]
    return missing


def title_of(widget: Widget) -> str:
    return Content(str(widget.border_title)).plain if widget.border_title else ""


def part_of(widget: Widget) -> str:
    """The id of the explained part that a widget is, or is in."""
    around = (one.id for one in widget.ancestors_with_self if isinstance(one, Widget))
    return (
        "bar" if isinstance(widget, TopBar) else next((one for one in around if one in explanations()), f"{widget!r}")
    )


def rest(part: str, text: str) -> str:
    """A text without what the explanations of its part find in it."""
    for entry in explanations().get(part, ()):
        if entry.pattern is not None:
            text = entry.pattern.sub(" ", text)
    return text


FOREIGN = {"passage", "pair-text", "pair-judge", "rate-question", "rate-answer", "rate-text"}
"""Parts whose text is not ours: its numbers are the user's own. Lessons are explanations themselves."""

WALK = [
    ("1", "3 of 20 accepted"), ("1 v", "Sources"), ("1 home enter", "threshold 7"), ("1 home enter a", "→"),
    ("1 w g", "the score had said"),
    ("2", "Score"), ("2 tab", "What it answers now"), ("2 enter", "As it learned"), ("2 enter 4", "→"),
    ("3 h i enter", "4 tokens"), ("3 ctrl+t", "best"), ("4", "finished"), ("4 space down space", "◇"),
    ("5", "now, smoothed"), ("6 down down", "Accepted pairs to reach"),
]  # fmt: skip


@pytest.mark.parametrize("size", [(80, 24), (140, 42)], ids=["80x24", "140x42"])
async def test_every_number_on_every_screen_is_explained(harness: AppHarness, size: tuple[int, int]) -> None:
    await harness.populate(populate)
    harness.backend.to_rate = pairs_to_rate()
    missing: dict[str, list[str]] = {}
    async with harness.app(size) as (app, pilot):
        for keys, shown in WALK:
            await go(app, pilot, keys)
            if not (size[0] >= 100 and keys in ("2 tab", "1 v")):
                await wait_for_text(app, shown)
            if found := unexplained(app):
                missing[keys] = found
            await leave_dialogs(app, pilot)
    assert not missing, "\n".join(f"{keys}: {one}" for keys, found in missing.items() for one in found)


async def go(app: LoraApp, pilot: Pilot[None], keys: str) -> None:
    """Go to the mode of the first key by its function key, which also works while typing; press the others."""
    mode, *others = keys.split()
    await pilot.press(f"f{mode}")
    await wait_until(lambda: app.poller.polls > 0)
    await pilot.pause(0.3)
    for key in others:
        await pilot.press(key)
        await pilot.pause(0.1)


async def leave_dialogs(app: LoraApp, pilot: Pilot[None]) -> None:
    while len(app.screen_stack) > 1:
        app.screen.dismiss(None)
        await pilot.pause(0.1)


def test_a_number_without_an_explanation_is_found_and_one_with_is_not() -> None:
    assert "17 widgets" in rest("progress", "3 rejected · 17 widgets · 50 % pass")
    assert not re.search(r"\d", rest("progress", "12 of 1,234 accepted 4m 12s left\n24k tokens in · 3,600 out"))


def test_explanations_are_two_sentences_at_most_and_name_lessons_that_exist() -> None:
    known = {"", *(one.id for one in lessons())}
    for part, entries in explanations().items():
        for entry in entries:
            sentences = [one for one in re.split(r"(?<=[.?!]) (?=[A-Z✓])", entry.text) if one]
            assert len(sentences) <= 2, f"{part}, {entry.name}: {sentences}"
            assert entry.lesson in known, (part, entry.name)
            assert entry.text.endswith("."), (part, entry.name)


def test_only_what_stands_there_is_explained() -> None:
    names = [entry.name for entry in shown_in("progress", "Progress\n3 of 20 accepted 55s left\n✗ 3 rejected")]
    assert names == ["accepted", "rejected"]


async def test_help_explains_the_part_that_has_the_focus_first(harness: AppHarness) -> None:
    await harness.populate(populate)
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "3 of 20 accepted")
        assert [part.has_focus for part in explained_parts(app.screen)][:2] == [True, False]
        await pilot.press("question_mark")
        await wait_for_text(app, "How good the pair is")
        await pilot.press("escape", "tab")
        app.screen.query_one("#progress").focus()
        await pilot.press("question_mark")
        await wait_until(lambda: isinstance(app.screen, HelpScreen))
        await wait_for_text(app, "Accepted pairs in a hundred judged ones.")
        lines = [line for line in screen_text(app).splitlines() if "Progress" in line or "Sources" in line]
        assert "Progress" in lines[0] or "Progress" in lines[1]


async def test_a_panels_lesson_is_a_key_away(harness: AppHarness) -> None:
    await harness.populate(populate)
    async with harness.app() as (app, pilot):
        await pilot.press("2")
        await wait_for_text(app, "start    now")
        app.screen.query_one("#weights").focus()
        await pilot.press("question_mark")
        await wait_for_text(app, "Lesson 6")
        await pilot.press("l")
        await wait_until(lambda: app.current_mode == "learn")
        await wait_for_text(app, "6 · ")


async def test_help_comes_while_typing_and_is_named_there(harness: AppHarness) -> None:
    await harness.populate(populate)
    async with harness.app() as (app, pilot):
        await wait_for_text(app, "? Help")
        await pilot.press("slash", "x")
        await wait_for_text(app, "f7 Help")
        assert "? Help" not in screen_text(app), "it would be typed"
        await pilot.press("f7")
        await wait_until(lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("f7")
        await wait_until(lambda: not isinstance(app.screen, HelpScreen))
