"""The weights of the built-in writer's score, fitted on pairs that a person marked.

    python -m tests.bench.writer_weights measure FOLDER [FOLDER ...] > measured.jsonl
    python -m tests.bench.writer_weights signs FOLDER [FOLDER ...] > signs.jsonl
    python -m tests.bench.writer_weights fit measured.jsonl [...] [--write]

The first makes every pair that rules (with `--completed`, the model too) find in the folders' texts, and has the model
measure each: a JSON line a pair, with all its signs. The second does so without the model. The third takes the marks of
``writer_marks.tsv`` (folder, ``x`` for sensible and right or ``-``, question, answer), fits a logistic sum with shrunk
weights, and prints how well each folder's pairs are told apart by weights that were fitted on the others. `--write`
writes ``pair_weights.py``.
"""

import argparse
import json
import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.builtin_writer import auroc

_MARKS = Path(__file__).with_name("writer_marks.tsv")
_WEIGHTS = Path(__file__).parents[2] / "lora_tui/engine/generation/pair_weights.py"
_SHRINKAGE = 4.0
"""Precision of the weights' prior: a sign has to be seen in some tens of pairs to count for much."""

_MEASURED = ("answer", "end")
"""What the model measures; pairs that it did not measure count with the mean."""

_NOT_MARKED = {"rule completed": -1.5, "code": -0.94}
"""Weights of signs that too few marked pairs have. Of 44 questions that the model completed, 23 were sensible. Code is
in the chapters of the Textual guide alone, which are left out: by weights of prose its pairs are told apart as chance
does (AUROC .54), and with them those of prose are told apart less well (.69, without .71)."""

_UNSEEN = -0.5
"""Added to the bias. Of the accepted pairs of texts that no rule had seen 59 of 83 were right (71 %), of those that the
rules were written on 86 of 100: in log odds a difference of 0.9. About half of the faults that made it are mended."""

_UNFITTED = frozenset(("gain", "fluency", "first word"))
"""What the model measures and the sum leaves out: beside the end of the question and the answer they told nothing more
(AUROC .745 with them, .747 without, over 944 pairs)."""

Floats = NDArray[np.float64]


def list_signs(folders: Sequence[Path]) -> None:
    """Print every pair that rules find in the folders' texts with its signs, without the model."""
    from lora_tui.engine.generation.questions.passage_facts import facts_of

    for folder in folders:
        seen: set[str] = set()
        for passage, topic, opening, beginnings in passages(folder):
            for fact in facts_of(passage, topic, opening, beginnings).facts:
                if fact.pair.question.casefold() not in seen:
                    seen.add(fact.pair.question.casefold())
                    signs = {name: round(value, 4) for name, value in fact.signs.items() if value}
                    row = {"folder": folder.name, "question": fact.pair.question, "answer": fact.pair.answer}
                    print(json.dumps({**row, "signs": signs}))


def measure(folders: Sequence[Path], *, completed: bool) -> None:
    """Print every pair of the folders' texts with its signs and what the model measures."""
    from lora_tui.config.load import load_settings  # the model's libraries are slow to import
    from lora_tui.engine.generation.builtin_model import BuiltinModel, _Passage
    from lora_tui.engine.generation.questions.passage_facts import facts_of
    from lora_tui.engine.models.base_model import load_base

    class Context:
        stop = threading.Event()

    base = load_base(load_settings(environment={}).settings, lambda *_, **__: None, "builtin")
    model = BuiltinModel(Context(), base)  # type: ignore[arg-type]  # as much of a run as it needs
    for folder in folders:
        seen: set[str] = set()
        for passage, topic, opening, beginnings in passages(folder):
            found = facts_of(passage, topic, opening, beginnings)
            facts = [*found.facts, *(model._completed_facts(_Passage(found, [])) if completed else [])]
            facts = [fact for fact in facts if fact.pair.question.casefold() not in seen]
            seen |= {fact.pair.question.casefold() for fact in facts}
            model._score(passage, facts)
            for fact in facts:
                trip = model._scores[passage, fact.pair.question, fact.pair.answer]
                signs = {name: round(value, 4) for name, value in {**trip.signs, **trip.measured}.items() if value}
                row = {"folder": folder.name, "question": fact.pair.question, "answer": fact.pair.answer}
                print(json.dumps({**row, "signs": signs}), flush=True)


