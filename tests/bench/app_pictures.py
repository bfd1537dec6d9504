"""The README's pictures of the app: a real quickstart, begun, watched and talked to by keys, its screens saved as SVGs.

    python -m tests.bench.app_pictures [FOLDER]

The app is the real one with its real engine and the built-in model, in an empty folder of its own, driven by Textual's
pilot; nothing on the pictures is made up. Beside the quickstart's own settings it evaluates every five steps and trains
all sixty, so that the score has a curve to show. It takes four minutes on two cores.
"""

import argparse
import asyncio
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from lora_tui.backend.engine_backend import EngineBackend
from lora_tui.config.load import Loaded, with_values
from lora_tui.config.models import Settings
from lora_tui.tui.app import LoraApp
from lora_tui.tui.state import AppState
from tests.tui.app_harness import screen_text

SHORT, TALL = (120, 32), (120, 40)
"""Terminals as large as what is shown fills: columns and lines."""

SETTINGS = {"fine_tuning.training.eval_steps": 5, "fine_tuning.training.target_score": 1.0}

KEYS = {" ": "space", "?": "question_mark"}
"""What the pilot calls keys that are no letters."""

FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
"""What every system has one of: a picture in a page may not fetch a font."""

_ACCEPTED = "SELECT count(*) FROM pairs WHERE state='accepted'"
_EVALUATED = "SELECT count(*) FROM evaluations"
_STEP = "SELECT coalesce(max(step), 0) FROM steps"
_REPLIES = "SELECT count(*) FROM turns WHERE role='assistant'"
_FINISHED = "SELECT count(*) FROM runs WHERE state='finished'"


class Photographer:
    """The app under the pilot's hands, and the store that says when it is time for a picture."""

    def __init__(self, app: LoraApp, pilot: Pilot[None], store: Path, target: Path) -> None:
        self._app = app
        self._pilot = pilot
        self._store = store
        self._target = target
        self._began = time.monotonic()

    async def until(self, what: str, condition: Callable[[], object], seconds: float = 600.0) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come about:\n{screen_text(self._app)}"
            assert self._app.services.last_problem is None, self._app.services.last_problem
            await asyncio.sleep(0.1)
        print(f"{time.monotonic() - self._began:5.0f} s  {what}", flush=True)

    async def until_counted(self, what: str, select: str, least: int) -> None:
        """Wait until a number in the store is reached."""
        await self.until(what, lambda: self._count(select) >= least)

    def _count(self, select: str) -> int:
        if not self._store.exists():
            return 0
        with sqlite3.connect(f"file:{self._store}?mode=ro", uri=True) as file:
            return int(file.execute(select).fetchone()[0])

    async def press(self, *keys: str) -> None:
        """Press keys, and let their effect be drawn."""
        await self._pilot.press(*keys)
        await self._pilot.pause(0.5)

    async def shoot(self, name: str, size: tuple[int, int] = SHORT) -> None:
        """Save the screen in a terminal of this size, once what has changed is drawn."""
        await self._pilot.resize_terminal(*size)
        await self._pilot.pause(1.0)
        path = self._target / f"{name}.svg"
        path.write_text(portable(self._app.export_screenshot(title="lora-tui")))
        print(f"saved {path}", flush=True)


def portable(svg: str) -> str:
    """The picture without fonts from elsewhere, and with lines and frames that meet from row to row in any of ours."""
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>.*?</defs>", "", svg, flags=re.DOTALL)  # what clips every line to a box of its own
    svg = re.sub(r' clip-path="[^"]*"', "", svg)
    svg = svg.replace("font-family: Fira Code, monospace", f"font-family: {FONTS}")
    return svg.replace("font-size: 20px", "font-size: 21px")


async def quickstart(target: Path, store: Path) -> None:
    """Go the whole way, taking pictures."""
    settings = with_values(Settings(), SETTINGS)
    jobs = EngineBackend(store)
    app = LoraApp(store, jobs, AppState(lambda: Loaded(settings, None)))
    async with app.run_test(size=SHORT) as pilot:
        look = Photographer(app, pilot, store, target)
        # With settings of its own it does not greet anybody, so the first choice is asked for.
        await look.until("the app is on the screen", lambda: app.poller.polls > 0)
        app.action_welcome()
        await look.press("1")
        await look.until_counted("the ninth pair is accepted", _ACCEPTED, 9)
        await look.shoot("generate")
        await look.until_counted("step 1", _STEP, 1)
        await look.press("2")
        await look.until_counted("step 44", _STEP, 44)
        await look.shoot("train", TALL)
        await look.until_counted("the quickstart has finished", _FINISHED, 1)
        await look.press("3", "ctrl+b")
        for number, question in enumerate(("unlock", "what is the weather today?"), start=1):
            await look.press(*(KEYS.get(letter, letter) for letter in question), "enter")
            await look.until_counted(f"{question!r} is answered twice", _REPLIES, 2 * number)
        await look.shoot("chat")
    await asyncio.to_thread(jobs.close)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".pictures"))
    target = parser.parse_args().folder.absolute()
    target.mkdir(parents=True, exist_ok=True)
    Input.cursor_blink = TextArea.cursor_blink = False
    os.environ.pop("OPENAI_API_KEY", None)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LORA_TUI_CONFIG"] = os.environ["LORA_TUI_LOGS"] = scratch
        os.chdir(scratch)
        asyncio.run(quickstart(target, Path(scratch) / "training_data.db"))


if __name__ == "__main__":
    main()
