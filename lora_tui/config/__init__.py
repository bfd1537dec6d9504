"""The configuration: what every key means, where files are looked for, how mistakes are told, how changes are saved.

The names below are loaded on first use, so that a module which only wants `lora_tui.config.paths` does not load
pydantic. Nothing in this package imports torch, transformers, openai or Textual.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_tui.config.advice import advise
    from lora_tui.config.keys import Key, all_keys, settings_value
    from lora_tui.config.load import Loaded, configuration_file, load_settings, with_values
    from lora_tui.config.models import Settings
    from lora_tui.config.paths import cache_folder, config_folder, log_folder, private_folder
    from lora_tui.config.reference import reference_text
    from lora_tui.config.save import Saved, changed_keys, save_keys

_HOMES = {
    "Key": "keys",
    "Loaded": "load",
    "Saved": "save",
    "Settings": "models",
    "advise": "advice",
    "all_keys": "keys",
    "cache_folder": "paths",
    "changed_keys": "save",
    "config_folder": "paths",
    "configuration_file": "load",
    "load_settings": "load",
    "log_folder": "paths",
    "private_folder": "paths",
    "reference_text": "reference",
    "save_keys": "save",
    "settings_value": "keys",
    "with_values": "load",
}

__all__ = [
    "Key",
    "Loaded",
    "Saved",
    "Settings",
    "advise",
    "all_keys",
    "cache_folder",
    "changed_keys",
    "config_folder",
    "configuration_file",
    "load_settings",
    "log_folder",
    "private_folder",
    "reference_text",
    "save_keys",
    "settings_value",
    "with_values",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
