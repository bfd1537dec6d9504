"""A bordered panel of text that repaints only when its text has changed."""

from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from lora_tui.text import clean


class Panel(Static):
    """Text in a border; `show` replaces it. Its size never depends on its text, so nothing is laid out again."""

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

    def __init__(self, title: str = "", *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__("", id=id, classes=classes, markup=False)
        self._shown: Content | None = None
        entitle(self, title)

    def show(self, content: Content, title: str | None = None) -> None:
        """Show this text, under this title where one is given."""
        if title is not None:
            entitle(self, title)
        if self._shown is None or not self._shown.is_same(content):
            self._shown = content
            self.update(content, layout=False)


class Line(Static):
    """One line or a few without a border, with the same economy."""

    DEFAULT_CSS = "Line { height: 1; padding: 0 1; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__("", id=id, classes=classes, markup=False)
        self._shown: Content | None = None

    def show(self, content: Content) -> None:
        """Show this text."""
        if self._shown is None or not self._shown.is_same(content):
            self._shown = content
            self.update(content, layout=False)


def entitle(widget: Widget, title: str) -> None:
    """Give a box its title, cleaned; the box is painted again only where the title is another one."""
    content = Content(clean(title))
    if widget._border_title is None or widget._border_title.plain != content.plain:
        widget.border_title = content
