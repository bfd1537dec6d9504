"""Logistic regression with a normal prior and signs: the most probable weights given rated examples.

The few lines of numerics behind the adaptive score and the derivation of its prior; apart, since it knows nothing of
metrics. numpy is imported when a fit is asked for, because the app imports this package and not numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

_STEPS = 100
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Fit:
    """The most probable coefficients `(d,)`, and their covariance `(d, d)` by Laplace's approximation there."""

    coefficients: "Vector"
    covariance: "Vector"


def fit(
    rows: "Vector",
    targets: "Vector",
    counts: "Vector",
    offsets: "Vector",
    mean: "Vector",
    precision: "Vector",
    signs: Sequence[int],
) -> Fit:
    """Return the w that maximises Σ counts·log-likelihood(targets | σ(rows·w + offsets)) under a normal prior.

    A projected Newton method (Bertsekas 1982, "Projected Newton methods for optimization problems with simple
    constraints"): coefficients at their border that would cross it are held there, the others take a Newton step,
    halved until the objective falls. The objective is strictly convex: there is one answer, and the order of the rows
    changes nothing but its rounding.

    Args:
        rows: Features, shape (n, d); a bias is a column of ones.
        targets: What each row should give, (n,), 0-1.
        counts: How often each row counts, (n,), 0 or more.
        offsets: What is added to the logit of each row, (n,), whatever the coefficients.
        mean: Prior means, (d,), on the right side of their signs.
        precision: Prior precisions, (d,), above 0.
        signs: 1 for a coefficient that is never below 0, -1 for one never above, 0 for a free one.
    """
    import numpy as np  # 0.1 s, which neither the app nor a score without ratings pays

    side = np.asarray(signs, dtype=np.float64)
    bound, flip = side != 0, np.where(side < 0, -1.0, 1.0)  # flipped, every bound coefficient is 0 or more
    rows, start = rows * flip, mean * flip
    solution = start.copy()

    def objective(point: "Vector") -> float:
        z = rows @ point + offsets
        lost = np.logaddexp(0, z) - targets * z
        return float((counts * lost).sum() + 0.5 * (precision * (point - start) ** 2).sum())

    def curvature(point: "Vector") -> tuple["Vector", "Vector"]:
        p = _sigmoid(rows @ point + offsets)
        gradient = rows.T @ (counts * (p - targets)) + precision * (point - start)
        return gradient, (rows * (counts * p * (1 - p))[:, None]).T @ rows + np.diag(precision)

    for _ in range(_STEPS):
        gradient, hessian = curvature(solution)
        free = ~(bound & (solution <= 0) & (gradient > 0))
        step = np.zeros_like(solution)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        before, length = objective(solution), 1.0
        while True:
            moved = solution - length * step
            moved[bound] = np.maximum(moved[bound], 0.0)
            if objective(moved) <= before or length < 1e-8:
                break
            length /= 2
        change = float(np.abs(moved - solution).max())
        solution = moved
        if change < _TOLERANCE:
            break
    _, hessian = curvature(solution)
    covariance = np.asarray(np.linalg.inv(hessian) * flip[:, None] * flip[None, :], dtype=np.float64)
    return Fit(solution * flip, covariance)


def _sigmoid(z: "Vector") -> "Vector":
    import numpy as np

    return np.asarray(1 / (1 + np.exp(-np.clip(z, -500, 500))))
