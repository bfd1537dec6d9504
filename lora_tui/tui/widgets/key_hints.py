"""The last line of every screen: at most seven keys that do something now.

Textual's footer makes a widget of each key and builds them anew whenever the focus moves; this is one line of text.
"""

from collections.abc import Iterable
from functools import cache

from textual import events
from textual.app import App
from textual.binding import ActiveBinding, Binding
from textual.content import Content
from textual.dom import DOMNode
from textual.screen import Screen
from textual.widget import Widget

from lora_tui.tui.text import styled

MOST = 7

_ALWAYS = ("help", "command_palette")
"""Actions of the app whose keys are always shown: they lead to all the others."""


@cache
def _declared(cls: type[DOMNode]) -> dict[str | None, int]:
    """The place of each binding in the class it is declared in: Textual puts remapped ones last."""
    found = [
        Binding.make_bindings(base.__dict__.get("BINDINGS", ())) for base in cls.__mro__ if issubclass(base, DOMNode)
    ]
    return {
        binding.id: place for place, binding in reversed(list(enumerate(b for bindings in found for b in bindings)))
    }


def _place(active: ActiveBinding) -> tuple[int, int]:
    """What has the focus first, then its screen, then the app; within each in the order of declaration."""
    node = active.node
    level = 2 if isinstance(node, App) else 1 if isinstance(node, Screen) else 0
    return level, _declared(type(node)).get(active.binding.id, 0)


class KeyHints(Widget):
    """Keys and what they do, the most important first; what does not fit is left to the palette and the help."""

    ALLOW_SELECT = False

    DEFAULT_CSS = """
    KeyHints { dock: bottom; height: 1; background: $footer-background; color: $footer-description-foreground; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: list[tuple[int, int, str]] = []

    def on_mount(self) -> None:
        """Follow the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def _changed(self, _screen: Screen[object]) -> None:
        self.refresh()

    def render(self) -> Content:
        """The whole line."""
        parts: list[str | Content | tuple[str, str]] = []
        self._places = []
        column = 0
        for active in self._hints():
            binding = active.binding
            key = self.app.get_key_display(binding)
            word = "Commands" if binding.action == "command_palette" else binding.description
            length = len(key) + len(word) + 3
            if column + length > self.size.width:
                break
            key_style, word_style = ("bold $footer-key-foreground", "") if active.enabled else ("dim", "dim")
            parts += [" ", (key, key_style), " ", (word, word_style), " "]
            self._places.append((column, column + length, binding.key))
            column += length
        return styled(*parts)

    def _hints(self) -> Iterable[ActiveBinding]:
        """The bindings to show, one for each action, those of the focus first; help and palette always have a place."""
        seen: dict[str, ActiveBinding] = {}
        always: list[ActiveBinding] = []
        for active in sorted(self.screen.active_bindings.values(), key=_place):
            if active.binding.action in _ALWAYS:
                always.append(active)
            elif active.binding.show and active.binding.description and active.binding.action not in seen:
                seen[active.binding.action] = active
        return [*list(seen.values())[: MOST - len(always)], *always[:MOST]]

    def on_click(self, event: events.Click) -> None:
        """Press the key under the mouse."""
        for start, end, key in self._places:
            if start <= event.x < end:
                self.app.simulate_key(key)
