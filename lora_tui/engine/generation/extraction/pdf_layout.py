"""The order in which the lines of a printed page are read: columns one after the other, tables row by row.

Pure functions over boxes, in points, with y growing upwards as in PDF. A gutter is a vertical strip that few runs of
text cross; between rows that do cross it (titles, figures), what lies left of it is read before what lies right of it.
A gutter between figures or labels is that of a table: its rows stay together, with a bar between their cells, so that
no sentence comes about that nobody wrote.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

_BIN = 2.0
"""Points: how finely gutters are looked for."""

_MIN_COLUMN_LINES = 3
_MAX_COLUMNS_DEEP = 4
_BAR_GAP = 2.0
"""In heights of a line: a larger gap inside a row is shown as a bar between two cells."""

_BULLET = re.compile(r"(?:[•◦▪–*·-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s")
_LEADERS = re.compile(r"(?:\. ?){5}")  # the dots of a table of contents
_SENTENCE_END = (".", "!", "?", ":", ";", "…", "”", '"', "。")


@dataclass(frozen=True, slots=True)
class Run:
    """Text on one line without a large gap, in its box."""

    x0: float
    x1: float
    y0: float
    y1: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a column; `keeps_apart` where it must not be joined to the one before as if a sentence went on."""

    x0: float
    x1: float
    y0: float
    y1: float
    text: str
    keeps_apart: bool = False


def reading_order(runs: Sequence[Run], depth: int = 0) -> list[list[Line]]:
    """Return the lines of a page, or of a part of it, as columns in the order in which they are read."""
    rows = _rows([run for run in runs if run.text.strip()])
    gutter = _gutter(rows) if depth < _MAX_COLUMNS_DEEP else None
    if gutter is None:
        return [[_line(row) for row in rows]] if rows else []
    columns: list[list[Line]] = []
    across: list[Line] = []  # lines of rows that the gutter does not part
    band: list[list[Run]] = []
    for row in [*rows, []]:
        if row and not any(run.x0 < gutter < run.x1 for run in row):
            band.append(row)
            continue
        if parts := _band_columns(band, gutter, depth):
            columns += [[*across], *parts] if across else parts
            across = []
        else:
            across += map(_line, band)
        band = []
        across += [_line(row)] if row else []
    return [*columns, across] if across else columns


def _band_columns(band: list[list[Run]], gutter: float, depth: int) -> list[list[Line]]:
    """Return the columns of consecutive rows that no run crosses the gutter in; none if they are no columns of text."""
    sides = [[run for row in band for run in row if (run.x0 >= gutter) is right] for right in (False, True)]
    if all(sides) and _is_prose(sides[0]) and _is_prose(sides[1]):
        return [column for side in sides for column in reading_order(side, depth + 1)]
    return []


def _rows(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs whose middles lie on one line, top to bottom, each row from left to right."""
    rows: list[list[Run]] = []
    low = high = 0.0
    for run in sorted(runs, key=lambda run: -(run.y0 + run.y1)):
        middle = (run.y0 + run.y1) / 2
        if rows and low <= middle <= high:
            rows[-1].append(run)
            low = min(low, run.y0)
        else:
            rows.append([run])
            low, high = run.y0, run.y1
    return [sorted(row, key=lambda run: run.x0) for row in rows]


def _gutter(rows: Sequence[list[Run]]) -> float | None:
    """Return where the strip lies that parts columns: crossed by few rows, beside it lines on both sides."""
    shared = [row for row in rows if len(row) > 1]
    if len(shared) < _MIN_COLUMN_LINES:
        return None
    left, right = min(run.x0 for row in rows for run in row), max(run.x1 for row in rows for run in row)
    bins = int((right - left) / _BIN) + 2
    if bins > 10_000:  # a page of 20,000 points is no page of columns
        return None
    change = [0] * (bins + 1)
    for row in rows:
        for run in row:
            change[int((run.x0 - left) / _BIN)] += 1
            change[int((run.x1 - left) / _BIN) + 1] -= 1
    crossing, covered = [], 0
    for step in change[:bins]:
        covered += step
        crossing.append(covered)
    ends = sorted(run.x1 for row in shared for run in row[:-1])
    starts = sorted(run.x0 for row in shared for run in row[1:])
    found: list[tuple[float, float, float]] = []  # rows parted more than crossed, nearness to the middle, where
    for position in range(1, bins - 1):
        x = left + (position + 0.5) * _BIN
        beside = min(bisect_right(ends, x), len(starts) - bisect_right(starts, x))
        if beside >= _MIN_COLUMN_LINES and crossing[position] * 2 <= beside:
            found.append((beside - 2 * crossing[position], -abs(x - (left + right) / 2), x))
    return max(found)[2] if found else None


def _is_prose(side: Sequence[Run]) -> bool:
    """Tell whether one side of a gutter holds lines of a text: several, of words, most of them as wide as it is."""
    lines = _rows(side)
    if len(lines) < _MIN_COLUMN_LINES:
        return False
    texts = [" ".join(run.text for run in line) for line in lines]
    letters = sum(character.isalpha() for text in texts for character in text)
    visible = sum(not character.isspace() for text in texts for character in text)
    widths = [line[-1].x1 - line[0].x0 for line in lines]
    several_words = sum(len(text.split()) >= 3 for text in texts)
    return letters >= 0.7 * visible and several_words >= 0.6 * len(lines) and median(widths) >= 0.7 * max(widths)


def _line(row: Sequence[Run]) -> Line:
    """Return a row as a line; wide gaps become bars."""
    text, has_bar = row[0].text.strip(" "), False
    for before, run in pairwise(row):
        is_bar = run.x0 - before.x1 > _BAR_GAP * max(run.y1 - run.y0, 1.0)
        has_bar |= is_bar
        text += (" | " if is_bar else " ") + run.text.strip(" ")
    y0, y1 = min(run.y0 for run in row), max(run.y1 for run in row)
    return Line(row[0].x0, max(run.x1 for run in row), y0, y1, " ".join(text.split(" ")), has_bar)


def paragraphs(column: Sequence[Line]) -> list[list[Line]]:
    """Return the lines of a column by paragraphs: parted by space, an indent, a bullet, another size, or a short line.

    A short line that ends no sentence stays in the paragraph, and the one after it is kept apart: a verse, an address.
    """
    if not column:
        return []
    left, right = min(line.x0 for line in column), max(line.x1 for line in column)
    pitches = [above.y0 - below.y0 for above, below in pairwise(column) if above.y0 > below.y0]
    pitch = median(pitches) if pitches else 0.0
    found = [[column[0]]]
    for above, line in pairwise(column):
        height = max(line.y1 - line.y0, 1.0)
        is_short = above.x1 < right - 0.25 * (right - left)
        ended = above.text.rstrip().endswith(_SENTENCE_END)
        if (
            above.y0 - line.y0 > 1.4 * pitch
            or line.y0 > above.y0
            or (line.x0 - left > 0.8 * height and above.x0 - left < 0.5 * height and ended)
            or (is_short and ended)
            or _BULLET.match(line.text)
            or _LEADERS.search(above.text)
            or not 0.6 < height / max(above.y1 - above.y0, 1.0) < 1.6
        ):
            found.append([line])
        else:
            apart = line.keeps_apart or above.keeps_apart or (is_short and not above.text.endswith(("\x02", "-")))
            found[-1].append(Line(line.x0, line.x1, line.y0, line.y1, line.text, apart))
    return found
