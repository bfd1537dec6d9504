"""What a run says of its data before the first step: what is trained on, what is left out, what to watch for."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_tui.config.models import Training
from lora_tui.engine.data.holdout import MIN_HELD_OUT
from lora_tui.engine.data.read import ReadResult
from lora_tui.text import count

if TYPE_CHECKING:
    from lora_tui.engine.training.dataset import TextDataset
    from lora_tui.engine.training.packing import EncodedExample

_MOST_REASONS = 8
"""Different reasons that a plan lists; a file can hold as many as it has records."""

_SHOWN = 3
"""Skipped or dropped examples that a warning names."""


def data_plan(
    data: ReadResult, data_file: Path, dataset: "TextDataset", held_out: "Sequence[EncodedExample]", training: Training
) -> dict[str, Any]:
    """Return the part of a ``plan`` event that is about the data.

    `examples` are trained on, `held_out` are not; together with `dropped` they are the file's usable records, which
    `forms` counts by form, and `skipped` the others. `reasons` counts each of the fates by its reasons.
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
            "truncated": by_reason([f"longer than {training.max_length:,} tokens"] * dataset.truncated),
        },
        "tokens": dataset.tokens,
        "label_tokens": dataset.label_tokens,
    }


def data_warnings(dataset: "TextDataset", held_out: "Sequence[EncodedExample]", training: Training) -> list[str]:
    """Return what the author of the data may not expect: examples that were dropped, cut or changed by a template."""
    found = named("These examples cannot be trained on with this model", dataset.dropped)
    if dataset.truncated:
        longer = count(dataset.truncated, "example")
        found.append(f"{longer} longer than fine_tuning.training.max_length = {training.max_length} lost their end.")
    found += dataset.remarks
    if training.validation_share and not held_out:
        found.append(
            f"fine_tuning.training.validation_share = {training.validation_share:g}: the "
            f"{count(len(dataset), 'example')} are too few, or ask too few questions, to hold {MIN_HELD_OUT} out; "
            "all are trained on."
        )
    return found


def named(heading: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    """Return one warning for many (place, reason): how many, and the first few by name; none for no entries."""
    if not entries:
        return []
    shown = "; ".join(f"{where}: {why}" for where, why in entries[:_SHOWN])
    return [f"{heading} ({len(entries):,}): {shown}{'; …' if len(entries) > _SHOWN else '.'}"]


def by_reason(reasons: Iterable[str]) -> dict[str, int]:
    """Count reasons, the most frequent first; those past the first few are counted as other reasons."""
    counted = Counter(reasons).most_common()
    rest = sum(times for _, times in counted[_MOST_REASONS:])
    return dict(counted[:_MOST_REASONS]) | ({"other reasons": rest} if rest else {})
