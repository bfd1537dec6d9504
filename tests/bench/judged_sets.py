"""Answers that people judged, and their features, for the benchmarks of the score.

A line of a set: `question`, `references` (a list), `answer`, `system` (who wrote it; what follows a "/" is the part of
the set), `label` (0-1, of one person or the mean of several).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_tui.scoring.features import answer_features

Records = Sequence[dict[str, Any]]
Matrix = NDArray[np.float64]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a set, or end with a line that says what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: {error}") from error
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise SystemExit(f"{path}, line {number}: {error}") from error
        if wrong := _wrong(record):
            raise SystemExit(f"{path}, line {number}: {wrong}")
        records.append(record)
    if not records:
        raise SystemExit(f"{path}: there is no record in it")
    return records


def _wrong(record: Any) -> str | None:
    """Return what is wrong with a record, or None."""
    if not isinstance(record, dict):
        return "not an object"
    if missing := {"question", "references", "answer", "label"} - record.keys():
        return f"no {', '.join(sorted(missing))}"
    references, label = record["references"], record["label"]
    if not isinstance(references, list) or not references or not all(isinstance(one, str) for one in references):
        return "references must be a list of one text or more"
    if not isinstance(record["question"], str) or not isinstance(record["answer"], str):
        return "question and answer must be texts"
    if not isinstance(label, int | float) or not 0 <= label <= 1:  # true and false are 1 and 0
        return f"label is {label!r}; it must be a number in 0-1"
    return None


def feature_rows(records: Records, names: Sequence[str]) -> list[Matrix]:
    """Return, for each answer, its features beside each of its references: `(references, names)`."""
    return [
        np.array(
            [
                [features[name] for name in names]
                for reference in dict.fromkeys(record["references"])
                if (features := answer_features(record["answer"], reference, record["question"]))
            ]
        )
        for record in records
    ]


def best_rows(rows: Sequence[Matrix], coefficients: Matrix) -> Matrix:
    """Return the row of the reference that each answer does best by, `(answers, names)`."""
    return np.array([beside[int((beside @ coefficients).argmax())] for beside in rows])


def best_reference(
    answer: str, references: Iterable[str], question: str, score: Callable[[Mapping[str, float]], float]
) -> tuple[float, dict[str, float]]:
    """Return score and features of an answer beside the one of several references that it does best by.

    Raises:
        ValueError: There is no reference.
    """
    best: tuple[float, dict[str, float]] | None = None
    for reference in dict.fromkeys(references):
        features = answer_features(answer, reference, question)
        scored = score(features)
        if best is None or scored > best[0]:
            best = scored, features
    if best is None:
        raise ValueError("an answer is scored beside at least one reference")
    return best
