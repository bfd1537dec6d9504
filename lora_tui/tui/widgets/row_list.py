"""A list of any number of one-line rows: only what is in view is asked for and drawn.

A function gives the cells of a row by its index, so a hundred thousand pairs cost what forty do. The list scrolls by
itself: Textual's scroll views lay the whole screen out again when their content grows, five times a second while pairs
arrive, which took 50 ms each time. The cursor follows the last row until it is moved away from it, and follows again
when it is brought back. In a narrow terminal the columns that matter least are left out (`fit_columns`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style as RichStyle
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from lora_tui.text import clean

Cell = tuple[str, str]
"""A cell: its text, cleaned before it is drawn, and the name of its style: ``""`` or one of `STYLES`."""

STYLES = ("good", "bad", "warn", "dim", "accent", "strong", "other")

_COMPONENTS = (*STYLES, "heading", "cursor", "cursor-blurred", "bar", "thumb")
_WHEEL_ROWS = 3


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, its width in terminal cells (0: what is left), and whether it is right-aligned.

    Columns of width 0 have at least `least` cells, and share what is left by `share`. Where there is no room for all,
    those with the lowest `rank` are chosen first; those of rank 0 are always there. `keep_end`: of a text that is too
    long the beginning is cut, as of a path.
    """

    heading: str
    width: int
    right: bool = False
    share: int = 1
    least: int = 4
    rank: int = 0
    keep_end: bool = False


_WHOLE = Column("", 0)
"""The column of a text that takes the whole width."""


def fit_columns(columns: Sequence[Column], room: int) -> list[tuple[int, int]]:
    """Choose the columns that fit into `room` terminal cells, a gap after each: their indices and widths, in order."""
    least = [column.width or column.least for column in columns]
    kept = [index for index, column in enumerate(columns) if not column.rank]
    left = room - sum(least[index] + 1 for index in kept)
    for index in sorted(set(range(len(columns))) - set(kept), key=lambda index: columns[index].rank):
        if least[index] < left:
            kept.append(index)
            left -= least[index] + 1
    kept, left = sorted(kept), max(0, left)
    shares = sum(columns[index].share for index in kept if not columns[index].width)
    fitted = []
    for index in kept:
        more = 0
        if not columns[index].width:
            more = left * columns[index].share // shares
            left, shares = left - more, shares - columns[index].share
        fitted.append((index, least[index] + more))
    return fitted


