"""Help: what the thing with the focus shows, what else is on the screen, and the keys that work there.

Apart from Learn, so that the first ``?`` does not import what fills the panels there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from lora_tui.tui.dialogs import Dialog
from lora_tui.tui.screens.base import titled
from lora_tui.tui.services import AppServices
from lora_tui.tui.text import DIM, safe_line, styled
from lora_tui.tui.views.explanations import Explanation, explanations, shown_in
from lora_tui.tui.views.lessons import lesson
from lora_tui.tui.widgets.key_hints import KeyHints
from lora_tui.tui.widgets.panel import Panel
from lora_tui.tui.widgets.row_list import RowList
from lora_tui.tui.widgets.top_bar import TopBar

Key = tuple[str, str, str]
"""How a key is written, its description in a word, and in a sentence."""


_AT_THE_TOP = "At the top"


@dataclass(frozen=True, slots=True)
class ExplainedPart:
    """A part of a screen: its title, and what its numbers mean."""

    title: str
    entries: tuple[Explanation, ...]
    has_focus: bool


def explained_parts(screen: Screen[Any]) -> list[ExplainedPart]:
    """The parts of a screen whose numbers are explained, that with the focus first, then in the order of the screen."""
    focused = screen.focused
    around = [focused, *focused.ancestors_with_self] if focused is not None else []
    parts, table = [], explanations()
    for widget in screen.query("*"):
        entries = shown_in(widget.id or "", shown_text(widget)) if widget.id in table and widget.is_on_screen else ()
        if entries:
            parts.append(ExplainedPart(_title(widget), entries, widget in around))
    return sorted(parts, key=lambda part: (not part.has_focus, part.title == _AT_THE_TOP))


def shown_text(widget: Widget) -> str:
    """The text of a part: a list's headings, one a line, else what stands in it; its title in the first line."""
    if isinstance(widget, RowList):
        return "\n".join((_border_title(widget), *widget.headings))
    if isinstance(widget, TopBar):
        return widget.state_text
    statics: Iterable[Static] = [widget] if isinstance(widget, Static) else widget.query(Static)
    contents = [static.content for static in statics if static.display]
    return "\n".join((_border_title(widget), *(str(content) for content in contents)))


def _border_title(widget: Widget) -> str:
    """The title in a part's border, or in that of the box around it."""
    boxes = [node for node in (widget, widget.parent) if isinstance(node, Widget) and node.border_title]
    return Content(str(boxes[0].border_title)).plain if boxes else ""


def _title(widget: Widget) -> str:
    """The title of a part without its figures."""
    if isinstance(widget, TopBar):
        return _AT_THE_TOP
    return _border_title(widget).partition(" (")[0].partition(" · ")[0] or "Other lines"


def active_keys(screen: Screen[Any]) -> tuple[list[Key], str]:
    """The keys that are active on a screen, each action once, and the id of the lesson that belongs to the focus."""
    app = screen.app
    found: dict[str, tuple[list[str], str, str]] = {}
    # Those of the footer first: moving about is known to most.
    for active in sorted(screen.active_bindings.values(), key=lambda active: not active.binding.show):
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
    """Sheet with what is shown at the left, and the keys at the right."""

    AUTO_FOCUS = "#help-words"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f7", "dismiss", "Back", id="help.close"),
        Binding("enter,l", "learn", "Open the lesson", id="help.learn"),
    ]

    def __init__(
        self, services: AppServices, keys: Sequence[Key], lesson_id: str, parts: Sequence[ExplainedPart]
    ) -> None:
        super().__init__()
        self._services = services
        self._keys = keys
        self._parts = parts
        self._lesson = lesson(lesson_id)

    def compose(self) -> ComposeResult:
        """What is shown and the keys, beside each other."""
        with Vertical(classes="sheet"):
            with Horizontal(id="help-parts"):
                with titled(VerticalScroll(id="help-words", classes="box"), "What you see"):
                    yield Static(self._words(), markup=False)
                with titled(VerticalScroll(id="help-keys", classes="box"), "Keys here"):
                    yield Static(self._key_lines(), markup=False)
            yield KeyHints()

    def _words(self) -> Content:
        """The lesson that a key opens, then the explanations, part by part."""
        title = f"Lesson {self._lesson.number} · {self._lesson.title}"
        blocks = [styled(("l", "bold $accent"), "  opens ", (title, "bold"), (", with your own run beside it", DIM))]
        for part in self._parts:
            entries = [styled((entry.name, "bold $accent"), "  ", entry.text) for entry in part.entries]
            blocks.append(Content("\n").join([safe_line(part.title, 60, "bold underline"), *entries]))
        return Content("\n\n").join(blocks)

    def _key_lines(self) -> Content:
        """The keys, each with its sentence below it."""
        keys = [*self._keys, ("tab", "Next part", "shift+tab goes back; in text fields ctrl+arrows move by words")]
        keys.append(("f7", "Help", "this page, also while typing"))
        width = max(len(names) for names, _, _ in keys)
        lines: list[Content] = []
        for names, word, sentence in keys:
            lines.append(styled((names.rjust(width), "bold $accent"), "  ", word))
            if sentence and sentence != word:
                wrapped = wrap(sentence, max(20, 40 - width))
                lines += [styled(" " * (width + 2), (part, DIM)) for part in wrapped]
        return Content("\n").join(lines)

    def action_learn(self) -> None:
        """Open the lesson on Learn, with the panels of the user's own run."""
        if not self.is_open:
            return
        self.dismiss(None)
        self._services.open_lesson(self._lesson.id)


def help_for(services: AppServices, screen: Screen[Any]) -> HelpScreen:
    """The help for what is shown and has the focus; a panel's lesson is the one that its first number names."""
    keys, lesson_id = active_keys(screen)
    parts = explained_parts(screen)
    if isinstance(screen.focused, Panel) and parts and parts[0].has_focus:
        lesson_id = next((entry.lesson for entry in parts[0].entries if entry.lesson), lesson_id)
    return HelpScreen(services, keys, lesson_id, parts)
