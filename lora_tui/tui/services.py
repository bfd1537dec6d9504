"""Services handed to screens: backend, store reader, shared state, notifications, navigation.

`AppServices` knows Textual's `App`, not ours, and no screen but the plain dialogs. Whatever begins or changes a run or
a pair is in `actions`, which stands on this.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from textual.app import App
from textual.screen import Screen, ScreenResultCallbackType, ScreenResultType

from lora_tui.errors import LoraTuiError
from lora_tui.protocol.backend import Backend, ChatTarget
from lora_tui.protocol.ending import terminal_signal
from lora_tui.secrets import redact
from lora_tui.store.queries.runs import RunLine
from lora_tui.tui.dialogs import Problem, ProblemDialog
from lora_tui.tui.state import GENERATION_MODES, AppState
from lora_tui.tui.store_reader import AgreementReader, StoreReader
from lora_tui.tui.text import safe_line

T = TypeVar("T")

log = logging.getLogger(__name__)

_WARNING_SECONDS = 12.0
"""How long a warning is shown: twice what other messages get, and some."""


class AppServices:
    """Backend, store reader and state of one app, and what its screens may ask of the app itself."""

    def __init__(
        self, app: App[None], backend: Backend, reader: StoreReader, state: AppState, log_file: Path | None
    ) -> None:
        self._app = app
        self.backend = backend
        self.reader = reader
        self.state = state
        self.log_file = log_file
        self.last_problem: Problem | None = None
        self.runs_requested = False
        """Whether the next poll reads the list of runs, however lately it was read."""
        self._poll_requested = asyncio.Event()

    # Messages

    def notify(self, text: str, *, severity: Literal["information", "warning", "error"] = "information") -> None:
        """Show a short message that goes away by itself; the text may be foreign."""
        seconds = None if severity == "information" else _WARNING_SECONDS
        self._app.notify(safe_line(text, 300).plain, severity=severity, markup=False, timeout=seconds)

    def signal(self, text: str) -> None:
        """Ring the terminal's bell and have it show a message, where it can."""
        if (driver := self._app._driver) is not None and not self._app.is_headless:
            driver.write(terminal_signal(text))

    def copy(self, text: str) -> None:
        """Send text to the terminal's clipboard. Whether it takes it, nobody can tell."""
        self._app.copy_to_clipboard(text)
        self.notify("Sent to the terminal's clipboard (OSC 52; tmux needs set-clipboard on).")

    def show_problem(self, problem: Problem, *, quietly: bool = False) -> None:
        """Show what went wrong; over a dialog or in the middle of typing only say that there is something to see."""
        self.last_problem = problem
        # By name: importing TextArea would delay the first paint.
        focused = {cls.__name__ for cls in type(self._app.focused).__mro__}
        if quietly or focused & {"Input", "TextArea"} or len(self._app.screen_stack) > 1:
            self._app.notify(
                f"{safe_line(problem.what, 160).plain}\nPress ! to see more.",
                severity="error",
                markup=False,
                timeout=10,
            )
        else:
            self.open_screen(ProblemDialog(problem, self.copy))

    def report_error(self, error: BaseException) -> None:
        """Show the error that an action of the user has run into; one that is a bug of ours is logged as well."""
        known = isinstance(error, LoraTuiError)
        if not known:
            log.error("an action failed", exc_info=error)
        what = str(error) if known else redact(f"Unexpected {type(error).__name__}: {error}")
        first, _, rest = what.partition("\n")
        self.show_problem(Problem(first, "", rest, self.log_file))

    async def attempt(self, operation: Awaitable[T]) -> T | None:
        """Await something that may be refused; None when it was: the error is shown then."""
        with self.reporting():
            return await operation
        return None

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Show the error that the block raises, and go on after it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # logged there; a bug of the engine's side must not end the app
            self.report_error(error)

    def guarded(self, read: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Return `read`, for a timer of a screen: what fails is logged, and the next time may succeed.

        A store that is locked or gone is reported by the app's poller, which reads it as well.
        """

        async def read_or_log() -> None:
            try:
                await read()
            except Exception:  # the app must not end because a sheet could not be read anew
                if not self.is_closing:
                    log.exception("reading the store for a sheet failed")

        return read_or_log

    # Screens

    @property
    def screens(self) -> Sequence[Screen[Any]]:
        """The mode that is shown, and the dialogs over it."""
        return list(self._app.screen_stack)

    @property
    def is_closing(self) -> bool:
        """Whether the app is ending: its screens are being taken down."""
        return not self._app.is_running or self._app._exit

    def open_screen(
        self, screen: Screen[ScreenResultType], on_result: ScreenResultCallbackType[ScreenResultType] | None = None
    ) -> None:
        """Put a dialog over what is shown; `on_result` gets its answer."""
        self._app.push_screen(screen, on_result)

    def ask(self, dialog: Screen[T | None], on_answer: Callable[[T], Awaitable[None] | None]) -> None:
        """Put a dialog over what is shown; `on_answer` gets its answer, unless it is cancelled with None."""

        async def answered(answer: T | None) -> None:
            if answer is not None and (further := on_answer(answer)) is not None:
                await further

        self._app.push_screen(dialog, answered)

    def ask_to_begin(self, form: Literal["files", "data"]) -> None:
        """Ask for what a run needs, in a form of the first start."""
        self._app.call_later(self._app.run_action, f"begin('{form}')")

    def go_to(self, mode: str) -> None:
        """Show a mode. Dialogs of the mode that is left stay where they are."""
        if mode != self._app.current_mode:
            self._app.switch_mode(mode)
            self.poll_soon()

    def show_run(self, run: RunLine) -> None:
        """Bring a run into view, on the screen where it is at home."""
        self.state.bring_into_view(run.mode, run.id)
        if run.mode in ("train", "evaluate") or (run.mode == "quickstart" and run.best_score is not None):
            self.go_to("train")
        elif run.mode in GENERATION_MODES:
            self.go_to("generate")
        self.poll_soon()

    def show_new_run(self, mode: str, run_id: int) -> None:
        """Bring a run into view that has just begun, and is in no list yet."""
        self.state.bring_into_view(mode, run_id)
        self.go_to("train" if mode in ("train", "evaluate") else "generate")
        self.poll_soon()

    def open_chat(self, target: ChatTarget) -> None:
        """Go to the chat, with this model."""
        self.state.requested_chat = target
        self.go_to("chat")

    def open_lesson(self, lesson_id: str) -> None:
        """Show a lesson on Learn."""
        self.state.requested_lesson = lesson_id
        self.go_to("learn")
        self.poll_soon()

    # Work beside the screens

    def run_worker(self, work: Coroutine[Any, Any, None], group: str) -> None:
        """Run a coroutine that outlives the screen it was asked for on; its error is shown, not raised."""
        self._app.run_worker(work, exit_on_error=False, group=group)

    def agreement_reader(self, scope: Literal["generation", "evaluation"]) -> AgreementReader:
        """What ratings say of a scope's score, for a screen that shows it."""
        ask = self.backend.pairs_agreement if scope == "generation" else self.backend.answers_agreement
        return AgreementReader(scope, ask, lambda work: self.run_worker(work, f"agreement {scope}"), self.poll_soon)

    def poll_soon(self) -> None:
        """Poll the store now: the user has done something that shows there."""
        self._poll_requested.set()

    def reload_runs(self) -> None:
        """Poll the store now, the list of runs included."""
        self.runs_requested = True
        self.poll_soon()

    async def wait_for_poll(self, seconds: float) -> None:
        """Wait until it is time to poll: after this long, or when `poll_soon` is called."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._poll_requested.wait(), seconds)
        self._poll_requested.clear()
