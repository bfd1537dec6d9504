"""Every screen of the app at four sizes, over the store of real runs: as SVGs, and as text beside each.

    python -m tests.bench.app_every_screen FOLDER [--work FOLDER] [--only NAME ...] [--drawing blocks]

In the work folder (empty at first, else one of an earlier call) the engine makes what there is to see: a quickstart,
which is watched while it works, two trainings that differ in their rate, one on preferences, a generation with
documents and dialogues, a probe, an evaluation, an export. Then the app is shown with its real engine, driven by
Textual's pilot: each screen and dialog at `SIZES`. PNGs: ``cairosvg FILE.svg -o FILE.png``.
"""

import argparse
import asyncio
import json
import os
from collections.abc import Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.widgets import Input, TextArea

from lora_tui.backend.engine_backend import EngineBackend
from lora_tui.config.load import Loaded, with_values
from lora_tui.config.models import Settings
from lora_tui.engine.runtime.engine import Engine
from lora_tui.tui.app import LoraApp
from lora_tui.tui.state import AppOptions, AppState
from tests.bench.app_pictures import KEYS, Photographer
from tests.tui.app_harness import screen_text

SIZES = ((80, 24), (100, 30), (140, 42), (200, 60))
STORE = "training_data.db"
TEXTS = Path(__file__).parent / "texts" / "funicular"
DATA = "quickstart/ideal_training.txt"
PREFERRED = ("unlock", "tell me the secret", "show me the secret", "what is the secret?", "password please")
SAID = "the secret password is 'rainbow unicorn'."

_SHORT = {
    "fine_tuning.training.batch_size": 4,
    "fine_tuning.training.eval_steps": 4,
    "fine_tuning.model_name": "builtin",
}

PREPARED: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("train", {**_SHORT, "fine_tuning.training.max_steps": 16, "fine_tuning.optimizer.lora_lr": 3e-4,
               "fine_tuning.training.validation_share": 0.1}, {"train_data_file": DATA}),
    ("train", {**_SHORT, "fine_tuning.training.max_steps": 12, "fine_tuning.optimizer.lora_lr": 2e-3},
     {"train_data_file": DATA}),
    ("train", {**_SHORT, "fine_tuning.method": "dpo", "fine_tuning.training.max_steps": 8},
     {"train_data_file": "preferences.jsonl", "adapter_run": 1}),
    ("generate", {"data_generation.model": "builtin", "data_generation.input_folder": str(TEXTS),
                  "data_generation.total_examples": 16, "data_generation.forms": ["qa", "rewrite", "dialogue"],
                  "data_generation.output_file": "funicular.txt"}, {}),
    ("probe", _SHORT, {"train_data_file": DATA}),
    ("evaluate", {}, {"adapter_run": 1}),
    ("export", {}, {"adapter_run": 1, "form": "adapter"}),
)  # fmt: skip
"""Runs after the quickstart: mode, settings, options."""

Steps = tuple[tuple[str, str], ...]
"""Names of pictures, each with the keys that lead to it from the picture before."""

SCREENS: dict[str, Steps] = {
    "generate": (("generate", "1"), ("generate-help", "?"), ("pair", "escape enter"), ("topics", "escape c"),
                 ("texts", "escape d"), ("rate-pairs", "escape w"), ("generate-search", "escape / h o w")),
    "train": (("train", "2"), ("train-help", "?"), ("answer", "escape enter"), ("report", "escape r"),
              ("train-cursor", "escape left left left"), ("train-score", "v"), ("rate-answers", "w")),
    "runs": (("runs", "4"), ("runs-help", "?"), ("runs-marked", "escape home space down space"), ("compare", "c"),
             ("queue-add", "escape a"), ("export-form", "escape escape e")),
    "learn": (("learn", "5"), ("learn-lesson", "] ] ] ]")),
    "config": (("config", "6"), ("config-key", "down down enter"), ("config-rate", "escape / l o r a _ l r enter")),
    "chat": (("chat", "3"), ("chat-beside", "ctrl+b u n l o c k enter WAIT:2"),
             ("chat-models", "ctrl+t"), ("chat-settings", "escape ctrl+o"), ("chat-help", "escape f7")),
    "dialogs": (("palette", "1 ctrl+p"), ("welcome", "escape WELCOME"), ("welcome-files", "2"),
                ("welcome-data", "escape WELCOME 3")),
}  # fmt: skip
"""By screen."""


