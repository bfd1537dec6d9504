"""How well the score agrees with people who judged the same answers, before and after ratings of the user's own.

    python -m tests.bench.score_agreement FILE.jsonl … [--prior-from OTHER.jsonl …] [--ratings N --draws 30]

Prints one JSON object a file: `set`, `n`, `auroc` with `auroc_ci` (95 %, clustered by question), `kappa` and `accuracy`
of p >= 0.5, `ece` (ten bins of equal width), `spearman` with the labels, `systems_spearman` and `systems_error` (mean
score of each system against its mean label, the largest difference), and `seconds_per_1000` answers. A set is described
in `judged_sets`. Without `--prior-from` the shipped prior scores; with it, one derived from the sets that are named.

With `--ratings N` the questions are cut in halves, N answers to questions of one half are rated, and those of the other
are scored: `rated` holds the means over the draws, of the prior alone on the same answers (`prior_…`) and after, and
the share of draws in which the AUROC fell. `--update gradient` takes one gradient step a rating in the prior's metric
instead of the most probable weights, for comparison; `--learning-rate` is as in the
configuration, `--deviation` that of the prior.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lora_tui.scoring.aggregator import DEFAULT_LEARNING_RATE, AdaptiveAggregator
from lora_tui.scoring.agreement import auroc_interval, kappa
from lora_tui.scoring.priors import EVALUATION_PRIOR, Prior
from tests.bench.judged_sets import Matrix, Records, best_reference, read
from tests.bench.score_prior import derive

Metrics = dict[str, float]


def main() -> None:
    """Measure each file and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--prior-from", nargs="+", type=Path, default=[], metavar="OTHER.jsonl")
    parser.add_argument("--ratings", type=int, default=0, metavar="N")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=DEFAULT_LEARNING_RATE)
    parser.add_argument("--deviation", type=float, help="of the prior's weights, instead of its own")
    parser.add_argument("--update", choices=("map", "gradient"), default="map")
    given = parser.parse_args()
    if given.ratings < 0 or given.draws < 1:
        parser.error("--ratings must be 0 or more, --draws 1 or more")
    prior = derive([read(file) for file in given.prior_from]) if given.prior_from else EVALUATION_PRIOR
    if given.deviation is not None:
        prior = replace(prior, deviation=given.deviation)
    for file in given.files:
        records = read(file)
        scorer = AdaptiveAggregator(prior)
        started = time.process_time()
        scored = [
            best_reference(record["answer"], record["references"], record["question"], scorer.score)
            for record in records
        ]
        seconds = time.process_time() - started
        found = measure(records, [score for score, _ in scored])
        found = {"set": records[0].get("set", file.stem), **found}
        found["seconds_per_1000"] = round(1000 * seconds / len(records), 2)
        if given.ratings:
            metrics = [metrics for _, metrics in scored]
            learn = _gradient_scores if given.update == "gradient" else _learnt_scores
            found["rated"] = after_ratings(
                records, metrics, prior, given.ratings, given.draws, given.learning_rate, learn
            )
        print(json.dumps(found), flush=True)


def measure(records: Records, scores: Sequence[float]) -> dict[str, Any]:
    """Return the figures of one set of scores; a label from 0.5 on is an accepted answer."""
    labels = [float(record["label"]) for record in records]
    accepted = [label >= 0.5 for label in labels]
    both = len(set(accepted)) == 2
    interval = auroc_interval(scores, accepted, [record["question"] for record in records]) if both else None
    systems = sorted({_system(record) for record in records})
    of_system = [
        (
            statistics.fmean(score for score, record in zip(scores, records, strict=True) if _system(record) == name),
            statistics.fmean(label for label, record in zip(labels, records, strict=True) if _system(record) == name),
        )
        for name in systems
    ]
    means, truths = [mean for mean, _ in of_system], [truth for _, truth in of_system]
    return {
        "n": len(records),
        "auroc": _rounded(interval.estimate if interval else None),
        "auroc_ci": [_rounded(interval.low), _rounded(interval.high)] if interval else None,
        "kappa": _rounded(kappa(scores, accepted) if both else None),
        "accuracy": _rounded(
            statistics.fmean((score >= 0.5) == label for score, label in zip(scores, accepted, strict=True))
        ),
        "ece": _rounded(calibration_error(scores, labels)),
        "spearman": _rounded(spearman(scores, labels)),
        "systems_spearman": _rounded(spearman(means, truths)) if len(systems) > 2 else None,
        "systems_error": _rounded(max(abs(mean - truth) for mean, truth in of_system)),
    }


