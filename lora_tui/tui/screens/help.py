"""Help: the keys that work where the focus is, and the lesson that belongs there.

Apart from Learn, so that the first ``?`` does not import what fills the panels there.
"""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Markdown, Static

from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, styled
from lora_tui.tui.views.lessons import lesson
from lora_tui.tui.widgets.key_hints import KeyHints

Key = tuple[str, str, str]
"""How a key is written, its description in a word, and in a sentence."""


def active_keys(screen: Screen[Any]) -> tuple[list[Key], str]:
    """The keys that are active on a screen, each action once, and the id of the lesson that belongs to the focus."""
    app = screen.app
    found: dict[str, tuple[list[str], str, str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.system or not active.enabled or not binding.description or binding.id is None:
            continue
        keys, _, _ = found.setdefault(
            f"{binding.action} {binding.description}", ([], binding.description, active.tooltip or binding.tooltip)
        )
        keys.append(app.get_key_display(binding))
    listed = [(" ".join(dict.fromkeys(names)), word, sentence) for names, word, sentence in found.values()]
    focused = screen.focused
    around = [focused, *(focused.ancestors if focused is not None else ()), screen]
    lesson_id = next(
        (node.LESSON for node in around if node is not None and hasattr(node, "LESSON")), "01-tokens-and-loss"
    )
    return listed, lesson_id


class HelpScreen(Dialog[None]):
    """Sheet with the keys at the left and the lesson at the right."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark", "dismiss", "Back", id="help.close"),
        Binding("enter,l", "learn", "Open in Learn", id="help.learn"),
    ]

    def __init__(self, services: AppServices, keys: Sequence[Key], lesson_id: str) -> None:
        super().__init__()
        self._services = services
        self._keys = keys
        self._lesson = lesson(lesson_id)

    def compose(self) -> ComposeResult:
        """Keys and lesson beside each other."""
        keys = [*self._keys, ("tab", "Next part", "shift+tab goes back; in text fields ctrl+arrows move by words")]
        width = max(len(names) for names, _, _ in keys)
        lines: list[Content] = []
        for names, word, sentence in keys:
            lines.append(styled((names.rjust(width), "bold $accent"), "  ", word))
            if sentence and sentence != word:
                wrapped = wrap(sentence, max(20, 40 - width))
                lines += [styled(" " * (width + 2), (part, DIM)) for part in wrapped]
        with Vertical(classes="sheet"):
            with Horizontal(id="help-parts"):
                with titled(VerticalScroll(id="help-keys", classes="box"), "Keys here"):
                    yield Static(Content("\n").join(lines), markup=False)
                title = f"Lesson {self._lesson.number} · {self._lesson.title}"
                with titled(VerticalScroll(id="help-lesson", classes="box"), title):
                    yield Markdown(self._lesson.text, open_links=False)
            yield KeyHints()

    def action_learn(self) -> None:
        """Open the lesson on Learn, with the panels of the user's own run."""
        if not self.is_open:
            return
        self.dismiss(None)
        self._services.open_lesson(self._lesson.id)
