"""A run's folder as it is found: its step checkpoints and its best adapter, also after a crash between two renames."""

import re
from pathlib import Path

BEST = "best"

WEIGHTS = "adapter_model.safetensors"
"""File in an adapter's folder that holds its matrices."""

_STEP_FOLDER = re.compile(r"step-(\d+)(\.old)?")


def step_folders(folder: Path) -> list[Path]:
    """Return the complete step checkpoints of a run, oldest first.

    A crash between two renames may have left ``step-N.old``, which is as good and counts as older than ``step-N``.
    """
    found = [
        (int(match[1]), match[2] is None, path)
        for path in folder.glob("step-*")
        if (match := _STEP_FOLDER.fullmatch(path.name))
    ]
    return [path for *_, path in sorted(found)]


def best_folder(folder: Path) -> Path | None:
    """Return the run's best adapter, or None; finds the older one if a crash fell between the two renames."""
    for candidate in (folder / BEST, folder / f"{BEST}.old"):
        if (candidate / WEIGHTS).is_file():
            return candidate
    return None
