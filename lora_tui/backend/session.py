"""The process of the full-screen app: its terminal, its signals, and what becomes of its runs when it has ended."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lora_tui.backend.engine_backend import EngineBackend
from lora_tui.backend.launcher import ParentLink, with_parent
from lora_tui.errors import ConfigError
from lora_tui.glyphs import drawing_of
from lora_tui.logs import set_up_logging
from lora_tui.secrets import register_key_variable
from lora_tui.terminal.report import PREFIX, Report
from lora_tui.terminal.signals import Interrupts
from lora_tui.terminal.streams import Streams
from lora_tui.tui.state import AppOptions, AppState

if TYPE_CHECKING:
    from lora_tui.config.load import Loaded
    from lora_tui.store.rows import Run

log = logging.getLogger(__name__)

_HUNG_UP_STATUS = 128 + signal.SIGHUP
_CRASHED_STATUS = 1
_SLOW_LINK = {"TEXTUAL_FPS": "30", "TEXTUAL_SMOOTH_SCROLL": "0"}
"""Textual's settings over SSH, made before it is imported: half as many frames, whole lines."""


@dataclass(frozen=True)
class AppLaunch:
    """What the parent process has read for the app; sent to it as JSON. `app` is the configuration's section."""

    store: str
    store_flag: str
    attach: int | None
    config: str | None
    overrides: list[str]
    log_level: str
    key_variables: list[str]
    app: dict[str, Any]


def run_app(streams: Streams, prepare: Callable[[], AppLaunch]) -> int:
    """Show the app until it is left; returns the exit status.

    `prepare` reads the command line in the parent process; what is wrong with it is reported before anything is drawn.
    """
    report = Report(streams)
    try:
        return with_parent(
            lambda parent: _AppProcess(streams, report, parent).run(), lambda: json.dumps(asdict(prepare())).encode()
        )
    except BaseException as problem:  # noqa: BLE001  # `fail_with` raises what is no error
        return report.fail_with(problem)


