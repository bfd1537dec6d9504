"""What the six modes share: the bar above, the hints below, and being told to look."""

from typing import TYPE_CHECKING, ClassVar

from textual.actions import parse
from textual.app import ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen

from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import RunLine
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.top_bar import TopBar

if TYPE_CHECKING:
    from lora_tui.tui.app import LoraApp


class ModeScreen(Screen[None]):
    """A mode. `compose_body` makes what lies between bar and hints, `pull` brings it up to date."""

    MODE: ClassVar[str] = ""
    LESSON: ClassVar[str] = "01-tokens-and-loss"
    """The lesson that belongs here; a widget inside may name another."""

    def __init__(self) -> None:
        super().__init__()
        bindings = Binding.make_bindings(self.BINDINGS)
        self._own_actions = list(dict.fromkeys(parse(binding.action)[1] for binding in bindings))
        self._offered: list[bool | None] = []

    def compose(self) -> ComposeResult:
        """Bar, body, hints."""
        yield TopBar(self.MODE)
        yield from self.compose_body()
        yield KeyHints()

    def compose_body(self) -> ComposeResult:
        """What lies between bar and hints."""
        yield from ()

    async def pull(self, *, changed: bool) -> None:
        """Bring what is shown up to date; `changed` tells that the store has something new."""

    async def look(self, *, changed: bool) -> None:
        """Pull, and show other hints when other keys have come to apply."""
        await self.pull(changed=changed)
        offered = [self.check_action(name, ()) for name in self._own_actions]
        if offered != self._offered:
            self._offered = offered
            self.refresh_bindings()

    @property
    def lora(self) -> "LoraApp":
        """The app, as what it is."""
        from lora_tui.tui.app import LoraApp

        app = self.app
        assert isinstance(app, LoraApp)
        return app

    @property
    def store(self) -> Store | None:
        """The open store; None before there is one."""
        return self.lora.look.store

    def show_state(self, run: RunLine | None, more: str = "") -> None:
        """Say in the bar what the run in view is doing."""
        self.query_one(TopBar).show(self.lora.run_state(run, more))

    def say_in_bar(self, content: Content) -> None:
        """Say something else in the bar."""
        self.query_one(TopBar).show(content)
