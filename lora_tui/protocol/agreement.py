"""How well scores agree with people, as plain data for the app and ``--json``, and the sentences that say it.

All shares and scores lie in 0-1, thresholds in 0-10; intervals and bounds hold at 95 %. The figures come from
`lora_tui.engine.review.agreement`, which also says what each assumes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lora_tui.text import count

ENOUGH = 10
"""Ratings of each kind, good and bad, from which agreement is stated."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ReliabilityPoint:
    """Ratings of about the same score: their mean score, the share of good ones, and how many they are."""

    score: float
    good: Estimate
    ratings: int


@dataclass(frozen=True, slots=True)
class Guarantee:
    """At or above `threshold`, at least the share `precision` is good: `good` of `ratings` ratings at random were."""

    threshold: float
    precision: float
    good: int
    ratings: int


@dataclass(frozen=True, slots=True)
class ScoreAgreement:
    """What people's ratings say of a score; figures are None, and the curve empty, until there are enough of them.

    Of a run of generation, `mean` is the share of its accepted pairs that is good, and `guarantee` that of its
    threshold; `thresholds` has, for each precision that can be promised, the lowest threshold that keeps it. Of a
    training run, `means` has what people would think, on average, of the answers of an evaluation, by its id.
    """

    good: int = 0
    bad: int = 0
    at_random: int = 0
    """Ratings that were asked for at random: means, guarantees and thresholds are from these alone."""
    missing_good: int = ENOUGH
    missing_bad: int = ENOUGH
    auroc: Estimate | None = None
    kappa: float | None = None
    accuracy: float | None = None
    calibration_error: float | None = None
    curve: tuple[ReliabilityPoint, ...] = ()
    mean: Estimate | None = None
    guarantee: Guarantee | None = None
    thresholds: tuple[tuple[float, float], ...] = ()
    means: Mapping[int, Estimate] = field(default_factory=dict)
    of: str = "all"
    """Which ratings AUROC, κ, accuracy, calibration and curve are of: ``audit`` (asked for at random) or ``all``."""
    as_hard: int = 0
    """Ratings that were asked for because they are hard to score, which makes figures of ``all`` look worse."""
    not_random: bool = False
    """Why a run has no `mean` and `guarantee`: a person changed pairs, unasked, that were drawn to be rated."""

    @property
    def ratings(self) -> int:
        """Ratings that say good or bad."""
        return self.good + self.bad

    def as_json(self) -> dict[str, Any]:
        """Return the fields as ``--json`` has them, with a sentence in ``summary``."""
        summary = agreement_text(self)
        if self.guarantee is not None or self.not_random:
            summary += f"; {guarantee_text(self)}"
        return {"summary": summary, "ratings": self.ratings, **asdict(self)}


def agreement_text(agreement: ScoreAgreement) -> str:
    """Return how well the score agrees: "AUROC 0.87 (0.78-0.95), κ 0.61, 64 ratings", or how many are missing."""
    if agreement.auroc is None or agreement.kappa is None:
        return missing_text(agreement)
    return f"AUROC {interval_text(agreement.auroc)}, κ {agreement.kappa:.2f}, {rated_text(agreement)}"


def rated_text(agreement: ScoreAgreement) -> str:
    """Return what agreement was measured on: "24 ratings at random", "64 ratings, 48 asked because hard"."""
    if agreement.of == "audit":
        return f"{count(agreement.at_random, 'rating')} at random"
    hard = f", {agreement.as_hard:,} asked because hard" if agreement.as_hard else ""
    return count(agreement.ratings, "rating") + hard


def missing_text(agreement: ScoreAgreement) -> str:
    """Return how many ratings are missing: "not enough ratings yet: 7 good, 4 bad are missing"."""
    missing = [
        f"{number} {kind}"
        for number, kind in ((agreement.missing_good, "good"), (agreement.missing_bad, "bad"))
        if number
    ]
    verb = "is" if agreement.missing_good + agreement.missing_bad == 1 else "are"
    return f"not enough ratings yet: {', '.join(missing)} {verb} missing"


def guarantee_text(agreement: ScoreAgreement) -> str:
    """Return the promise: "at 7.0, at least 88 % of accepted pairs are good (60 ratings, 95 %)", or what it lacks."""
    if agreement.missing_good or agreement.missing_bad:
        return missing_text(agreement)
    if agreement.not_random:
        return "no guarantee: drawn pairs were changed by hand"
    promise = agreement.guarantee
    if promise is None or not promise.ratings:
        return "no guarantee yet: no pair that the run accepted is rated at random"
    share = int(100 * promise.precision)  # rounded down: it is a promise
    rated = count(promise.ratings, "rating")
    return f"at {promise.threshold:.1f}, at least {share} % of accepted pairs are good ({rated}, 95 %)"


def interval_text(estimate: Estimate) -> str:
    """Return a figure with its interval: "0.87 (0.78-0.95)"."""
    return f"{estimate.value:.2f} ({estimate.low:.2f}–{estimate.high:.2f})"


def percent_text(estimate: Estimate) -> str:
    """Return a share with its interval in percent: "87 % (78-95)"."""
    return f"{100 * estimate.value:.0f} % ({100 * estimate.low:.0f}–{100 * estimate.high:.0f})"
