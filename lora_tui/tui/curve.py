"""Curves that stay small, and the drawing of them in dots: plain functions, no Textual.

A `Curve` holds points in the order of x. Past a limit neighbours are merged, the lowest and the highest of each group
are kept, and a missing value stays missing: spikes and gaps survive any length of run.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

_MOST_POINTS = 2048
"""Points after which neighbours are merged: twice the dots that a 250-column plot has across."""

_GROUP = 8
"""Points that are merged into their extremes: lowest, highest, and a gap where there is one."""

_LARGEST = 1e100

_BLANK = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille cell by row (from the top) and column."""


@dataclass
class Curve:
    """Points (x, y) with rising x; y is NaN where the value is missing. `count` is how many were put in."""

    xs: "array[float]" = field(default_factory=lambda: array("d"))
    ys: "array[float]" = field(default_factory=lambda: array("d"))
    count: int = 0

    def put(self, x: float, y: float | None) -> None:
        """Add a point. One that lies before the last takes the later ones' place: a resumed run repeats its steps."""
        while self.xs and self.xs[-1] >= x:
            self.xs.pop()
            self.ys.pop()
        self.xs.append(x)
        # Beyond any loss; a distance between two such numbers must still be a number.
        self.ys.append(max(-_LARGEST, min(_LARGEST, y)) if y is not None and math.isfinite(y) else math.nan)
        self.count += 1
        if len(self.xs) > _MOST_POINTS:
            self._merge()

    def extend(self, xs: Iterable[float], ys: Iterable[float | None]) -> None:
        """Add points one after the other."""
        for x, y in zip(xs, ys, strict=True):
            self.put(x, y)

    @property
    def last(self) -> float | None:
        """The newest value that is not missing."""
        return next((y for y in reversed(self.ys) if not math.isnan(y)), None)

    @property
    def last_x(self) -> float | None:
        """Where the newest point lies."""
        return self.xs[-1] if self.xs else None

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
    """A curve as it is shown: `look` is a component class of `LinePlot`, `kind` how it is drawn.

    One without a label is not in the legend.
    """

    label: str
    curve: Curve
    kind: Literal["line", "points"] = "line"
    look: str = "first"
    glyph: str = "◆"


class Smoothed:
    """An exponential moving average that starts at the first value, not at zero; missing values do not move it."""

    def __init__(self, span: float = 20.0) -> None:
        self._keep = 1 - 1 / span
        self._sum = 0.0
        self._weight = 0.0

    def put(self, value: float | None) -> float | None:
        """Take in a value and return the average so far, None before the first."""
        if value is not None and math.isfinite(value):
            self._sum = self._keep * self._sum + value
            self._weight = self._keep * self._weight + 1
        return self._sum / self._weight if self._weight else None


