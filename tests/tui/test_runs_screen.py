"""Runs: the history, looking at one, comparing several, and what can be done with each."""

from pathlib import Path

import pytest

from lora_tui.protocol.backend import ChatTarget
from lora_tui.store import events
from lora_tui.store.connection import Store
from lora_tui.tui.widgets.line_plot import LinePlot
from tests.tui.app_harness import (
    REFUSAL,
    AppHarness,
    create_run,
    create_training_run,
    evaluation_event,
    screen_text,
    wait_for_text,
    wait_until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def three(store: Store) -> None:
    await create_training_run(store)
    await create_training_run(store, "stopped", settings={"fine_tuning.lora.r": 8})
    await create_run(store, "generate", "failed", error="No key.\nExport it.")


async def test_every_run_is_listed_with_state_score_and_what_it_works_on(harness: AppHarness) -> None:
    await harness.populate(three)
    async with harness.app((140, 40)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "No key.")
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
        await wait_for_text(app, "best    step 40, score 0.89")


async def test_a_quickstart_works_on_what_is_built_in(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_run(store, "quickstart"))
    async with harness.app((140, 40)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "✓ finished")
        await wait_for_text(app, "data    built-in")
        row = next(line for line in screen_text(app).splitlines() if "✓ finished" in line)
        assert "built-in" in row


async def test_a_run_opens_on_the_screen_where_it_is_at_home(harness: AppHarness) -> None:
    await harness.populate(three)
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "3 runs")
        await pilot.press("down", "enter")
        await wait_until(lambda: app.current_mode == "train")
        await wait_for_text(app, "■ run 2 · stopped")
        await pilot.press("4", "up", "enter")
        await wait_until(lambda: app.current_mode == "generate")
        assert app.services.state.in_view["generate"] == 3


async def test_marked_runs_are_compared_in_curves_settings_and_answers(harness: AppHarness) -> None:
    await harness.populate(three)
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "3 runs")
        assert "Compare" not in screen_text(app), "there is nothing to compare yet"
        await pilot.press("down", "space", "down", "space", "c")
        await wait_for_text(app, "What is set differently")
        await wait_for_text(app, "fine_tuning.lora.r")
        text = screen_text(app)
        assert "◆ run 2" in text
        assert "● run 1" in text
        assert "the secret password" in text
        await pilot.press("v")
        await wait_until(lambda: app.screen.query_one("#compare-plot-box").border_title == "Score")
        await pilot.press("v")
        await wait_until(lambda: app.screen.query_one("#compare-plot-box").border_title == "Loss, smoothed")


async def test_losses_on_held_out_examples_are_compared_where_a_run_has_them(harness: AppHarness) -> None:
    async def two(store: Store) -> None:
        await create_training_run(store)
        run = await create_training_run(store, "stopped")
        await events.append(store, run, [evaluation_event(step, 0.5, held_out_loss=1.75) for step in (50, 60)])

    await harness.populate(two)
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "2 runs")
        await wait_for_text(app, "40, held-out loss 1.750 at the lowest")
        await pilot.press("space", "down", "space", "c")
        await wait_for_text(app, "What is set differently")
        await pilot.press("v", "v")
        await wait_until(lambda: app.screen.query_one("#compare-plot-box").border_title == "Loss on held-out examples")
        plot = app.screen.query_one("#compare-plot", LinePlot)
        assert [series.curve.ys.tolist() for series in plot._series] == [[1.75, 1.75], []]


async def test_a_run_is_resumed_stopped_talked_to_and_exported(harness: AppHarness) -> None:
    await harness.populate(three)
    live = await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "● run 4 · train")
        await wait_for_text(app, "■ stopped")
        await pilot.press("x")
        await wait_until(lambda: harness.backend.calls_of("stop"))
        assert harness.backend.calls_of("stop") == [(live,)], "whoever owns it"
        await pilot.press("down", "down", "R")
        await wait_until(lambda: harness.backend.calls_of("start"))
        assert harness.backend.calls_of("start") == [("train", {}, 2)]
        await wait_until(lambda: app.current_mode == "train")
        await pilot.press("4", "e")
        await wait_for_text(app, "Merged weights")
        await pilot.press("m")
        await wait_for_text(app, "Write the merged")
        await pilot.press("enter")
        await wait_until(lambda: len(harness.backend.calls_of("start")) == 2)
        export = {"adapter_run": 2, "format": "merged", "output": "run-2-merged"}
        assert harness.backend.calls_of("start")[1] == ("export", export, None)
        await pilot.press("t")
        await wait_until(lambda: app.current_mode == "chat")
        await wait_until(lambda: app.screen.target == ChatTarget(2))  # type: ignore[attr-defined]


async def test_a_run_is_named_and_deleted_only_after_a_question(harness: AppHarness) -> None:
    await harness.populate(three)
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "3 runs")
        await pilot.press("n", *"bees", "enter")
        await wait_until(lambda: harness.backend.calls_of("rename"))
        assert harness.backend.calls_of("rename") == [(3, "bees")]
        await pilot.press("d")
        await wait_for_text(app, "Delete run 3?")
        await pilot.press("enter")
        await pilot.pause()
        assert harness.backend.calls_of("delete") == [], "enter is the safe answer"
        await pilot.press("d", "f")
        await wait_until(lambda: harness.backend.calls_of("delete"))
        assert harness.backend.calls_of("delete") == [(3, True)]
        await wait_for_text(app, "Run 3 is deleted.")


async def test_a_refusal_is_shown_and_nothing_breaks(harness: AppHarness) -> None:
    await harness.populate(three)
    harness.backend.refusal = REFUSAL
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "3 runs")
        await pilot.press("down", "R")
        await wait_for_text(app, "It cannot be done.")
        await wait_for_text(app, "Do something else.")
        await pilot.press("escape", "2")
        assert app.current_mode == "train"


async def test_the_list_fits_eighty_columns(harness: AppHarness) -> None:
    await harness.populate(three)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "✓ finished")
        assert "today" in screen_text(app)


def test_the_folder_is_shown_as_it_can_be_typed(tmp_path: Path) -> None:
    from lora_tui.tui.views.runs import _relative_folder

    assert _relative_folder(str(tmp_path / "a" / "b"), tmp_path) == "a/b"
    assert _relative_folder("/elsewhere", tmp_path) == "/elsewhere"
    assert _relative_folder(None, tmp_path) == ""
