"""The data's part of a run's plan: examples trained on, held out and left out by reason, and warnings about them.

Without torch: what cannot be read is reported before that is imported.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_tui.config.models import Training
from lora_tui.engine.data.holdout import MIN_HELD_OUT
from lora_tui.engine.data.read import ReadResult
from lora_tui.text import count

if TYPE_CHECKING:
    from lora_tui.engine.training.loop import TrainingSet
    from lora_tui.engine.training.packing import PackableExample

_MOST_REASONS = 8
"""Different reasons that a plan lists: a file can hold as many as it has records."""

_SHOWN = 3
"""Examples that a warning names."""


def data_plan(
    data: ReadResult, data_file: Path, dataset: "TrainingSet", held_out: "Sequence[PackableExample]", training: Training
) -> dict[str, Any]:
    """Return the fields of a ``plan`` event that are about the data.

    `examples` are trained on, `held_out` are not; together with `dropped` they are the file's usable records, which
    `forms` counts by form, and `skipped` the others. `reasons` counts skipped, dropped and truncated ones by reason.
    Everyday examples, which `dataset` does not hold yet, are not of the file.
    """
    return {
        "data": str(data_file),
        "examples": len(dataset),
        "held_out": len(held_out),
        "held_out_tokens": sum(len(example.input_ids) for example in held_out),
        "forms": dict(data.forms),
        "skipped": len(data.skipped),
        "dropped": len(dataset.dropped),
        "truncated": dataset.truncated,
        "reasons": {
            "skipped": by_reason(record.reason for record in data.skipped),
            "dropped": by_reason(reason for _, reason in dataset.dropped),
            "truncated": by_reason([f"longer than {dataset.max_length:,} tokens"] * dataset.truncated),
        },
        "tokens": dataset.tokens,
    }


def data_warnings(dataset: "TrainingSet", held_out: "Sequence[PackableExample]", training: Training) -> list[str]:
    """Return warnings about examples that were dropped, cut, or changed by a chat template."""
    found = summarize_failures("These examples cannot be trained on with this model", dataset.dropped)
    if dataset.truncated:
        longer = count(dataset.truncated, "example")
        key = f"fine_tuning.training.max_length = {dataset.max_length}"
        limit = key if dataset.max_length == training.max_length else f"the {dataset.max_length:,} tokens of this model"
        found.append(f"{longer} longer than {limit} lost their end.")
    found += dataset.warnings
    if training.validation_share and not held_out:
        found.append(
            f"fine_tuning.training.validation_share = {training.validation_share:g}: the "
            f"{count(len(dataset), 'example')} are too few, or ask too few questions, to hold {MIN_HELD_OUT} out; "
            "all are trained on."
        )
    return found


def summarize_failures(heading: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    """Return one warning for many (place, reason): how many, and the first few of them; none for no entries."""
    if not entries:
        return []
    shown = "; ".join(f"{where}: {why}" for where, why in entries[:_SHOWN])
    return [f"{heading} ({len(entries):,}): {shown}{'; …' if len(entries) > _SHOWN else '.'}"]


def by_reason(reasons: Iterable[str]) -> dict[str, int]:
    """Count reasons, the most frequent first; those past the first few are counted as other reasons."""
    counted = Counter(reasons).most_common()
    rest = sum(times for _, times in counted[_MOST_REASONS:])
    return dict(counted[:_MOST_REASONS]) | ({"other reasons": rest} if rest else {})