def passages(folder: Path) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Yield each passage of a folder as generation cuts it, its topic, how its document begins if it is later, and how
    all documents begin.
    """
    from lora_tui.engine.generation.chunks import headings, split

    texts = {file: file.read_text() for file in sorted(folder.iterdir()) if file.suffix in (".txt", ".md")}
    cut = {file: split(text, 400, 40) for file, text in texts.items()}
    beginnings = tuple(text[cut[file][0].start : cut[file][0].end] for file, text in texts.items())
    for (file, text), beginning in zip(texts.items(), beginnings, strict=True):
        for chunk in cut[file]:
            passage = text[chunk.start : chunk.end]
            topic = (headings(passage) or [chunk.heading or file.stem])[0]
            yield passage, topic, "" if chunk is cut[file][0] else beginning, beginnings


def fit(files: Sequence[Path], *, write: bool) -> None:
    """Fit the weights, tell how they do on folders left out, and write them."""
    marks = {tuple(line.split("\t")[2:]): line[: line.rindex("\t")].split("\t")[1] for line in _lines(_MARKS)}
    rows = [json.loads(line) for file in files for line in _lines(file)]
    rows = [row for row in rows if (row["question"], row["answer"]) in marks]
    right = np.array([marks[row["question"], row["answer"]] == "x" for row in rows], float)
    folders = np.array([row["folder"] for row in rows])
    counts: dict[str, int] = {}
    for row in rows:
        for name in row["signs"]:
            counts[name] = counts.get(name, 0) + 1
    names = sorted(name for name, count in counts.items() if count >= 5 and name not in _UNFITTED)
    signs = np.array([[row["signs"].get(name, 0.0) for name in names] for row in rows])
    measured = np.array([any(name in row["signs"] for name in _MEASURED) for row in rows])
    for place, name in enumerate(names):
        if name in _MEASURED:
            signs[~measured, place] = signs[measured, place].mean()
    levels = np.zeros(len(rows))
    for folder in sorted(set(folders)):
        left_out = folders == folder
        bias, weights = logistic(signs[~left_out], right[~left_out])
        levels[left_out] = 1 / (1 + np.exp(-(signs[left_out] @ weights + bias)))
        _tell(folder, levels[left_out], right[left_out])
    _tell("all, each folder left out in turn", levels, right)
    for low in np.arange(0.0, 1.0, 0.1):
        within = (levels >= low) & (levels < low + 0.1)
        if within.any():
            share = 10 * right[within].mean()
            print(f"    said {10 * low:.0f}-{10 * low + 1:.0f}: {within.sum()} pairs, {share:.1f} right of ten")
    bias, weights = logistic(signs, right)
    if write:
        _write(bias + _UNSEEN, _NOT_MARKED | dict(zip(names, weights, strict=True)))


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line.strip()]


def logistic(signs: Floats, right: Floats) -> tuple[float, Floats]:
    """Return bias and weights of a logistic sum with a normal prior on the weights, none on the bias (Newton's method).

    `signs` is ``(pairs, signs)``, `right` ``(pairs,)`` of 0 and 1.
    """
    inputs = np.hstack([signs, np.ones((len(signs), 1))])
    precision = np.append(np.full(signs.shape[1], _SHRINKAGE), 1e-6)
    weights = np.zeros(signs.shape[1] + 1)
    weights[-1] = math.log(right.mean() / (1 - right.mean()))
    for _ in range(100):
        level = 1 / (1 + np.exp(-(inputs @ weights)))
        gradient = inputs.T @ (right - level) - precision * weights
        curvature = (inputs * (level * (1 - level))[:, None]).T @ inputs + np.diag(precision)
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[-1]), weights[:-1]


def _tell(what: str, levels: Floats, right: Floats) -> None:
    kept = levels >= 0.7
    share = f"{right[kept].mean():.0%}" if kept.any() else "none"
    curve = auroc(list(levels[right == 1]), list(levels[right == 0]))
    print(
        f"{what}: {right.sum():.0f} of {len(right)} right; AUROC {curve:.2f}; 7 or above: {kept.sum()}, {share} right"
    )


def _write(bias: float, weights: Mapping[str, float]) -> None:
    text = _WEIGHTS.read_text()
    shown = "".join(
        f'    "{name}": {weight:.2f},\n' for name, weight in sorted(weights.items()) if abs(weight) >= 0.005
    )
    head = text[: text.index("BIAS")]
    _WEIGHTS.write_text(f"{head}BIAS = {bias:.2f}\nWEIGHTS: Mapping[str, float] = {{\n{shown}}}\n")


def main() -> None:
    """Measure pairs, or fit the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("measure", "signs", "fit"))
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--completed", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.what == "measure":
        measure(arguments.paths, completed=arguments.completed)
    elif arguments.what == "signs":
        list_signs(arguments.paths)
    else:
        fit(arguments.paths, write=arguments.write)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
