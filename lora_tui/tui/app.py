"""The application: modes, global keys, what all screens use, and how it ends.

What a screen shows it asks for itself, when it is looked at and something has changed (`watch`). Jobs belong to the
engine behind `Backend`; the app ends by saying in `ending` what should become of them, and the command line sees to it.
"""

import gc
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.driver import Driver
from textual.filter import LineFilter
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from lora_tui.errors import LoraTuiError
from lora_tui.protocol.backend import Backend, ChatTarget
from lora_tui.secrets import redact
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import LIVE_STATES
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Choice, Choose
from lora_tui.tui.driver import SteadyDriver
from lora_tui.tui.poller import GENERATING, TRAINING, StorePoller
from lora_tui.tui.screens.problem import Problem, ProblemScreen
from lora_tui.tui.state import AppOptions, AppState
from lora_tui.tui.store_reader import StoreReader
from lora_tui.tui.text import DIM, ControlCharacterFilter, safe_line, styled
from lora_tui.tui.theme import OURS, state
from lora_tui.tui.widgets.top_bar import PLACES, TopBar

log = logging.getLogger(__name__)

Ending = Literal["leave", "background", "stop", "gone"]
"""What becomes of this process's runs: there are none, they go on without a terminal by choice or because it went
away, or they stop and save."""

_NET = ControlCharacterFilter()


def _mode(name: str) -> Callable[[], Screen[Any]]:
    """A mode's screen, imported when it is first looked at: the first paint waits for one screen only."""

    def make() -> Screen[Any]:
        if name == "generate":
            from lora_tui.tui.screens.generate import GenerateScreen as Wanted
        elif name == "train":
            from lora_tui.tui.screens.train import TrainScreen as Wanted  # type: ignore[assignment]
        elif name == "chat":
            from lora_tui.tui.screens.chat import ChatScreen as Wanted  # type: ignore[assignment]
        elif name == "runs":
            from lora_tui.tui.screens.runs import RunsScreen as Wanted  # type: ignore[assignment]
        elif name == "learn":
            from lora_tui.tui.screens.learn import LearnScreen as Wanted  # type: ignore[assignment]
        else:
            from lora_tui.tui.screens.configure import ConfigureScreen as Wanted  # type: ignore[assignment]
        return Wanted()

    return make


