"""The full-screen app from the outside: its terminal, its signals, and what becomes of runs when it has ended."""

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lora_tui.backend.engine_backend import EngineBackend
from lora_tui.backend.launcher import ParentLink, with_parent
from lora_tui.cli.report import PREFIX, Report
from lora_tui.cli.signals import Interrupts
from lora_tui.cli.stores import store_option
from lora_tui.cli.streams import Streams
from lora_tui.errors import ConfigError
from lora_tui.logs import set_up_logging
from lora_tui.secrets import register_key_variable
from lora_tui.tui.state import AppOptions, AppState

if TYPE_CHECKING:
    from lora_tui.config import Loaded

log = logging.getLogger(__name__)

_HUNG_UP_STATUS = 128 + signal.SIGHUP
_CRASHED_STATUS = 1
_SLOW_LINK = {"TEXTUAL_FPS": "30", "TEXTUAL_SMOOTH_SCROLL": "0"}
"""What Textual is told over SSH, before it is imported: half as many frames, whole lines."""


def main_of_the_app(words: list[str], streams: Streams) -> int:
    """Show the app until it is left; returns the exit status. What is wrong is said before anything is drawn."""
    report = Report(streams)
    try:
        return with_parent(lambda leash: _Session(streams, report, leash).run(), lambda: _errand(words))
    except BaseException as problem:  # noqa: BLE001  # `tell` raises what is not to be told again
        from lora_tui.cli.main import tell

        return tell(problem, streams, report)


def _errand(words: list[str]) -> bytes:
    """Read the command line and the configuration, and look for the run to attach to: what must be right beforehand.

    The app's process reads the configuration again, later; what it needs at once is told here.
    """
    from lora_tui.cli.main import read
    from lora_tui.cli.stores import choose_store
    from lora_tui.config import load_settings

    request = read(words)
    assert request is not None, "no option of the app's is answered by itself"
    settings = load_settings(request.config, request.overrides).settings
    store_path = choose_store(request, settings)
    if request.attach is not None:
        from lora_tui.cli.runs import check_run

        check_run(request.attach, store_path)
    told = {
        "store": str(store_path),
        "attach": request.attach,
        "config": None if request.config is None else str(request.config),
        "overrides": list(request.overrides),
        "log_level": request.log_level,
        "key": settings.data_generation.api_key_env,
        "level": settings.logging.level,
        "app": settings.app.model_dump(mode="json"),
    }
    return json.dumps(told).encode()


class _Session:
    """The app's process."""

    def __init__(self, streams: Streams, report: Report, leash: ParentLink) -> None:
        self._told: dict[str, Any] = {}
        self._streams = streams
        self._report = report
        self._leash = leash
        self._stopped_by: int | None = None
        self._hint = ""

    def run(self) -> int:
        """Show the app, then see to the runs that are left."""
        over_ssh = "SSH_CONNECTION" in os.environ or "SSH_TTY" in os.environ
        if over_ssh:
            for name, value in _SLOW_LINK.items():
                os.environ.setdefault(name, value)
        # Everything that the first paint needs is imported while the parent reads the configuration.
        import lora_tui.tui.app
        import lora_tui.tui.screens.generate  # noqa: F401

        received = self._leash.receive()
        if received is None:
            return 0  # the parent says what is wrong
        self._told = told = json.loads(received)
        self._report.log_file = set_up_logging(told["log_level"] or told["level"])
        register_key_variable(told["key"])
        store_path = Path(told["store"])
        self._hint = store_option(store_path)
        jobs = EngineBackend(store_path, self._load)
        animation = told["app"]["animation"]
        options = AppOptions(
            told["app"]["theme"],
            told["app"]["refresh_per_second"],
            animation == "full" or (animation == "auto" and not over_ssh),
            told["app"]["keys"],
        )
        terminal = self._streams.lend_terminal(self._report.log_file)
        try:
            ending = self._show(jobs, terminal, store_path, options, mouse=told["app"]["mouse"])
        finally:
            self._streams.take_terminal_back()
        try:
            return self._see_to(jobs, ending)
        finally:
            jobs.close()

    def _load(self) -> "Loaded":
        """Read the configuration; the parent has found nothing wrong with it a moment ago."""
        from lora_tui.config import Loaded, Settings, load_settings

        try:
            config = self._told["config"]
            return load_settings(None if config is None else Path(config), self._told["overrides"])
        except ConfigError:
            log.exception("the configuration has changed since the start")
            return Loaded(Settings(), None)

    def _show(self, jobs: EngineBackend, terminal: int, store_path: Path, options: AppOptions, *, mouse: bool) -> str:
        from lora_tui.tui.app import LoraApp
        from lora_tui.tui.driver import SteadyDriver

        SteadyDriver.terminal = terminal
        view = AppState(self._load)
        app = LoraApp(store_path, jobs, view, options, attach=self._told["attach"], log_file=self._report.log_file)

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
            await app.run_async(mouse=mouse)

        asyncio.run(show())
        if app.failed:
            return "failed"
        return app.ending

    def _see_to(self, jobs: EngineBackend, ending: str) -> int:
        """Do what should become of the runs; returns the exit status."""
        running = jobs.own_live_runs()
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
            print(
                f"{PREFIX}{names} goes on in the background (process {os.getpid()}). "
                f"`lora-tui{self._hint}` finds it again.",
                file=sys.stderr,
                flush=True,
            )
            self._streams.hang_up()
            self._leash.release()
        elif ending == "failed":
            print(
                f"{PREFIX}the interface failed; see {self._report.log_file}. {names} goes on; ctrl+c stops it with its "
                "work saved.",
                file=sys.stderr,
                flush=True,
            )
        return self._wait(jobs, running, stop=ending == "stop" or self._stopped_by is not None)

    def _wait(self, jobs: EngineBackend, running: list[int], *, stop: bool) -> int:
        """Wait for the runs to end; a signal asks them to save and end, ctrl+c a second time leaves at once."""
        names = ", ".join(f"run {number}" for number in running)

        def last_words(status: int) -> tuple[str, str]:
            return "", f"\n{PREFIX}left at once. Go on with: lora-tui --resume {running[0]}{self._hint}\n"

        with Interrupts(self._streams, last_words) as interrupts:
            if self._stopped_by is not None:
                interrupts.note(self._stopped_by)
            asked = False
            while True:
                if not asked and (stop or interrupts.stopped_by is not None):
                    asked = True
                    if not self._streams.hung_up:
                        print(f"{PREFIX}stopping and saving {names} …", file=sys.stderr, flush=True)
                    jobs.stop_own()
                outcomes = jobs.wait(0.2)
                if outcomes is not None:
                    break
        for outcome in outcomes:
            log.info("run %s ended as %s after the app", outcome.run_id, outcome.state)
            if not self._streams.hung_up:
                more = (
                    f" Go on with: lora-tui --resume {outcome.run_id}{self._hint}" if outcome.state == "stopped" else ""
                )
                print(f"{PREFIX}run {outcome.run_id} {outcome.state}.{more}", file=sys.stderr, flush=True)
        if interrupts.exit_status is not None:
            return interrupts.exit_status
        return max((outcome.exit_status for outcome in outcomes), default=0)