def after_ratings(
    records: Records,
    metrics: Sequence[Metrics],
    prior: Prior,
    ratings: int,
    draws: int,
    learning_rate: float,
    learn: Any,
) -> dict[str, Any]:
    """Return the mean figures on questions that nobody rated, of the prior and after `ratings` of the others."""
    questions = sorted({record["question"] for record in records})
    befores, afters = [], []
    for draw in range(draws):
        rng = random.Random(draw)
        half = set(rng.sample(questions, len(questions) // 2))
        rateable = [index for index, record in enumerate(records) if record["question"] in half]
        log = rng.sample(rateable, min(ratings, len(rateable)))
        kept = [index for index, record in enumerate(records) if record["question"] not in half]
        held = [records[index] for index in kept]
        score = AdaptiveAggregator(prior).score
        befores.append(measure(held, [score(metrics[index]) for index in kept]))
        rated = [(metrics[index], float(records[index]["label"])) for index in log]
        afters.append(measure(held, learn(prior, rated, learning_rate, [metrics[index] for index in kept])))
    names = ("auroc", "kappa", "accuracy", "ece", "spearman", "systems_spearman", "systems_error")
    found: dict[str, Any] = {"ratings": ratings, "draws": draws}
    for name in names:
        both = [
            (before[name], after[name])
            for before, after in zip(befores, afters, strict=True)
            if before[name] is not None and after[name] is not None
        ]
        found[f"prior_{name}"] = _rounded(statistics.fmean(before for before, _ in both) if both else None)
        found[name] = _rounded(statistics.fmean(after for _, after in both) if both else None)
        if name == "auroc":  # a half with answers of one kind alone has none
            gains = [after - before for before, after in both]
            found["auroc_draws"] = len(gains)
            found["auroc_ci"] = _interval([after for _, after in both])
            found["auroc_gain_ci"] = _interval(gains)
            found["auroc_fell"] = _rounded(statistics.fmean(gain < 0 for gain in gains) if gains else None)
    return found


def _interval(values: Sequence[float]) -> list[float | None] | None:
    """Return the 95 % interval of the mean over draws; None where there are fewer than two."""
    if len(values) < 2:
        return None
    mean, spread = statistics.fmean(values), 1.96 * statistics.stdev(values) / len(values) ** 0.5
    return [_rounded(mean - spread), _rounded(mean + spread)]


def _learnt_scores(
    prior: Prior, rated: Sequence[tuple[Metrics, float]], learning_rate: float, asked: Sequence[Metrics]
) -> list[float]:
    aggregator = AdaptiveAggregator(prior, learning_rate)
    for metrics, target in rated:
        aggregator.update(metrics, target)
    return [aggregator.score(metrics) for metrics in asked]


def _gradient_scores(
    prior: Prior, rated: Sequence[tuple[Metrics, float]], learning_rate: float, asked: Sequence[Metrics]
) -> list[float]:
    """Scores after one step a rating down the log-loss, by the prior's covariance times the gradient."""
    names = [name for name in prior.weights if name != "likelihood"]
    signs = np.array([-1.0 if name in prior.against else 1.0 for name in names])
    weights = np.array([prior.weights[name] for name in names])
    bias, rate = prior.bias, prior.deviation**2 * learning_rate / DEFAULT_LEARNING_RATE
    for metrics, target in rated:
        row = np.array([metrics[name] for name in names])
        wrong = float(1 / (1 + np.exp(-(bias + row @ weights)))) - target
        weights = signs * np.maximum(0, signs * (weights - rate * wrong * row))
        bias -= rate * wrong
    moved = Prior(
        {name: float(dict(zip(names, weights, strict=True)).get(name, 0.0)) + 0.0 for name in prior.weights},
        bias,
        prior.deviation,
        prior.usual,
        prior.against,
        prior.equal_when,
        prior.empty_when,
    )
    score = AdaptiveAggregator(moved).score
    return [score(metrics) for metrics in asked]


def calibration_error(scores: Sequence[float], labels: Sequence[float]) -> float:
    """Return the mean distance of mean score and mean label over ten bins of equal width, weighed by their counts."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for score, label in zip(scores, labels, strict=True):
        bins.setdefault(min(9, int(10 * score)), []).append((score, label))
    return sum(abs(sum(score for score, _ in held) - sum(label for _, label in held)) for held in bins.values()) / len(
        scores
    )


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the rank correlation, ties at their mean rank; None where one side does not vary."""
    a, b = _ranks(one), _ranks(other)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Sequence[float]) -> Matrix:
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def _system(record: dict[str, Any]) -> str:
    return str(record.get("system", "")).partition("/")[0]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    main()
