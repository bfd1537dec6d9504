"""Runs: the history, looking at one, comparing several, and what can be done with each."""

from pathlib import Path

import pytest

from lora_tui.protocol.backend import ChatTarget
from lora_tui.store import events
from lora_tui.store.connection import Store
from lora_tui.tui.widgets.line_plot import LinePlot
from tests.tui.app_harness import (
    REFUSAL,
    Workplace,
    evaluation_event,
    make_run,
    make_training,
    screen_text,
    shown,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def three(store: Store) -> None:
    await make_training(store)
    await make_training(store, "stopped", settings={"fine_tuning.lora.r": 8})
    await make_run(store, "generate", "failed", error="No key.\nExport it.")


async def test_every_run_is_listed_with_state_score_and_what_it_works_on(place: Workplace) -> None:
    await place.fill(three)
    async with place.app((140, 40)) as (app, pilot):
        await pilot.press("4")
        await shown(app, "No key.")
        text = screen_text(app)
        for expected in (
            "3 runs",
            "✗ failed",
            "■ stopped",
            "✓ finished",
            "0.90",
            "accepted_training_data.txt",
            "gpt-4",
        ):
            assert expected in text, expected
        await pilot.press("down", "down")
        await shown(app, "best    step 40, score 0.89")


async def test_a_quickstart_works_on_what_is_built_in(place: Workplace) -> None:
    await place.fill(lambda store: make_run(store, "quickstart"))
    async with place.app((140, 40)) as (app, pilot):
        await pilot.press("4")
        await shown(app, "✓ finished")
        await shown(app, "data    built-in")
        row = next(line for line in screen_text(app).splitlines() if "✓ finished" in line)
        assert "built-in" in row


async def test_a_run_opens_on_the_screen_where_it_is_at_home(place: Workplace) -> None:
    await place.fill(three)
    async with place.app() as (app, pilot):
        await pilot.press("4")
        await shown(app, "3 runs")
        await pilot.press("down", "enter")
        await until(lambda: app.current_mode == "train")
        await shown(app, "■ run 2 · stopped")
        await pilot.press("4", "up", "enter")
        await until(lambda: app.current_mode == "generate")
        assert app.view.generation_run == 3


async def test_marked_runs_are_compared_in_curves_settings_and_answers(place: Workplace) -> None:
    await place.fill(three)
    async with place.app() as (app, pilot):
        await pilot.press("4")
        await shown(app, "3 runs")
        assert "Compare" not in screen_text(app), "there is nothing to compare yet"
        await pilot.press("down", "space", "down", "space", "c")
        await shown(app, "What is set differently")
        await shown(app, "fine_tuning.lora.r")
        text = screen_text(app)
        assert "◆ run 2" in text
        assert "● run 1" in text
        assert "the secret password" in text
        await pilot.press("v")
        await until(lambda: app.screen.query_one("#compare-plot-box").border_title == "Score")
        await pilot.press("v")
        await until(lambda: app.screen.query_one("#compare-plot-box").border_title == "Loss, smoothed")


async def test_losses_on_held_out_examples_are_compared_where_a_run_has_them(place: Workplace) -> None:
    async def two(store: Store) -> None:
        await make_training(store)
        run = await make_training(store, "stopped")
        await events.append(store, run, [evaluation_event(step, 0.5, held_out_loss=1.75) for step in (50, 60)])

    await place.fill(two)
    async with place.app() as (app, pilot):
        await pilot.press("4")
        await shown(app, "2 runs")
        await shown(app, "40, held-out loss 1.750 at the lowest")
        await pilot.press("space", "down", "space", "c")
        await shown(app, "What is set differently")
        await pilot.press("v", "v")
        await until(lambda: app.screen.query_one("#compare-plot-box").border_title == "Loss on held-out examples")
        plot = app.screen.query_one("#compare-plot", LinePlot)
        assert [series.curve.ys.tolist() for series in plot._series] == [[1.75, 1.75], []]


async def test_a_run_is_resumed_stopped_talked_to_and_exported(place: Workplace) -> None:
    await place.fill(three)
    live = await place.fill(lambda store: make_training(store, "running"))
    async with place.app() as (app, pilot):
        await pilot.press("4")
        await shown(app, "● run 4 · train")
        await shown(app, "■ stopped")
        await pilot.press("x")
        await until(lambda: place.jobs.made("stop"))
        assert place.jobs.made("stop") == [(live,)], "whoever owns it"
        await pilot.press("down", "down", "R")
        await until(lambda: place.jobs.made("start"))
        assert place.jobs.made("start") == [("train", {}, 2)]
        await until(lambda: app.current_mode == "train")
        await pilot.press("4", "e")
        await shown(app, "Merged weights")
        await pilot.press("m")
        await shown(app, "Write the merged")
        await pilot.press("enter")
        await until(lambda: len(place.jobs.made("start")) == 2)
        export = {"adapter_run": 2, "format": "merged", "output": "run-2-merged"}
        assert place.jobs.made("start")[1] == ("export", export, None)
        await pilot.press("t")
        await until(lambda: app.current_mode == "chat")
        await until(lambda: app.screen.speaker == ChatTarget(2))  # type: ignore[attr-defined]


async def test_a_run_is_named_and_deleted_only_after_a_question(place: Workplace) -> None:
    await place.fill(three)
    async with place.app() as (app, pilot):
        await pilot.press("4")
        await shown(app, "3 runs")
        await pilot.press("n", *"bees", "enter")
        await until(lambda: place.jobs.made("rename"))
        assert place.jobs.made("rename") == [(3, "bees")]
        await pilot.press("d")
        await shown(app, "Delete run 3?")
        await pilot.press("enter")
        await pilot.pause()
        assert place.jobs.made("delete") == [], "enter is the safe answer"
        await pilot.press("d", "f")
        await until(lambda: place.jobs.made("delete"))
        assert place.jobs.made("delete") == [(3, True)]
        await shown(app, "Run 3 is deleted.")


async def test_a_refusal_is_shown_and_nothing_breaks(place: Workplace) -> None:
    await place.fill(three)
    place.jobs.refusal = REFUSAL
    async with place.app() as (app, pilot):
        await pilot.press("4")
        await shown(app, "3 runs")
        await pilot.press("down", "R")
        await shown(app, "It cannot be done.")
        await shown(app, "Do something else.")
        await pilot.press("escape", "2")
        assert app.current_mode == "train"


async def test_the_list_fits_eighty_columns(place: Workplace) -> None:
    await place.fill(three)
    async with place.app((80, 24)) as (app, pilot):
        await pilot.press("4")
        await shown(app, "✓ finished")
        assert "today" in screen_text(app)


def test_the_folder_is_shown_as_it_can_be_typed(tmp_path: Path) -> None:
    from lora_tui.tui.views.runs import _short

    assert _short(str(tmp_path / "a" / "b"), tmp_path) == "a/b"
    assert _short("/elsewhere", tmp_path) == "/elsewhere"
    assert _short(None, tmp_path) == ""
