"""The application: its modes, its keys, its commands, and how it ends.

What a screen shows it reads itself, when it is in view and a poll has found something new (`poller`). Runs belong to
the engine behind `Backend`; the app ends by saying in `ending` what should become of them, and whoever has started it
sees to it. Nothing in `lora_tui.tui` imports this module: screens are handed `AppServices`.
"""

import gc
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette, Hit, Hits
from textual.driver import Driver
from textual.events import Event, Resize
from textual.filter import LineFilter
from textual.geometry import Size
from textual.screen import Screen
from textual.system_commands import SystemCommandsProvider
from textual.worker import Worker, WorkerState

from lora_tui.protocol.backend import Backend
from lora_tui.tui.actions import AppActions
from lora_tui.tui.dialogs import Choice, ChoiceDialog
from lora_tui.tui.driver import SteadyDriver
from lora_tui.tui.poller import StorePoller
from lora_tui.tui.services import AppServices
from lora_tui.tui.state import AppOptions, AppState
from lora_tui.tui.store_reader import StoreReader
from lora_tui.tui.text import ControlCharacterFilter, GlyphFilter
from lora_tui.tui.theme import THEMES
from lora_tui.tui.widgets.top_bar import APP_MODES, TopBar

Ending = Literal["leave", "background", "stop", "gone"]
"""What becomes of this process's runs: there are none, they go on without a terminal by choice or because it went
away, or they stop and save."""

_SANITIZER = ControlCharacterFilter()

_SMALLEST = 20, 6
"""Columns and rows that are laid out however small the terminal is: parts of Textual fail where no column is left."""

_NOT_COMMANDS = ("move", "page", "edge", "go", "focus", "focus_next", "focus_previous", "command_palette", "escape")
"""Actions that the palette leaves out: they move about, which keys do better."""


class _CommandSearch(SystemCommandsProvider):
    """Search of the palette: by the letters of a title, as Textual's; where none has them, by words of the help too."""

    async def search(self, query: str) -> Hits:
        found = [hit async for hit in super().search(query)]
        words = query.casefold().split()
        for hit in found:
            yield hit
        for title, help_text, callback, *_ in () if found else self.app.get_system_commands(self.screen):
            if all(word in f"{title} {help_text}".casefold() for word in words):
                yield Hit(1.0, title, callback, help=help_text)


