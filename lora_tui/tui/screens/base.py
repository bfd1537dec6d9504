"""Base classes of the six modes: `ModeScreen`, and `RunScreen` for the two that follow a run (Generate and Train)."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual.actions import parse
from textual.app import ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget

from lora_tui.protocol.backend import ForecastText
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import RunLine
from lora_tui.store.rows import LIVE_STATES, RESUMABLE_STATES
from lora_tui.tui.actions import AppActions
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, styled
from lora_tui.tui.theme import state_label
from lora_tui.tui.views.runs import PlanView
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import Line, set_title
from lora_tui.tui.widgets.top_bar import TopBar

if TYPE_CHECKING:
    from lora_tui.config.models import Settings


_NO_RUN = styled(("no run yet", DIM))

W = TypeVar("W", bound=Widget)


def titled(part: W, title: str) -> W:
    """A part of a screen, with a title in its border."""
    set_title(part, title)
    return part


def keys_line(screen: Screen[Any], words: Mapping[str, str]) -> str:
    """The keys of these actions, as the user has set them, each with its word: "/ search   f kind"."""
    shown: dict[str, list[str]] = {}
    for active in screen.active_bindings.values():
        name = active.binding.action.partition("(")[0].rpartition(".")[2]
        if name in words and active.enabled:
            shown.setdefault(name, []).append(screen.app.get_key_display(active.binding))
    return "   ".join(f"{' '.join(shown[name])} {word}" for name, word in words.items() if name in shown)


class ModeScreen(Screen[None]):
    """A mode: bar, body and key hints. Subclasses make the body (`compose_body`) and bring it up to date (`update`)."""

    MODE: ClassVar[str] = ""
    LESSON: ClassVar[str] = "01-tokens-and-loss"
    """The lesson that belongs here; a widget inside may name another."""

    def __init__(self, services: AppServices) -> None:
        super().__init__()
        self.services = services
        self.state = services.state
        bindings = Binding.make_bindings(self.BINDINGS)
        self._own_actions = list(dict.fromkeys(parse(binding.action)[1] for binding in bindings))
        self._offered: list[bool | None] = []
        self._next_step: tuple[str, tuple[tuple[str, str], ...], int, str] = ("", (), 0, "")

    def compose(self) -> ComposeResult:
        """Bar, body, hints."""
        yield TopBar(self.MODE, id="bar")
        yield from self.compose_body()
        yield Line(id="next-step")
        yield KeyHints()

    def compose_body(self) -> ComposeResult:
        """Widgets between bar and hints."""
        yield from ()

    async def update(self, *, changed: bool) -> None:
        """Bring what is shown up to date, after a poll; `changed`: the store has something new."""

    async def refresh_from_store(self, *, changed: bool) -> None:
        """Update after a poll, and show other hints where other keys have come to apply."""
        await self.update(changed=changed)
        offered = [self.check_action(name, ()) for name in self._own_actions]
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()

    @property
    def store(self) -> Store | None:
        """The open store; None before there is one."""
        return self.services.reader.store

    def show_run_in_bar(self, run: RunLine | None, more: str = "", *, no_run: Content = _NO_RUN) -> None:
        """Show what a run is doing: glyph, number, mode or state, `more`, and its device where there is room."""
        if run is None:
            self.show_in_bar(no_run)
            return
        narrow = self.size.width < 100
        text, colour = state_label(run.state)
        glyph, _, name = text.partition(" ")
        parts: list[Any] = [(glyph + " ", colour), (f"run {run.id}", "bold")]
        if (not narrow or not more) and not more.startswith(run.state):  # "stopped on request" says it
            parts.append(f" · {name if run.state != 'running' else run.mode}")
        if more:
            parts.append(f" · {more}")
        if run.device and run.state in LIVE_STATES and not narrow:
            parts.append(f" · {run.device}")
        self.show_in_bar(styled(*parts))

    def show_next_step(self, done: str = "", *steps: tuple[str, str], state: str = "finished") -> None:
        """Say above the footer what is done and what can follow; each step is an action's name and its words.

        Without `done` the line is not shown; steps that do not fit are left out. The mark before it is the run's
        `state`'s.
        """
        width = self.size.width
        if (done, steps, width, state) == self._next_step:
            return
        self._next_step = done, steps, width, state
        self.set_class(bool(done), "-next-step")
        label, colour = state_label(state)
        parts: list[Any] = [(f"{label[0]} ", f"bold {colour}"), (done, "bold")]
        column = len(done) + 4
        for action, words in steps:
            if self.check_action(action, ()) and (key := self._key_of(action)):
                column += len(key) + len(words) + 6
                if column > width:
                    break
                parts += ["   ", (f" {key} ", "bold reverse"), f" {words}"]
        self.query_one("#next-step", Line).show(styled(*parts) if done else Content())

    def _key_of(self, action: str) -> str:
        """The key that an action of this screen has now, as the footer shows it; empty where it has none."""
        bound = (active.binding for active in self.active_bindings.values() if active.node is self)
        return next((self.app.get_key_display(binding) for binding in bound if binding.action == action), "")

    def show_in_bar(self, content: Content) -> None:
        """Show this at the right of the bar."""
        self.query_one(TopBar).show(content)


class RunScreen(ModeScreen):
    """A mode that follows one run, and forecasts the next where there is none; start, resume and stop are its keys.

    `forecast` says what a run with given settings will be. Subclasses draw the run that is followed: `show_no_run`,
    `open_run`, `follow_run`.
    """

    STOP_MESSAGE: ClassVar[str] = ""

    def __init__(
        self,
        services: AppServices,
        actions: AppActions,
        forecast: Callable[["Settings"], Awaitable[ForecastText]],
    ) -> None:
        super().__init__(services)
        self.actions = actions
        self.forecast = forecast
        self.run_in_view: RunLine | None = None
        """The run that is followed, as of the last poll."""
        self._plan = PlanView(" · p finds a learning rate" if self.MODE == "train" else "")

    async def show_no_run(self) -> None:
        """Draw what is shown before there is a run: the plan."""
        raise NotImplementedError

    async def open_run(self, store: Store, run: RunLine) -> None:
        """Follow another run from now on."""
        raise NotImplementedError

    async def follow_run(self, store: Store, run: RunLine, *, changed: bool, moved: bool) -> None:
        """Read and draw what is new; `changed`: in the store, `moved`: the run's state."""
        raise NotImplementedError

    async def update(self, *, changed: bool) -> None:
        """Follow the run in view."""
        store, run, before = self.store, self.state.run_on(self.MODE), self.run_in_view
        if store is None or run is None:
            self.run_in_view = None
            await self.show_no_run()
            return
        if before is None or before.id != run.id:
            await self.open_run(store, run)
            before, changed = run, True
        self.run_in_view = run
        await self.follow_run(store, run, changed=changed, moved=before.state != run.state)

    @property
    def is_live(self) -> bool:
        """Whether the run in view has an owner at work."""
        return self.run_in_view is not None and self.run_in_view.state in LIVE_STATES

    def redraw(self) -> None:
        """Draw the run in view anew: its parts have other sizes."""

    def on_resize(self) -> None:
        """Fit what is shown, once the parts have their new sizes."""
        self.call_after_refresh(self.redraw)

    def on_screen_resume(self) -> None:
        """Forecast anew, since the files may have changed, and fit what is shown: so may the terminal's size."""
        self._plan.invalidate()
        self.call_after_refresh(self.redraw)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done with the run in view."""
        if action in ("start", "probe"):
            return not self.is_live
        if action == "stop":
            return self.is_live
        if action == "resume":
            return self.run_in_view is not None and self.run_in_view.state in RESUMABLE_STATES
        return True

    def action_start(self) -> None:
        """Begin a run with the settings in view, or show what keeps it from beginning."""
        self.actions.start_unless_blocked(self.MODE, self.forecast)

    async def action_resume(self) -> None:
        """Go on with the run in view."""
        if self.run_in_view is not None:
            await self.actions.resume(self.run_in_view)

    async def send(self, command: str, message: str = "") -> None:
        """Send a command to the run in view."""
        if self.run_in_view is not None:
            await self.actions.send(self.run_in_view.id, command, message)

    async def action_stop(self) -> None:
        """Stop the run in view and keep its work."""
        if self.run_in_view is not None:
            await self.actions.stop(self.run_in_view.id, self.STOP_MESSAGE)
