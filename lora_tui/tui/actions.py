"""What the app does at the user's word: it asks the jobs, says what came of it, and survives their refusal.

Screens call these from their keys. A refusal, or a bug, becomes the one panel for problems; the caller gets None and
goes on. What has to outlive the dialogue it was asked for in is the app's own work, not that dialogue's.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from lora_tui.errors import LoraTuiError
from lora_tui.protocol.backend import Forecast, ReviewResult
from lora_tui.store.queries.generation import pair_detail
from lora_tui.store.queries.runs import RunLine
from lora_tui.text import clean
from lora_tui.tui.screens.problem import Problem

if TYPE_CHECKING:
    from lora_tui.config import Settings
    from lora_tui.tui.app import LoraApp

T = TypeVar("T")

log = logging.getLogger(__name__)


class AppActions:
    """Everything that changes something, for one app."""

    def __init__(self, app: "LoraApp") -> None:
        self._app = app
        self._is_beginning = False

    async def attempt(self, deed: Awaitable[T]) -> T | None:
        """Await something that may be refused; None when it was, and the user has been told."""
        try:
            return await deed
        except LoraTuiError as problem:
            self._app.refused(problem)
        except Exception as problem:  # a bug of the engine's side must not end the app
            log.exception("a deed failed")
            self._app.refused(problem)
        return None

    # Runs

    async def begin(self, mode: str, options: Mapping[str, Any] | None = None) -> int | None:
        """Begin a run with the settings in view; returns its id, None when it was refused."""
        app = self._app
        run_id = await self.attempt(app.jobs.start(mode, app.view.settings, dict(options or {}), None))
        if run_id is not None:
            app.watching.has_begun(run_id)
        return run_id

    def begin_soon(self, mode: str, settings: "Settings | None" = None) -> None:
        """Begin a run, with these settings from now on where they are given, and look at it."""
        if settings is not None:
            self._app.view.settings = settings
        self._app.run_worker(self._begin_in_view(mode), exit_on_error=False, group="begin")

    async def _begin_in_view(self, mode: str) -> None:
        run_id = await self.begin(mode)
        if run_id is not None:
            self._app.bring_into_view(mode, run_id)

    def begin_if_possible(self, mode: str, ask: Callable[["Settings"], Awaitable[Forecast]]) -> None:
        """Begin a run and look at it; one that is known to fail is not begun: what is missing is shown instead.

        While one is about to begin, another call does nothing: a key that is held down begins one run.
        """
        if self._is_beginning:
            return
        self._is_beginning = True

        async def work() -> None:
            app = self._app
            try:
                forecast = await self.attempt(ask(app.view.settings))  # anew: the file may be there by now
                blocker = forecast.blocker if forecast is not None else None
                if blocker is None:
                    await self._begin_in_view(mode)
                else:
                    app.show_problem(Problem(blocker.what, blocker.why, blocker.remedy))
            finally:
                self._is_beginning = False

        self._app.run_worker(work(), exit_on_error=False, group="begin")

    async def resume(self, run: RunLine) -> None:
        """Go on with a run that was stopped, has failed or lost its process, with its own settings."""
        app = self._app
        run_id = await self.attempt(app.jobs.start(run.mode, app.view.settings, {}, run.id))
        if run_id is not None:
            app.watching.has_begun(run_id)
            app.show_run(run)

    async def stop(self, run_id: int, words: str) -> None:
        """Ask a run to save and end, whoever owns it."""
        if await self.attempt(_done(self._app.jobs.stop(run_id))):
            self._app.say(words)

    async def ask(self, run_id: int, command: str, words: str = "") -> None:
        """Ask the owner of a live run for something."""
        if await self.attempt(_done(self._app.jobs.ask(run_id, command))) and words:
            self._app.say(words)

    async def export(self, run: RunLine, form: str, path: str) -> None:
        """Export a run's adapter: a run of its own."""
        number = await self.begin("export", {"adapter_run": run.id, "format": form, "output": path})
        if number is not None:
            self._app.say(f"Run {number} exports to {path}; it is listed here when it is done.")

    async def rename(self, run: RunLine, name: str) -> None:
        """Name a run."""
        if await self.attempt(_done(self._app.jobs.rename(run.id, name))):
            self._app.watching.list_anew()

    async def delete(self, run: RunLine, *, with_files: bool) -> None:
        """Delete a run, and say what became of its folder."""
        words = await self.attempt(self._app.jobs.delete(run.id, with_files=with_files))
        if words is not None:
            self._app.forget(run.id)
            self._app.say(words)

    # Pairs, and whatever people judge

    async def judge(self, pair_id: int, verdict: str) -> None:
        """Accept or reject a pair."""
        self._told(await self.attempt(self._app.jobs.override_pair(pair_id, verdict)))

    async def undo(self, run_id: int) -> None:
        """Take back the last verdict or edit of a run."""

        async def taken_back() -> ReviewResult:
            return await self._app.jobs.undo(run_id) or ReviewResult("There is nothing to take back.")

        self._told(await self.attempt(taken_back()))

    async def edit(self, pair_id: int, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Open a pair's wording for editing; `then` is awaited when that is over."""
        from lora_tui.tui.screens.pair import EditPair

        store = self._app.look.store
        detail = await pair_detail(store, pair_id) if store is not None else None
        if detail is None:
            return
        # What cannot be shown cannot be edited: it becomes a visible sign.
        before = clean(detail.pair.question), clean(detail.pair.answer)

        async def edited(wording: tuple[str, str] | None) -> None:
            if wording is not None and wording != before:
                self._told(await self.attempt(self._app.jobs.edit_pair(pair_id, *wording)))
            if then is not None:
                await then()

        self._app.push_screen(EditPair(*before), edited)

    def _told(self, moved: ReviewResult | None) -> None:
        if moved is not None:
            self._app.say(moved.words)
            self._app.pull_soon()


async def _done(deed: Awaitable[None]) -> bool:
    """Await what returns nothing; True, so that it can be told from a refusal."""
    await deed
    return True
