"""Whether what ratings promise is kept: guarantees and intervals from a few ratings, held against all the others.

    python -m tests.bench.score_guarantees FILE.jsonl … [--ratings N --draws 60]

From each set (`judged_sets`) N answers are drawn as if a person had rated them at random, and what the program would
show is computed from these alone. Prints one JSON object a file, shares over the draws: `guarantee_kept` (the precision
at 7.0 was at least what was promised), `threshold_kept` (at the threshold for a precision of 0.8 it was at least that,
in `threshold_found` of the draws), `mean_inside` and `auroc_inside` (the truth lay in the interval of 95 %), and the
mean width of the prediction-powered interval of 400 other answers beside that of the ratings alone.
"""

import argparse
import json
import random
import statistics
from pathlib import Path
from typing import Any

from lora_tui.engine.review.aggregators import EVALUATION, PRIORS
from lora_tui.engine.review.agreement import statistics_of
from lora_tui.scoring.aggregator import DEFAULT_LEARNING_RATE, AdaptiveAggregator
from lora_tui.scoring.agreement import auroc
from lora_tui.scoring.guarantee import precision_bound
from lora_tui.store.queries.ratings import RatingRow
from tests.bench.judged_sets import Records, best_reference, read

_OTHERS = 400
_PRECISION = 0.8


def main() -> None:
    """Measure each file and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--ratings", type=int, default=100, metavar="N")
    parser.add_argument("--draws", type=int, default=60)
    given = parser.parse_args()
    for file in given.files:
        rows = rating_rows(read(file))
        found = [one for draw in range(given.draws) if (one := kept(rows, given.ratings, draw)) is not None]
        shares: dict[str, Any] = {"set": file.stem, "ratings": given.ratings, "draws": len(found)}
        for name in found[0]:
            known = [one[name] for one in found if one[name] is not None]
            shares[name] = round(statistics.fmean(known), 4) if known else None
        print(json.dumps(shares), flush=True)


def rating_rows(records: Records) -> list[RatingRow]:
    """Return the answers as if each had been rated at random."""
    score = AdaptiveAggregator(PRIORS[EVALUATION]).score
    rows = []
    for record in records:
        _, metrics = best_reference(record["answer"], record["references"], record["question"], score)
        target = float(record["label"] > 0.5)
        rows.append(RatingRow(dict(metrics), target, True, True, record["question"]))
    return rows


def kept(rows: list[RatingRow], ratings: int, draw: int) -> dict[str, float | None] | None:
    """Return what held in one draw, as 1 or 0; None where it had fewer than ten of a kind."""
    rng = random.Random(draw)
    order = rng.sample(range(len(rows)), len(rows))
    rated = statistics_of(EVALUATION, [rows[index] for index in order[:ratings]], DEFAULT_LEARNING_RATE)
    known = rated.agreement
    found = rated.threshold_for(_PRECISION)
    if known.auroc is None:
        return None
    promise = precision_bound(0.7, rated.scores, [target > 0.5 for target in rated.targets])
    rest = [rows[index] for index in order[ratings:]]
    scores = [rated.aggregator.score(row.metrics) for row in rest]
    good = [row.target > 0.5 for row in rest]

    def precision(threshold: float) -> float:
        return statistics.fmean(label for score, label in zip(scores, good, strict=True) if 10 * score >= threshold)

    mean, share = rated.mean(scores[:_OTHERS]), known.good / ratings
    return {
        "guarantee": promise.low,
        "guarantee_kept": float(promise.low <= precision(7.0)),
        "threshold_found": float(found is not None),
        "threshold_kept": None if found is None else float(precision(found.threshold) >= _PRECISION),
        "mean_inside": None if mean is None else float(mean.low <= statistics.fmean(good) <= mean.high),
        "mean_width": None if mean is None else mean.high - mean.low,
        "ratings_width": 2 * 1.96 * (share * (1 - share) / ratings) ** 0.5,
        "auroc_inside": float(known.auroc.low <= auroc(scores, good) <= known.auroc.high),
    }


if __name__ == "__main__":
    main()
