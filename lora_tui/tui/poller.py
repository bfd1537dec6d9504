"""The loop that looks into the store for the app: the list of runs, which of them are in view, and what has to be told.

Screens are told to look and read what they show themselves. What a look finds is never held against it: the store may
be gone for a moment, and the next look goes on.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from textual.css.query import NoMatches

from lora_tui.errors import LoraTuiError
from lora_tui.secrets import redact
from lora_tui.store.queries.runs import RunLine, run_lines
from lora_tui.tui.screens.base import ModeScreen
from lora_tui.tui.screens.problem import Problem

if TYPE_CHECKING:
    from lora_tui.tui.app import LoraApp

log = logging.getLogger(__name__)

GENERATING = ("generate", "quickstart")
TRAINING = ("train", "quickstart")

_RUNS_SECONDS = 1.0


class StorePoller:
    """Looks into the store a few times a second, for one app; with `attach`, that run is brought into view first."""

    def __init__(self, app: "LoraApp", attach: int | None = None) -> None:
        self._app = app
        self._attach = attach
        self._runs_at = 0.0
        self._runs_stale = False
        self._told_failed: set[int] | None = None
        self._begun: set[int] = set()
        """Runs that were begun here: whoever begins something wants to hear how it failed."""
        self._now = asyncio.Event()
        self.looks = 0
        """How often the store has been looked into."""

    def soon(self) -> None:
        """Look now, not at the next tick."""
        self._now.set()

    def has_begun(self, run_id: int) -> None:
        """Note a run that was begun here, and read the list at the next look."""
        self._begun.add(run_id)
        if self._told_failed is not None:
            self._told_failed.discard(run_id)
        self.list_anew()

    def list_anew(self) -> None:
        """Read the list of runs at the next look, however lately it was read."""
        self._runs_at, self._runs_stale = 0.0, True
        self.soon()

    async def go_on(self, looks_per_second: int) -> None:
        """Look for as long as the app lasts."""
        app, period = self._app, 1 / looks_per_second
        first = True
        while True:
            began = time.monotonic()
            try:
                await self._look(first=first)
                first = False
                self.looks += 1
            except NoMatches:
                if app.is_running and not app._exit:
                    raise
                return  # the screens are being taken down
            except Exception as problem:  # whatever it is, the next look may succeed, and the app must not go blind
                log.exception("looking into the store failed")
                self._failed(problem)
                await asyncio.sleep(2.0)
            try:
                await asyncio.wait_for(self._now.wait(), max(0.01, period - (time.monotonic() - began)))
            except TimeoutError:
                continue
            finally:
                self._now.clear()

    async def _look(self, *, first: bool) -> None:
        app = self._app
        view = app.view
        if not view.is_prepared:
            await asyncio.to_thread(view.prepare)
        changed = await app.look.changed()
        store = app.look.store
        self._runs_stale |= changed
        if store is not None and (first or (self._runs_stale and time.monotonic() - self._runs_at > _RUNS_SECONDS)):
            self._runs_stale = False
            self._runs_at = time.monotonic()
            view.runs = await run_lines(store)
            self._choose_runs(first=first)
            self._tell_endings()
        if first:
            self._told_failed = self._told_failed or set()
            if not view.runs and not view.is_configured:
                app.action_greet()
        for screen in self._showing():
            await screen.look(changed=changed or first)

    def _showing(self) -> Iterable[ModeScreen]:
        """The mode that is looked at, also from behind a dialogue."""
        return [screen for screen in self._app.screen_stack if isinstance(screen, ModeScreen) and screen.is_mounted]

    def _failed(self, problem: Exception) -> None:
        words = str(problem) if isinstance(problem, LoraTuiError) else redact(f"{type(problem).__name__}: {problem}")
        last = self._app.last_problem
        if last is None or last.what != words:
            self._app.show_problem(
                Problem(words, "The store could not be read.", "It is tried again every other second.")
            )

    def _choose_runs(self, *, first: bool) -> None:
        """Bring the newest runs into view where nothing else was chosen; with --attach, that run."""
        view = self._app.view
        if first and self._attach is not None and (run := view.run(self._attach)) is not None:
            self._app.show_run(run)
            return
        if view.generation_run is None:
            view.generation_run = next((run.id for run in view.runs if run.mode in GENERATING), None)
        if view.training_run is None:
            view.training_run = next((run.id for run in view.runs if run.mode in TRAINING), None)
        if first and view.live:
            self._app.show_run(view.live[0])

    def _tell_endings(self) -> None:
        """Say once that a run has failed while we were looking."""
        runs = self._app.view.runs
        failed = {run.id for run in runs if run.state in ("failed", "interrupted")}
        if self._told_failed is not None:
            for run in runs:
                if run.id in failed - self._told_failed:
                    self._app.show_problem(problem_of(run, self._app.log_file), quietly=run.id not in self._begun)
        self._told_failed = failed


def problem_of(run: RunLine, log_file: Path | None) -> Problem:
    """The problem of a run that did not end well."""
    if run.state == "interrupted":
        what = f"Run {run.id} ({run.mode}) lost its process."
        return Problem(
            what, "It was killed, or the machine went down.", "Its work is saved: resume it on Runs (4).", log_file
        )
    first, _, rest = (run.error or "no reason was given").partition("\n")
    return Problem(
        f"Run {run.id} ({run.mode}) failed.", first, rest or "Mend it and start again, or resume on Runs (4).", log_file
    )
