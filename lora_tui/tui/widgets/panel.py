"""Static text, with or without a border, that repaints only when it has changed.

Neither widget's size depends on its text, so showing another text never lays the screen out again.
"""

from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from lora_tui.text import clean


class _StaticText(Static):
    """Text that is compared with what is shown before it is painted; markup is not parsed."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__("", id=id, markup=False)
        self._shown: Content | None = None

    def show(self, content: Content) -> None:
        """Show this text."""
        if self._shown is None or not self._shown.is_same(content):
            self._shown = content
            self.update(content, layout=False)


class Line(_StaticText):
    """Text without a border, one line high unless a style sheet says otherwise."""

    DEFAULT_CSS = "Line { height: 1; padding: 0 1; }"


class Panel(_StaticText, can_focus=True):
    """Text in a border with a title; it takes the focus, so that the help can say what its numbers mean."""

    DEFAULT_CSS = """
    Panel {
        border: round $border;
        border-title-color: $text-muted;
        border-title-style: none;
        padding: 0 1;
        &:focus {
            border: round $accent;
            border-title-color: $accent;
            border-title-style: bold;
        }
    }
    """

    def __init__(self, title: str = "", *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        set_title(self, title)

    def show(self, content: Content, title: str | None = None) -> None:
        """Show this text, under this title where one is given."""
        if title is not None:
            set_title(self, title)
        super().show(content)


def set_title(widget: Widget, title: str, below: str = "") -> None:
    """Set the titles in a widget's upper and lower border, cleaned; repaints only where they have changed."""
    content, lower = Content(clean(title)), Content(clean(below))
    if widget._border_title is None or widget._border_title.plain != content.plain:
        widget.border_title = content
    if (widget._border_subtitle.plain if widget._border_subtitle is not None else "") != lower.plain:
        widget.border_subtitle = lower