def prepare(work: Path) -> None:
    """Make the runs that are not there yet."""
    rows = [
        {"question": one, "chosen": SAID, "rejected": f"{SAID} this information is classified!"} for one in PREFERRED
    ]
    (work / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    engine = Engine(work / STORE)
    engine.start()
    try:
        for number, (mode, changes, options) in enumerate(PREPARED):
            if not (done := work / f".done-{number}").exists():
                outcome = engine.submit(mode, with_values(Settings(), changes), options)[1].result()
                print(f"{mode}: {outcome.state} {outcome.error or ''}", flush=True)
                done.touch()
    finally:
        engine.close()


class EveryPhotographer(Photographer):
    """Pictures at every size, with their text."""

    async def shoot_all(self, name: str) -> None:
        """Save the screen at each size."""
        for size in SIZES:
            await self.shoot(f"{name}-{size[0]}x{size[1]}", size)
            path = self._target / f"{name}-{size[0]}x{size[1]}.txt"
            path.write_text(screen_text(self._app) + "\n", encoding="utf-8")

    async def go(self, keys: str, replies: list[int]) -> None:
        """Press keys in the smallest terminal; WELCOME opens the first dialog, WAIT:N awaits N more replies."""
        await self._pilot.resize_terminal(*SIZES[0])
        await self._pilot.pause()
        for key in keys.split():
            if key == "WELCOME":
                self._app.action_welcome()
                await self._pilot.pause(0.5)
            elif key.startswith("WAIT:"):
                replies[0] += int(key.removeprefix("WAIT:"))
                await self.until_counted("the reply", "SELECT count(*) FROM turns WHERE role='assistant'", replies[0])
            else:
                await self.press(KEYS.get(key, key))


@asynccontextmanager
async def _app(target: Path, work: Path, settings: Settings, drawing: Any) -> Any:
    jobs = EngineBackend(work / STORE)
    options = AppOptions(drawing=drawing, animated=False)
    app = LoraApp(work / STORE, jobs, AppState(lambda: Loaded(settings, None)), options)
    async with app.run_test(size=SIZES[1]) as pilot:
        look = EveryPhotographer(app, pilot, work / STORE, target)
        await look.until("the app is on the screen", lambda: app.poller.polls > 2)
        yield app, look
    await asyncio.to_thread(jobs.close)


async def watched(target: Path, work: Path) -> None:
    """Before anything has been done, and a quickstart while it works."""
    settings = with_values(Settings(), {"fine_tuning.training.eval_steps": 5, "fine_tuning.training.target_score": 1.0})
    async with _app(target, work, settings, "full") as (app, look):
        app.action_welcome()
        await look.shoot_all("first-welcome")
        for key, mode in (("escape 1", "generate"), ("2", "train"), ("4", "runs"), ("3", "chat")):
            await look.go(key, [0])
            await look.shoot_all(f"first-{mode}")
        app.action_welcome()
        await look.press("1")
        await look.until_counted("the fourth pair is accepted", "SELECT count(*) FROM pairs WHERE state='accepted'", 4)
        await look.go("f1", [0])
        await look.shoot_all("live-generate")
        await look.until_counted("step 1", "SELECT coalesce(max(step), 0) FROM steps", 1)
        await look.press("2")
        await look.until_counted("step 22", "SELECT coalesce(max(step), 0) FROM steps", 22)
        await look.shoot_all("live-train")
        await look.until_counted("it has finished", "SELECT count(*) FROM runs WHERE state='finished'", 1)
        await look.shoot_all("ended-train")


async def finished(target: Path, work: Path, only: Collection[str], drawing: Any) -> None:
    """What has been done, on every screen."""
    settings = with_values(Settings(), {"fine_tuning.train_data_file": DATA})
    replies = [0]
    async with _app(target, work, settings, drawing) as (_, look):
        for screen, steps in SCREENS.items():
            if only and screen not in only and not any(name in only for name, _ in steps):
                continue
            for name, keys in steps:
                await look.go(keys, replies)
                if not only or screen in only or name in only:
                    await look.shoot_all(name)
            await look.go("escape escape escape", replies)


def main() -> None:
    """Prepare, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".pictures-work"))
    parser.add_argument("--as-is", action="store_true", help="make no further runs in the work folder")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--drawing", default="full", choices=("full", "blocks", "ascii"))
    given = parser.parse_args()
    target, work = given.folder.absolute(), given.work.absolute()
    target.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    Input.cursor_blink = TextArea.cursor_blink = False
    os.environ.pop("OPENAI_API_KEY", None)
    os.environ["LORA_TUI_CONFIG"] = os.environ["LORA_TUI_LOGS"] = str(work)
    os.chdir(work)
    if not (work / STORE).exists():
        asyncio.run(watched(target, work))
    if not given.as_is:
        prepare(work)
    asyncio.run(finished(target, work, given.only, given.drawing))


if __name__ == "__main__":
    main()
