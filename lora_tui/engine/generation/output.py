"""The output file of generation: the accepted pairs of a run as training text, written whole or not at all.

Apart from the pipeline, so that a review of pairs can write the file without importing it.
"""

import itertools
import os
import shutil
from pathlib import Path

from lora_tui.engine.data.training_text import format_training_text
from lora_tui.errors import LoraTuiError
from lora_tui.files import atomic_writer
from lora_tui.store import generation as store_generation
from lora_tui.store.connection import Store

_PAGE = 500


def check_writable(path: Path) -> None:
    """Raise `LoraTuiError` if the file cannot be written: better known before the first call is paid for."""
    folder = next((parent for parent in path.absolute().parents if parent.exists()), path)
    if path.is_dir():
        fault = "it is a folder; name a file in it"
    elif not folder.is_dir():
        fault = f"{folder} is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        fault = f"no permission to write in {folder}; choose another place"
    else:
        return
    raise LoraTuiError(f"data_generation.output_file: cannot write {path}: {fault}")


def back_up(path: Path) -> Path | None:
    """Copy the file of an earlier run to the next free ``NAME.1``, ``NAME.2``, …; returns the copy, or None."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    copy = next(name for name in names if not name.exists())
    try:
        shutil.copy2(path, copy)
    except OSError as problem:
        raise LoraTuiError(f"{path} is there already and cannot be kept as {copy}: {problem.strerror}.") from problem
    return copy


async def write_accepted(store: Store, run_id: int, path: Path, *, even_if_none: bool = False) -> int:
    """Write a run's accepted pairs as training text; returns how many.

    Without any, an older file stays as it is, unless `even_if_none` says that it is this run's own.
    """
    page = await store_generation.accepted_texts(store, run_id, 0, _PAGE)
    written = 0
    if not page and not even_if_none:
        return 0
    with atomic_writer(path) as file:
        while page:
            file.write("\n" if written else "")
            file.write(format_training_text((question, answer) for _, question, answer in page))
            written += len(page)
            page = await store_generation.accepted_texts(store, run_id, page[-1][0], _PAGE)
    return written