@dataclass(frozen=True, slots=True)
class Frame:
    """The part of the plane that is drawn, in dots: `columns` × `rows`; y is logarithmic where `log` says so."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float
    columns: int
    rows: int
    log: bool = False

    def column(self, x: float) -> int:
        """The dot column of x, 0 at the left; it may lie outside."""
        return round((x - self.low_x) / (self.high_x - self.low_x) * (self.columns - 1))

    def row(self, y: float) -> int:
        """The dot row of y, 0 at the top; values outside are held at the edge."""
        low, high = self.low_y, self.high_y
        if self.log:
            y, low, high = math.log10(max(y, low)), math.log10(low), math.log10(high)
        position = (y - low) / (high - low)
        return round((1 - min(1.0, max(0.0, position))) * (self.rows - 1))


def frame_of(
    curves: Sequence[Curve],
    columns: int,
    rows: int,
    *,
    end_x: float | None = None,
    log: bool = False,
    include: Sequence[float] = (),
) -> Frame | None:
    """The frame that shows every point, `include` values and x from 0 to `end_x`; None where there is nothing to show.

    A logarithmic frame leaves values out that are not above zero.
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
    """Dots in cells of 2 × 4, each cell with the number of the series that was drawn there last."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.cells = [[0] * width for _ in range(height)]
        self.owners: list[list[int | None]] = [[None] * width for _ in range(height)]
        self.marks: dict[tuple[int, int], str] = {}

    def dot(self, column: int, row: int, owner: int) -> None:
        """Set one dot; one outside is left out."""
        if 0 <= column < self.width * 2 and 0 <= row < self.height * 4:
            self.cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
            self.owners[row // 4][column // 2] = owner

    def mark(self, column: int, row: int, owner: int, glyph: str) -> None:
        """Put a glyph over the cell of a dot: points that must be told apart without colour."""
        if 0 <= column < self.width * 2 and 0 <= row < self.height * 4:
            self.marks[row // 4, column // 2] = glyph
            self.owners[row // 4][column // 2] = owner

    def glyph(self, line: int, cell: int) -> str:
        """The character of a cell."""
        return self.marks.get((line, cell)) or (chr(_BLANK + self.cells[line][cell]) if self.cells[line][cell] else " ")


def draw_line(canvas: Canvas, curve: Curve, frame: Frame, owner: int) -> None:
    """Join the points of a curve; a missing value leaves a gap."""
    before: tuple[int, int] | None = None
    for x, y in zip(curve.xs, curve.ys, strict=True):
        if math.isnan(y) or (frame.log and y <= 0):
            before = None
            continue
        here = frame.column(x), frame.row(y)
        for column, row in _between(before or here, here):
            canvas.dot(column, row, owner)
        before = here


def draw_points(canvas: Canvas, curve: Curve, frame: Frame, owner: int, glyph: str) -> None:
    """Put a glyph at each point."""
    for x, y in zip(curve.xs, curve.ys, strict=True):
        if not math.isnan(y) and not (frame.log and y <= 0):
            canvas.mark(frame.column(x), frame.row(y), owner, glyph)


def draw_level(canvas: Canvas, value: float, frame: Frame, owner: int) -> None:
    """A dotted horizontal line where nothing else is drawn."""
    row = frame.row(value)
    for column in range(0, canvas.width * 2, 4):
        if 0 <= row < canvas.height * 4 and canvas.owners[row // 4][column // 2] is None:
            canvas.dot(column, row, owner)


def _between(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The dots of a straight line, both ends included."""
    (x0, y0), (x1, y1) = start, end
    steps = max(abs(x1 - x0), abs(y1 - y0))
    if steps == 0:
        yield x0, y0
        return
    for step in range(steps + 1):
        yield x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps)


def ticks(low: float, high: float, most: int, *, log: bool = False) -> list[float]:
    """At most `most` round numbers between two limits, ascending."""
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


def tick_label(value: float) -> str:
    """A tick's number in at most six characters."""
    if value == 0:
        return "0"
    # From a hundredth down, so that the ticks of a learning rate are all written alike: 1e-3 stands over 8e-4.
    return _exponential(value) if abs(value) >= 1e5 or abs(value) < 1e-2 else f"{value:.4g}"


def value_label(value: float) -> str:
    """A curve's newest value as the legend has it: "0.507", "147", "3.1e-4"."""
    return f"{value:.3g}" if value == 0 or 1e-2 <= abs(value) < 1e5 else _exponential(value)


def _exponential(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as one line of blocks, the highest full; a column shows the largest of its values, a gap where none is."""
    blocks = "▁▂▃▄▅▆▇█"
    if not values or width < 1:
        return ""
    columns = []
    for column in range(min(width, len(values))):
        start = column * len(values) // min(width, len(values))
        end = max(start + 1, (column + 1) * len(values) // min(width, len(values)))
        known = [value for value in values[start:end] if math.isfinite(value)]
        columns.append(max(known) if known else math.nan)
    known = [value for value in columns if not math.isnan(value)]
    top = max(known, default=0.0)
    return "".join(
        " " if math.isnan(v) or top <= 0 or v <= 0 else blocks[min(7, int(v / top * 8 - 1e-9))] for v in columns
    )


def bar(value: float, width: int) -> str:
    """A value of 0-1 as a bar in halves of a cell, `width` cells at most; above zero it shows at least one half."""
    if not math.isfinite(value) or value <= 0:
        return ""
    whole, rest = divmod(max(1, round(min(1.0, value) * width * 2)), 2)
    return "━" * whole + "╸" * rest
