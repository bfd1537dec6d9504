"""A bordered panel of text that repaints only when its text has changed."""

from textual.widgets import Static

from lora_tui.tui.plain import Content


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
        self.border_title = Content(title)

    def show(self, content: Content, title: str | None = None) -> None:
        """Show this text, under this title where one is given."""
        if title is not None and (self._border_title is None or self._border_title.plain != title):
            self.border_title = Content(title)
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
