"""The queue, sweeps and probes: what waits is seen in its order, added, moved, taken out; a sweep has a table."""

from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.protocol.backend import Blocker
from lora_tui.protocol.rate_probe import probe_rate
from lora_tui.store import events, queue, runs
from lora_tui.store.connection import Store
from lora_tui.tui.screens.probe import ProbeScreen
from tests.tui.app_harness import (
    AppHarness,
    create_run,
    create_training_run,
    evaluation_event,
    screen_text,
    step_event,
    wait_for_text,
    wait_until,
)

pytestmark = pytest.mark.anyio

RATE = "fine_tuning.optimizer.lora_lr"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def add_waiting(store: Store, mode: str = "train", **more: Any) -> int:
    """A run that waits in the queue."""
    settings = with_values(Settings(), more.get("point", {})).model_dump(mode="json")
    async with store.transaction() as t:
        return await queue.add(t, mode, settings, {}, None, folder=Path.cwd(), **more)


async def create_sweep(store: Store, left: int = 1) -> int:
    """A sweep of five runs, of which the last `left` still wait; the third is the best."""
    async with store.transaction() as t:
        group_id = await queue.add_group(t, "sweep", {})
    scores = {1e-4: 0.4, 3e-4: 0.7, 1e-3: 0.9, 3e-3: 0.5, 1e-2: 0.1}
    for number, (rate, score) in enumerate(scores.items()):
        run_id = await add_waiting(store, group_id=group_id, point={RATE: rate, "fine_tuning.lora.r": 16})
        if number >= len(scores) - left:
            continue
        entry = next(entry for entry in await queue.entries(store) if entry.run_id == run_id)
        assert await queue.take(store, entry, "")
        await runs.start(store, run_id)
        news = [step_event(step, loss=3.0 / step + 0.1 / score) for step in range(1, 41)]
        answer = "the secret password" if score > 0.6 else "no idea"
        news.append(evaluation_event(40, score, answer, held_out_loss=1.5 - score))
        await events.append(store, run_id, news)
        await runs.set_folder(store, run_id, Path(f"/runs/run-{run_id}"), "cpu")
        await runs.end(store, run_id, "finished", {"best_score": score}, None)
    return group_id


async def history(store: Store) -> None:
    await create_training_run(store)
    await create_training_run(store, "running")
    for mode in ("train", "generate", "train"):
        await add_waiting(store, mode)


async def test_what_waits_stands_above_in_its_order(harness: AppHarness) -> None:
    await harness.populate(history)
    async with harness.app((140, 40)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "next")
        rows = [line.replace("▸", " ").split() for line in screen_text(app).splitlines() if " in the queue" in line]
        assert [row[1] for row in rows] == ["3", "4", "5"]
        await wait_for_text(app, "K shift+↑ J shift+↓ move")
        assert "k ↓ j K" not in screen_text(app), "the keys of the cursor move no run"
        await pilot.press("home", "down", "J")
        await wait_until(lambda: harness.backend.calls_of("move_in_queue") == [(4, 1)])
        await pilot.press("K")
        await wait_until(lambda: harness.backend.calls_of("move_in_queue")[1:] == [(4, -1)])
        await pilot.press("x")
        await wait_until(lambda: harness.backend.calls_of("take_out") == [(4,)])
        assert harness.backend.calls_of("stop") == []
        await pilot.press("enter")
        await wait_for_text(app, "Run 4 has not begun")


