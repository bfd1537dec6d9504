"""What people and terminals do to the app: sizes that change without end, keys in any order, and large pastes."""

import asyncio
import random
from pathlib import Path

import tests.tui.conftest  # noqa: F401  # style sheets are parsed once
from tests.campaign.scenario import Try, scenario
from tests.tui.app_harness import AppHarness, create_training_run, screen_text

_KEYS = "f1 f2 f3 f4 f5 f6 f7 1 2 3 question_mark escape tab down up enter n / ctrl+p ctrl+b ctrl+t ctrl+o".split()
_SIZES = 12


@scenario("app-resizes", tries=10, short=1, seconds=150)
def app_resizes(random: random.Random, folder: Path) -> Try:
    """A storm of sizes, from one cell to 200 columns, while keys move from screen to screen: the app still draws."""

    async def storm() -> Try:
        harness = AppHarness(folder / "store.db")
        await harness.populate(create_training_run)
        async with harness.app((100, 30)) as (app, pilot):
            await pilot.press(random.choice(_KEYS[:6]))
            for number in range(_SIZES):
                columns = random.randint(1, random.choice((9, 200)))
                await pilot.resize_terminal(columns, random.randint(1, random.choice((5, 60))))
                await pilot.press(random.choice(_KEYS))
                if not app.is_running:
                    return Try(False, number + 1, f"the app ended after {number + 1} sizes")
            await pilot.resize_terminal(100, 30)
            await pilot.press(*["escape"] * 5, "f1")
            await pilot.pause()
            return Try("1 GENERATE" in screen_text(app), _SIZES, "Generate is not on the screen after it")

    return asyncio.run(storm())
