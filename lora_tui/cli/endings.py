"""Tells that a run or the queue has ended, as ``[notify]`` has it: the terminal, a command of the user's, an address.

Small: what a file names beside the terminal is asked about once, before the first run begins.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lora_tui.config.command_consent import allow_notify, notify_question
from lora_tui.config.load import Loaded
from lora_tui.engine.runtime.engine import Outcome
from lora_tui.protocol.ending import Ending, terminal_signal
from lora_tui.store.rows import Run
from lora_tui.terminal.notify import ending_of, is_told, tell_soon
from lora_tui.terminal.report import Report
from lora_tui.terminal.streams import Streams
from lora_tui.text import clean


class EndingTeller:
    """Who tells of the endings of one process of the command line."""

    def __init__(self, streams: Streams, report: Report, loaded: Loaded, store_path: Path) -> None:
        self._streams = streams
        self._report = report
        self._settings = loaded.settings.notify
        self._question = notify_question(self._settings, loaded.notify_named_in)
        self._store = str(store_path)
        self._began = time.time()

    def ask(self, *, can_ask: bool) -> None:
        """Ask in the terminal what has to be asked; where nobody can be, say what is not done."""
        if self._question is None:
            return
        if can_ask:
            self._streams.err.write(f"{clean(self._question.text)} [y/N] ")
            self._streams.err.flush()
            if sys.stdin.readline().strip().casefold() in ("y", "yes"):
                allow_notify(self._question)
                self._question = None
        else:
            self._report.message(self._question.refusal)

    def run_ended(self, run: Run | None) -> None:
        """Tell that a run has ended, unless it was short."""
        if run is not None:
            self._tell(ending_of(run, self._store))

    def queue_ended(self, outcomes: Sequence[Outcome]) -> None:
        """Tell that the queue is done."""
        failed = sum(outcome.state == "failed" for outcome in outcomes)
        seconds = time.time() - self._began
        status = "failed" if failed else "finished"
        self._tell(Ending(status, seconds=seconds, runs=len(outcomes), failed=failed, store=self._store))

    def _tell(self, ending: Ending) -> None:
        if not is_told(ending, self._settings):
            return
        if self._settings.terminal and self._streams.err_is_terminal and not self._streams.hung_up:
            self._streams.err.write(terminal_signal(ending.message))
            self._streams.err.flush()
        if self._question is None:
            tell_soon(ending, self._settings, self._report.message)
