"""Which keys of a configuration somebody has written, and which were left alone for ``fine_tuning.recipe`` to choose.

Written is what a file, the environment, ``--set`` or the app sets, also where it is the documented default. It is kept
in the settings themselves: pydantic notes for each section which fields it was given (`model_fields_set`), which does
not count when settings are compared. One exception: `config.toml` at the project's root holds every key, and who copies
it as it is has decided nothing. In a file that has all of `RECIPE_KEYS`, those at their documented default count as
left alone; ``recipe = "as written"`` in it takes them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from lora_tui.config.keys import all_keys, settings_value
from lora_tui.config.models import Settings
from lora_tui.config.values import Section

RECIPE_KEYS = (
    "fine_tuning.model_name",
    "fine_tuning.gradient_checkpointing",
    "fine_tuning.lora.dropout",
    "fine_tuning.lora.target_modules",
    "fine_tuning.optimizer.lora_lr",
    "fine_tuning.scheduler.warmup_steps",
    "fine_tuning.training.max_epochs",
    "fine_tuning.training.target_score",
    "fine_tuning.training.eval_frequency",
    "fine_tuning.training.batch_size",
    "fine_tuning.training.gradient_accumulation_steps",
    "fine_tuning.training.eval_steps",
    "fine_tuning.training.validation_share",
    "fine_tuning.training.reworded_share",
    "fine_tuning.training.everyday_examples",
    "fine_tuning.evaluation.test_prompts",
    "fine_tuning.evaluation.max_new_tokens",
    "fine_tuning.chat.num_beams",
)
"""The keys that ``recipe = "auto"`` chooses where nobody has written them."""


def written_keys(settings: Settings) -> frozenset[str]:
    """Return the dotted keys that somebody has written."""
    return frozenset(
        name for name, key in all_keys().items() if key.leaf in _section(settings, key.section).model_fields_set
    )


def left_to_recipe(settings: Settings, name: str) -> bool:
    """Return whether the recipe chooses this key: it is "auto", and nobody has written this key of its own."""
    if settings.fine_tuning.recipe != "auto" or name not in RECIPE_KEYS:
        return False
    section, _, leaf = name.rpartition(".")
    return leaf not in _section(settings, section).model_fields_set


def with_written(settings: Settings, keys: Iterable[str]) -> Settings:
    """Return the same values, of which these keys alone count as written."""
    marked = _marked(settings, "", frozenset(keys))
    assert isinstance(marked, Settings), "a section stays what it is"
    return marked


def all_written(settings: Settings) -> Settings:
    """Return the same values, every one of them written: nothing is left to choose."""
    return with_written(settings, all_keys())


def copied_keys(values: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of a file that were copied with the documented one; `values` are the file's, by dotted key."""
    if any(name not in values for name in RECIPE_KEYS):
        return frozenset()
    return frozenset(name for name in RECIPE_KEYS if values[name] == all_keys()[name].default)


def _section(settings: Settings, name: str) -> Section:
    found: Section = settings_value(settings, name)
    return found


def _marked(section: Section, prefix: str, keys: frozenset[str]) -> Section:
    values: dict[str, Any] = {}
    given: set[str] = set()
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            value = _marked(value, f"{prefix}{name}.", keys)
            if value.model_fields_set:
                given.add(name)
        elif prefix + name in keys:
            given.add(name)
        values[name] = value
    return type(section).model_construct(_fields_set=given, **values)
