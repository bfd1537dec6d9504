"""A dozen screens as they look, in two sizes and without colour. Written on Python 3.11 with Textual 8.2."""

import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from textual.pilot import Pilot

from lora_tui import machine
from lora_tui.store.connection import Store
from lora_tui.tui.app import LoraApp
from tests.tui.app_harness import AppHarness, create_training_run, screen_text, wait_for_text, wait_until
from tests.tui.snapshots import assert_like_snapshot, drawn
from tests.tui.test_generate_screen import create_generation_run
from tests.tui.test_queue_screen import create_sweep
from tests.tui.test_rating_screen import pairs as pairs_to_rate

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        (sys.version_info[:2] != (3, 11) or not version("textual").startswith("8.2.")) and not os.environ.get("CI"),
        reason="Textual's minor versions move single cells; other tests say what must be there",
    ),
]

NOON = 1_700_000_000.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _stand_still(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same machine, time zone and moment for every snapshot."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(machine, "machine_line", lambda: "2 CPU cores, 23 GiB, no GPU")
    monkeypatch.setattr("lora_tui.tui.screens.welcome.machine_line", lambda: "2 CPU cores, 23 GiB, no GPU")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/work"))
    yield
    monkeypatch.undo()
    time.tzset()


async def at_noon(harness: AppHarness, size: tuple[int, int], keys: str, until_shown: str, name: str) -> None:
    """Open the app, press keys, wait, compare."""
    async with harness.app(size) as (app, pilot):
        for key in keys.split():
            await pilot.press(key)
            await pilot.pause()
        await wait_for_text(app, until_shown)
        await wait_until(lambda: app.poller.polls > 3)
        await still(app, pilot)
        assert "lora-tui" in screen_text(app) or size[0] < 100 or len(app.screen_stack) > 1
        assert_like_snapshot(app, name)


async def still(app: LoraApp, pilot: Pilot[None]) -> None:
    """Wait until nothing has changed for a while: hints and panels follow what they tell of."""
    same, before = 0, ""
    while same < 4:
        await pilot.pause(0.15)
        now = drawn(app)
        same, before = (same + 1 if now == before else 0), now


async def trained(store: Store) -> None:
    """A training run whose times are fixed."""
    run_id = await create_training_run(store)
    async with store.transaction() as t:
        await t.execute(
            "UPDATE runs SET created_at=?, started_at=?, ended_at=?, heartbeat=?, pid=4711, host='box' WHERE id=?",
            (NOON, NOON, NOON + 95, NOON + 95, run_id),
        )


async def generated(store: Store) -> None:
    """A finished generation run whose times are fixed."""
    run_id = await create_generation_run(store, "finished")
    async with store.transaction() as t:
        await t.execute(
            "UPDATE runs SET created_at=?, started_at=?, ended_at=?, heartbeat=?, pid=4711, host='box' WHERE id=?",
            (NOON, NOON, NOON + 95, NOON + 95, run_id),
        )


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize(
    ("mode", "key", "wait"),
    [
        ("generate", "1", "3 of 20 accepted"), ("train", "2", "smoothed"),
        ("runs", "4", "✓ finished"), ("learn", "5", "now, smoothed"),
    ],
)  # fmt: skip
async def test_modes(harness: AppHarness, size: tuple[int, int], mode: str, key: str, wait: str) -> None:
    await harness.populate(generated)
    await harness.populate(trained)
    await at_noon(harness, size, key, wait, f"{mode}-{size[0]}x{size[1]}")


async def test_a_sweep(harness: AppHarness) -> None:
    async def swept(store: Store) -> None:
        await create_sweep(store)
        async with store.transaction() as t:
            await t.execute(
                "UPDATE runs SET created_at=?, started_at=?, ended_at=? WHERE state='finished'", (NOON, NOON, NOON + 95)
            )

    await harness.populate(swept)
    async with harness.app((120, 40)) as (app, pilot):
        await wait_for_text(app, "1 run in the queue")
        app.clear_notifications()  # it goes by itself, sooner or later
        await pilot.press("4")
        await wait_for_text(app, "sweep 1:")
        await pilot.press("end", "S")
        await wait_for_text(app, "4 of 5 runs finished")
        await wait_for_text(app, "The same prompts")
        await still(app, pilot)
        assert_like_snapshot(app, "sweep-120x40")


async def test_the_first_start(harness: AppHarness) -> None:
    await at_noon(harness, (80, 24), "", "I have the data", "welcome-80x24")


async def test_a_pair_opened(harness: AppHarness) -> None:
    await harness.populate(generated)
    await at_noon(harness, (120, 40), "home enter", "judge: grounded", "pair-120x40")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
async def test_the_rating_queue(harness: AppHarness, size: tuple[int, int]) -> None:
    await harness.populate(generated)
    harness.backend.to_rate = pairs_to_rate()
    await at_noon(harness, size, "w g", "Why does bee 2 dance?", f"rating-{size[0]}x{size[1]}")


async def test_chat_with_both_sides(harness: AppHarness) -> None:
    await harness.populate(trained)
    await at_noon(harness, (120, 40), "3 ctrl+b u n l o c k enter", "4 tokens · 8 tokens/s", "chat-120x40")


async def test_configuration(harness: AppHarness) -> None:
    await harness.populate(trained)
    harness.config = Path("/work/config.toml")
    await at_noon(harness, (120, 40), "6 down down", "Accepted pairs to reach", "configure-120x40")


@pytest.mark.parametrize(("mode", "key", "wait"), [("train", "2", "smoothed"), ("generate", "1", "3 of 20 accepted")])
async def test_without_colour(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch, mode: str, key: str, wait: str
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    await harness.populate(generated)
    await harness.populate(trained)
    await at_noon(harness, (120, 40), key, wait, f"{mode}-no-colour")
