"""A line plot in Braille dots: gaps for missing values; labels and glyphs tell series apart without colour."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.content import Content
from textual.strip import Strip
from textual.widget import Widget

from lora_tui.tui.curve import (
    Canvas,
    Frame,
    Series,
    draw_level,
    draw_line,
    draw_points,
    fit_frame,
    number_label,
    ticks,
)

_LABEL_WIDTH = 7
"""Terminal cells for the y labels and the axis."""


class LinePlot(Widget):
    """Series over optimizer steps, with a legend above and axes at the left and below."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"plot--{name}" for name in ("first", "second", "third", "faint", "level", "axis", "title")
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
    }
    """

    def __init__(self, empty: str = "nothing yet", *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._empty = empty
        self._series: Sequence[Series] = ()
        self._end_x: float | None = None
        self._level: tuple[float, str] | None = None
        self._range: tuple[float, ...] = ()
        self.log_scale = False
        self._lines: list[Strip] = []
        self._drawn_for: object = None
        """Size and scale that `_lines` was drawn for; None where it is out of date."""

    def show(
        self,
        series: Sequence[Series],
        *,
        end_x: float | None = None,
        level: tuple[float, str] | None = None,
        limits: tuple[float, float] | None = None,
    ) -> None:
        """Draw these series.

        `end_x` is the last step where it is known, `level` a y value with a label that gets a horizontal line, `limits`
        are y values that must be in view.
        """
        self._series, self._end_x, self._level, self._range = series, end_x, level, limits or ()
        self._redraw()

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

    def _draw(self) -> list[Strip]:
        width, height = self.size
        cells, lines = width - _LABEL_WIDTH, height - 2  # one for the legend, one for the x axis
        if cells <= 3 or lines <= 0:
            return []  # there may be points, but there is no room for them
        include = [*(self._level or ())[:1], *self._range]
        curves = [series.curve for series in self._series]
        frame = fit_frame(curves, cells * 2, lines * 4, end_x=self._end_x, log=self.log_scale, include=include)
        if frame is None:
            return self._empty_plot(width, height)
        canvas = Canvas(cells, lines)
        self._paint(canvas, frame)
        labels = self._y_labels(frame, lines)
        axis, blank = self._style("axis"), self.rich_style
        styles: dict[int | None, RichStyle] = {None: blank, -1: self._style("level")}
        styles |= {owner: self._style(series.style) for owner, series in enumerate(self._series)}
        drawn = [self._legend(width)]
        for line in range(lines):
            segments = [
                Segment(labels.get(line, "").rjust(_LABEL_WIDTH - 2) + ("┤" if line in labels else "│") + " ", axis)
            ]
            segments += _cells(canvas, line, styles)
            drawn.append(Strip(segments).adjust_cell_length(width, blank))
        drawn.append(Strip([Segment(self._x_axis(frame, cells), axis)]).adjust_cell_length(width, blank))
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

    def _y_labels(self, frame: Frame, lines: int) -> dict[int, str]:
        """The y labels by line; most lines have none."""
        found: dict[int, str] = {}
        for value in ticks(frame.low_y, frame.high_y, max(1, min(5, lines // 2)), log=frame.log):
            found.setdefault(frame.row(value) // 4, number_label(value))
        return found or {0: number_label(frame.high_y), lines - 1: number_label(frame.low_y)}

    def _x_axis(self, frame: Frame, cells: int) -> str:
        """The line below the plot, each tick's label centred below its place."""
        row = [" "] * cells
        for value in ticks(frame.low_x, frame.high_x, max(1, cells // 12)):
            label = number_label(value)
            start = min(max(0, frame.column(value) // 2 - len(label) // 2), cells - len(label))
            if all(place == " " for place in row[max(0, start - 1) : start + len(label) + 1]):
                row[start : start + len(label)] = label
        return f"{'step':>{_LABEL_WIDTH - 2}}".ljust(_LABEL_WIDTH) + "".join(row)

    def _legend(self, width: int) -> Strip:
        """A sample of each series with its label and newest value, and of the level."""
        parts: list[Segment] = []
        title = self._style("title")
        for series in self._series:
            if series.label:
                sample = "━━" if series.kind == "line" else series.glyph
                last = series.curve.last
                newest = "" if last is None else f" {number_label(last, 3)}"
                parts += [Segment(f" {sample} ", self._style(series.style)), Segment(f"{series.label}{newest} ", title)]
        if self._level is not None:
            parts += [Segment(" ┄┄ ", self._style("level")), Segment(f"{self._level[1]} ", title)]
        if self.log_scale:
            parts.append(Segment(" log scale", title))
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