class LoraApp(App[None]):
    """The full-screen program, over a store and a backend. `attach` names a run to show at once."""

    TITLE = "lora-tui"
    CSS_PATH = "lora_tui.tcss"
    DEFAULT_MODE = "generate"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (140, "-wide")]  # noqa: RUF012  # as Textual has it
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012  # as Textual has it
    COMMANDS = {_CommandSearch}  # noqa: RUF012  # as Textual has it
    COMMAND_PALETTE_DISPLAY = "^p"

    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(f"{mode.key}", f"go('{mode.id}')", mode.name, show=False, id=f"mode.{mode.id}",
                    tooltip=f"Go to {mode.name}")
            for mode in APP_MODES
        ),
        *(
            Binding(f"f{mode.key}", f"go('{mode.id}')", mode.name, show=False, priority=True,
                    id=f"mode.{mode.id}.anywhere", tooltip=f"Go to {mode.name}, also while typing")
            for mode in APP_MODES
        ),
        Binding("question_mark", "help", "Help", id="app.help", key_display="?",
                tooltip="What the thing with the focus shows, its lesson, and the keys here"),
        Binding("f7", "help", "Help", show=False, priority=True, id="app.help.anywhere",
                tooltip="The same help, also while typing"),
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
        backend: Backend,
        state: AppState,
        options: AppOptions | None = None,
        *,
        attach: int | None = None,
        log_file: Path | None = None,
        driver_class: type[Driver] | None = None,
    ) -> None:
        super().__init__(driver_class=driver_class or (SteadyDriver if os.name == "posix" else None))
        self.services = AppServices(self, backend, StoreReader(store_path), state, log_file)
        self.actions = AppActions(self.services)
        self.poller = StorePoller(self.services, attach, self.action_welcome, self.actions.ask_send)
        self.ending: Ending = "leave"
        for mode in APP_MODES:
            self.add_mode(mode.id, partial(self._new_mode_screen, mode.id))
        for theme in THEMES:
            self.register_theme(theme)
        self.options = options or AppOptions()
        # A theme that does not exist is no reason not to start. Set without the watcher: notified of a change, Textual
        # would parse every style once more before the first paint.
        known = self.options.theme in self.available_themes
        self.set_reactive(App.theme, self.options.theme if known else THEMES[0].name)
        self.stylesheet.set_variables(self.get_css_variables())
        if not self.options.animated:
            self.animation_level = "none"

    def _new_mode_screen(self, mode: str) -> Screen[Any]:
        """A mode's screen, imported when it is first shown: the first paint waits for one screen only."""
        if mode == "generate":
            from lora_tui.tui.screens.generate import GenerateScreen

            return GenerateScreen(self.services, self.actions)
        if mode == "train":
            from lora_tui.tui.screens.train import TrainScreen

            return TrainScreen(self.services, self.actions)
        if mode == "chat":
            from lora_tui.tui.screens.chat import ChatScreen

            return ChatScreen(self.services, self.actions)
        if mode == "runs":
            from lora_tui.tui.screens.runs import RunsScreen

            return RunsScreen(self.services, self.actions)
        if mode == "learn":
            from lora_tui.tui.screens.learn import LearnScreen

            return LearnScreen(self.services)
        from lora_tui.tui.screens.configure import ConfigureScreen

        return ConfigureScreen(self.services)

    # Life

    @property
    def size(self) -> Size:
        """Columns and rows to lay out."""
        return _at_least_smallest(super().size)

    async def on_event(self, event: Event) -> None:
        """Take a new size of the terminal for one that can be laid out."""
        if isinstance(event, Resize):
            event.size = _at_least_smallest(event.size)
        await super().on_event(event)

    def on_mount(self) -> None:
        """Take the user's keys; polling begins once something is on the screen."""
        if self.options.keys:
            self.set_keymap(self.options.keys)
        self.call_after_refresh(self._start_polling)

    def _start_polling(self) -> None:
        """Begin to poll the store and to collect garbage again: something is on the screen."""
        gc.freeze()  # what the start has made is there to stay
        gc.enable()
        self.services.run_worker(self.poller.run(self.options.refresh_per_second), "poll")

    async def on_unmount(self) -> None:
        """Close the store: its connection's thread would keep the process from ending."""
        await self.services.reader.close()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show the error of a worker that has failed: nothing may fail in silence."""
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.services.report_error(event.worker.error)

    def terminal_gone(self) -> None:
        """End the interface, whatever is on it: the terminal was closed or the link has died; runs go on."""
        self.ending = "gone"
        self.exit()

    def stop_and_leave(self) -> None:
        """End because of a signal: runs of this process are stopped and saved by whoever has started the app."""
        self.ending = "stop"
        self.exit()

    @property
    def failed(self) -> bool:
        """Whether the app ended by an error of its own."""
        return self._exception is not None

    # Keys and commands

    def action_go(self, mode: str) -> None:
        """Show a mode."""
        self.services.go_to(mode)

    def on_top_bar_chosen(self, event: TopBar.Chosen) -> None:
        """Show the mode that was clicked."""
        self.services.go_to(event.mode)

    def action_help(self) -> None:
        """Explain what has the focus, and list the keys there; the same key goes back."""
        from lora_tui.tui.screens.help import HelpScreen, help_for

        if isinstance(self.screen, HelpScreen):
            self.screen.dismiss(None)
        else:
            self.push_screen(help_for(self.services, self.screen))

    def action_command_palette(self) -> None:
        """Show the commands; not anew where they are under another screen.

        Each has no id, unlike Textual's: a palette that was left open on another screen of the app would bear the same.
        """
        if not any(isinstance(screen, CommandPalette) for screen in self.screen_stack):
            self.push_screen(CommandPalette())

    def action_problem(self) -> None:
        """Show the last problem again."""
        if self.services.last_problem is not None:
            self.services.show_problem(self.services.last_problem)
        else:
            self.notify("Nothing has gone wrong so far.", markup=False)

    def action_no_suspend(self) -> None:
        """Say why ctrl+z does nothing: it would stop the run along with the app."""
        self.services.notify("ctrl+z would stop the run too. Leave with q and let it go on, or use tmux.")

    def action_copy_or_leave(self) -> None:
        """Copy what is selected; with nothing selected, leave."""
        selected = self.screen.get_selected_text()
        if selected:
            self.services.copy(selected)
        else:
            self.action_leave()

    def action_leave(self) -> None:
        """Leave at once, or ask what should become of the runs of this process."""
        own = self.services.backend.own_live_runs()
        if not own:
            self.exit()
            return
        if isinstance(self.screen, ChoiceDialog):
            return
        which = f"run {own[0]} is" if len(own) == 1 else f"runs {', '.join(map(str, own))} are"
        choices = [
            Choice("background", "k", "Keep running in the background", "lora-tui finds it again"),
            Choice("stop", "s", "Stop and keep what is done", "it can be resumed"),
            Choice("cancel", "c", "Cancel", "stay here"),
        ]

        def chosen(choice: str) -> None:
            self.ending = "background" if choice == "background" else "stop"
            self.exit()

        self.services.ask(ChoiceDialog(f"{which} still at work.", choices), chosen)

    def action_welcome(self) -> None:
        """Offer the ways to begin."""
        from lora_tui.tui.screens.welcome import WelcomeScreen

        self.push_screen(WelcomeScreen(self.services, self.actions))

    def action_begin(self, name: str) -> None:
        """Ask for what a run needs: ``files`` to generate from, ``data`` to train on."""
        from lora_tui.tui.screens.welcome import ask_to_begin

        ask_to_begin(self.services, self.actions, name)

    def action_quickstart(self) -> None:
        """Generate, train and evaluate on packaged material."""
        self.actions.start_soon("quickstart")

    def action_shot(self) -> None:
        """Save the screen as a picture."""
        path = self.save_screenshot(path=str(Path.cwd()))
        self.services.notify(f"Saved: {path}")

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: every binding that is active now, as a command with its key; then what has no key."""
        seen: set[str] = set()
        for active in screen.active_bindings.values():
            binding = active.binding
            name = binding.action.partition("(")[0].rpartition(".")[2]
            if not binding.description or not active.enabled or name in _NOT_COMMANDS or binding.action in seen:
                continue
            seen.add(binding.action)
            yield SystemCommand(
                f"{binding.description}  ({self.get_key_display(binding)})",
                binding.tooltip or binding.description,
                partial(self.run_action, binding.action, active.node),
            )
        for mode in APP_MODES:
            if mode.id != self.current_mode:
                yield SystemCommand(
                    f"Go to {mode.name}  ({mode.key})", f"The {mode.name} screen", partial(self.action_go, mode.id)
                )
        for run in self.services.state.runs[:9]:
            yield SystemCommand(
                f"Look at run {run.id}", f"{run.mode}, {run.state}", partial(self.services.show_run, run)
            )
        yield SystemCommand(
            "Quickstart", "The demo: generate, train and evaluate with the built-in model", self.action_quickstart
        )
        yield SystemCommand("First steps", "Welcome: three ways to begin", self.action_welcome)
        yield SystemCommand(
            "Theme", "Change the colours; save it as app.theme in the configuration", self.action_change_theme
        )
        yield SystemCommand("Screenshot", "Save the screen as an SVG file in the current folder", self.action_shot)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's filters, the one that no foreign text gets around, and what the terminal's font asks for."""
        filters = [*super().get_line_filters(), _SANITIZER]
        return filters if self.options.drawing == "full" else [*filters, GlyphFilter(self.options.drawing)]


def _at_least_smallest(size: Size) -> Size:
    columns, rows = _SMALLEST
    return Size(max(size.width, columns), max(size.height, rows))
