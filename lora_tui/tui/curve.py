"""Curves of bounded size, and functions that draw them in Braille dots, and bars: no Textual here.

A `Curve` holds points in the order of x. Past a limit neighbours are merged, the lowest and the highest of each group
are kept, and a missing value stays missing: spikes and gaps survive any length of run.
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class Frame:
    """The range of x and y that a plot shows on a grid of `columns` × `rows` dots; `log` makes y logarithmic."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float
    columns: int
    rows: int
    log: bool = False

    def column(self, x: float) -> int:
        """The dot column of an x, 0 at the left; it may lie outside the grid."""
        return round((x - self.low_x) / (self.high_x - self.low_x) * (self.columns - 1))

    def row(self, y: float) -> int:
        """The dot row of a y, 0 at the top; values outside are clamped to the edge."""
        low, high = self.low_y, self.high_y
        if self.log:
            y, low, high = math.log10(max(y, low)), math.log10(low), math.log10(high)
        position = (y - low) / (high - low)
        return round((1 - min(1.0, max(0.0, position))) * (self.rows - 1))

    def dots(self, curve: Curve) -> Iterator[tuple[int, int] | None]:
        """The dot column and row of each point; None for a missing value, and for one that has no logarithm."""
        for x, y in zip(curve.xs, curve.ys, strict=True):
            yield None if math.isnan(y) or (self.log and y <= 0) else (self.column(x), self.row(y))


def fit_frame(
    curves: Sequence[Curve],
    columns: int,
    rows: int,
    *,
    end_x: float | None = None,
    log: bool = False,
    include: Sequence[float] = (),
) -> Frame | None:
    """The frame that shows every point, the y values `include` and x from 0 to `end_x`; None without points.

    A logarithmic frame leaves out values that are not above zero.
    """
    ys = [y for curve in curves for y in curve.ys if not math.isnan(y)] + list(include)
    if log:
        ys = [y for y in ys if y > 0]
    xs = [x for curve in curves if curve.xs for x in (curve.xs[0], curve.xs[-1])]
    if not ys or not xs:
        return None
    low_x, high_x = min(0.0, *xs), max(*xs, end_x if end_x is not None else xs[0])
    low_y, high_y = min(ys), max(ys)
    if high_y - low_y < 1e-12 * max(1.0, abs(high_y)):
        spread = abs(high_y) * 0.1 or 0.5
        low_y, high_y = (low_y / 1.1, high_y * 1.1) if log else (low_y - spread, high_y + spread)
    if high_x == low_x:
        high_x = low_x + 1
    return Frame(low_x, high_x, low_y, high_y, max(2, columns), max(2, rows), log)


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


def draw_line(canvas: Canvas, curve: Curve, frame: Frame, owner: int) -> None:
    """Draw a curve as a line through its points; a missing value leaves a gap."""
    before: tuple[int, int] | None = None
    for here in frame.dots(curve):
        if here is not None:
            for dot in _segment(before or here, here):
                canvas.draw(dot, owner)
        before = here


def draw_points(canvas: Canvas, curve: Curve, frame: Frame, owner: int, glyph: str) -> None:
    """Put a glyph at each point, so that series differ without colour."""
    for dot in frame.dots(curve):
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


def ticks(low: float, high: float, most: int, *, log: bool = False) -> list[float]:
    """At most `most` round numbers between two limits, in ascending order."""
    if most < 1 or not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    if log:
        decades = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        if len(decades) >= 2:
            return decades[:: math.ceil(len(decades) / most)]
    span = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(span))
    step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= span * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)][: most + 1]


def number_label(value: float, digits: int = 4) -> str:
    """A number in a plot: "0", "0.05", "147", "3.1e-4"; of four digits it has at most six characters."""
    # From a hundredth down, so that the ticks of a learning rate are all written alike: 1e-3 stands over 8e-4.
    if value == 0 or 1e-2 <= abs(value) < 1e5:
        return f"{value:.{digits}g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def bar(value: float, width: int) -> str:
    """A value of 0-1 as a bar of at most `width` cells, in halves of a cell; above zero at least one half."""
    if not math.isfinite(value) or value <= 0:
        return ""
    whole, rest = divmod(max(1, round(min(1.0, value) * width * 2)), 2)
    return "━" * whole + "╸" * rest
