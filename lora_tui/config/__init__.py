"""The configuration: one TOML file, strict, every key with its default, bounds and description.

- `models` has the keys, one class a section, `values` the types of value, `keys` all of them by dotted name.
- `load` lays files, environment and ``--set`` over each other; `document` reads TOML with the line of every key;
  `problems` words what is refused, `advice` what will surprise.
- `save` changes keys in a file, `edit` its text; `reference` is the documented file; `explain` is for forms.
- `paths` are the user's folders.

The names below, which nearly everything needs, are loaded on first use, so that a module which only wants
`lora_tui.config.paths` does not load pydantic. Nothing in this package imports torch, transformers, openai or Textual.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_tui.config.advice import advise as advise
    from lora_tui.config.load import Loaded as Loaded
    from lora_tui.config.load import load_settings as load_settings
    from lora_tui.config.load import with_values as with_values
    from lora_tui.config.models import Settings as Settings

_HOMES = {
    "Loaded": "load",
    "Settings": "models",
    "advise": "advice",
    "load_settings": "load",
    "with_values": "load",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