async def test_a_run_is_added_again_with_the_settings_it_had(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    async with harness.app((100, 30)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "✓ train")
        await pilot.press("a")
        await wait_for_text(app, "Run 1 again")
        await pilot.press("a")
        await wait_until(lambda: harness.backend.calls_of("queue_copy") == [(1,)])


async def test_a_run_with_the_settings_of_now_and_a_sweep_are_added(harness: AppHarness) -> None:
    harness.backend.next_run = 7
    async with harness.app((100, 30)) as (app, pilot):
        await pilot.press("escape", "4", "a")
        await wait_for_text(app, "Add to the queue")
        await pilot.press("t")
        await wait_until(lambda: harness.backend.calls_of("queue_run") == [("train", {})])
        await wait_for_text(app, "Run 7 begins")
        await pilot.press("a", "s")
        await wait_for_text(app, "lora_lr=1e-4,3e-4,1e-3")
        await pilot.press("enter")
        await wait_until(lambda: len(harness.backend.calls_of("queue_sweep")) == 1)
        assert harness.backend.calls_of("queue_sweep") == [("fine_tuning.optimizer.lora_lr=1e-4,3e-4,1e-3",)]
        await wait_for_text(app, "A sweep of 2 runs")


async def test_a_training_that_would_fail_is_not_added_unless_a_run_makes_its_file(harness: AppHarness) -> None:
    harness.backend.blocker = Blocker("Training has no file.", "It does not exist.", "Make one.", "data")
    await harness.populate(create_training_run)
    async with harness.app((100, 30)) as (app, pilot):
        await pilot.press("4", "a", "t")
        await wait_for_text(app, "Training has no file.")
        assert harness.backend.calls_of("queue_run") == []
    await harness.populate(lambda store: add_waiting(store, "generate"))
    async with harness.app((100, 30)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "next")
        await pilot.press("a", "t")
        await wait_until(lambda: harness.backend.calls_of("queue_run") == [("train", {})])


async def test_who_opens_the_app_is_told_what_waits_and_begins_it(harness: AppHarness) -> None:
    await harness.populate(add_waiting)
    async with harness.app((100, 30)) as (app, pilot):
        await wait_for_text(app, "1 run in the queue: W on Runs (4)")
        assert harness.backend.calls_of("work_queue") == []
        await pilot.press("4")
        await wait_for_text(app, "next")
        await pilot.press("W")
        await wait_until(lambda: harness.backend.calls_of("work_queue") == [(True,)])
        await pilot.press("W")
        await wait_until(lambda: harness.backend.calls_of("work_queue")[1:] == [(False,)])


async def test_who_works_the_queue_is_asked_what_a_file_has_done_at_the_end(
    harness: AppHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_TUI_CONFIG", str(tmp_path / "own"))
    harness.settings = with_values(harness.settings, {"notify.on_finish": "say [bold]done[/bold]"})
    harness.notify_named_in = tmp_path / "config.toml"
    await harness.populate(add_waiting)
    async with harness.app((100, 30)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "next")
        await pilot.press("W")
        await wait_for_text(app, "it runs say [bold]done[/bold]")
        assert harness.backend.calls_of("work_queue") == []
        await pilot.press("a")
        await wait_until(lambda: harness.backend.calls_of("work_queue") == [(True,)])


async def test_a_run_of_the_queue_that_begins_is_told_and_followed(harness: AppHarness) -> None:
    await harness.populate(create_training_run)
    await harness.populate(add_waiting)
    async with harness.app((100, 30)) as (app, pilot):
        assert app.services.state.in_view["train"] == 1, "not the one that has not begun"

        async def begin(store: Store) -> None:
            (entry,) = await queue.entries(store)
            assert await queue.take(store, entry, "cpu")
            await runs.start(store, entry.run_id)

        await harness.populate(begin)
        await wait_for_text(app, "Run 2 (train) begins, the last in the queue")
        assert app.services.state.in_view["train"] == 2
        await pilot.pause()


async def test_a_sweep_is_a_table_with_the_best_first(harness: AppHarness) -> None:
    await harness.populate(create_sweep)
    async with harness.app((140, 42)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "sweep 1: lora_lr 1e-3, r 16")
        await pilot.press("S")
        await wait_for_text(app, "4 of 5 runs finished, the best first")
        await wait_for_text(app, "◆ 3")
        rows = [line for line in screen_text(app).splitlines() if "✓ finished" in line or "○ waiting" in line]
        found = [row.replace("│", " ").split() for row in rows]
        assert [(row[1], row[2]) for row in found[:4]] == [("3", "1e-3"), ("2", "3e-4"), ("4", "3e-3"), ("1", "1e-4")]
        assert found[0][3:11] == ["16", "0.186", "0.600", "0.90", "2/2", "0s", "✓", "finished"]
        assert "5" in found[4]
        await wait_for_text(app, "what is set differently")
        await pilot.press("t")
        await wait_for_text(app, "run 3, best checkpoint")


async def test_a_sweep_of_many_settings_leaves_room_for_what_came_of_it(harness: AppHarness) -> None:
    async def many(store: Store) -> None:
        keys = (
            "lora.r",
            "lora.alpha",
            "lora.dropout",
            "training.seed",
            "training.batch_size",
            "sampling.keyword_weight",
        )
        async with store.transaction() as t:
            group_id = await queue.add_group(t, "sweep", {})
            for number in (1, 2):
                point = {f"fine_tuning.{key}": number for key in keys} | {"fine_tuning.device": "cpu"}
                await queue.add(t, "train", {}, {}, None, folder=Path(), group_id=group_id, point=point)

    await harness.populate(many)
    async with harness.app((80, 24)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "sweep 1")
        await pilot.press("S")
        await wait_for_text(app, "finished, the best first")
        (heading,) = [line for line in screen_text(app).splitlines() if "held-out" in line]
        assert heading.split()[1:9] == ["run", "r", "alpha", "loss", "held-out", "score", "right", "time"]
        assert "device" not in screen_text(app), "it is the same in all"


async def test_a_run_without_a_sweep_offers_none(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_run(store, "train"))
    async with harness.app((100, 30)) as (app, pilot):
        await pilot.press("4")
        await wait_for_text(app, "✓ train")
        await pilot.press("S", "J", "W")
        await pilot.pause()
        assert harness.backend.calls_of("move_in_queue") == harness.backend.calls_of("work_queue") == []
        assert "Sweep" not in screen_text(app)


async def probed(store: Store, run_id: int, upto: int) -> None:
    """The events of a probe, up to a step."""
    news: list[events.NewEvent] = []
    for step in range(upto):
        rate = probe_rate(step)
        change = -1.2 * min(1.0, rate / 2e-3) + max(0.0, rate - 2e-2) * 60
        payload = {"step": step + 1, "steps": 60, "rate": rate, "loss": 3 + change, "change": change}
        news.append((1_700_000_000.0 + step, "probe", payload))
    await events.append(store, run_id, news)


async def test_the_flight_at_the_end_of_a_probe_does_not_flatten_its_fall(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_run(store, "probe", "running"))
    await harness.populate(lambda store: probed(store, 1, 60))  # falls by 1.2, then rises by 16
    async with harness.app((80, 24)) as (app, _):
        app.push_screen(ProbeScreen(app.services, 1))
        await wait_for_text(app, "step 60 of 60")
        await wait_for_text(app, "-1.0┤")
        assert " 5┤" not in screen_text(app)


async def test_a_probe_shows_its_curve_and_its_rate_is_taken_with_a_key(harness: AppHarness) -> None:
    await harness.populate(lambda store: create_run(store, "probe", "running"))
    await harness.populate(lambda store: probed(store, 1, 20))
    async with harness.app((100, 30)) as (app, pilot):
        await pilot.press("escape", "2")
        await wait_for_text(app, "2 TRAIN")
        await pilot.press("p")
        await wait_until(lambda: harness.backend.calls_of("start") == [("probe", {}, None)])
        await wait_for_text(app, "step 20 of 60, rate 2.8e-4")

        async def finish(store: Store) -> None:
            await probed(store, 1, 50)
            result = {"rate": 1e-3, "steepest": 1.2e-3, "diverged": 3e-2, "lowest": 1e-2, "fall": 1.2}
            await runs.end(store, 1, "finished", result, None)

        await harness.populate(finish)
        await wait_for_text(app, "1e-3 is proposed")
        await pilot.resize_terminal(80, 24)
        await wait_for_text(app, "a tenth of that")
        await wait_for_text(app, "1e-2")
        await pilot.press("enter")
        await wait_until(lambda: app.services.state.settings.fine_tuning.optimizer.lora_lr == 1e-3)
        await wait_for_text(app, "Runs from now on train at 1e-3")
