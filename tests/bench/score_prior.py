"""Derive the prior of the answers' score from people's judgements, and print it as `scoring/priors.py` holds it.

    python -m tests.bench.score_prior FOLDER_OR_FILE … [--print-table]

A logistic regression with a bias and signs over the features of `scoring/features.py`. Each set counts as 1,500
judgements, however many it has, under a ridge of 10. What people's answers hardly ever do (deny, take back, offer two)
cannot be learnt from their labels, so the changed answers of `score_attacks` stand beside them: 300 comparisons a set,
spread over the six ways, each saying only that the changed answer is worse than the one it was made from. They move no
probability by themselves, and the people's labels hold the weights where such words are innocent.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lora_tui.scoring.logistic import fit
from lora_tui.scoring.priors import AGREEMENT, CONTRADICTION, Prior, Usual
from tests.bench.judged_sets import Matrix, Records, best_rows, feature_rows, read
from tests.bench.score_attacks import attacks

COMPUTED = tuple(name for name in (*AGREEMENT, *CONTRADICTION) if name != "likelihood")
_SIGNS = [-1 if name in CONTRADICTION else 1 for name in COMPUTED]
_SET_COUNT, _COMPARISONS, _RIDGE = 1500.0, 300.0, 10.0
_OLD = ("exact_match", "token_f1", "bleu", "rouge1", "rouge2", "rougeL")
_ROUNDS = 3
"""How often the reference that an answer does best by is chosen anew, with the weights found so far."""


def derive(sets: Sequence[Records], deviation: float = 0.3) -> Prior:
    """Return the prior that sets of judged answers give."""
    prepared = [(feature_rows(records, COMPUTED), *_comparisons(records), records) for records in sets]
    weights = np.array([1.0 if name in ("content_recall", "containment") else 0.01 * sign for name, sign in _named()])
    for _ in range(_ROUNDS):
        rows, targets, counts = [], [], []
        for beside, originals, changes, comparison_counts, records in prepared:
            chosen = best_rows(beside, weights)
            rows.append(np.hstack([chosen, np.ones((len(chosen), 1))]))
            targets.append(np.array([record["label"] for record in records]))
            counts.append(np.full(len(chosen), _SET_COUNT / len(chosen)))
            if originals:  # a difference has no bias: only which of both is better
                differences = best_rows(originals, weights) - best_rows(changes, weights)
                rows.append(np.hstack([differences, np.zeros((len(differences), 1))]))
                targets.append(np.ones(len(differences)))
                counts.append(comparison_counts)
        precision = np.full(len(COMPUTED) + 1, _RIDGE)
        precision[-1] = 1e-6
        found = fit(
            np.vstack(rows),
            np.concatenate(targets),
            np.concatenate(counts),
            np.zeros(sum(map(len, rows))),
            np.zeros(len(COMPUTED) + 1),
            precision,
            [*_SIGNS, 0],
        ).coefficients
        weights, bias = found[:-1], float(found[-1])
    typical = np.vstack(
        [best_rows(beside, weights)[:: max(1, len(beside) // int(_SET_COUNT))] for beside, *_ in prepared]
    )
    return _prior(dict(zip(COMPUTED, weights, strict=True)), bias, typical, deviation)


def _named() -> list[tuple[str, int]]:
    return list(zip(COMPUTED, _SIGNS, strict=True))


def _comparisons(records: Records) -> tuple[list[Matrix], list[Matrix], Matrix]:
    """Return the features of accepted answers, of what was made of them, and how much each comparison counts."""
    originals: list[Matrix] = []
    changes: list[Matrix] = []
    counts: list[float] = []
    made = attacks(records, 300, seed=7)
    for pairs in made.values():
        originals += feature_rows([record for record, _ in pairs], COMPUTED)
        changes += feature_rows([record | {"answer": changed} for record, changed in pairs], COMPUTED)
        counts += [_COMPARISONS / len(made) / len(pairs)] * len(pairs)
    return originals, changes, np.array(counts)


def _prior(weights: dict[str, float], bias: float, typical: Matrix, deviation: float) -> Prior:
    """Return the prior with what is usual of each metric beside those that scores of old had, which lack the others."""
    rounded = {name: round(float(weight), 2) + 0.0 for name, weight in weights.items()}
    means = dict(zip(COMPUTED, typical.mean(axis=0).round(3), strict=True))
    shares = np.array([abs(rounded[name]) + 0.05 if name in _OLD else 0.0 for name in COMPUTED])
    shares = shares / shares.sum()
    known = typical @ shares
    usually = float(np.array([means[name] for name in COMPUTED]) @ shares)
    usual = {}
    for i, name in enumerate(COMPUTED):
        bends = [0.0] if name in CONTRADICTION else [0.05 * step for step in range(1, 31)]
        tried = [Usual(float(means[name]), round(bend, 2), 0.0) for bend in bends]
        left = [float((typical[:, i] - [one.beside(float(at), usually) for at in known]).std()) for one in tried]
        best = int(np.argmin(left))
        usual[name] = Usual(tried[best].mean, tried[best].bend, round(left[best], 3))
    # No judged set tells a model's likelihoods: half is as good a guess as any, and ratings give it its weight.
    place = list(rounded).index("rougeL") + 1
    items = [*list(rounded.items())[:place], ("likelihood", 0.0), *list(rounded.items())[place:]]
    usual["likelihood"] = Usual(0.5, 0.0, 0.3)
    return Prior(
        dict(items),
        round(bias, 2),
        deviation,
        {name: usual[name] for name, _ in items},
        frozenset(CONTRADICTION),
        "exact_match",
        "empty",
    )


def main() -> None:
    """Print the prior of the sets that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path, metavar="FOLDER_OR_FILE")
    given = parser.parse_args()
    files = [file for path in given.sets for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    prior = derive([read(file) for file in files])
    print("_ANSWERS: Mapping[str, tuple[float, float, float, float]] = {")
    for name, weight in prior.weights.items():
        usual = prior.usual[name]
        print(f'    "{name}": ({weight:g}, {usual.mean:g}, {usual.bend:g}, {usual.deviation:g}),')
    print("}")
    print(f"_ANSWERS_BIAS = {prior.bias:g}")


if __name__ == "__main__":
    main()
