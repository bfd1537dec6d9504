"""The header of every screen: a tab for each mode, and the state of the run in view."""

from dataclasses import dataclass

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from lora_tui.tui.text import DIM, styled
from lora_tui.tui.widgets.key_hints import is_typing

NAME = " lora-tui "
_WIDE = 110
"""Terminal columns from which the program's name and the modes' whole names fit beside a run's state."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode of the app, which is a screen: its key, its whole and its short name."""

    id: str
    key: str
    name: str
    short: str


APP_MODES = (
    Mode("generate", "1", "Generate", "Gen"),
    Mode("train", "2", "Train", "Train"),
    Mode("chat", "3", "Chat", "Chat"),
    Mode("runs", "4", "Runs", "Runs"),
    Mode("learn", "5", "Learn", "Learn"),
    Mode("configure", "6", "Config", "Config"),
)


class TopBar(Widget):
    """One line. A click on a mode goes there, a click on the state to the run."""

    ALLOW_SELECT = False

    DEFAULT_CSS = """
    TopBar { dock: top; height: 1; background: $panel; color: $foreground; }
    """

    @dataclass
    class Chosen(Message):
        """A mode was clicked."""

        mode: str

    def __init__(self, current: str, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._current = current
        self._state = Content("")
        self._short_names = False
        """Whether a state has once needed the room of the whole names: names that come and go would be restless."""
        self._click_areas: list[tuple[int, int, str]] = []
        """First column, end column and mode of each tab."""

    @property
    def state_text(self) -> str:
        """What is shown of the run in view."""
        return self._state.plain

    def show(self, state: Content) -> None:
        """Show the state of the run in view, at the right."""
        if not self._state.is_same(state):
            self._state = state
            self.refresh()

    def on_mount(self) -> None:
        """Name the keys that change the mode now: while one types, digits are text."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _screen: self.refresh())

    def on_resize(self) -> None:
        """Use the whole names again where they fit."""
        self._short_names = False
        self.refresh()

    def render(self) -> Content:
        """The header's line."""
        width = self.size.width
        wide = width >= _WIDE
        parts: list[str | Content | tuple[str, str]] = [(NAME, "bold $accent")] if wide else []
        column = len(NAME) if wide else 0
        self._click_areas = []
        before_key = "f" if is_typing(self.screen.focused) else ""
        whole = column + sum(len(f" {before_key}{mode.key} {mode.name} ") for mode in APP_MODES)
        self._short_names |= whole + self._state.cell_length + 2 > width
        for mode in APP_MODES:
            here = mode.id == self._current
            word = mode.short if self._short_names and not here else mode.name
            text = f" {before_key}{mode.key} {word.upper() if here else word} "
            parts.append((text, "bold reverse" if here else DIM))
            self._click_areas.append((column, column + len(text), mode.id))
            column += len(text)
        room = width - column - 2
        if room < 4:
            return styled(*parts)
        state = self._state.truncate(room, ellipsis=True)
        return styled(*parts, " " * (room - state.cell_length + 1), state)

    def on_click(self, event: events.Click) -> None:
        """Go to the mode under the mouse."""
        for start, end, mode in self._click_areas:
            if start <= event.x < end:
                self.post_message(self.Chosen(mode))
