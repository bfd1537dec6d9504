"""The configuration: one TOML file, strict, every key with its default, bounds and description.

- `models` has the keys, one class a section, `values` the types of value, `keys` all of them by dotted name.
- `load` lays files, environment and ``--set`` over each other; `document` reads TOML with the line of every key;
  `problems` words what is refused, `advice` what will surprise.
- `save` changes keys in a file, `edit` its text; `reference` is the documented file; `explain` is for forms.
- `paths` are the user's folders.

The names below are loaded on first use, so that a module which only wants `lora_tui.config.paths` does not load
pydantic. Nothing in this package imports torch, transformers, openai or Textual.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_tui.config.advice import advise as advise
    from lora_tui.config.keys import Key as Key
    from lora_tui.config.keys import all_keys as all_keys
    from lora_tui.config.keys import settings_value as settings_value
    from lora_tui.config.load import Loaded as Loaded
    from lora_tui.config.load import configuration_file as configuration_file
    from lora_tui.config.load import load_settings as load_settings
    from lora_tui.config.load import with_values as with_values
    from lora_tui.config.models import Settings as Settings
    from lora_tui.config.paths import cache_folder as cache_folder
    from lora_tui.config.paths import config_folder as config_folder
    from lora_tui.config.paths import log_folder as log_folder
    from lora_tui.config.paths import private_folder as private_folder
    from lora_tui.config.reference import reference_text as reference_text
    from lora_tui.config.save import Saved as Saved
    from lora_tui.config.save import changed_keys as changed_keys
    from lora_tui.config.save import save_keys as save_keys

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
