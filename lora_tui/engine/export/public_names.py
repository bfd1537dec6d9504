"""What may be told of where things lie: names that others can use, never a path of this machine.

A base model is known to others by its name on the hub; a folder of this machine is known to nobody.
"""

import re
from pathlib import Path

from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.builtin import BUILTIN, HUB_NAME

UNKNOWN_BASE = "BASE_MODEL"
"""Stands for a base model that lies in a folder, in commands that others read."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def public_base(source: AdapterSource) -> str:
    """Return the name of an adapter's base model on the hub; empty where it has none, as a folder."""
    name = source.trained_on or ""
    if name in (BUILTIN, HUB_NAME):
        return HUB_NAME
    if source.metadata.get("base_path") or name.endswith(".gguf") or not _HUB_NAME.fullmatch(name):
        return ""
    return "" if Path(name).exists() else name
