"""The rate that a probe proposes, where the right answer is known: gradient descent on a bowl comes apart at 2 / h."""

import itertools
import math
import random

import pytest

from lora_tui.protocol.rate_probe import (
    HIGHEST,
    LOWEST,
    STEPS,
    RatePoint,
    has_diverged,
    probe_line,
    probe_rate,
    propose,
    reason_of,
    round_rate,
    smoothed,
)
from lora_tui.text import power_text


def descend(curvature: float, noise: float = 0.3, seed: int = 1) -> list[RatePoint]:
    """A probe of the loss h/2·|w|² in 20 dimensions by stochastic gradient descent, whose rates are stable below 2/h.

    As the probe of a model, it measures its loss with noise, and stops where it has come apart.
    """
    draw = random.Random(seed)
    weights = [draw.gauss(0, 1) for _ in range(20)]
    begin = 0.5 * curvature * sum(weight * weight for weight in weights)
    points: list[RatePoint] = []
    for step in range(STEPS):
        rate = probe_rate(step)
        loss = 0.5 * curvature * sum(weight * weight for weight in weights)
        points.append(RatePoint(rate, loss, (loss - begin) / begin * 2.0 + draw.gauss(0, 0.02)))
        if has_diverged([point.change for point in points]):
            break
        weights = [w - rate * curvature * (w + draw.gauss(0, noise)) for w in weights]
    return points


@pytest.mark.parametrize("curvature", [10.0, 50.0, 200.0, 1000.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_proposes_a_safe_share_of_the_rate_at_which_a_bowl_comes_apart(curvature: float, seed: int) -> None:
    found = propose(descend(curvature, seed=seed))
    limit = 2 / curvature
    assert found.rate is not None
    assert limit / 100 < found.rate < limit / 10, (found, limit)
    assert found.steepest is not None
    assert found.steepest < limit
    if limit < HIGHEST / 3:
        assert found.diverged is not None
        assert limit / 3 < found.diverged < 6 * limit


def test_four_times_the_curvature_is_about_a_quarter_of_the_rate() -> None:
    rates = [propose(descend(curvature)).rate for curvature in (25.0, 100.0, 400.0)]
    assert all(rate is not None for rate in rates)
    assert 1.9 < rates[0] / rates[1] < 8  # type: ignore[operator]  # none is None
    assert 1.9 < rates[1] / rates[2] < 8  # type: ignore[operator]


def test_what_does_not_fall_has_no_rate() -> None:
    draw = random.Random(1)
    flat = [RatePoint(probe_rate(step), 2.0, draw.gauss(0, 0.004)) for step in range(STEPS)]
    assert propose(flat).rate is None
    rising = [RatePoint(probe_rate(step), 2.0, step * 0.05) for step in range(STEPS)]
    assert propose(rising).rate is None
    assert propose(flat[:3]).rate is None


def test_a_loss_that_is_no_number_ends_it() -> None:
    points = descend(100.0)[:45]
    broken = [*points, RatePoint(probe_rate(45), math.nan, math.nan)]
    assert has_diverged([point.change for point in broken])
    found = propose(broken)
    assert found.rate is not None
    assert found.diverged is not None


def test_rates_rise_by_the_same_factor_and_are_round_when_proposed() -> None:
    rates = [probe_rate(step) for step in range(STEPS)]
    assert (rates[0], round(rates[-1], 6)) == (LOWEST, HIGHEST)
    assert len({round(after / before, 9) for before, after in itertools.pairwise(rates)}) == 1
    assert [round_rate(rate) for rate in (2.7e-4, 3e-4, 8.9e-4, 1e-3, 1.1e-3)] == [2e-4, 3e-4, 5e-4, 1e-3, 1e-3]
    assert [power_text(rate) for rate in (3e-4, 1e-3, 2.5e-2)] == ["3e-4", "1e-3", "2.5e-2"]


def test_averages_keep_the_level_and_lose_the_noise() -> None:
    assert smoothed([1.5] * 20) == pytest.approx([1.5] * 20)
    draw = random.Random(2)
    assert max(map(abs, smoothed([draw.gauss(0, 1) for _ in range(60)])[6:-6])) < 1.2


def test_it_is_said_in_words() -> None:
    assert probe_line({"step": 3, "steps": 60, "rate": 2e-5, "change": -0.0123}) == (
        "step 3/60  rate 2e-5  loss -0.012 against the untrained model"
    )
    assert "is not a number" in probe_line({"step": 3, "steps": 60, "rate": 2e-5, "change": None})
    found = propose(descend(200.0)).as_json()
    assert "training came apart at" in reason_of(found)
    assert reason_of({"rate": None}) == ""


def test_the_rate_is_a_tenth_of_that_of_the_lowest_loss_wherever_the_descent_was_steepest() -> None:
    """The loss falls in one step at the start, evenly after that, and rises from 1e-2 on."""
    points = [RatePoint(rate, 2.0, _even(rate)) for rate in map(probe_rate, range(STEPS)) if rate < 0.03]
    found = propose(points)
    assert found.steepest is not None
    assert found.steepest < 1e-4
    assert found.lowest is not None
    assert 5e-3 < found.lowest < 2e-2
    assert found.rate == round_rate(found.lowest / 10)
    assert "the loss was lowest at" in reason_of(found.as_json())
    assert "a tenth" in reason_of(found.as_json())
    assert "a tenth" not in reason_of({**found.as_json(), "rate": 3e-3}), "a run of another version"


def _even(rate: float) -> float:
    sudden = -0.6 if rate > 3e-5 else 0.0
    return sudden - 0.1 * math.log(rate / LOWEST) + max(0.0, 3 * math.log(rate / 1e-2))
