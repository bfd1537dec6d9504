"""Runs: the history, looking at one, comparing several, and what can be done with each."""

import asyncio
from pathlib import Path

import pytest

from lora_tui.protocol.backend import ChatTarget
from lora_tui.store import events
from lora_tui.store.connection import Store
from lora_tui.tui.app import LoraApp
from lora_tui.tui.screens.compare import CompareScreen
from lora_tui.tui.screens.runs import RunsScreen
from lora_tui.tui.views.training import TrainingView
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
        await wait_for_text(app, "Export it.")
        await wait_for_text(app, "2/2")
        text = screen_text(app)
        for expected in ("3 runs", "✗ generate", "■ train", "✓ train", "0.90", "accepted_train", "gpt-4"):
            assert expected in text, expected
        row = next(line for line in text.splitlines() if "■ train" in line)
        for expected in ("2/2", "█▃▂▂▂▁▁ 0.10", "▄▇", "40/60", "3e-5", "32"):
            assert expected in row, expected
        await pilot.press("down", "down")
        await wait_for_text(app, "best    step 40, score 0.89")


async def test_a_quickstart_works_on_what_is_built_in(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_run(store, "quickstart"))
    async with harness.app((140, 40)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "data    built-in")
        row = next(line for line in screen_text(app).splitlines() if "✓ quickstart" in line)
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
        await pilot.press("down", "space", "down", "space")
        await wait_for_text(app, "2 against 1: what is set differently")
        text = screen_text(app)
        assert "◆ 2" in text
        assert "◇ 1" in text
        assert "◆ ✓ the secret password" in text
        row = next(line for line in text.splitlines() if "│ r " in line)
        assert row.split()[-3:-1] == ["8", "16"], "what differs, by its short name"
        await pilot.press("c")
        await wait_until(lambda: isinstance(app.screen, CompareScreen))
        title = "#compare-plot-box"
        for expected in ("Loss by examples seen", "Score by examples seen"):
            await wait_until(lambda wanted=expected: app.screen.query_one(title).border_title == wanted)
            await pilot.press("v")
        await pilot.press("a")
        await wait_until(lambda: app.screen.query_one(title).border_title == "Learning rate by tokens seen")
        await pilot.press("escape", "escape")
        await wait_until(lambda: not app.screen.has_class("-comparing"))


async def test_other_marks_and_a_resize_while_runs_are_read_leave_the_comparison_whole(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (16, 8, 4):
        await harness.populate(lambda store, r=rank: create_training_run(store, settings={"fine_tuning.lora.r": r}))
    follow, reads = TrainingView.follow, []

    async def slow(view: TrainingView, store: Store) -> bool:
        reads.append(view.run.id)
        await asyncio.sleep(0.3)
        return await follow(view, store)

    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "3 runs")
        await pilot.press("space", "down", "space", "down", "space")
        await wait_for_text(app, "3, 2, 1: what is set differently")
        await pilot.press("escape")
        await wait_until(lambda: not app.screen.has_class("-comparing"))
        monkeypatch.setattr(TrainingView, "follow", slow)
        await pilot.press("space", "up", "space")
        await wait_until(lambda: reads)
        await pilot.resize_terminal(110, 40)
        await wait_for_text(app, "1 against 2: what is set differently")


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
        await pilot.press("space", "down", "space")
        await wait_for_text(app, "what is set differently")
        await pilot.press("v", "v")
        held_out = "Loss on held-out examples by examples seen"
        await wait_until(lambda: app.screen.query_one("#compare-plot-box").border_title == held_out)
        plot = app.screen.query_one("#compare-plot", LinePlot)
        assert [series.curve.ys.tolist() for series in plot._series if series.label] == [[1.75, 1.75], []]


async def test_a_run_is_resumed_stopped_talked_to_and_exported(harness: AppHarness) -> None:
    await harness.populate(three)
    live = await harness.populate(lambda store: create_training_run(store, "running"))
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "● run 4 · train")
        await wait_for_text(app, "■ train")
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
        await wait_for_text(app, "2/2")
        text = screen_text(app)
        for expected in ("right", "2/2", "0.90", "No key.", "0.10"):
            assert expected in text, f"{expected} is among the last to go"