class RowList(Widget, can_focus=True):
    """Rows with a cursor. `cells_of` returns the cells of the row at an index, one a column.

    Of fewer cells the last one takes the rest of the row.
    """

    ALLOW_SELECT = False

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"rows--{name}" for name in _COMPONENTS}

    DEFAULT_CSS = """
    RowList {
        height: 1fr;
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
        .rows--bar { color: $border; }
        .rows--thumb { color: $accent; }
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

    @dataclass
    class RowMessage(Message):
        """Something that the user has done to the row at an index."""

        rows: "RowList"
        index: int

        @property
        def control(self) -> "RowList":
            """The list, which Textual's ``@on`` selectors match."""
            return self.rows

    class Moved(RowMessage):
        """The user has moved the cursor or scrolled."""

    class Chosen(RowMessage):
        """The user has opened a row: enter or a double click."""

    class HeadingChosen(RowMessage):
        """The user has clicked a heading; `index` is its column's."""

    def __init__(
        self,
        cells_of: Callable[[int], Sequence[Cell]],
        columns: Sequence[Column],
        *,
        empty: str = "",
        follow: bool = False,
        headings: bool = True,
        id: str | None = None,  # noqa: A002
    ) -> None:
        super().__init__(id=id)
        self._cells_of = cells_of
        self.columns = tuple(columns)
        self._empty = empty
        self._heading_rows = 1 if headings else 0
        self.can_follow = follow
        """Whether the last row is the newest, which the cursor follows when it is put there."""
        self.following = follow
        self.count = 0
        self.top = 0
        """The first row in view."""
        self._cursor = 0
        self.sorted_by: tuple[int, bool] | None = None
        """The column that the rows are sorted by, and whether the highest comes first: an arrow in its heading."""
        self._is_marked: Callable[[int], bool] | None = None
        self._styles_by_name: dict[tuple[str, str], RichStyle] = {}

    # What is shown

    def show(self, count: int) -> None:
        """Set the number of rows; the cursor keeps its index, or stays on the last row while the list follows."""
        before, self.count = self.count, count
        if bool(before) != bool(count):
            self.refresh_bindings()
        last = max(0, count - 1)
        self._cursor = last if self.following else min(self._cursor, last)
        self._scroll_to_cursor()
        self.refresh()

    def set_empty_text(self, text: str) -> None:
        """Set the text that is shown where there are no rows."""
        if text != self._empty:
            self._empty = text
            self.refresh()

    def show_marks(self, is_marked: Callable[[int], bool] | None) -> None:
        """Draw a mark before the rows of which `is_marked` holds; None: there are none, and no room for them."""
        self._is_marked = is_marked
        self.refresh()

    @property
    def cursor(self) -> int:
        """The index of the row under the cursor; 0 where there are no rows."""
        return self._cursor

    @cursor.setter
    def cursor(self, index: int) -> None:
        self._cursor = min(max(0, index), max(0, self.count - 1))
        self._scroll_to_cursor()
        self.refresh()

    @property
    def _height(self) -> int:
        """Rows that fit below the headings."""
        return max(0, self.size.height - self._heading_rows)

    @property
    def visible_rows(self) -> range:
        """The indices of the rows in view."""
        return range(min(self.top, self.count), min(self.top + max(1, self._height), self.count))

    def _scroll_to_cursor(self) -> None:
        """Scroll as little as possible so that the cursor is in view, and no further down than there are rows."""
        if self._height < 1:
            return  # not laid out yet; `on_resize` comes back to it
        self.top = max(min(self.top, self._cursor), self._cursor - self._height + 1)
        self.top = max(0, min(self.top, self.count - self._height))

    def on_resize(self) -> None:
        """Keep the cursor in view."""
        self._scroll_to_cursor()
        self.refresh()

    # Keys and mouse

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable opening where there are no rows."""
        return bool(self.count) if action == "choose" else True

    def action_move(self, by: int) -> None:
        """Move the cursor by rows."""
        self._move_to(self._cursor + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by screens."""
        self._move_to(self._cursor + by * max(1, self._height - 1))

    def action_edge(self, end: int) -> None:
        """Go to the first or the last row."""
        self._move_to(self.count - 1 if end else 0)

    def action_choose(self) -> None:
        """Open the row under the cursor."""
        if self.count:
            self.post_message(self.Chosen(self, self._cursor))

    def _move_to(self, index: int) -> None:
        """Move the cursor to a row, the nearest one where there is no such row."""
        if not self.count:
            return
        index = min(max(0, index), self.count - 1)
        self.following = self.can_follow and index == self.count - 1
        if index != self._cursor:
            self.cursor = index
            self.post_message(self.Moved(self, index))

    def _scroll(self, by: int) -> None:
        """Scroll by rows; the cursor is kept in view."""
        self.top = max(0, min(self.top + by, self.count - self._height))
        if self.count:
            self._cursor = min(max(self._cursor, self.top), self.visible_rows[-1])
            self.following = self.can_follow and self.visible_rows[-1] == self.count - 1
            self._cursor = self.count - 1 if self.following else self._cursor
        self.refresh()
        self.post_message(self.Moved(self, self._cursor))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll down."""
        event.stop()
        self._scroll(_WHEEL_ROWS)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll up."""
        event.stop()
        self._scroll(-_WHEEL_ROWS)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row under the mouse, or go to that part of the list; a second click opens the row."""
        line = event.y - self._heading_rows
        if line < 0:
            self._choose_heading(event.x)
            return
        if line >= self._height:
            return
        if event.x >= self.size.width - 1 and self.count > self._height:
            self._move_to(line * self.count // self._height)
            return
        if self.top + line >= self.count:
            return
        self._move_to(self.top + line)
        if event.chain == 2:
            self.action_choose()

    def _choose_heading(self, x: int) -> None:
        """Report a click on the heading in this column of the terminal."""
        start = self._gutter
        for index, width in self._fitted(self._row_width):
            if start <= x <= start + width:
                self.post_message(self.HeadingChosen(self, index))
            start += width + 1

    # Drawing

    @property
    def _gutter(self) -> int:
        """Cells before the first column: the cursor, and a mark where there are some."""
        return 1 if self._is_marked is None else 2

    @property
    def _row_width(self) -> int:
        """Cells of a row: all but the scroll bar's, where there is one; the headings stand over the same columns."""
        return self.size.width - (self.count > self._height)

    def _fitted(self, width: int) -> list[tuple[int, int]]:
        """The columns that fit, with their widths; the last gap may be cut off."""
        return fit_columns(self.columns, width - self._gutter)

    @property
    def headings(self) -> list[str]:
        """The headings of the columns that fit."""
        return [self.columns[index].heading for index, _ in self._fitted(self._row_width)]

    def _headings(self) -> list[Cell]:
        """The headings, an arrow in that of the column that the rows are sorted by."""
        texts = [column.heading for column in self.columns]
        if self.sorted_by is not None:
            index, descending = self.sorted_by
            width = dict(self._fitted(self._row_width)).get(index, 0)
            texts[index] = texts[index][: max(0, width - 1)] + ("▼" if descending else "▲")
        return [(text, "heading") for text in texts]

    def notify_style_update(self) -> None:
        """Drop the cached styles: the theme or the focus has changed."""
        self._styles_by_name.clear()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """Render one line: the headings, a row, or a blank."""
        width, line = self.size.width, y - self._heading_rows
        if line < 0:
            headings = self._strip(self._headings(), self._row_width, "", gap_style="heading")
            return headings.adjust_cell_length(width, self._style("heading", ""))
        if not self.count:
            return self._strip([(self._empty if line == 0 else "", "dim")], width, "", whole=True)
        index = self.top + line
        if index >= self.count:
            return Strip.blank(width, self.rich_style)
        cursor = ("cursor" if self.has_focus else "cursor-blurred") if index == self._cursor else ""
        mark = "◆" if self._is_marked is not None and self._is_marked(index) else ""
        row = self._strip(self._cells_of(index), self._row_width, cursor, mark=mark)
        return row if self.count <= self._height else Strip([*row, self._scroll_bar(line)], width)

    def _scroll_bar(self, line: int) -> Segment:
        """The part of the scroll bar beside a row."""
        size = max(1, self._height * self._height // self.count)
        start = round(self.top / max(1, self.count - self._height) * (self._height - size))
        glyph, style = ("┃", "thumb") if start <= line < start + size else ("│", "bar")
        return Segment(glyph, self._style(style, ""))

    def _strip(
        self,
        cells: Sequence[Cell],
        width: int,
        cursor: str,
        *,
        gap_style: str = "",
        whole: bool = False,
        mark: str = "",
    ) -> Strip:
        """A row of cells; where `whole` is set there is one, which takes the whole width."""
        gap = self._style(gap_style, cursor)
        segments = [Segment("▸" if cursor else " ", gap)]
        if self._gutter > 1:
            segments.append(Segment(mark or " ", self._style("accent", cursor)))
        used = self._gutter
        for index, room in [(0, width)] if whole else self._fitted(width):
            if index < len(cells):
                text, style = cells[index]
                spans = not whole and index == len(cells) - 1 < len(self.columns) - 1
                column = _WHOLE if whole or spans else self.columns[index]
                cell_width = max(4, width - used) if spans else room
                fitted = fit_cells(clean(text), cell_width, right=column.right, keep_end=column.keep_end)
                segments += [Segment(fitted, self._style(style, cursor)), Segment(" ", gap)]
                used += room + 1
        return Strip(segments).adjust_cell_length(width, gap)

    def _style(self, name: str, cursor: str) -> RichStyle:
        """The style of that name, in the cursor's colours on the cursor's row."""
        key = name, cursor
        if key not in self._styles_by_name:
            style = self.get_component_rich_style(f"rows--{name}") if name else self.rich_style
            if cursor:
                over = self.get_component_rich_style(f"rows--{cursor}")
                style = style + RichStyle(bgcolor=over.bgcolor, bold=over.bold or style.bold)
            self._styles_by_name[key] = style
        return self._styles_by_name[key]


def fit_cells(text: str, width: int, *, right: bool, keep_end: bool = False) -> str:
    """Pad or cut a text to exactly `width` terminal cells; an ellipsis stands for what is cut."""
    length = len(text) if text.isascii() else cell_len(text)
    if length > width and keep_end and width:
        kept = text[-width:]
        while cell_len(kept) >= width:
            kept = kept[1:]
        return "…" + set_cell_size(kept, width - 1)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + "…" if width else ""
    return " " * (width - length) + text if right else text + " " * (width - length)
