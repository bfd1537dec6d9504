"""Axes of a plot: the range that is shown, round ticks, and labels that are short and never the same twice.

A range is never so small that noise fills the plot: values that hardly differ are drawn as what they are, a flat line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from lora_tui.text import duration, power_text

Unit = Literal["step", "examples", "tokens", "time", "score", "rate"]
"""What is counted along x: optimizer steps, examples or tokens seen, or seconds of work; or a score, in per cent; or a
learning rate, by the power of ten.
"""

UNITS: tuple[Unit, ...] = ("step", "examples", "tokens", "time")
"""What a curve of training can be drawn over."""

UNIT_NAMES: dict[Unit, str] = {
    "step": "step",
    "examples": "seen",
    "tokens": "tokens",
    "time": "time",
    "score": "says %",
    "rate": "rate",
}
"""What stands below the labels of y, in at most six characters."""

_FLAT = 0.05
"""The least height of a plot as a share of its largest value: what moves by less than this is drawn nearly flat."""

_NEAR_ZERO = 0.35
"""An axis begins at zero where its lowest value is below this share of its highest."""

_DECADES = 4
"""A logarithmic axis shows at most so many powers of ten below its highest value."""

_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
"""Distances of the ticks of a time axis; beyond them, days."""

_SCALES = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e5, 1e3, "k"), (0.0, 1.0, ""))
"""The largest value of an axis from which on, and what its labels are divided by and written with."""


class Points(Protocol):
    """Points with rising x; y is NaN where the value is missing."""

    @property
    def xs(self) -> Sequence[float]:
        """The x of each point."""

    @property
    def ys(self) -> Sequence[float]:
        """The y of each point."""


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


def fit_frame(
    curves: Sequence[Points],
    columns: int,
    rows: int,
    *,
    end_x: float | None = None,
    window: tuple[float, float] | None = None,
    log: bool = False,
    include: Sequence[float] = (),
    least_height: float = 0.0,
) -> Frame | None:
    """The frame that shows every point, the y values `include` and x from 0 to `end_x`; None without points.

    With `window` it shows this range of x, and the y values in it. It is at least `least_height` high in units of y. A
    logarithmic frame leaves out values that are not above zero.
    """
    xs = [x for curve in curves if curve.xs for x in (curve.xs[0], curve.xs[-1])]
    low_x, high_x = window or (min(0.0, *xs, 0.0), max(*xs, 0.0, end_x or 0.0))
    ys = list(include)
    for curve in curves:
        in_view = zip(curve.xs, curve.ys, strict=True) if window else ((low_x, y) for y in curve.ys)
        ys += [y for x, y in in_view if low_x <= x <= high_x and not math.isnan(y)]
    if log:
        ys = [y for y in ys if y > 0]
    if not ys or not xs:
        return None
    low_y, high_y = _log_range(min(ys), max(ys)) if log else value_range(min(ys), max(ys), least_height)
    if high_x <= low_x:
        high_x = low_x + 1
    return Frame(low_x, high_x, low_y, high_y, max(2, columns), max(2, rows), log)


def value_range(low: float, high: float, least_height: float = 0.0) -> tuple[float, float]:
    """The range of a linear axis over values from `low` to `high`."""
    if 0 < low < _NEAR_ZERO * high:
        low = 0.0
    height = max(least_height, _FLAT * max(abs(low), abs(high))) or 1.0
    if high - low < height:
        middle = (low + high) / 2
        bottom = middle - height / 2
        bottom = 0.0 if low >= 0 > bottom else bottom
        low, high = bottom, bottom + height
    return low, high


def _log_range(low: float, high: float) -> tuple[float, float]:
    """The range of a logarithmic axis: one to `_DECADES` powers of ten."""
    low = max(low, high / 10**_DECADES, 5e-324)
    if high < 10 * low:
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = middle / math.sqrt(10), middle * math.sqrt(10)
    return (low, high) if low > 0 and high > low else (1e-300, 1e-299)


def ticks(low: float, high: float, most: int, *, log: bool = False, unit: Unit | None = None) -> list[float]:
    """At most `most` + 1 round numbers between two limits, in ascending order; those of a count are whole numbers."""
    if most < 1 or not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    if log:
        decades = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        if len(decades) >= 2:
            return decades[:: math.ceil(len(decades) / most)]
    span = (high - low) / most
    step = _tick_distance(span, unit)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)][: most + 1]


def _tick_distance(span: float, unit: Unit | None) -> float:
    """The smallest round distance that is at least `span`."""
    if unit == "time" and span <= _SECONDS[-1]:
        return float(next(seconds for seconds in _SECONDS if seconds >= span * 0.999))
    magnitude = 10.0 ** math.floor(math.log10(span))
    distance = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= span * 0.999)
    if unit is not None and distance != round(distance):
        return float(math.ceil(distance))
    return distance


def tick_labels(values: Sequence[float], unit: Unit | None = None, *, log: bool = False) -> list[str]:
    """The labels of an axis's ticks, written alike; no two are the same, and none is rounded."""
    if unit == "time":
        return ["0" if value == 0 else _round_time(value) for value in values]
    if unit == "rate":
        return [f"1e{value:.0f}" for value in values]
    if log or not values:
        return [number_label(value) for value in values]
    largest = max(map(abs, values))
    if largest < 1e-2 or largest >= 1e13:
        return [_scientific(value, values) for value in values]
    scale, letter = next((scale, letter) for least, scale, letter in _SCALES if largest >= least)
    parts = [value / scale for value in values]
    decimals = next((n for n in range(12) if all(abs(round(part, n) - part) < 1e-9 * largest for part in parts)), 12)
    return [f"{part:,.{decimals}f}{letter}" if part else "0" for part in parts]


def _round_time(seconds: float) -> str:
    """A time span without parts that are zero: "2m", "1h"."""
    return duration(seconds).replace("m 00s", "m").replace("h 00m", "h")


def _scientific(value: float, values: Sequence[float]) -> str:
    """A value as "1.5e-3", with as many digits as tell all of `values` apart."""
    for digits in range(12):
        if len({f"{other:.{digits}e}" for other in values}) == len(values):
            break
    mantissa, _, exponent = f"{value:.{max(1, digits)}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if value else "0"


def number_label(value: float, digits: int = 4) -> str:
    """A number in a plot: "0", "0.05", "147", "3.1e-4"; of four digits it has at most six characters."""
    # From a hundredth down, so that the values of a learning rate are all written alike: 1e-3 stands over 8e-4.
    if value == 0 or 1e-2 <= abs(value) < 1e5:
        return f"{value:.{digits}g}"
    return power_text(value)


def unit_label(value: float, unit: Unit) -> str:
    """A value of x with its unit: "step 1,240", "84,000 tokens", "4m 12s"."""
    if unit == "time":
        return duration(value)
    if unit == "rate":
        return f"rate {number_label(10.0**value)}"
    if unit == "score":
        return f"it says {value:.0f} %"
    return f"step {value:,.0f}" if unit == "step" else f"{value:,.0f} {unit}"
