"""Folders of the user: configuration, caches, logs.

The places are the platform's own (platformdirs); each can be moved with an environment variable, which tests and
machines with a small home folder need. Nothing is created at import: whoever writes calls `private_folder` first.

Small and apart because logging and the built-in model need it without pydantic, which the rest of the package loads.
"""

import os
import socket
from pathlib import Path

import platformdirs

_NAME = "lora-tui"


def config_folder() -> Path:
    """Return the folder that may hold the user's ``config.toml``; ``LORA_TUI_CONFIG`` names another."""
    return _named_by("LORA_TUI_CONFIG") or platformdirs.user_config_path(_NAME, appauthor=False)


def cache_folder() -> Path:
    """Return the folder of what can be fetched or computed again; ``LORA_TUI_CACHE`` names another."""
    return _named_by("LORA_TUI_CACHE") or platformdirs.user_cache_path(_NAME, appauthor=False)


def log_folder() -> Path:
    """Return the folder of the log files; ``LORA_TUI_LOGS`` names another."""
    return _named_by("LORA_TUI_LOGS") or platformdirs.user_log_path(_NAME, appauthor=False)


def lock_folder() -> Path:
    """Return the folder of this machine's locks of devices; ``LORA_TUI_LOCKS`` names another."""
    return _named_by("LORA_TUI_LOCKS") or cache_folder() / "locks" / socket.gethostname()


def private_folder(path: Path) -> Path:
    """Create `path` (mode 0700) with the folders above it, unless it is there, and return it. Raises `OSError`."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _named_by(variable: str) -> Path | None:
    named = os.environ.get(variable, "").strip()
    return Path(named).expanduser().absolute() if named else None
