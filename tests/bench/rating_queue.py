"""How many ratings the queue needs to teach the score what ratings of random answers teach it.

    python -m tests.bench.rating_queue FILE.jsonl … [--prior-from OTHER.jsonl …] [--ratings 100] [--draws 30] [--rules]

Prints one JSON object a file and rule. A draw cuts the questions in halves: answers to those of one half can be rated,
answers to those of the other are scored. The queue chooses as in the program (`engine/review/queue.py`: one in four an
audit, the others what teaches most of at most 400), each label is the person's, and the AUROC is taken after every
fifth rating. `needed` is the median over the draws of the ratings after which it is first as high as after
`--ratings` random ones of the same draw (more than all: `--ratings` + 5); `curve` is the same read off the mean
curves, which no lucky crossing moves. `gain` has the mean gain over the prior's AUROC, in units of 0.0001, after so
many ratings, `worst` the gain of the worst draw in ten.

`--rules` compares other rules with it: `half` (p next to 0.5), `variance` (of the log-odds alone), `mean variance`
(what lowers the mean variance of all log-odds most), `order` (that of their differences), `diverse` (information, far
from what was asked before). A set is described in `judged_sets`.
"""

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_tui.engine.review.queue import most_instructive, shortlist
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.agreement import auroc
from lora_tui.scoring.logistic import fit
from lora_tui.scoring.priors import EVALUATION_PRIOR, Prior
from lora_tui.store.feedback import AUDIT
from tests.bench.judged_sets import Records, best_rows, feature_rows, read
from tests.bench.score_prior import COMPUTED, derive

Matrix = NDArray[np.float64]

RULES = ("random", "information", "half", "variance", "mean variance", "order", "diverse")
_EVERY = 5
_CHECKED = 3
"""Choices of each draw that are compared with those of the program's own functions, on its own aggregator."""


class Answers:
    """The judged answers of a set as the score sees them: `(answers, metrics and a bias)`, labels, questions."""

    def __init__(self, records: Records, prior: Prior) -> None:
        weights = np.array([prior.weights[name] for name in COMPUTED])
        computed = best_rows(feature_rows(records, COMPUTED), weights)
        columns = {name: computed[:, i] for i, name in enumerate(COMPUTED)}
        self.metrics = [dict(zip(COMPUTED, map(float, row), strict=True)) for row in computed]
        aggregator = AdaptiveAggregator(prior)  # it fills in what is missing: the likelihood
        self.rows: Matrix = np.array([aggregator._row(metrics)[0] for metrics in self.metrics])
        self.labels = np.array([float(record["label"] >= 0.5) for record in records])
        self.questions = [str(record["question"]) for record in records]
        self.name = str(records[0].get("set", ""))
        self._exact, self._empty = columns[prior.equal_when] == 1.0, columns[prior.empty_when] == 1.0

    def auroc(self, which: Matrix, coefficients: Matrix) -> float:
        """The AUROC of these answers by these coefficients."""
        p = _sigmoid(self.rows[which] @ coefficients)
        p = np.where(self._exact[which], 0.99 + 0.01 * p, np.where(self._empty[which], 0.02 * p, p))
        return auroc(p.tolist(), (self.labels[which] > 0).tolist())


class Weights:
    """What ratings make of the prior: coefficients and their covariance."""

    def __init__(self, prior: Prior) -> None:
        self._mean = np.array([*prior.weights.values(), prior.bias])
        self._precision = np.full(len(self._mean), prior.deviation**-2)
        self._signs = [*(-1 if name in prior.against else 1 for name in prior.weights), 0]
        self.coefficients = self._mean
        self.covariance: Matrix = np.diag(1 / self._precision)

    def learn(self, rows: Matrix, labels: Matrix) -> None:
        """Take in all ratings so far."""
        ones, zeros = np.ones(len(rows)), np.zeros(len(rows))
        found = fit(rows, labels, ones, zeros, self._mean, self._precision, self._signs)
        self.coefficients, self.covariance = found.coefficients, found.covariance


def choose(rule: str, rows: Matrix, weights: Weights, asked: Matrix) -> int:
    """Return which of these rows a rule asks about, with those that were `asked` about before."""
    p = _sigmoid(rows @ weights.coefficients)
    spread = np.einsum("ij,jk,ik->i", rows, weights.covariance, rows)
    doubt = p * (1 - p)
    if rule == "half":
        return int(np.argmin(np.abs(p - 0.5)))
    if rule == "variance":
        return int(np.argmax(spread))
    if rule == "information":
        return int(np.argmax(spread * doubt))
    if rule == "diverse":
        far = np.min(np.linalg.norm(rows[:, None] - asked[None], axis=2), axis=1) if len(asked) else 1.0
        return int(np.argmax(spread * doubt * far))
    together = rows @ weights.covariance @ rows.T
    if rule == "order":
        together = together - together.mean(axis=1, keepdims=True)
    return int(np.argmax((together**2).sum(axis=1) * doubt / (1 + doubt * spread)))


