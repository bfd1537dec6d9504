"""What a recipe chose for a run: values with their reasons, and how both sides show them.

The ``plan`` event holds them as mappings (`Choice`'s fields), a forecast as `Choice`s; `chosen_rows` takes either form
into the columns that the command line and the app draw.
"""

from collections.abc import Iterable, Mapping
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
        return f"{Decimal(repr(value)):e}".replace("e-0", "e-").replace("E", "e")
    return one_line(str(value).lower() if isinstance(value, bool) else str(value), 48)
