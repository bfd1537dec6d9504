"""How well a score agrees with people, as text: beside the weights, at the threshold, and in the lesson on scores."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from textual.content import Content

from lora_tui.protocol.agreement import (
    Estimate,
    ScoreAgreement,
    agreement_text,
    guarantee_text,
    interval_text,
    missing_text,
    percent_text,
    rated_text,
)
from lora_tui.text import count
from lora_tui.tui.curve import Curve, Series
from lora_tui.tui.text import DIM, styled

_NOTHING = 5e-4
"""The share of the evidence from which a metric is shown."""

_NAMED_PRECISION = 0.9
"""The precision whose threshold is named beside the guarantee: most people's idea of good enough to train on."""


def weight_shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Each weight as its share of the evidence, the largest first; one that speaks against an answer stays negative.

    Metrics lie in 0-1, so a weight is the most that its metric can add to the score's logit: its size over the sum of
    all sizes is how much of the evidence it can carry. The bias is no evidence; what weighs nothing is left out.
    """
    found = {name: weight for name, weight in weights.items() if name != "bias"}
    total = sum(map(abs, found.values()))
    ordered = sorted(found.items(), key=lambda item: -abs(item[1]))
    return {name: weight / total for name, weight in ordered if abs(weight) > _NOTHING * total}


def share_text(share: float) -> str:
    """A share of the evidence: "31 %", "-4 %" for what speaks against an answer."""
    return f"{'−' if share < 0 and round(100 * share) else ''}{abs(100 * share):.0f} %"


def agreement_lines(known: ScoreAgreement | None, width: int) -> list[Content]:
    """What is known of the score's agreement with people, in lines of `width` cells; none before it was asked."""
    if known is None:
        return []
    if known.auroc is None or known.kappa is None:
        return _label("agrees", _wrapped(missing_text(known), width - 8))
    text = agreement_text(known)
    if len(text) + 8 <= width:
        return _label("agrees", [text])
    rated, *how = re.split(r", | (?=at random)", rated_text(known))
    return _label("agrees", [f"AUROC {interval_text(known.auroc)}", f"κ {known.kappa:.2f}, {rated}", *how])


def guarantee_lines(known: ScoreAgreement | None, width: int) -> list[Content]:
    """What the threshold guarantees, and what is known of the accepted pairs; none before it was asked."""
    if known is None:
        return []
    promise = known.guarantee
    text = guarantee_text(known)
    if len(text) > width:
        if promise is not None and promise.ratings:
            rated = count(promise.ratings, "rating")
            text = f"at {promise.threshold:.1f}, {int(100 * promise.precision)} % or more good ({rated}, 95 %)"
        elif known.auroc is None:
            text = missing_text(known).replace("not enough ratings yet: ", "ratings missing: ").removesuffix(" missing")
            text = text.removesuffix(" are").removesuffix(" is")
        else:
            text = "no guarantee yet: none rated at random"
    more: list[str] = []
    if known.mean is not None:
        more.append(f"{percent_text(known.mean)} of all accepted are good")
    if (named := next((at for share, at in known.thresholds if share == _NAMED_PRECISION), None)) is not None:
        more.append(f"for {100 * _NAMED_PRECISION:.0f} %: {named:.1f}")
    return [styled((text, "bold" if promise is not None and promise.ratings else DIM)), *_joined(more, width)]


def people_text(mean: Estimate | None) -> str:
    """The mean that people would give, with its interval: "people 0.84 (0.76-0.91)"; empty where nothing is known."""
    return "" if mean is None else f"people {interval_text(mean)}"


def reliability_series(known: ScoreAgreement) -> list[Series]:
    """The reliability curve in per cent: what the score says along x, how many were good along y; and the ideal."""
    ideal, measured, low, high = Curve(), Curve(), Curve(), Curve()
    for value in (0.0, 100.0):
        ideal.add(value, value)
    for point in known.curve:
        measured.add(100 * point.score, 100 * point.good.value)
        low.add(100 * point.score, 100 * point.good.low)
        high.add(100 * point.score, 100 * point.good.high)
    return [
        Series("ideal", ideal, style="faint"),
        Series("", low, "points", "second", "▲"),
        Series("", high, "points", "second", "▼"),
        Series("as people say", measured, "points", "third", "◆"),
    ]


def reliability_lines(known: ScoreAgreement) -> Content:
    """The figures of agreement, and the reliability curve as a table."""
    if known.auroc is None or known.kappa is None or known.accuracy is None or known.calibration_error is None:
        return Content.styled(missing_text(known), DIM)
    figures = [
        ("ratings", f"{known.good:,} good, {known.bad:,} bad"),
        *([("figures", f"{known.at_random:,} at random")] if known.of == "audit" else []),
        *([("of these", f"{known.as_hard:,} as hard ones")] if known.as_hard and known.of == "all" else []),
        ("AUROC", interval_text(known.auroc)),
        ("κ", f"{known.kappa:.2f}"),
        ("yes or no", f"{100 * known.accuracy:.0f} % right"),
        ("off by", f"{100 * known.calibration_error:.0f} %"),
    ]
    parts: list[Any] = []
    for name, value in figures:
        parts += [(f"{name:<10}", DIM), (value, "bold"), "\n"]
    parts.append(("\n says  people say    rated", DIM))
    for point in known.curve:
        parts.append(f"\n{100 * point.score:3.0f} %  {percent_text(point.good):<14}{point.ratings:>5,}")
    return styled(*parts)


def _label(label: str, lines: Sequence[str]) -> list[Content]:
    return [styled((f"{label if not number else '':<8}", DIM), line) for number, line in enumerate(lines)]


def _wrapped(text: str, width: int) -> list[str]:
    """A sentence on one line, or broken after its colon."""
    if len(text) <= width:
        return [text]
    head, _, rest = text.partition(": ")
    return [f"{head}:", rest]


def _joined(parts: Sequence[str], width: int) -> list[Content]:
    """Parts on one line, without the last ones where there is no room."""
    kept = list(parts)
    while len(" · ".join(kept)) > width and len(kept) > 1:
        kept.pop()
    return [styled((" · ".join(kept), DIM))] if kept else []
