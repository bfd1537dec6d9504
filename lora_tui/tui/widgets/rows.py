"""A list of any number of one-line rows: only what is in view is asked for and drawn.

Rows come from a function of the index, so a hundred thousand pairs cost what forty do. The cursor follows the last row
until it is moved away from it, and follows again when it is brought back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style as RichStyle
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from lora_tui.text import clean

Cell = tuple[str, str]
"""Text and the name of its look: ``""`` or one of `LOOKS`."""

LOOKS = ("good", "bad", "warn", "dim", "accent", "strong", "other")

_CLASSES = (*LOOKS, "heading", "cursor", "cursor-blurred")


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, its width in cells (0: what is left), and whether its text stands at the right."""

    heading: str
    width: int
    right: bool = False


class RowList(ScrollView, can_focus=True):
    """Rows with a cursor. `row` gives the cells of an index, one for each of the columns."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"rows--{name}" for name in _CLASSES}

    DEFAULT_CSS = """
    RowList {
        height: 1fr;
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        .rows--good { color: $success; }
        .rows--bad { color: $error; }
        .rows--warn { color: $warning; }
        .rows--dim { color: $text-muted; }
        .rows--accent { color: $accent; }
        .rows--other { color: $secondary; }
        .rows--strong { text-style: bold; }
        .rows--heading { color: $text-muted; text-style: underline; }
        .rows--cursor { background: $block-cursor-background; color: $block-cursor-foreground; text-style: bold; }
        .rows--cursor-blurred { background: $block-cursor-blurred-background; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="list.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="list.down"),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False, id="list.page-up"),
        Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False, id="list.page-down"),
        Binding("home,g", "edge(0)", "First row", show=False, id="list.first"),
        Binding("end,G", "edge(1)", "Last row; follow what comes", show=False, id="list.last"),
        Binding("enter", "choose", "Open", id="list.open", tooltip="Open the row under the cursor"),
    ]

    cursor: reactive[int] = reactive(0)

    @dataclass
    class Moved(Message):
        """The cursor is on another row, moved there by the user."""

        rows: "RowList"
        index: int

        @property
        def control(self) -> "RowList":
            """The list, for selectors."""
            return self.rows

    @dataclass
    class Chosen(Message):
        """Enter or a double click on a row."""

        rows: "RowList"
        index: int

        @property
        def control(self) -> "RowList":
            """The list, for selectors."""
            return self.rows

    def __init__(
        self,
        row: Callable[[int], Sequence[Cell]],
        columns: Sequence[Column],
        *,
        empty: str = "",
        follow: bool = False,
        headings: bool = True,
        id: str | None = None,  # noqa: A002
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._row = row
        self.columns = tuple(columns)
        self._empty = empty
        self._headings = headings
        self._can_follow = follow
        self.following = follow
        self.count = 0
        self._looks: dict[tuple[str, str], RichStyle] = {}

    # What is shown

    def show(self, count: int, *, columns: Sequence[Column] | None = None) -> None:
        """Show so many rows; the cursor stays on its index, or on the last row while it follows."""
        if columns is not None:
            self.columns = tuple(columns)
        self.count = count
        self.virtual_size = Size(self.scrollable_content_region.width, count + self._above)
        last = max(0, count - 1)
        target = last if self.following else min(self.cursor, last)
        if target != self.cursor:
            self.cursor = target
        elif self.following:
            self._bring_into_view()
        self.refresh()

    def say_empty(self, text: str) -> None:
        """Say this where there are no rows."""
        if text != self._empty:
            self._empty = text
            self.refresh()

    @property
    def _above(self) -> int:
        return 1 if self._headings else 0

    @property
    def visible_rows(self) -> range:
        """The indices that are in view."""
        height = max(1, self.scrollable_content_region.height - self._above)
        first = self.scroll_offset.y
        return range(min(first, self.count), min(first + height, self.count))

    def watch_cursor(self, old: int, new: int) -> None:
        """Keep the cursor in view."""
        self._bring_into_view()
        self.refresh()

    def _bring_into_view(self) -> None:
        height = self.scrollable_content_region.height - self._above
        first = self.scroll_offset.y
        if height < 1:
            return  # not laid out yet; `on_resize` comes back to it
        if self.cursor < first:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= first + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, force=True)

    def on_resize(self) -> None:
        """Lay out for the new size."""
        self.show(self.count)
        self._bring_into_view()

    # Keys and mouse

    def action_move(self, by: int) -> None:
        """Move the cursor by rows."""
        self._go(self.cursor + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by screens."""
        self._go(self.cursor + by * max(1, self.scrollable_content_region.height - self._above - 1))

    def action_edge(self, end: int) -> None:
        """Go to the first or the last row."""
        self._go(self.count - 1 if end else 0)

    def action_choose(self) -> None:
        """Open the row under the cursor."""
        if self.count:
            self.post_message(self.Chosen(self, self.cursor))

    def _go(self, index: int) -> None:
        if not self.count:
            return
        index = min(max(0, index), self.count - 1)
        self.following = self._can_follow and index == self.count - 1
        if index != self.cursor:
            self.cursor = index
            self.post_message(self.Moved(self, index))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row under the mouse; a second click opens it."""
        index = event.y - self._above + self.scroll_offset.y
        if event.y < self._above or not 0 <= index < self.count:
            return
        self._go(index)
        if event.chain == 2:
            self.action_choose()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Let go of the end when it is scrolled out of view."""
        super().watch_scroll_y(old_value, new_value)
        if self.following and new_value < old_value and self.count:
            height = max(1, self.scrollable_content_region.height - self._above)
            self.following = new_value + height >= self.count

    # Drawing

    def notify_style_update(self) -> None:
        """Take the looks anew: the theme or the focus has changed."""
        self._looks.clear()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """Return one line: the headings, a row, or nothing."""
        width = self.scrollable_content_region.width
        if self._headings and y == 0:
            cells = [(column.heading, "heading") for column in self.columns]
            return self._strip(cells, width, "", "heading")
        if not self.count:
            return self._strip([(self._empty if y == self._above else "", "dim")], width, "", "", whole=True)
        index = y - self._above + self.scroll_offset.y
        if index >= self.count:
            return Strip.blank(width, self.rich_style)
        under = ("cursor" if self.has_focus else "cursor-blurred") if index == self.cursor else ""
        return self._strip(self._row(index), width, under, "")

    def _strip(self, cells: Sequence[Cell], width: int, under: str, between: str, *, whole: bool = False) -> Strip:
        gap = self._look(between, under)
        segments = [Segment("▸" if under else " ", gap)]
        fixed = sum(column.width for column in self.columns) + len(self.columns) + 1
        rest = max(4, width - fixed)
        columns = (Column("", 0),) if whole else self.columns
        for column, (text, look) in zip(columns, cells, strict=False):
            room = width - 2 if whole else (column.width or rest)
            segments.append(Segment(_fitted(clean(text), room, right=column.right), self._look(look, under)))
            segments.append(Segment(" ", gap))
        return Strip(segments).adjust_cell_length(width, gap)

    def _look(self, look: str, under: str) -> RichStyle:
        """The style of a look, on the cursor's row in the cursor's colours."""
        key = look, under
        if key not in self._looks:
            style = self.get_component_rich_style(f"rows--{look}") if look else self.rich_style
            if under:
                cursor = self.get_component_rich_style(f"rows--{under}")
                style = style + RichStyle(bgcolor=cursor.bgcolor, bold=cursor.bold or style.bold)
            self._looks[key] = style
        return self._looks[key]


def _fitted(text: str, width: int, *, right: bool) -> str:
    """Text in exactly `width` cells; what does not fit ends in an ellipsis."""
    length = len(text) if text.isascii() else cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + "…" if width else ""
    return " " * (width - length) + text if right else text + " " * (width - length)
