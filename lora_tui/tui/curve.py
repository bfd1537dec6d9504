"""Curves of bounded size, and functions that draw them in Braille dots, sparklines and bars: no Textual here.

A `Curve` holds points in the order of x. Past a limit neighbours are merged, the lowest and the highest of each group
are kept, and a missing value stays missing: spikes and gaps survive any length of run.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lora_tui.tui.axes import Frame, value_range

_MOST_POINTS = 2048
"""Points after which neighbours are merged: twice the dots that a 250-column plot has across."""

_GROUP = 8
"""Points that are merged into their extremes: lowest, highest, and a gap where there is one."""

_LARGEST = 1e100
"""Values are clamped to this: beyond any loss, and the distance between two such numbers is still a number."""

_BLANK = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille cell by row (from the top) and column."""


@dataclass
class Curve:
    """Points (x, y) with rising x; y is NaN where the value is missing."""

    xs: "array[float]" = field(default_factory=lambda: array("d"))
    ys: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, x: float, y: float | None) -> None:
        """Add a point; it replaces those at or after its x, because a resumed run repeats its steps."""
        while self.xs and self.xs[-1] >= x:
            self.xs.pop()
            self.ys.pop()
        self.xs.append(x)
        self.ys.append(max(-_LARGEST, min(_LARGEST, y)) if y is not None and math.isfinite(y) else math.nan)
        if len(self.xs) > _MOST_POINTS:
            self._merge()

    @property
    def last(self) -> float | None:
        """The newest value that is not missing."""
        return next((y for y in reversed(self.ys) if not math.isnan(y)), None)

    def at(self, x: float) -> float | None:
        """The newest value at or before an x that is not missing; None before the first."""
        index = bisect_right(self.xs, x) - 1
        while index >= 0 and math.isnan(self.ys[index]):
            index -= 1
        return self.ys[index] if index >= 0 else None

    def along(self, scale: "Curve") -> "Curve":
        """The same values over another x: `scale` says what each old x is in the new unit; 0 is 0 in both."""
        return Curve(array("d", map(scale.between, self.xs)), self.ys[:])

    def between(self, x: float) -> float:
        """The value at an x on straight lines through the origin and the points; beyond the last, in proportion."""
        if not self.xs:
            return 0.0
        after = bisect_left(self.xs, x)
        if after == len(self.xs):
            return self.ys[-1] * x / self.xs[-1] if self.xs[-1] else self.ys[-1]
        x0, y0 = (self.xs[after - 1], self.ys[after - 1]) if after else (min(0.0, x), 0.0)
        x1, y1 = self.xs[after], self.ys[after]
        return y1 if x1 <= x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)

    def _merge(self) -> None:
        """Keep the extremes of every group of neighbours, and one gap where it has any."""
        xs, ys = array("d"), array("d")
        for start in range(0, len(self.xs), _GROUP):
            group = range(start, min(start + _GROUP, len(self.xs)))
            known = [i for i in group if not math.isnan(self.ys[i])]
            kept = {min(known, key=self.ys.__getitem__), max(known, key=self.ys.__getitem__)} if known else set()
            kept |= {next(i for i in group if math.isnan(self.ys[i]))} if len(known) < len(group) else set()
            for i in sorted(kept):
                xs.append(self.xs[i])
                ys.append(self.ys[i])
        self.xs, self.ys = xs, ys


@dataclass(frozen=True)
class Series:
    """A curve in a plot, and how it is drawn; `style` is one of the styles of `LinePlot`.

    One without a label is not in the legend.
    """

    label: str
    curve: Curve
    kind: Literal["line", "points"] = "line"
    style: str = "first"
    glyph: str = "◆"


class ExponentialAverage:
    """Exponential moving average over about `span` values, corrected for its start; missing values do not move it."""

    def __init__(self, span: float = 20.0) -> None:
        self._decay = 1 - 1 / span
        self._sum = 0.0
        self._weight = 0.0

    def update(self, value: float | None) -> float | None:
        """Take in a value; returns the average so far, None before the first value."""
        if value is not None and math.isfinite(value):
            self._sum = self._decay * self._sum + value
            self._weight = self._decay * self._weight + 1
        return self._sum / self._weight if self._weight else None


