"""Finds the step checkpoints and the best adapter in a run's folder, also after a crash between two renames.

Apart from `training.checkpoint`, which writes them, so that an adapter is found without importing torch.
"""

import re
from pathlib import Path

BEST = "best"
"""Folder of the adapter with the highest evaluation score."""

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
