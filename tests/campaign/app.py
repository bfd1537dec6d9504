"""What people and terminals do to the app: sizes that change without end, keys in any order, and large pastes."""

import asyncio
import random
from pathlib import Path

from tests.campaign.scenario import Try, scenario
from tests.tui.app_harness import AppHarness, create_training_run, screen_text

_KEYS = "1 2 3 4 5 6 ? escape tab down up enter f1".split()


@scenario("app-resizes", tries=6, short=1)
def app_resizes(random: random.Random, folder: Path) -> Try:
    """A storm of sizes, from one cell to 200 columns, while keys move from screen to screen: the app still draws."""

    async def storm() -> Try:
        harness = AppHarness(folder / "store.db")
        await harness.populate(create_training_run)
        async with harness.app((100, 30)) as (app, pilot):
            for number in range(40):
                await pilot.resize_terminal(
                    random.choice((random.randint(1, 9), random.randint(1, 200))), random.randint(1, 60)
                )
                await pilot.press(random.choice(_KEYS))
                if not app.is_running:
                    return Try(False, number + 1, f"the app ended after {number + 1} sizes")
            await pilot.resize_terminal(100, 30)
            await pilot.press("escape", "escape", "1")
            await pilot.pause()
            return Try("Generate" in screen_text(app), 40, "the screen is not drawn any more")

    return asyncio.run(storm())
