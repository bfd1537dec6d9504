"""Curves: gaps stay gaps, spikes stay spikes, whatever is drawn and however long a run gets."""

import math
from collections.abc import Iterable

import pytest

from lora_tui.tui.axes import Frame, Unit, fit_frame, number_label, tick_labels, ticks
from lora_tui.tui.curve import (
    Canvas,
    Curve,
    ExponentialAverage,
    bar,
    draw_line,
    draw_points,
    sparkline,
)


def extend(curve: Curve, xs: Iterable[float], ys: Iterable[float | None]) -> None:
    for x, y in zip(xs, ys, strict=True):
        curve.add(x, y)


def test_a_missing_value_stays_missing_and_is_never_zero() -> None:
    curve = Curve()
    extend(curve, [1, 2, 3, 4], [1.0, None, math.inf, 2.0])
    assert [math.isnan(y) for y in curve.ys] == [False, True, True, False]
    canvas = Canvas(20, 5)
    frame = fit_frame([curve], 40, 20)
    assert frame is not None
    assert (frame.low_y, frame.high_y) == (1.0, 2.0), "a missing value is no value to make room for"
    draw_line(canvas, curve, frame, 0)
    columns = {cell for line in canvas.owners for cell, owner in enumerate(line) if owner is not None}
    assert columns == {frame.column(1) // 2, frame.column(4) // 2}, "nothing is drawn across the gap"


def test_the_extremes_of_a_long_run_survive_in_a_few_thousand_points() -> None:
    curve = Curve()
    for step in range(100_000):
        curve.add(step, 9.0 if step == 34_567 else -9.0 if step == 80_001 else None if step == 50_000 else 1.0)
    assert len(curve.xs) <= 2048
    assert max(y for y in curve.ys if not math.isnan(y)) == 9.0
    assert min(y for y in curve.ys if not math.isnan(y)) == -9.0
    assert curve.xs[list(curve.ys).index(9.0)] == 34_567, "where it was"
    assert any(math.isnan(y) for y in curve.ys), "and the gap"
    assert list(curve.xs) == sorted(curve.xs)
    assert curve.xs[-1] == 99_999


def test_steps_that_are_repeated_take_the_place_of_the_older_ones() -> None:
    curve = Curve()
    extend(curve, range(1, 11), [1.0] * 10)
    extend(curve, [6, 7], [2.0, 3.0])
    assert list(curve.xs) == [1, 2, 3, 4, 5, 6, 7]
    assert list(curve.ys) == [1.0] * 5 + [2.0, 3.0]


def test_the_average_starts_at_the_first_value_and_passes_over_missing_ones() -> None:
    average = ExponentialAverage(10)
    assert average.update(None) is None
    assert average.update(4.0) == pytest.approx(4.0)
    assert average.update(math.nan) == pytest.approx(4.0)
    moved = average.update(2.0)
    assert moved is not None
    assert 2.0 < moved < 4.0


@pytest.mark.parametrize(
    "ys",
    [
        [],
        [None],
        [math.nan, math.inf, -math.inf],
        [1.0],
        [0.0, 0.0],
        [1e308, -1e308],
        [1e-320, 1e-321],
        [5.0] * 3,
        [-1.0],
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_no_values_break_a_plot(ys: list[float | None], log: bool) -> None:
    curve = Curve()
    extend(curve, range(len(ys)), ys)
    frame = fit_frame([curve], 40, 20, log=log)
    if frame is None:
        return
    canvas = Canvas(20, 5)
    draw_line(canvas, curve, frame, 0)
    draw_points(canvas, curve, frame, 0, "◆")
    for value in ticks(frame.low_y, frame.high_y, 5, log=log):
        assert 0 <= frame.row(value) < 20
        assert len(number_label(value)) <= 8


def test_a_line_joins_its_points_and_goes_where_they_are() -> None:
    curve = Curve()
    extend(curve, [0, 10], [0.0, 10.0])
    frame = Frame(0, 10, 0, 10, 20, 20)
    canvas = Canvas(10, 5)
    draw_line(canvas, curve, frame, 3)
    assert canvas.owners[4][0] == 3, "from the lower left"
    assert canvas.owners[0][9] == 3, "to the upper right"
    assert all(any(owner == 3 for owner in line) for line in canvas.owners)
    assert canvas.glyph(0, 0) == " "


def test_points_are_glyphs_so_that_series_differ_without_colour() -> None:
    curve = Curve()
    extend(curve, [0, 10], [0.0, 10.0])
    canvas = Canvas(10, 5)
    draw_points(canvas, curve, Frame(0, 10, 0, 10, 20, 20), 1, "◆")
    assert canvas.glyph(4, 0) == canvas.glyph(0, 9) == "◆"


def test_the_frame_begins_at_zero_and_ends_where_the_run_will() -> None:
    curve = Curve()
    extend(curve, [1, 2], [3.0, 4.0])
    frame = fit_frame([curve], 40, 20, end_x=60, include=(0.0,))
    assert frame is not None
    assert (frame.low_x, frame.high_x, frame.low_y) == (0, 60, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [(0, 60, 5, [0, 20, 40, 60]), (0.3, 2.4, 4, [1, 2]), (0, 1, 2, [0, 0.5, 1]), (1, 1, 3, []), (0, math.inf, 3, [])],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(expected)


def test_logarithmic_ticks_are_powers_of_ten() -> None:
    assert ticks(0.005, 200, 5, log=True) == pytest.approx([0.01, 0.1, 1, 10, 100])


def test_bars_survive_every_number() -> None:
    assert bar(0, 10) == bar(math.nan, 10) == bar(-1, 10) == ""
    assert bar(0.001, 10) == "╸"
    assert bar(1, 10) == bar(7, 10) == "━" * 10
    assert bar(0.55, 10) == "━━━━━╸"


def test_the_ticks_of_a_learning_rate_are_written_alike() -> None:
    assert [number_label(value) for value in (0, 2e-4, 1e-3, 1.5e-3)] == ["0", "2e-4", "1e-3", "1.5e-3"]
    assert [number_label(value) for value in (0.05, 0.5, 12)] == ["0.05", "0.5", "12"]


def test_a_newest_value_is_short_whatever_its_size() -> None:
    values = (0, 0.5068, 147.2, 3.09e-4, 123_456)
    assert [number_label(value, 3) for value in values] == ["0", "0.507", "147", "3.1e-4", "1.2e5"]


@pytest.mark.parametrize(
    ("low", "high", "unit", "expected"),
    [
        (0, 100_000, "step", ["0", "20k", "40k", "60k", "80k", "100k"]),
        (50_000, 50_010, "step", ["50,000", "50,002", "50,004", "50,006", "50,008", "50,010"]),
        (0, 3, "step", ["0", "1", "2", "3"]),
        (0, 330, "time", ["0", "2m", "4m"]),
        (0, 70_000, "time", ["0", "4h", "8h", "12h", "16h"]),
        (4.875, 5.125, None, ["4.90", "4.95", "5.00", "5.05", "5.10"]),
        (5.7e-5, 6e-5, None, ["5.7e-5", "5.8e-5", "5.9e-5", "6e-5"]),
        (0, 1e-3, None, ["0", "2e-4", "4e-4", "6e-4", "8e-4", "1e-3"]),
        (1000, 1001, None, ["1,000.0", "1,000.2", "1,000.4", "1,000.6", "1,000.8", "1,001.0"]),
    ],
)
def test_labels_of_an_axis_are_short_written_alike_and_never_the_same_twice(
    low: float, high: float, unit: Unit | None, expected: list[str]
) -> None:
    labels = tick_labels(ticks(low, high, 5, unit=unit), unit)
    assert labels == expected
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    "ys", [[5.7e-5, 9e-5, 6e-5], [2.0001, 2.0002, 2.0001], [340.0, 341.0, 339.5]], ids=["tiny", "constant", "speed"]
)
def test_values_that_hardly_differ_are_drawn_flat(ys: list[float]) -> None:
    curve = Curve()
    extend(curve, [1, 2, 3], ys)
    frame = fit_frame([curve], 40, 40, least_height=0.05)
    assert frame is not None
    rows = [frame.row(y) for y in ys]
    assert max(rows) - min(rows) <= 3, "a cliff of a thousandth"
    assert frame.low_y >= 0


def test_an_axis_begins_at_zero_where_its_values_come_near() -> None:
    curve = Curve()
    extend(curve, [1, 2], [3.0, 0.02])
    frame = fit_frame([curve], 40, 20)
    assert frame is not None
    assert frame.low_y == 0


def test_one_tiny_value_does_not_take_a_logarithmic_axis() -> None:
    curve = Curve()
    extend(curve, [1, 2, 3], [3.0, 1e-12, 0.5])
    frame = fit_frame([curve], 40, 20, log=True)
    assert frame is not None
    assert frame.low_y == pytest.approx(3e-4)


def test_a_window_shows_its_part_of_x_and_the_values_in_it() -> None:
    curve = Curve()
    extend(curve, range(1, 101), [100.0 / step for step in range(1, 101)])
    frame = fit_frame([curve], 40, 20, window=(50.0, 60.0))
    assert frame is not None
    assert (frame.low_x, frame.high_x) == (50, 60)
    assert 1.6 < frame.low_y <= frame.high_y <= 2.0
    canvas = Canvas(20, 5)
    draw_line(canvas, curve, frame, 0)
    assert all(any(row[cell] is not None for row in canvas.owners) for cell in range(20)), "from edge to edge"


def test_a_curve_over_tokens_or_time_has_the_same_values_elsewhere() -> None:
    curve, seconds = Curve(), Curve()
    extend(curve, [2, 4], [0.5, 0.25])
    extend(seconds, [1, 2, 3, 4], [10, 30, 40, 80])
    moved = curve.along(seconds)
    assert moved.xs.tolist() == [30, 80]
    assert moved.ys == curve.ys
    curve.add(5, 0.1)
    assert len(moved.xs) == len(moved.ys), "it does not grow with the other"
    assert seconds.between(0) == 0
    assert seconds.between(0.5) == 5
    assert seconds.between(8) == 160, "an estimate of what is to come"


def test_the_value_at_a_moment_is_the_newest_that_is_known() -> None:
    curve = Curve()
    extend(curve, [1, 2, 3], [1.0, None, 3.0])
    assert [curve.at(x) for x in (0.5, 1, 2.5, 3, 9)] == [None, 1.0, 1.0, 3.0, 3.0]


def test_a_sparkline_ends_with_the_last_value_and_keeps_flat_what_is_flat() -> None:
    assert sparkline([], 5) == ""
    assert sparkline([3.0, 1.5, 0.0], 7) == "█▅▁"
    assert sparkline([0.0] * 50 + [1.0], 4) == "▁▁▁█"
    assert len(set(sparkline([0.5, 0.5001, 0.5], 4))) == 1
    assert sparkline([0.2, 0.9], 4, (0.0, 1.0)) == "▂▇"