class _AppProcess:
    """The child process: the app on its terminal, then the runs that it leaves."""

    def __init__(self, streams: Streams, report: Report, parent: ParentLink) -> None:
        self._streams = streams
        self._report = report
        self._parent = parent
        self._launch: AppLaunch
        self._stopped_by: int | None = None

    def run(self) -> int:
        """Show the app, then finish the runs that it leaves."""
        if over_ssh := "SSH_CONNECTION" in os.environ or "SSH_TTY" in os.environ:
            for name, value in _SLOW_LINK.items():
                os.environ.setdefault(name, value)
        # Everything that the first paint needs is imported while the parent reads the configuration.
        import lora_tui.tui.app
        import lora_tui.tui.screens.generate  # noqa: F401

        received = self._parent.receive()
        if received is None:
            return 0  # the parent says what is wrong
        self._launch = launch = AppLaunch(**json.loads(received))
        self._report.log_file = set_up_logging(launch.log_level)
        for variable in launch.key_variables:
            register_key_variable(variable)
        state = AppState(self._load)
        backend = EngineBackend(Path(launch.store), lambda run: _tell_end(run, state, launch.store))
        animation = launch.app["animation"]
        options = AppOptions(
            launch.app["theme"],
            launch.app["refresh_per_second"],
            animation == "full" or (animation == "auto" and not over_ssh),
            launch.app["keys"],
            drawing_of(os.environ.get("TERM", "")) if launch.app["drawing"] == "auto" else launch.app["drawing"],
        )
        terminal = self._streams.lend_terminal(self._report.log_file)
        try:
            ending = self._show(backend, state, terminal, options)
        finally:
            self._streams.take_terminal_back()
        try:
            return self._finish_runs(backend, ending)
        finally:
            backend.close()

    def _load(self) -> "Loaded":
        """Read the configuration; the parent has found nothing wrong with it a moment ago."""
        from lora_tui.config.load import Loaded, load_settings
        from lora_tui.config.models import Settings

        try:
            config = self._launch.config
            return load_settings(None if config is None else Path(config), self._launch.overrides)
        except ConfigError:
            log.exception("the configuration has changed since the start")
            return Loaded(Settings(), None)

    def _show(self, backend: EngineBackend, state: AppState, terminal: int, options: AppOptions) -> str:
        from lora_tui.tui.app import LoraApp
        from lora_tui.tui.driver import SteadyDriver

        SteadyDriver.terminal = terminal
        launch = self._launch
        app = LoraApp(Path(launch.store), backend, state, options, attach=launch.attach, log_file=self._report.log_file)

        async def show() -> None:
            loop = asyncio.get_running_loop()

            def on_signal(number: int, _frame: FrameType | None) -> None:
                if number == signal.SIGHUP:
                    self._streams.hang_up()
                    loop.call_soon_threadsafe(app.terminal_gone)
                elif self._stopped_by is None:
                    self._stopped_by = number
                    loop.call_soon_threadsafe(app.stop_and_leave)

            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, on_signal)
            await app.run_async(mouse=launch.app["mouse"])

        asyncio.run(show())
        return "failed" if app.failed else app.ending

    def _finish_runs(self, backend: EngineBackend, ending: str) -> int:
        """Stop, leave behind or wait for the runs of this process, as the app was left; returns the exit status."""
        running = backend.own_live_runs()
        if ending == "gone":
            self._streams.hang_up()
        if not running:
            if ending == "failed":
                return self._report.fail(f"The interface failed; see {self._report.log_file}.", _CRASHED_STATUS)
            if self._stopped_by is not None:
                return 128 + self._stopped_by
            return _HUNG_UP_STATUS if ending == "gone" else 0
        names = ", ".join(f"run {number}" for number in running)
        if ending == "background":
            self._report.message(
                f"{names} goes on in the background (process {os.getpid()}). "
                f"`lora-tui{self._launch.store_flag}` finds it again."
            )
            self._streams.hang_up()
            self._parent.release()
        elif ending == "failed":
            self._report.message(
                f"the interface failed; see {self._report.log_file}. {names} goes on; ctrl+c stops it with its "
                "work saved."
            )
        return self._wait(backend, running, stop=ending == "stop" or self._stopped_by is not None)

    def _wait(self, backend: EngineBackend, running: list[int], *, stop: bool) -> int:
        """Wait for the runs to end; a signal asks them to save and end, ctrl+c a second time leaves at once."""
        names = ", ".join(f"run {number}" for number in running)

        def final_output(status: int) -> tuple[str, str]:
            return "", f"\n{PREFIX}left at once. Go on with: lora-tui --resume {running[0]}{self._launch.store_flag}\n"

        with Interrupts(self._streams, final_output).handled() as interrupts:
            if self._stopped_by is not None:
                interrupts.note(self._stopped_by)
            asked = False
            while True:
                if not asked and (stop or interrupts.stopped_by is not None):
                    asked = True
                    if not self._streams.hung_up:
                        self._report.message(f"stopping and saving {names} …")
                    backend.stop_own()
                outcomes = backend.wait(0.2)
                if outcomes is not None:
                    break
        for outcome in outcomes:
            log.info("run %s ended as %s after the app", outcome.run_id, outcome.state)
            if not self._streams.hung_up:
                resume = f" Go on with: lora-tui --resume {outcome.run_id}{self._launch.store_flag}"
                more = resume if outcome.state == "stopped" else ""
                self._report.message(f"run {outcome.run_id} {outcome.state}.{more}")
        if interrupts.exit_status is not None:
            return interrupts.exit_status
        return max((outcome.exit_status for outcome in outcomes), default=0)


def _tell_end(run: "Run", state: AppState, store: str) -> None:
    """Tell the user's command and address that a run of this process has ended; the app itself tells the terminal."""
    from lora_tui.config.command_consent import notify_question
    from lora_tui.terminal.notify import ending_of, is_told, tell_soon

    def warn(problem: str) -> None:
        log.warning("%s", problem)
        state.warnings.append(problem)

    settings, ending = state.settings.notify, ending_of(run, store)
    if is_told(ending, settings) and notify_question(settings, state.notify_named_in) is None:
        tell_soon(ending, settings, warn)
