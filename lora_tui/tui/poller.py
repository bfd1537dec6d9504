"""The loop that polls the store for the app: the list of runs, which of them are in view, and failures to report.

Modes are asked to refresh, and read what they show themselves. An error in a poll ends nothing: the store may be gone
for a moment, and the next poll goes on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lora_tui.errors import LoraTuiError
from lora_tui.protocol.ending import Ending
from lora_tui.secrets import redact
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import RunLine, run_lines
from lora_tui.store.rows import LIVE_STATES, WAITING
from lora_tui.text import count
from lora_tui.tui.dialogs import Problem
from lora_tui.tui.screens.base import ModeScreen
from lora_tui.tui.services import AppServices
from lora_tui.tui.state import FOLLOWED_MODES
from lora_tui.tui.views.run_list import elapsed_seconds

log = logging.getLogger(__name__)

_RUNS_SECONDS = 1.0
"""The list of runs is read at most this often, unless somebody asks for it."""

_RETRY_SECONDS = 2.0


class StorePoller:
    """Polls the store a few times a second.

    With `attach`, that run is brought into view first. `open_welcome` is called once where there is neither a run nor
    a configuration, `ask_send` with the result of an export that has listed what it would send to a hub.
    """

    def __init__(
        self,
        services: AppServices,
        attach: int | None,
        open_welcome: Callable[[], None],
        ask_send: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._services = services
        self._attach = attach
        self._open_welcome = open_welcome
        self._ask_send = ask_send
        self._runs_read_at = 0.0
        self._runs_stale = False
        self._waiting: set[int] = set()
        """Runs that waited in the queue at the last look."""
        self._live: set[int] = set()
        """Runs that had an owner at the last look."""
        self.polls = 0
        """Polls that have succeeded."""

    async def run(self, polls_per_second: int) -> None:
        """Poll for as long as the app lasts."""
        period = 1 / polls_per_second
        first = True
        while True:
            started = time.monotonic()
            try:
                await self._poll(first=first)
                first = False
                self.polls += 1
            except Exception as error:  # whatever it is, the next poll may succeed, and the app must not go blind
                if self._services.is_closing:
                    return  # the screens are being taken down, and lack what was to be drawn on
                log.exception("polling the store failed")
                self._report_error(error)
                await asyncio.sleep(_RETRY_SECONDS)
            await self._services.wait_for_poll(max(0.01, period - (time.monotonic() - started)))

    async def _poll(self, *, first: bool) -> None:
        state, reader = self._services.state, self._services.reader
        if first:
            await asyncio.to_thread(state.prepare)
        changed = await reader.changed()
        self._runs_stale |= changed
        due = self._runs_stale and time.monotonic() - self._runs_read_at > _RUNS_SECONDS
        if reader.store is not None and (first or due or self._services.runs_requested):
            changed = True  # what was written before this poll shows in the list only now
            self._runs_stale = self._services.runs_requested = False
            self._runs_read_at = time.monotonic()
            state.runs = await run_lines(reader.store)
            self._choose_runs_in_view(first=first)
            self._tell_of_queue(first=first)
            self._tell_of_ends()
            self._report_failures()
            await self._report_exports(reader.store)
        if first:
            state.reported_failures = state.reported_failures or set()
            if not state.runs and not state.is_configured:
                self._open_welcome()
        for screen in self._services.screens:  # the mode that is shown, also from behind a dialog
            if isinstance(screen, ModeScreen) and screen.is_mounted:
                await screen.refresh_from_store(changed=changed or first)

    def _report_error(self, error: Exception) -> None:
        """Show that polling has failed, once for each error in a row."""
        what = str(error) if isinstance(error, LoraTuiError) else redact(f"{type(error).__name__}: {error}")
        last = self._services.last_problem
        if last is None or last.what != what:
            self._services.show_problem(
                Problem(what, "The store could not be read.", "It is tried again every other second.")
            )

    def _choose_runs_in_view(self, *, first: bool) -> None:
        """Bring the newest runs into view where nothing else was chosen; with --attach, that run."""
        state = self._services.state
        if first and self._attach is not None and (run := state.run(self._attach)) is not None:
            self._services.show_run(run)
            return
        for screen, modes in FOLLOWED_MODES.items():
            newest = next((run.id for run in state.runs if run.mode in modes and run.state != WAITING), None)
            if newest is not None:
                state.in_view.setdefault(screen, newest)
        if first and state.live_run is not None:
            self._services.show_run(state.live_run)

    def _tell_of_queue(self, *, first: bool) -> None:
        """Show which run of the queue begins, and follow it; at the start, say that there are some and nobody works."""
        services, state = self._services, self._services.state
        waiting = {run.id for run in state.runs if run.state == WAITING}
        if first and waiting and state.live_run is None:
            services.notify(f"{count(len(waiting), 'run')} in the queue: W on Runs (4) works through it.")
        for run in state.runs:
            if run.id in self._waiting - waiting and run.state in LIVE_STATES:
                left = f"; {len(waiting):,} more in the queue" if waiting else ", the last in the queue"
                services.notify(f"Run {run.id} ({run.mode}) begins{left}.")
                for screen, modes in FOLLOWED_MODES.items():
                    shown = state.run_on(screen)
                    if run.mode in modes and (shown is None or shown.state not in LIVE_STATES):
                        state.in_view[screen] = run.id
        self._waiting = waiting

    def _tell_of_ends(self) -> None:
        """Let the terminal say that a run has ended that took its time, and show what went wrong in telling others."""
        state = self._services.state
        for run in state.runs:
            if run.id in self._live and run.state in ("finished", "failed"):
                took, wanted = elapsed_seconds(run) or 0.0, state.settings.notify
                if wanted.terminal and run.mode != "serve" and took >= wanted.after_s:
                    ending = Ending(run.state, run.id, run.mode, run.name, run.best_score, took, run.error or "")
                    self._services.signal(ending.message)
        self._live = {run.id for run in state.runs if run.state in LIVE_STATES}
        while state.warnings:
            self._services.notify(state.warnings.pop(0), severity="warning")

    async def _report_exports(self, store: Store) -> None:
        """Say once where an export that was begun from this app has put what it wrote."""
        state = self._services.state
        for run in state.runs:
            if run.mode == "export" and run.id in state.begun and run.state == "finished":
                row = await runs.get(store, run.id)
                result = row.result if row is not None and row.result else {}
                listed = bool(result.get("listed")) and result.get("sent") is False
                if listed and len(self._services.screens) > 1:
                    self._services.runs_requested = True  # asked once the dialog that is open is answered
                    continue
                state.begun.discard(run.id)
                if listed:
                    self._ask_send(result)
                    continue
                path = str(result.get("address") or result.get("path", ""))
                self._services.notify(f"Exported: {path}" if path else f"Run {run.id} has exported.")

    def _report_failures(self) -> None:
        """Show once that a run has failed since the app began to poll."""
        state = self._services.state
        failed = {run.id for run in state.runs if run.state in ("failed", "interrupted")}
        if state.reported_failures is not None:
            for run in state.runs:
                if run.id in failed - state.reported_failures:
                    problem = run_problem(run, self._services.log_file)
                    self._services.show_problem(problem, quietly=run.id not in state.begun)
        state.reported_failures = failed


def run_problem(run: RunLine, log_file: Path | None) -> Problem:
    """The problem of a run that has failed, or has lost its process."""
    if run.state == "interrupted":
        what = f"Run {run.id} ({run.mode}) lost its process."
        return Problem(
            what, "It was killed, or the machine went down.", "Its work is saved: resume it on Runs (4).", log_file
        )
    first, _, rest = (run.error or "no reason was given").partition("\n")
    return Problem(
        f"Run {run.id} ({run.mode}) failed.", first, rest or "Fix it and start again, or resume on Runs (4).", log_file
    )
