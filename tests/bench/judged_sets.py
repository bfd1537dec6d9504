"""Answers that people judged, and their features, for the benchmarks of the score.

A line of a set: `question`, `references` (a list), `answer`, `system` (who wrote it; what follows a "/" is the part of
the set), `label` (0-1, of one person or the mean of several).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_tui.scoring.features import answer_features

Records = Sequence[dict[str, Any]]
Matrix = NDArray[np.float64]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a set, or end with a line that says what is wrong with it."""
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            missing = {"question", "references", "answer", "label"} - record.keys()
        except (ValueError, AttributeError) as error:
            raise SystemExit(f"{path}, line {number}: {error}") from error
        if missing or not record["references"]:
            raise SystemExit(f"{path}, line {number}: no {', '.join(sorted(missing)) or 'reference'}")
        records.append(record)
    return records


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