class LoraApp(App[None]):
    """The full-screen program."""

    TITLE = "lora-tui"
    CSS_PATH = "lora_tui.tcss"
    DEFAULT_MODE = "generate"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {mode.id: _mode(mode.id) for mode in PLACES}
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (140, "-wide")]  # noqa: RUF012  # as Textual has it
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012  # as Textual has it
    COMMAND_PALETTE_DISPLAY = "^p"

    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(f"{mode.key}", f"go('{mode.id}')", mode.name, show=False, id=f"mode.{mode.id}",
                    tooltip=f"Go to {mode.name}")
            for mode in PLACES
        ),
        *(
            Binding(f"f{mode.key}", f"go('{mode.id}')", mode.name, show=False, priority=True,
                    id=f"mode.{mode.id}.anywhere", tooltip=f"Go to {mode.name}, also while typing")
            for mode in PLACES
        ),
        Binding("question_mark", "help", "Help", id="app.help", key_display="?",
                tooltip="The keys here and the lesson that belongs to what has the focus"),
        Binding("exclamation_mark", "problem", "What went wrong", show=False, id="app.problem", key_display="!",
                tooltip="Show the last problem again"),
        Binding("q", "leave", "Leave", id="app.leave", tooltip="Leave; runs can go on without the app"),
        Binding("ctrl+q", "leave", "Leave", show=False, priority=True, id="app.leave.anywhere",
                tooltip="Leave, also while typing; runs can go on without the app"),
        Binding("ctrl+c", "copy_or_leave", "Copy, or leave", show=False, id="app.copy", system=True),
        Binding("ctrl+z", "no_suspend", "Suspend", show=False, system=True),
    ]  # fmt: skip

    def __init__(
        self,
        store_path: Path,
        jobs: Backend,
        view: AppState,
        options: AppOptions | None = None,
        *,
        attach: int | None = None,
        log_file: Path | None = None,
        driver_class: type[Driver] | None = None,
    ) -> None:
        super().__init__(driver_class=driver_class or (SteadyDriver if os.name == "posix" else None))
        self.jobs = jobs
        self.deeds = AppActions(self)
        self.view = view
        self.look = StoreReader(store_path)
        self.log_file = log_file
        self.ending: Ending = "leave"
        self.last_problem: Problem | None = None
        self.wanted_lesson: str | None = None
        self.host = socket.gethostname()
        self.watching = StorePoller(self, attach)
        for theme in OURS:
            self.register_theme(theme)
        self.options = options or AppOptions()
        self._choose_theme(self.options.theme)
        if not self.options.animated:
            self.animation_level = "none"

    def _choose_theme(self, name: str) -> None:
        """Take a theme; one that does not exist is no reason not to start.

        Quietly: told of a change, Textual would parse every style once more before the first paint.
        """
        self.set_reactive(App.theme, name if name in self.available_themes else OURS[0].name)
        self.stylesheet.set_variables(self.get_css_variables())

    # Life

    def on_mount(self) -> None:
        """Begin to look, once something is on the screen."""
        if self.options.keys:
            self.set_keymap(self.options.keys)
        self.call_after_refresh(self._painted)

    def _painted(self) -> None:
        """Something is on the screen: begin to look, and to collect garbage again."""
        gc.freeze()  # what the start has made is there to stay
        gc.enable()
        looking = self.watching.go_on(self.options.refresh_per_second)
        self.run_worker(looking, exit_on_error=False, group="watch")

    async def on_unmount(self) -> None:
        """Close the store: its connection's thread would keep the process from ending."""
        await self.look.close()

    @property
    def looks(self) -> int:
        """How often the store has been looked into."""
        return self.watching.looks

    def pull_soon(self) -> None:
        """Look now: the user has done something that shows in the store."""
        self.watching.soon()

    def show_run(self, run: RunLine) -> None:
        """Bring a run into view, on the screen where it is at home."""
        if run.mode in GENERATING:
            self.view.generation_run = run.id
        if run.mode in TRAINING:
            self.view.training_run = run.id
        target = "train" if run.mode in ("train", "evaluate") else "generate" if run.mode == "generate" else None
        if run.mode == "quickstart":
            target = "train" if run.best_score is not None else "generate"
        if target is not None:
            self.action_go(target)
        self.pull_soon()

    def action_greet(self) -> None:
        """Offer the ways to begin."""
        from lora_tui.tui.screens.welcome import Welcome

        self.push_screen(Welcome())

    # Keys

    def action_go(self, mode: str) -> None:
        """Show a mode. Dialogues of the mode that is left stay where they are."""
        if mode != self.current_mode:
            self.switch_mode(mode)
            self.pull_soon()

    def on_top_bar_chosen(self, event: TopBar.Chosen) -> None:
        """A mode was clicked."""
        self.action_go(event.mode)

    def action_help(self) -> None:
        """Show the keys and the lesson of what has the focus."""
        from lora_tui.tui.screens.help import HelpScreen, help_for

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(*help_for(self.screen)))

    def action_problem(self) -> None:
        """Show the last problem again."""
        if self.last_problem is not None:
            self.show_problem(self.last_problem)
        else:
            self.notify("Nothing has gone wrong so far.", markup=False)

    def action_no_suspend(self) -> None:
        """Say why ctrl+z does nothing: it would stop the run along with the app."""
        self.say("ctrl+z would stop the run too. Leave with q and let it go on, or use tmux.")

    def action_copy_or_leave(self) -> None:
        """Copy what is selected; with nothing selected, leave."""
        selected = self.screen.get_selected_text()
        if selected:
            self.copy(selected)
        else:
            self.action_leave()

    def action_leave(self) -> None:
        """Leave at once, or ask what should become of the runs of this process."""
        own = self.jobs.own_live_runs()
        if not own:
            self.exit()
            return
        if isinstance(self.screen, Choose):
            return
        which = f"run {own[0]} is" if len(own) == 1 else f"runs {', '.join(map(str, own))} are"
        self.push_screen(
            Choose(
                f"{which} still at work.",
                [
                    Choice("background", "k", "Keep running in the background", "lora-tui finds it again"),
                    Choice("stop", "s", "Stop and keep what is done", "it can be resumed"),
                    Choice("cancel", "c", "Cancel", "stay here"),
                ],
                safe="cancel",
            ),
            self._left,
        )

    def _left(self, choice: str | None) -> None:
        if choice in ("background", "stop"):
            self.ending = "background" if choice == "background" else "stop"
            self.exit()

    def terminal_gone(self) -> None:
        """The terminal was closed or the link has died: end the interface, whatever is on it; runs go on."""
        self.ending = "gone"
        self.exit()

    def stop_and_leave(self) -> None:
        """A signal asks to end: runs of this process are stopped and saved by whoever has started the app."""
        self.ending = "stop"
        self.exit()

    @property
    def failed(self) -> bool:
        """Whether the app ended by an error of its own."""
        return self._exception is not None

    # Where deeds lead

    def bring_into_view(self, mode: str, run_id: int) -> None:
        """Look at a run that has just begun, on the screen of its mode."""
        if mode in GENERATING:
            self.view.generation_run = run_id
        if mode in TRAINING:
            self.view.training_run = run_id
        self.action_go("train" if mode == "train" else "generate")
        self.pull_soon()

    def forget(self, run_id: int) -> None:
        """Look at something else: this run is deleted."""
        view = self.view
        view.runs = [run for run in view.runs if run.id != run_id]
        view.generation_run = None if view.generation_run == run_id else view.generation_run
        view.training_run = None if view.training_run == run_id else view.training_run
        self.watching.list_anew()

    def talk_to(self, speaker: ChatTarget) -> None:
        """Go to the chat, with this speaker."""
        from lora_tui.tui.screens.chat import ChatScreen

        self.action_go("chat")

        def choose() -> None:
            if isinstance(self.screen, ChatScreen):
                self.screen.talk_to(speaker)

        self.call_after_refresh(choose)

    def open_lesson(self, lesson_id: str) -> None:
        """Show a lesson on Learn."""
        self.wanted_lesson = lesson_id
        self.action_go("learn")
        self.pull_soon()

    def action_quickstart(self) -> None:
        """Run the whole way on packaged material."""
        self.deeds.begin_soon("quickstart")

    def action_shot(self) -> None:
        """Save the screen as a picture."""
        path = self.save_screenshot(path=str(Path.cwd()))
        self.say(f"Saved: {path}")

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show what made a piece of work fail, whatever it was: nothing may fail in silence."""
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.refused(event.worker.error)

    # What screens use

    def say(self, text: str, *, severity: Literal["information", "warning", "error"] = "information") -> None:
        """Show a short message that goes away by itself; the text may be anybody's."""
        self.notify(safe_line(text, 300).plain, severity=severity, markup=False)

    def copy(self, text: str) -> None:
        """Hand text to the terminal's clipboard. Whether it takes it, nobody can tell."""
        self.copy_to_clipboard(text)
        self.say("Sent to the terminal's clipboard (OSC 52; tmux needs set-clipboard on).")

    def show_problem(self, problem: Problem, *, quietly: bool = False) -> None:
        """Show what went wrong; over a dialogue or in the middle of typing only say that there is something to see."""
        self.last_problem = problem
        typing = self.focused is not None and self.focused.__class__.__name__ in ("Input", "TextArea", "Prompt")
        if quietly or typing or len(self.screen_stack) > 1:
            self.notify(
                f"{safe_line(problem.what, 160).plain}\nPress ! to see more.",
                severity="error",
                markup=False,
                timeout=10,
            )
        else:
            self.push_screen(ProblemScreen(problem))

    def refused(self, error: BaseException) -> None:
        """Show an error that an action of the user has run into."""
        known = isinstance(error, LoraTuiError)
        if not known:
            log.error("an action failed", exc_info=error)
        what = str(error) if known else redact(f"Unexpected {type(error).__name__}: {error}")
        first, _, rest = what.partition("\n")
        self.show_problem(Problem(first, "", rest, self.log_file))

    def run_state(self, run: RunLine | None, more: str = "") -> Content:
        """What the bar says of a run."""
        if run is None:
            return styled(("no run yet", DIM))
        words, colour = state(run.state)
        glyph, _, name = words.partition(" ")
        title = f"run {run.id}"
        narrow = self.size.width < 100
        parts: list[Any] = [(glyph + " ", colour), (title, "bold")]
        if not narrow or not more:
            parts.append(f" · {name if run.state != 'running' else run.mode}")
        if more:
            parts.append(f" · {more}")
        if run.device and run.state in LIVE_STATES and not narrow:
            parts.append(f" · {run.device}")
        return styled(*parts)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's filters, and under them our net."""
        return [*super().get_line_filters(), _NET]

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: what can be done here and now, then everywhere."""
        from lora_tui.tui.palette import commands

        yield from commands(self, screen)