def test_the_folder_is_shown_as_it_can_be_typed(tmp_path: Path) -> None:
    from lora_tui.tui.views.runs import short_path

    assert short_path(str(tmp_path / "a" / "b"), tmp_path) == "a/b"
    assert short_path("/elsewhere", tmp_path) == "/elsewhere"
    assert short_path(None, tmp_path) == ""


async def test_runs_are_sorted_searched_and_shown_by_kind(harness: AppHarness) -> None:
    async def some(store: Store) -> None:
        await create_training_run(store)
        await create_run(store, "generate", "failed", error="No key.")
        best = await create_training_run(store)
        await events.append(store, best, [evaluation_event(50, 0.99)])
        await create_run(store, "evaluate")

    def order(app: LoraApp) -> list[int]:
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        return [row.run.id for row in screen._list.rows]

    await harness.populate(some)
    async with harness.app((140, 40)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "Runs (4) · newest first")
        await wait_for_text(app, "0.99")
        while "sorted by score ▼" not in screen_text(app):
            await pilot.press("o")
        assert "score▼" in screen_text(app)
        assert order(app) == [3, 1, 4, 2], "the best first; those without a score last, the newest first"
        await pilot.press("O")
        assert order(app) == [1, 3, 4, 2]
        await pilot.press("f")
        await wait_for_text(app, "Runs (1 of 4 · evaluate)")
        await pilot.press("escape", "slash", *"key")
        await wait_until(lambda: order(app) == [2])
        await pilot.press("enter", "escape")
        await wait_until(lambda: len(order(app)) == 4)
        await pilot.press("o")
        assert "sorted by steps ▼" in screen_text(app)
        await pilot.click("#runs", offset=(30, 0))
        assert "sorted by loss ▲" in screen_text(app), "a click on its heading, the lowest first"
        await pilot.press("space")
        await wait_for_text(app, "◆ ")


async def test_the_cursor_stays_on_its_run_when_another_begins(harness: AppHarness) -> None:
    await harness.populate(three)
    async with harness.app() as (app, pilot), await Store.open(harness.path) as store:
        await pilot.press("4")
        await wait_for_text(app, "Runs (3)")
        await pilot.press("down")
        await wait_for_text(app, "Run 2  train")
        await create_run(store, "format")
        await wait_for_text(app, "4 runs")
        await wait_for_text(app, "✓ format")
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        assert screen._run is not None
        assert screen._run.id == 2


async def test_the_pairs_of_a_generation_run_are_exported_as_a_dataset(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_run(store, "generate"))
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "Runs (1)")
        await pilot.press("e")
        await wait_for_text(app, "Dataset of run 1")
        await wait_for_text(app, "LLaMA-Factory")
        await pilot.press("s")
        await wait_for_text(app, "Write the dataset to this folder")
        await pilot.press("enter")
        await wait_until(lambda: harness.backend.calls_of("start"))
        options = {"train_data_file": "pairs.txt", "format": "sharegpt", "output": "run-1-dataset"}
        wanted = options | {"split": 0.1, "with_provenance": True}
        assert harness.backend.calls_of("start") == [("export", wanted, None)]


async def test_an_export_is_listed_under_its_run_with_its_path_and_is_not_compared(harness: AppHarness) -> None:
    async def exported(store: Store) -> None:
        run_id = await create_training_run(store)
        await create_training_run(store)
        result = {"format": "merged", "path": "/models/bees", "adapter_run": run_id}
        await create_run(store, "export", result=result)

    await harness.populate(exported)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "└ ✓ export   merged → /models/bees")
        lines = screen_text(app).splitlines()
        (at,) = (number for number, line in enumerate(lines) if "export" in line)
        assert " 1 " in lines[at - 1], "under the run that it exported"
        await pilot.press("down", "down", "space")
        await wait_until(lambda: any("this one is export" in note.message for note in app._notifications))


