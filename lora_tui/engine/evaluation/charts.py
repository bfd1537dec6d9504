"""Line charts as SVG text: self-contained pictures of a run's curves for its report, without a drawing library.

Nothing but numbers and our own labels goes into a picture. Colours and strokes are attributes, so that the picture is
the same in a page, in a viewer of its own, and where style sheets are stripped.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 16, 30, 40
"""Margins round the plot, in the picture's units."""

_MOST_POINTS = 400
"""Points of a line; of more, the mean of neighbours is drawn."""

_COLOURS = ("#2563a8", "#c2570c", "#2f7d32", "#7a4fb0")
"""Readable on white, and apart from each other in the common forms of colour blindness."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A labelled series of (x, y); as `dots` where its points stand for themselves, else as a line."""

    label: str
    points: Sequence[Point]
    dots: bool = False


def line_chart(title: str, lines: Sequence[Line], x_label: str, limits: tuple[float, float] | None = None) -> str:
    """Return a picture of these series, or an empty text where there is no finite point; `limits` are those of y."""
    drawn = [Line(line.label, thinned(finite), line.dots) for line in lines if (finite := _finite(line.points))]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    x_ticks = ticks(min(xs), max(xs))
    y_ticks = ticks(*limits) if limits is not None else ticks(min(ys), max(ys))
    low_x, high_x, low_y, high_y = min(xs[0], *x_ticks, *xs), max(*x_ticks, *xs), min(*y_ticks, *ys), max(*y_ticks, *ys)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / (high_x - low_x or 1)
        up = (y - low_y) / (high_y - low_y or 1)
        return (
            round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" font-family="sans-serif" font-size="12"><title>{escape(title)}</title>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for tick in y_ticks:
        left, y = at(low_x, tick)
        right, _ = at(high_x, tick)
        parts.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end" fill="#444444">{tick:g}</text>')
    for tick in x_ticks:
        x, bottom = at(tick, low_y)
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle" fill="#444444">{tick:,.10g}</text>')
    across = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{across}" y="{HEIGHT - 6}" text-anchor="middle" fill="#444444">{escape(x_label)}</text>')
    legend = float(_LEFT)
    for line, colour in zip(drawn, _cycled(len(drawn)), strict=True):
        places = [at(x, y) for x, y in line.points]
        if not line.dots and len(places) > 1:
            route = " ".join(f"{x},{y}" for x, y in places)
            parts.append(f'<polyline points="{route}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        else:
            parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]
        parts.append(f'<rect x="{legend}" y="10" width="12" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{legend + 17}" y="16" fill="#222222">{escape(line.label)}</text>')
        legend += 36 + 7 * len(line.label)
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers that enclose the range, at most about `most`: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most `most` points, each the mean of its neighbours where there were more."""
    if len(points) <= most:
        return list(points)
    edges = [len(points) * number // most for number in range(most + 1)]
    parts = [points[start:end] for start, end in itertools.pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _cycled(number: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(number)]
