"""An adapter's ``adapter_config.json``, looked at before PEFT believes it: entries of a wrong kind are named.

PEFT hands most of them on unread, so that a text in the place of a number is an error in a matrix product, minutes
later, or a foreign module is imported because an entry names it.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lora_tui.engine.models.model_files import is_whole, read_table, wrong_entry

_LARGEST_RANK = 1_000_000


def check_adapter_config(path: Path) -> None:
    """Raise `ModelFileError` where the file is no adapter's configuration, or an entry of it cannot be one."""
    config = read_table(path)
    if not isinstance(config.get("peft_type"), str) or not config["peft_type"]:
        raise wrong_entry(path, "peft_type", config.get("peft_type"), 'a name such as "LORA"')
    for names, is_right, wanted in _CHECKS if config["peft_type"] == "LORA" else _CHECKS[:1]:
        for name in names:
            if config.get(name) is not None and not is_right(config[name]):
                raise wrong_entry(path, name, config[name], wanted)
    for name, value in config.items():
        if name.endswith("_config") and value is not None and not isinstance(value, Mapping):
            raise wrong_entry(path, name, value, "a table")
    for name in ("r", "lora_alpha", "bias") if config["peft_type"] == "LORA" else ():
        if name in config and config[name] is None:
            raise wrong_entry(
                path, name, None, '"none", "all" or "lora_only"' if name == "bias" else "a number above 0"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) and entry for entry in value)


def _is_names(value: Any) -> bool:
    return bool(value) and (isinstance(value, str) or _is_texts(value))


def _is_table_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(is_right(entry) for entry in value.values())


def _is_rank(value: Any) -> bool:
    return is_whole(value) and 0 < value <= _LARGEST_RANK


def _is_wholes(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_whole, value))


def _is_whole_or_list(value: Any) -> bool:
    return is_whole(value) or _is_wholes(value)


_CHECKS: list[tuple[tuple[str, ...], Callable[[Any], bool], str]] = [
    (("base_model_name_or_path", "revision", "task_type"), lambda value: isinstance(value, str), "text"),
    (("r",), _is_rank, f"a whole number from 1 to {_LARGEST_RANK:,}"),
    (("lora_alpha",), _is_number, "a number"),
    (("lora_dropout",), lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    (("target_modules", "exclude_modules"), _is_names, "a pattern, or a list of names"),
    (("layers_pattern",), lambda value: value in ("", []) or _is_names(value), "a pattern, or a list of them"),
    (("modules_to_save", "target_parameters"), _is_texts, "a list of names"),
    (("layers_to_transform",), _is_whole_or_list, "a whole number, or a list of them"),
    (("rank_pattern",), _is_table_of(_is_rank), "a table of names and ranks"),
    (("alpha_pattern",), _is_table_of(_is_number), "a table of names and numbers"),
    (
        (
            *("use_rslora", "use_dora", "use_qalora", "fan_in_fan_out", "lora_bias"),
            *("inference_mode", "ensure_weight_tying"),
        ),
        lambda value: isinstance(value, bool),
        "true or false",
    ),
    (("bias",), lambda value: value in ("none", "all", "lora_only"), '"none", "all" or "lora_only"'),
    (("init_lora_weights",), lambda value: isinstance(value, bool | str), "true, false, or a name"),
    (("alora_invocation_tokens",), _is_wholes, "a list of whole numbers"),
    (
        ("trainable_token_indices",),
        lambda value: _is_wholes(value) or _is_table_of(_is_wholes)(value),
        "a list of token numbers, or a table of them",
    ),
    (("qalora_group_size",), _is_rank, "a whole number above 0"),
    (("megatron_config",), lambda value: False, "null: what it names would be imported, and run"),
    (
        ("layer_replication",),
        lambda value: (
            isinstance(value, list)
            and all(isinstance(pair, list) and len(pair) == 2 and all(map(is_whole, pair)) for pair in value)
            and sum(pair[1] - pair[0] for pair in value) <= 10_000
        ),
        "a list of pairs of layers",
    ),
]
"""Entries of a LoRA's configuration: what they may be, besides null, and that in words. The first is of any adapter."""
