"""A line plot in Braille dots: gaps for missing values; labels and glyphs tell series apart without colour.

It has a cursor, which reads the values out, and can be zoomed; the screen that shows it has the keys for that.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.content import Content
from textual.strip import Strip
from textual.widget import Widget

from lora_tui.tui.axes import UNIT_NAMES, Frame, Unit, fit_frame, number_label, tick_labels, ticks, unit_label
from lora_tui.tui.curve import Canvas, Series, draw_level, draw_line, draw_points

PLOT_KEYS = {"cursor": "read out", "zoom": "zoom", "plot": "next", "unit": "x axis"}
"""Actions of the screen around a plot that its border names the keys of."""

_LEAST_LABEL = 5
"""Terminal cells for the labels of y, at least; two more are for the axis."""

_ZOOMS = (1, 4, 16, 64)
"""Magnifications of the x axis, which `LinePlot.zoom` goes through."""

_MORE_TICKS = 3
"""Numbers of ticks that are tried where the usual one gives a single label."""

_LEAST_IN_VIEW = 4.0
"""Zooming ends where less than this is in view, in units of x: steps, seconds or tokens."""


class LinePlot(Widget):
    """Series over steps, tokens or time, with a legend above and axes at the left and below."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"plot--{name}" for name in ("first", "second", "third", "faint", "level", "axis", "title", "cursor")
    }

    DEFAULT_CSS = """
    LinePlot {
        height: 1fr;
        .plot--first { color: $accent; text-style: bold; }
        .plot--second { color: $secondary; }
        .plot--third { color: $success; text-style: bold; }
        .plot--faint { color: $foreground 45%; text-style: dim; }
        .plot--level { color: $warning; }
        .plot--axis { color: $text-muted; }
        .plot--title { color: $text-muted; }
        .plot--cursor { color: $foreground; text-style: bold; }
    }
    """

    def __init__(self, empty: str = "nothing yet", *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._empty = empty
        self._series: Sequence[Series] = ()
        self._end_x: float | None = None
        self._level: tuple[float, str] | None = None
        self._range: tuple[float, ...] = ()
        self._least_height = 0.0
        self._decimals: int | None = None
        self._unit: Unit = "step"
        self._zoom = 0
        """Which of `_ZOOMS` is shown."""
        self.cursor: float | None = None
        """The x whose values are read out; None where the cursor is not shown."""
        self.log_scale = False
        self._lines: list[Strip] = []
        self._drawn_for: object = None
        """Size and scale that `_lines` was drawn for; None where it is out of date."""

    def show(
        self,
        series: Sequence[Series],
        *,
        unit: Unit = "step",
        end_x: float | None = None,
        level: tuple[float, str] | None = None,
        limits: tuple[float, float] | None = None,
        least_height: float = 0.0,
        decimals: int | None = None,
    ) -> None:
        """Draw these series.

        `unit` is what x counts, `end_x` the last x where it is known, `level` a y value with a label that gets a
        horizontal line, `limits` are y values that must be in view, `least_height` is the least height in units of y.
        `decimals` are those of the legend's values, None for three digits.
        """
        if unit != self._unit:
            self._unit, self.cursor, self._zoom = unit, None, 0
        self._series, self._end_x, self._level, self._range = series, end_x, level, limits or ()
        self._least_height, self._decimals = least_height, decimals
        self._redraw()

    # Cursor and zoom

    def move_cursor(self, by: int) -> None:
        """Show the cursor at the last point, or move it to the point that is `by` cells further on."""
        xs = max((series.curve.xs for series in self._series), key=len, default=None)
        if not xs:
            return
        if self.cursor is None:
            self.cursor = xs[-1] if by < 0 else xs[0]
        else:
            frame = self._frame(self.size.width, self.size.height)
            distance = 0.0 if frame is None else 2 * (frame.high_x - frame.low_x) / frame.columns * abs(by)
            here = self.cursor
            if by > 0:
                index = max(bisect_left(xs, here + distance * 0.999), bisect_right(xs, here))
            else:
                index = min(bisect_right(xs, here - distance * 0.999), bisect_left(xs, here)) - 1
            self.cursor = xs[min(max(0, index), len(xs) - 1)]
        self._redraw()

    def set_cursor(self, x: float | None) -> None:
        """Show the cursor at an x, or put it away."""
        if x != self.cursor:
            self.cursor = x
            self._redraw()

    def zoom(self) -> None:
        """Magnify x around the cursor, or around the newest point where there is none; in the end show all again."""
        low, high = self._whole_range()
        deeper = self._zoom + 1
        fits = deeper < len(_ZOOMS) and (high - low) / _ZOOMS[deeper] >= _LEAST_IN_VIEW
        self._zoom = deeper if fits else 0
        self._redraw()

    @property
    def is_moved(self) -> bool:
        """Whether the cursor is shown, or less than all of x."""
        return self.cursor is not None or self._zoom > 0

    def reset_view(self) -> None:
        """Put the cursor away and show all of x."""
        self.cursor, self._zoom = None, 0
        self._redraw()

    def _whole_range(self) -> tuple[float, float]:
        """The range of x without zoom."""
        ends = [x for series in self._series if series.curve.xs for x in (series.curve.xs[0], series.curve.xs[-1])]
        return min(0.0, *ends, 0.0), max(0.0, *ends, self._end_x or 0.0)

    def _window(self) -> tuple[float, float] | None:
        """The range of x that is magnified; None where all of it is shown."""
        low, high = self._whole_range()
        span = (high - low) / _ZOOMS[self._zoom]
        if not self._zoom or span <= 0:
            return None
        newest = max((series.curve.xs[-1] for series in self._series if series.curve.xs), default=high)
        middle = self.cursor if self.cursor is not None else newest - span / 2
        start = min(max(low, middle - span / 2), high - span)
        return start, start + span

    def set_empty_text(self, text: str) -> None:
        """Set the text that is shown where there is nothing to draw."""
        if text != self._empty:
            self._empty = text
            self._redraw()

    def set_log(self, log: bool) -> None:
        """Switch the y axis between linear and logarithmic."""
        self.log_scale = log
        self._redraw()

    def _redraw(self) -> None:
        self._drawn_for = None
        self.refresh()

    def notify_style_update(self) -> None:
        """Draw again: the theme has changed."""
        self._drawn_for = None
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """Render one line; the plot is drawn once for all lines of a size."""
        key = (self.size, self.log_scale)
        if self._drawn_for != key:
            self._lines = self._draw()
            self._drawn_for = key
        return self._lines[y] if y < len(self._lines) else Strip.blank(self.size.width, self.rich_style)

    def _style(self, name: str) -> RichStyle:
        return self.get_component_rich_style(f"plot--{name}")

    def _frame(self, width: int, height: int) -> Frame | None:
        """The ranges that are shown in a widget of this size, for labels of the usual width; None without points."""
        include = [*(self._level or ())[:1], *self._range]
        cells, lines = width - _LEAST_LABEL - 2, height - 2
        return fit_frame(
            [series.curve for series in self._series],
            cells * 2,
            lines * 4,
            end_x=self._end_x,
            window=self._window(),
            log=self.log_scale,
            include=include,
            least_height=self._least_height,
        )

    def _draw(self) -> list[Strip]:
        width, height = self.size
        lines = height - 2  # one for the legend, one for the x axis
        if width - _LEAST_LABEL <= 5 or lines <= 0:
            return []  # there may be points, but there is no room for them
        frame = self._frame(width, height)
        if frame is None:
            return self._empty_plot(width, height)
        labels = self._y_labels(frame, lines)
        label_width = max(_LEAST_LABEL, *map(len, labels.values()))
        cells = max(2, width - label_width - 2)
        frame = replace(frame, columns=cells * 2)
        canvas = Canvas(cells, lines)
        self._paint(canvas, frame)
        axis, blank = self._style("axis"), self.rich_style
        styles: dict[int | None, RichStyle] = {None: blank, -1: self._style("level"), -2: self._style("cursor")}
        styles |= {owner: self._style(series.style) for owner, series in enumerate(self._series)}
        drawn = [self._legend(width)]
        for line in range(lines):
            segments = [Segment(labels.get(line, "").rjust(label_width) + ("┤" if line in labels else "│") + " ", axis)]
            segments += _cells(canvas, line, styles)
            drawn.append(Strip(segments).adjust_cell_length(width, blank))
        x_axis = self._x_axis(frame, label_width, cells)
        drawn.append(Strip([Segment(x_axis, axis)]).adjust_cell_length(width, blank))
        return drawn

    def _paint(self, canvas: Canvas, frame: Frame) -> None:
        for owner, series in enumerate(self._series):
            if series.kind == "line":
                draw_line(canvas, series.curve, frame, owner)
        for owner, series in enumerate(self._series):
            if series.kind == "points":
                draw_points(canvas, series.curve, frame, owner, series.glyph)
        if self._level is not None:
            draw_level(canvas, self._level[0], frame, -1)
        if self.cursor is not None and 0 <= (column := frame.column(self.cursor)) < frame.columns:
            for line in range(canvas.height):
                if canvas.owners[line][column // 2] is None:
                    canvas.draw((column, line * 4), -2, "│")

    def _y_labels(self, frame: Frame, lines: int) -> dict[int, str]:
        """The y labels by line; most lines have none."""
        most = max(1, min(5, lines // 2))
        for number in range(most, most + _MORE_TICKS):  # one label alone does not tell how much a line is
            values = ticks(frame.low_y, frame.high_y, number, log=frame.log)
            found = dict[int, str]()
            for value, label in zip(values, tick_labels(values, log=frame.log), strict=True):
                found.setdefault(frame.row(value) // 4, label)
            if len(found) > 1:
                return found
        return {0: number_label(frame.high_y), lines - 1: number_label(frame.low_y)}

    def _x_axis(self, frame: Frame, label_width: int, cells: int) -> str:
        """The line below the plot, each tick's label centred below its place."""
        row = [" "] * cells
        values = ticks(frame.low_x, frame.high_x, max(1, cells // 12), unit=self._unit)
        for value, label in zip(values, tick_labels(values, self._unit), strict=True):
            start = min(max(0, frame.column(value) // 2 - len(label) // 2), cells - len(label))
            if all(place == " " for place in row[max(0, start - 1) : start + len(label) + 1]):
                row[start : start + len(label)] = label
        return f"{UNIT_NAMES[self._unit]:>{label_width}}".ljust(label_width + 2) + "".join(row)

    def _legend(self, width: int) -> Strip:
        """A sample of each series with its label and its newest value, or its value at the cursor; and the level.

        What there is no room for is left out from the end.
        """
        groups: list[list[Segment]] = []
        title = self._style("title")
        if self.cursor is not None:
            groups.append([Segment(f" {unit_label(self.cursor, self._unit)} ", self._style("cursor"))])
        for series in self._series:
            if series.label:
                sample = "━━" if series.kind == "line" else series.glyph
                last = None if self._unit == "score" else series.curve.last  # of scores, the last is not the newest
                value = last if self.cursor is None else series.curve.at(self.cursor)
                form = self._decimals
                number = "" if value is None else number_label(value, 3) if form is None else f"{value:.{form}f}"
                label = f"{series.label} {number}".rstrip()
                groups.append([Segment(f" {sample} ", self._style(series.style)), Segment(f"{label} ", title)])
        if self._level is not None:
            groups.append([Segment(" ┄┄ ", self._style("level")), Segment(f"{self._level[1]} ", title)])
        if self.log_scale:
            groups.append([Segment(" log scale", title)])
        if self._zoom:
            groups.append([Segment(f" zoom {_ZOOMS[self._zoom]}×", title)])
        while len(groups) > 1 and sum(part.cell_length for group in groups for part in group) > width + 1:
            groups.pop()  # whole, not cut in a word; a blank at the end may go
        parts = [part for group in groups for part in group]
        return Strip(parts).adjust_cell_length(width, self.rich_style)

    def _empty_plot(self, width: int, height: int) -> list[Strip]:
        lines = [Strip.blank(width, self.rich_style)] * height
        text = Content(self._empty).truncate(width, ellipsis=True).plain.center(width)
        lines[height // 2] = Strip([Segment(text, self._style("title"))]).adjust_cell_length(width, self.rich_style)
        return lines


def _cells(canvas: Canvas, line: int, styles: Mapping[int | None, RichStyle]) -> list[Segment]:
    """One line of a canvas as segments in the styles of its series; neighbours of the same style are joined."""
    by_style = groupby(range(canvas.width), lambda cell: styles[canvas.owners[line][cell]])
    return [Segment("".join(canvas.glyph(line, cell) for cell in cells), style) for style, cells in by_style]