def one_draw(answers: Answers, prior: Prior, rule: str, ratings: int, draw: int) -> tuple[float, list[float]]:
    """Return the AUROC before any rating, and after every fifth."""
    rng = random.Random(draw)
    questions = sorted(set(answers.questions))
    rng.shuffle(questions)
    half = set(questions[: len(questions) // 2])
    rated_half = np.array([question in half for question in answers.questions])
    test = np.flatnonzero(~rated_half)
    left = np.flatnonzero(rated_half).tolist()
    weights, asked, found = Weights(prior), [], []
    before = answers.auroc(test, weights.coefficients)
    audits = 0
    for number in range(ratings):
        if rule == "random":
            chosen = rng.choice(left)
        else:
            # Ids of their own in each draw: which answers are audits is a hash of the id.
            offset = (draw + 1) * 1_000_000
            listed, kind = shortlist("sample", [offset + index for index in left], audits, number - audits)
            candidates = [index - offset for index in listed]
            audits += kind == AUDIT
            chosen = candidates[0]
            if kind != AUDIT:
                chosen = candidates[choose(rule, answers.rows[candidates], weights, answers.rows[asked])]
                if rule == "information" and number < _CHECKED:
                    _compare(answers, prior, asked, candidates, chosen)
        asked.append(chosen)
        left.remove(chosen)
        if rule != "random" or (number + 1) % _EVERY == 0:
            weights.learn(answers.rows[asked], answers.labels[asked])
        if (number + 1) % _EVERY == 0:
            found.append(answers.auroc(test, weights.coefficients))
    return before, found


def _compare(answers: Answers, prior: Prior, asked: Sequence[int], candidates: Sequence[int], chosen: int) -> None:
    """End where the program's own functions would have asked about another answer."""
    aggregator = AdaptiveAggregator(prior)
    for index in asked:
        aggregator.update(answers.metrics[index], answers.labels[index])
    best = most_instructive(aggregator, {index: answers.metrics[index] for index in candidates})
    if not np.allclose(answers.rows[best], answers.rows[chosen]):
        raise SystemExit(f"the program asks about {best}, the benchmark about {chosen}")


def measure(answers: Answers, prior: Prior, rules: Sequence[str], ratings: int, draws: int) -> list[dict[str, Any]]:
    """Return one object a rule."""
    curves = {rule: [one_draw(answers, prior, rule, ratings, draw) for draw in range(draws)] for rule in rules}
    steps = list(range(_EVERY, ratings + 1, _EVERY))
    goals = [found[-1] for _, found in curves["random"]]
    mean_goal = statistics.fmean(goals)
    lines = []
    for rule, drawn in curves.items():
        gains = np.array([[after - before for after in found] for before, found in drawn]) * 1e4
        mean = [statistics.fmean(column) for column in zip(*(found for _, found in drawn), strict=True)]
        needed = [_first(steps, found, goal) for (_, found), goal in zip(drawn, goals, strict=True)]
        shown = [i for i, step in enumerate(steps) if step % 20 == 0]
        lines.append(
            {
                "set": answers.name,
                "rule": rule,
                "draws": draws,
                "prior_auroc": round(statistics.fmean(before for before, _ in drawn), 4),
                "needed": statistics.median(needed),
                "curve": _first(steps, mean, mean_goal),
                "gain": {steps[i]: round(float(gains[:, i].mean()), 1) for i in shown},
                "worst": {steps[i]: round(float(np.quantile(gains[:, i], 0.1)), 1) for i in shown},
            }
        )
    return lines


def _first(steps: Sequence[int], curve: Sequence[float], goal: float) -> int:
    return next((step for step, value in zip(steps, curve, strict=True) if value >= goal), steps[-1] + _EVERY)


def _sigmoid(z: Matrix) -> Matrix:
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -500, 500))))


def main() -> None:
    """Measure each file and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--prior-from", nargs="+", type=Path, default=[], metavar="OTHER.jsonl")
    parser.add_argument("--ratings", type=int, default=100)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--rules", action="store_true")
    given = parser.parse_args()
    prior = derive([read(file) for file in given.prior_from]) if given.prior_from else EVALUATION_PRIOR
    rules = RULES if given.rules else RULES[:2]
    for file in given.files:
        for line in measure(Answers(read(file), prior), prior, rules, given.ratings, given.draws):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
