"""The valid key that a person probably meant.

Three things happen: a key is misspelt, a right key stands in the wrong section, or a name is the one that other
training tools use. Section names are compared as well, so that ``[lora]`` finds ``[fine_tuning.lora]``.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

from lora_tui.config.keys import all_keys, all_sections

_CLOSE_ENOUGH = 0.66

# Names that other tools (transformers, peft, trl, axolotl, openai) give to the same thing.
_OTHER_NAMES = {
    "adapter_r": "fine_tuning.lora.r",
    "api_base": "data_generation.base_url",
    "base_model": "fine_tuning.model_name",
    "bf16": "fine_tuning.dtype",
    "database": "data_generation.db_path",
    "dataset": "fine_tuning.train_data_file",
    "endpoint": "data_generation.base_url",
    "epochs": "fine_tuning.training.max_epochs",
    "fps": "app.refresh_per_second",
    "grad_clip": "fine_tuning.optimizer.max_grad_norm",
    "gradient_accumulation": "fine_tuning.training.gradient_accumulation_steps",
    "keybindings": "app.keys",
    "keymap": "app.keys",
    "learning_rate": "fine_tuning.optimizer.lora_lr",
    "log_level": "logging.level",
    "lora_alpha": "fine_tuning.lora.alpha",
    "lora_dropout": "fine_tuning.lora.dropout",
    "lora_r": "fine_tuning.lora.r",
    "lora_rank": "fine_tuning.lora.r",
    "lr": "fine_tuning.optimizer.lora_lr",
    "lr_scheduler_type": "fine_tuning.scheduler.type",
    "max_cost": "data_generation.budget_dollars",
    "max_seq_len": "fine_tuning.training.max_length",
    "max_seq_length": "fine_tuning.training.max_length",
    "micro_batch_size": "fine_tuning.training.batch_size",
    "num_epochs": "fine_tuning.training.max_epochs",
    "num_train_epochs": "fine_tuning.training.max_epochs",
    "openai_api_base": "data_generation.base_url",
    "openai_base_url": "data_generation.base_url",
    "output_dir": "fine_tuning.training.save_dir",
    "per_device_train_batch_size": "fine_tuning.training.batch_size",
    "rank": "fine_tuning.lora.r",
    "sequence_len": "fine_tuning.training.max_length",
    "threshold": "data_generation.evaluation_threshold",
    "torch_dtype": "fine_tuning.dtype",
    "train_file": "fine_tuning.train_data_file",
    "warmup": "fine_tuning.scheduler.warmup_steps",
    "weight_decay": "fine_tuning.optimizer.lora_weight_decay",
}


def nearest_key(dotted: str) -> str | None:
    """Return the valid dotted key nearest to `dotted`, or None where nothing is near."""
    section, _, leaf = dotted.rpartition(".")
    plain = leaf.lower().replace("-", "_")
    if plain in _OTHER_NAMES and "aggregator" not in section:
        return _OTHER_NAMES[plain]
    return _nearest(section, plain, all_keys())


def nearest_section(dotted: str) -> str | None:
    """Return the valid section nearest to `dotted`, or None where nothing is near."""
    section, _, leaf = dotted.rpartition(".")
    return _nearest(section, leaf.lower().replace("-", "_"), all_sections())


def nearest_choice(value: str, choices: Iterable[str]) -> str | None:
    """Return the choice nearest to `value`, in whatever case either is written, or None where nothing is near."""
    by_folded = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(value.casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None


def _nearest(section: str, leaf: str, names: Iterable[str]) -> str | None:
    """The name whose last part is likest to `leaf`; among equals, the one whose section is likest to `section`."""
    best, best_score = None, (_CLOSE_ENOUGH, 0.0)
    for name in names:
        its_section, _, its_leaf = name.rpartition(".")
        score = (_likeness(leaf, its_leaf), _likeness(section, its_section))
        if score > best_score:
            best, best_score = name, score
    return best


def _likeness(left: str, right: str) -> float:
    return SequenceMatcher(a=left, b=right, autojunk=False).ratio()