class Canvas:
    """A grid of `width` × `height` Braille cells of 2 × 4 dots; `owners` has the series that drew each cell last."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.cells = [[0] * width for _ in range(height)]
        self.owners: list[list[int | None]] = [[None] * width for _ in range(height)]
        self.marks: dict[tuple[int, int], str] = {}

    def draw(self, dot: tuple[int, int], owner: int, glyph: str = "") -> None:
        """Set the dot at a column and row, or put a glyph over its cell; dots outside the grid are ignored."""
        column, row = dot
        if 0 <= column < self.width * 2 and 0 <= row < self.height * 4:
            line, cell = row // 4, column // 2
            self.owners[line][cell] = owner
            if glyph:
                self.marks[line, cell] = glyph
            else:
                self.cells[line][cell] |= _DOTS[row % 4][column % 2]

    def glyph(self, line: int, cell: int) -> str:
        """The character of a cell; a blank where nothing was drawn."""
        return self.marks.get((line, cell)) or (chr(_BLANK + self.cells[line][cell]) if self.cells[line][cell] else " ")


def _dots(curve: Curve, frame: Frame) -> Iterator[tuple[int, int] | None]:
    """The dot column and row of each point in view and of its neighbours; None where there is no value to draw."""
    first = max(0, bisect_left(curve.xs, frame.low_x) - 1)
    last = bisect_right(curve.xs, frame.high_x) + 1
    for x, y in zip(curve.xs[first:last], curve.ys[first:last], strict=True):
        yield None if math.isnan(y) or (frame.log and y <= 0) else (frame.column(x), frame.row(y))


def draw_line(canvas: Canvas, curve: Curve, frame: Frame, owner: int) -> None:
    """Draw a curve as a line through its points; a missing value leaves a gap."""
    before: tuple[int, int] | None = None
    for here in _dots(curve, frame):
        if here is not None:
            for dot in _segment(before or here, here):
                canvas.draw(dot, owner)
        before = here


def draw_points(canvas: Canvas, curve: Curve, frame: Frame, owner: int, glyph: str) -> None:
    """Put a glyph at each point, so that series differ without colour."""
    for dot in _dots(curve, frame):
        if dot is not None:
            canvas.draw(dot, owner, glyph)


def draw_level(canvas: Canvas, value: float, frame: Frame, owner: int) -> None:
    """Draw a dotted horizontal line at a y value, behind everything that is drawn already."""
    row = frame.row(value)
    for column in range(0, canvas.width * 2, 4):
        if canvas.owners[row // 4][column // 2] is None:
            canvas.draw((column, row), owner)


def _segment(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The dots of a straight line, both ends included."""
    (x0, y0), (x1, y1) = start, end
    steps = max(1, abs(x1 - x0), abs(y1 - y0))
    for step in range(steps + 1):
        yield x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps)


_LEVELS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int, limits: tuple[float, float] | None = None) -> str:
    """Values as blocks of eight heights, at most `width`; of more values some are left out, never the last.

    The heights span `limits`, else the values as an axis would show them.
    """
    if not values or width < 1:
        return ""
    if len(values) > width:
        last = len(values) - 1
        values = [values[last - (width - 1 - n) * last // max(1, width - 1)] for n in range(width)]
    low, high = limits or value_range(min(values), max(values))
    if not limits and (low, high) != (min(values), max(values)) and low > 0:
        values = [(low + high) / 2] * len(values)  # they hardly differ
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[min(top, max(0, round((value - low) / (high - low) * top)))] for value in values)


def bar(value: float, width: int) -> str:
    """A value of 0-1 as a bar of at most `width` cells, in halves of a cell; above zero at least one half."""
    if not math.isfinite(value) or value <= 0:
        return ""
    whole, rest = divmod(max(1, round(min(1.0, value) * width * 2)), 2)
    return "━" * whole + "╸" * rest