async def test_a_small_terminal_compares_one_part_at_a_time(harness: AppHarness) -> None:
    await harness.populate(three)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "Runs (3)")
        await pilot.press("down", "space", "down", "space")
        await wait_for_text(app, "Loss by examples seen")
        assert "what is set differently" not in screen_text(app)
        await pilot.press("tab")
        await wait_for_text(app, "what is set differently")
        await pilot.press("tab")
        await wait_for_text(app, "The same prompts")
        assert "Loss by examples" not in screen_text(app)


async def test_the_cursor_reads_out_and_zoom_magnifies_around_it(harness: AppHarness) -> None:
    await harness.populate(three)
    async with harness.app() as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "Runs (3)")
        await pilot.press("down", "space", "down", "space")
        await wait_for_text(app, "◇ 1 0.1")
        await pilot.press("left")
        await wait_for_text(app, "1,280 examples")
        for _ in range(30):
            await pilot.press("left")
        plot = app.screen.query_one("#compare-plot", LinePlot)
        assert plot.cursor is not None
        assert plot.cursor < 1280
        loss = plot._series[0].curve.at(plot.cursor)
        assert f"◆ 2 {loss:.3g}" in screen_text(app)
        await pilot.press("z")
        await wait_for_text(app, "zoom 4×")
        await pilot.press("escape")
        await wait_until(lambda: not plot.is_moved)
        assert app.screen.has_class("-comparing"), "the marks go with the next escape"


async def test_where_an_export_has_gone_is_said_when_it_is_done(harness: AppHarness) -> None:
    trained = await harness.populate(create_training_run)
    harness.backend.next_run = trained + 1
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "Runs (1)")
        await pilot.press("e", "a", "enter")
        await wait_until(lambda: harness.backend.calls_of("start"))
        result = {"path": "/exports/run-1-adapter"}
        await harness.populate(lambda store: create_run(store, "export", "finished", result=result))
        await wait_for_text(app, "Exported: /exports/run-1-adapter")


async def test_what_goes_to_the_hub_is_listed_before_it_is_sent(harness: AppHarness) -> None:
    trained = await harness.populate(create_training_run)
    harness.backend.next_run = trained + 1
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "Runs (1)")
        await pilot.press("e", "h")
        await wait_for_text(app, "Name on the hub, OWNER/NAME")
        await pilot.press(*"me/notes", "enter")
        await wait_for_text(app, "Licence, such as apache-2.0")
        await pilot.press(*"mit", "enter")
        await wait_until(lambda: harness.backend.calls_of("start"))
        options = {"adapter_run": trained, "format": "adapter", "to_hub": "me/notes", "output": f"to-hub-run-{trained}"}
        assert harness.backend.calls_of("start") == [("export", options | {"license": "mit"}, None)]
        result = {
            "path": "/here/to-hub-run-1",
            "repository": "me/notes",
            "visible_to": "you alone",
            "adapter_run": trained,
            "listed": {"README.md": 2_000, "adapter_model.safetensors": 1_400_000},
            "sent": False,
        }
        await pilot.press("?")
        await harness.populate(lambda store: create_run(store, "export", "finished", result=result))
        await wait_until(lambda: len(app.services.state.runs) == 2)
        assert "Send 2 files" not in screen_text(app), "another dialog is open"
        await pilot.press("escape")
        await wait_for_text(app, "Send 2 files, 1.4 MB to me/notes on the hub? Visible to you alone.")
        assert "adapter_model.safetensors\u00a0(1.4\u00a0MB)" in screen_text(app)
        harness.backend.next_run = trained + 2
        await pilot.press("s")
        await wait_until(lambda: len(harness.backend.calls_of("start")) == 2)
        sent = {**options, "output": "/here/to-hub-run-1", "send": True}
        assert harness.backend.calls_of("start")[1] == ("export", sent, None)
        done = {**result, "sent": True, "address": "https://hub/me/notes"}
        await harness.populate(lambda store: create_run(store, "export", "finished", result=done))
        await wait_for_text(app, "Exported: https://hub/me/notes")
