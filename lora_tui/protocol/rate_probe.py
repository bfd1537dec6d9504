"""A learning-rate probe: what its points say, and the rate that they propose; for whoever probes and whoever shows it.

The rate rises by the same factor with every step (Smith 2015, arXiv 1506.01186). A point is the loss of a step's
examples less what the untrained model has on the very same ones: otherwise the difference between examples, a tenth and
more of a loss, would hide what the rate does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_tui.text import power_text

LOWEST, HIGHEST, STEPS = 1e-5, 0.3, 60
"""The rates between which a probe goes, and in how many steps."""

_WIDTH = 2.0
"""Steps over which points are averaged: the standard deviation of the weights."""

_RISE = 0.5
"""Share of what the loss had fallen by which it must rise again, for training to have come apart."""

_LEAST_FALL = 0.02
"""A loss that has fallen by less, in nats a label token, says nothing about rates."""

_BELOW_LOWEST = 10
"""How far below the rate of the lowest loss one is proposed: the usual share, as fastai's finder has it.

The steepest descent is no measure: the loss of LoRA with AdamW falls evenly over two decades of rates, and where it is
steepest is noise (4.5e-3 and 3.9e-4 on two sets of data that are lowest at 7.6e-3 and 5.4e-3: the table in
``tests/bench/README.md``).
"""

_ROUND = (1.0, 2.0, 3.0, 5.0)


@dataclass(frozen=True, slots=True)
class RatePoint:
    """A step of a probe: its rate, the loss of its examples before it, and its difference from the untrained model's.

    Both are in nats a label token.
    """

    rate: float
    loss: float
    change: float


@dataclass(frozen=True, slots=True)
class RateProposal:
    """What a probe says: the rate that it proposes, and why. Rates are None where the points do not show them.

    The loss fell most steeply at `steepest`, was lowest at `lowest`, had risen again at `diverged`; `fall` is how far
    it had fallen.
    """

    rate: float | None
    steepest: float | None
    lowest: float | None
    diverged: float | None
    fall: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields."""
        return {"rate": self.rate, "steepest": self.steepest, "lowest": self.lowest, "diverged": self.diverged,
                "fall": round(self.fall, 4)}  # fmt: skip


def probe_rate(step: int, steps: int = STEPS) -> float:
    """Return the rate of a step, counted from 0."""
    return float(LOWEST * (HIGHEST / LOWEST) ** (step / max(1, steps - 1)))


def smoothed(values: Sequence[float]) -> list[float]:
    """Return values averaged with their neighbours, which count by their distance as a bell curve has it."""
    reach = math.ceil(3 * _WIDTH)
    found = []
    for centre in range(len(values)):
        near = range(max(0, centre - reach), min(len(values), centre + reach + 1))
        weights = [math.exp(-0.5 * ((other - centre) / _WIDTH) ** 2) for other in near]
        found.append(math.fsum(w * values[i] for w, i in zip(weights, near, strict=True)) / math.fsum(weights))
    return found


def has_diverged(changes: Sequence[float]) -> bool:
    """Tell whether the loss has risen so far above its lowest that higher rates have nothing more to say."""
    if not changes:
        return False
    if not math.isfinite(changes[-1]):
        return True
    if len(changes) < 8:
        return False
    smooth = smoothed(changes)
    return smooth[-1] > min(smooth) + max(1.0, -2 * min(smooth))


def propose(points: Sequence[RatePoint]) -> RateProposal:
    """Return the rate that a probe proposes: a tenth of the one at which the loss was lowest, rounded down.

    None where the loss did not fall: the data, or the model, leaves nothing to learn, or every rate was too high.
    """
    finite = [point for point in points if math.isfinite(point.change)]
    if len(finite) < 8:
        return RateProposal(None, None, None, None, 0.0)
    smooth = smoothed([point.change for point in finite])
    lowest = min(range(len(smooth)), key=smooth.__getitem__)
    fall = smooth[0] - smooth[lowest]
    if fall < _LEAST_FALL:
        return RateProposal(None, None, None, None, max(0.0, fall))
    limit = smooth[lowest] + _RISE * fall
    after = (point.rate for point, value in zip(finite[lowest:], smooth[lowest:], strict=True) if value > limit)
    diverged = next(after, points[-1].rate if len(finite) < len(points) else None)
    slopes = [smooth[step + 1] - smooth[step] for step in range(lowest)]
    steepest = finite[min(range(len(slopes)), key=slopes.__getitem__)].rate if slopes else None
    best = finite[lowest].rate
    return RateProposal(round_rate(best / _BELOW_LOWEST), steepest, best, diverged, fall)


def round_rate(rate: float) -> float:
    """Return the largest of 1, 2, 3 and 5 times a power of ten that is no higher.

    Sweeps find the best rate below what a probe says (``tests/bench/README.md``).
    """
    power = 10.0 ** math.floor(math.log10(rate) + 1e-9)
    below = max(factor for factor in _ROUND if factor * power <= rate * (1 + 1e-9))
    return float(f"{below * power:.0e}")


def probe_line(payload: Mapping[str, Any]) -> str:
    """Return a ``probe`` event on one line: the step, its rate, and how much lower or higher the loss is by then."""
    change = payload.get("change")
    how = "is not a number" if not isinstance(change, float) else f"{change:+.3f} against the untrained model"
    rate = power_text(float(payload.get("rate") or 0))
    return f"step {payload.get('step')}/{payload.get('steps')}  rate {rate}  loss {how}"


def reason_of(found: Mapping[str, Any]) -> str:
    """Return why a result's rate is proposed, as a sentence; empty where none is."""
    if found.get("rate") is None:
        return ""
    lowest, diverged = found.get("lowest"), found.get("diverged")
    end = f"training came apart at {power_text(diverged)}" if diverged else "it never came apart"
    if not lowest:
        return end
    tenth = ": a tenth of that" if found["rate"] == round_rate(lowest / _BELOW_LOWEST) else ""
    return f"the loss was lowest at {power_text(lowest)}{tenth}; {end}"
