"""The output file of generation: the accepted pairs of a run as training text, written whole or not at all.

Apart from the pipeline, so that a review of pairs can write the file without importing it.
"""

import filecmp
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lora_tui.engine.data.training_text import format_training_text
from lora_tui.errors import LoraTuiError
from lora_tui.files import atomic_writer
from lora_tui.store import generation as store_generation
from lora_tui.store import runs
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


def kept_path(path: Path, run_id: int) -> Path:
    """Return the name under which a run's file is kept once a later run writes `path`: "pairs.run-3.txt"."""
    return path.with_name(f"{path.stem}.run-{run_id}{path.suffix}")


def absolute(path: str | Path) -> Path:
    """Return a path from the root on; ".." is resolved, links are not."""
    return Path(os.path.abspath(path))  # noqa: PTH100


async def last_writer(store: Store, path: Path) -> int | None:
    """Return the run of this store that wrote `path` last; None where none did."""
    wanted = absolute(path)
    return next((run for run, other in await runs.output_files(store) if absolute(other) == wanted), None)


def back_up(path: Path, writer: int | None) -> Path | None:
    """Copy the file of an earlier run, so that the next run can write `path`; returns the copy, None without a file.

    The copy is named after the run that wrote it (`writer`), else with a number: "pairs.run-3.txt", "pairs.2.txt".
    One with the same content is not made twice.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return None
    numbered = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
    names = numbered if writer is None else itertools.chain([kept_path(path, writer)], numbered)
    copy = next(name for name in names if not name.exists() or filecmp.cmp(path, name, shallow=False))
    try:
        if not copy.exists():
            shutil.copy2(path, copy)
    except OSError as problem:
        raise LoraTuiError(f"{path} is there already and cannot be kept as {copy}: {problem.strerror}.") from problem
    return copy


async def write_accepted(store: Store, run_id: int, path: Path, *, even_if_none: bool = False) -> int:
    """Write a run's accepted pairs as training text; returns how many.

    Without any, an older file stays as it is, unless `even_if_none` says that it is this run's own.
    """
    return await write_accepted_of_runs(store, (run_id,), path, even_if_none=even_if_none)


async def write_accepted_of_runs(
    store: Store, run_ids: Sequence[int], path: Path, *, even_if_none: bool = False
) -> int:
    """Write the accepted pairs of these runs, one run after the other, as training text; returns how many."""
    if not even_if_none and not [run for run in run_ids if await store_generation.accepted_texts(store, run, 0, 1)]:
        return 0
    written = 0
    with atomic_writer(path) as file:
        for run_id in run_ids:
            after = 0
            while page := await store_generation.accepted_texts(store, run_id, after, _PAGE):
                file.write("\n" if written else "")
                file.write(format_training_text((question, answer) for _, question, answer in page))
                written += len(page)
                after = page[-1][0]
    return written
