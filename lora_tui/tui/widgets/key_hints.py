"""The footer of every screen: at most seven keys that do something now.

Textual's own footer makes a widget of each key and rebuilds them whenever the focus moves; this is one line of text.
"""

from collections.abc import Iterable
from functools import cache

from textual import events
from textual.app import App
from textual.binding import ActiveBinding, Binding
from textual.content import Content
from textual.dom import DOMNode
from textual.keys import REPLACED_KEYS, key_to_character
from textual.screen import Screen
from textual.widget import Widget

from lora_tui.tui.text import styled

MAX_KEYS = 7
"""Keys that the footer shows at most."""

_ALWAYS_SHOWN = ("help", "command_palette")
"""Actions of the app that lead to all the others."""

_TYPED_INTO = {"Input", "TextArea"}
"""Widgets that take letters and signs as text, by name: importing them would delay the first paint."""


def is_typing(focused: Widget | None) -> bool:
    """Return whether letters and signs are text now: a field has the focus."""
    return bool(_TYPED_INTO & {cls.__name__ for cls in type(focused).__mro__})


def is_character(key: str) -> bool:
    """Whether a key, as Textual names it, is one that types a character: "a", "slash"."""
    character = key_to_character(REPLACED_KEYS.get(key, key))  # which Textual does not find: slash
    return character is not None and character.isprintable()


@cache
def _declaration_order(cls: type[DOMNode]) -> dict[str | None, int]:
    """The rank of each binding id in the order of declaration; Textual itself puts remapped bindings last."""
    bindings = [
        binding
        for base in cls.__mro__
        if issubclass(base, DOMNode)
        for binding in Binding.make_bindings(base.__dict__.get("BINDINGS", ()))
    ]
    return {binding.id: rank for rank, binding in reversed(list(enumerate(bindings)))}


def _sort_key(active: ActiveBinding) -> tuple[int, int]:
    """Bindings of the focused widget first, then its screen's, then the app's; each in the order of declaration."""
    node = active.node
    level = 2 if isinstance(node, App) else 1 if isinstance(node, Screen) else 0
    return level, _declaration_order(type(node)).get(active.binding.id, 0)


class KeyHints(Widget):
    """Keys and what they do, the focused widget's first; those that do not fit are in the palette and the help."""

    ALLOW_SELECT = False

    DEFAULT_CSS = """
    KeyHints { dock: bottom; height: 1; background: $footer-background; color: $footer-description-foreground; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._click_areas: list[tuple[int, int, str]] = []
        """First column, end column and key of each hint."""

    def on_mount(self) -> None:
        """Draw again whenever the screen's bindings change."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _screen: self.refresh())

    def render(self) -> Content:
        """The footer's line."""
        parts: list[str | Content | tuple[str, str]] = []
        self._click_areas = []
        column = 0
        for active in self._that_fit():
            binding = active.binding
            key, word, length = self._hint(active)
            key_style, word_style = ("bold $footer-key-foreground", "") if active.enabled else ("dim", "dim")
            parts += [" ", (key, key_style), " ", (word, word_style), " "]
            self._click_areas.append((column, column + length, binding.key))
            column += length
        return styled(*parts)

    def _hint(self, active: ActiveBinding) -> tuple[str, str, int]:
        """A hint's key, its word, and the cells that they take."""
        binding = active.binding
        key = self.app.get_key_display(binding)
        word = "Commands" if binding.action == "command_palette" else binding.description
        return key, word, len(key) + len(word) + 3

    def _that_fit(self) -> Iterable[ActiveBinding]:
        """The bindings to show that one line has room for: the last go first, but help and palette stay."""
        others, always = self._bindings_to_show()
        while others and sum(self._hint(active)[2] for active in (*others, *always)) > self.size.width:
            others.pop()
        column = 0
        for active in (*others, *always):
            column += self._hint(active)[2]
            if column > self.size.width:
                return
            yield active

    def _bindings_to_show(self) -> tuple[list[ActiveBinding], list[ActiveBinding]]:
        """One binding an action, `MAX_KEYS` at most: the screen's, and those of help and palette."""
        by_action: dict[str, ActiveBinding] = {}
        always: dict[str, ActiveBinding] = {}
        typing = is_typing(self.app.focused)
        for active in sorted(self.screen.active_bindings.values(), key=_sort_key):
            action = active.binding.action.removeprefix("app.")
            is_text = typing and not active.binding.priority and is_character(active.binding.key)
            if is_text and active.node is not self.app.focused:
                continue  # it would be text now
            if action in _ALWAYS_SHOWN:
                # The app's help has two keys: while typing the one that is not typed, else the sign people look for.
                if action != "help" or not isinstance(active.node, App) or active.binding.priority == typing:
                    always.setdefault(action, active)
            elif active.binding.show and active.binding.description and active.binding.action not in by_action:
                by_action[active.binding.action] = active
        return list(by_action.values())[: MAX_KEYS - len(always)], list(always.values())

    def on_click(self, event: events.Click) -> None:
        """Press the key under the mouse."""
        for start, end, key in self._click_areas:
            if start <= event.x < end:
                self.app.simulate_key(key)
