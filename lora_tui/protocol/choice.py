"""Settings that differ from run to run, and how both sides write them: what a recipe chose and why, what a sweep sets.

The ``plan`` event holds them as mappings (`Choice`'s fields), a forecast as `Choice`s; `chosen_rows` takes either form
into the columns that the command line and the app draw.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from lora_tui.text import count, one_line

_SECTION = "fine_tuning."


@dataclass(frozen=True, slots=True)
class Choice:
    """The value that was chosen for a dotted key that nobody has written, and why."""

    key: str
    value: Any
    reason: str


METHOD_EXAMPLES: Mapping[str, tuple[str, str]] = {
    "sft": ("example", "examples"),
    "dpo": ("preference", "preferences"),
    "kto": ("verdict", "verdicts"),
}
"""What each method trains on, as one and as many."""

LABELS: Mapping[str, str] = {
    "fine_tuning.model_name": "model",
    "fine_tuning.lora.target_modules": "layers",
    "fine_tuning.optimizer.lora_lr": "rate",
    "fine_tuning.training.batch_size": "batch",
    "fine_tuning.training.max_epochs": "epochs",
    "fine_tuning.training.reworded_share": "reworded",
    "fine_tuning.training.everyday_examples": "everyday",
    "fine_tuning.scheduler.warmup_steps": "warm-up",
    "fine_tuning.training.eval_steps": "evaluate",
    "fine_tuning.evaluation.test_prompts": "asks",
    "fine_tuning.training.validation_share": "held out",
    "fine_tuning.gradient_checkpointing": "recompute",
}
"""What the app calls the keys that it has room for, in the order in which it shows them."""


def chosen_rows(choices: Iterable[Choice | Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return key, value and reason of each choice, each on one line.

    One micro-batch a step goes without saying, and is left out.
    """
    found = (asdict(choice) if isinstance(choice, Choice) else choice for choice in choices)
    return [
        (
            one_line(str(one.get("key", "")), 80),
            value_text(one.get("value")),
            one_line(str(one.get("reason", "")), 120),
        )
        for one in found
        if not (str(one.get("key")).endswith("gradient_accumulation_steps") and one.get("value") == 1)
    ]


def labelled_rows(choices: Iterable[Choice | Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the same under the app's labels, without what it has no label for and shares of nothing."""
    rows = {key: (value, reason) for key, value, reason in chosen_rows(choices)}
    return [(label, *rows[key]) for key, label in LABELS.items() if key in rows and rows[key][0] != "0.0"]


def short_key(key: str) -> str:
    """Return a dotted key without its first section, where that is the training's."""
    return key.removeprefix(_SECTION)


def value_text(value: Any) -> str:
    """Return a chosen value as it would be written: "1e-3", "auto", "8 prompts"."""
    if isinstance(value, list):
        return count(len(value), "prompt")
    if isinstance(value, float) and 0 < abs(value) < 1e-2:
        return _power(value)
    return one_line(str(value).lower() if isinstance(value, bool) else str(value), 48)


def axis_names(points: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what each dotted key of a sweep is called in a table: its last part, where no two are called the same."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def varied_names(points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the same for the keys alone in which the points differ; for all where none does."""
    names = axis_names(points)
    varied = {key: name for key, name in names.items() if any(p.get(key) != points[0].get(key) for p in points)}
    return varied or names


def point_text(point: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return what a run of a sweep sets in words: "lora_lr 1e-4, r 8"."""
    return ", ".join(f"{names[key]} {setting_text(key, value)}" for key, value in point.items())


def setting_text(key: str, value: Any) -> str:
    """Return a value of a sweep as it is shown; learning rates as powers of ten, however large."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return _power(value) if isinstance(value, float) and value and key.endswith("_lr") else value_text(value)


def _power(value: float) -> str:
    """Return a number as a power of ten with all its digits: "1e-3", "1.25e-4"."""
    return f"{Decimal(repr(value)).normalize():e}"
