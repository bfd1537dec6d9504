"""The output file of generation: the accepted pairs of a run, and its texts, written whole or not at all.

Apart from the pipeline, so that a review of pairs can write the file without importing it.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from lora_tui.engine.data.knowledge import knowledge_path
from lora_tui.engine.data.results import absolute, is_own_result, keep_foreign, remember_result
from lora_tui.engine.data.training_text import format_training_text
from lora_tui.engine.generation.training_records import (
    RecordOptions,
    json_records,
    knowledge_records,
    options_of,
    pairs_of,
)
from lora_tui.errors import LoraTuiError
from lora_tui.files import atomic_writer, write_atomically
from lora_tui.outputs import check_name, keep_older, refuse_own
from lora_tui.store import generation as store_generation
from lora_tui.store import runs
from lora_tui.store.connection import Store

_KEY = "data_generation.output_file"
_PAGE = 500


def check_writable(path: Path) -> None:
    """Raise `LoraTuiError` if the file cannot be written: better known before the first call is paid for."""
    check_name(path, _KEY)
    refuse_own(path, _KEY)
    folder = next((parent for parent in path.absolute().parents if parent.exists()), path)
    if path.is_dir():
        fault = "it is a folder; name a file in it"
    elif not folder.is_dir():
        fault = f"{folder} is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        fault = f"no permission to write in {folder}; choose another place"
    else:
        return
    raise LoraTuiError(f"{_KEY}: cannot write {path}: {fault}")


def kept_path(path: Path, run_id: int) -> Path:
    """Return the name under which a run's file is kept once a later run writes `path`: "pairs.run-3.txt"."""
    return path.with_name(f"{path.stem}.run-{run_id}{path.suffix}")


async def last_writer(store: Store, path: Path) -> int | None:
    """Return the run of this store that wrote `path` last; None where none did."""
    wanted = absolute(path)
    return next((run for run, other in await runs.output_files(store) if absolute(other) == wanted), None)


def back_up(path: Path, writer: int | None) -> Path | None:
    """Copy the file of an earlier run, so that the next run can write `path`; returns the copy, None without a file.

    The copy is named after the run that wrote it (`writer`), else with a number: "pairs.run-3.txt", "pairs.2.txt".
    One with the same content is not made twice.
    """
    return keep_older(path, () if writer is None else [kept_path(path, writer)])


async def write_accepted(
    store: Store, run_id: int, path: Path, *, even_if_none: bool = False, on_kept: Callable[[Path], None] | None = None
) -> int:
    """Write a run's accepted pairs as training text, outside any transaction; returns how many.

    Without any, an older file stays as it is, unless `even_if_none` says that it is this run's own. What somebody has
    changed in the file is copied first, and `on_kept` called with the copy.
    """
    written = await _write(store, (run_id,), path, even_if_none, on_kept)
    if written is not None:
        async with store.transaction() as t:
            await _remember(t, path)
    return written or 0


async def write_accepted_of_runs(
    t: Store,
    run_ids: Sequence[int],
    path: Path,
    *,
    even_if_none: bool = False,
    on_kept: Callable[[Path], None] | None = None,
) -> int:
    """Write the accepted pairs of these runs, one run after the other, inside the caller's transaction.

    Otherwise as `write_accepted`; returns how many.
    """
    written = await _write(t, run_ids, path, even_if_none, on_kept)
    if written is not None:
        await _remember(t, path)
    return written or 0


async def _remember(t: Store, path: Path) -> None:
    await remember_result(t, path)
    await remember_result(t, knowledge_path(path))


async def _write(
    store: Store, run_ids: Sequence[int], path: Path, even_if_none: bool, on_kept: Callable[[Path], None] | None
) -> int | None:
    """Write the pairs; returns how many, None where the file was left alone."""
    if not even_if_none and not [run for run in run_ids if await store_generation.accepted_texts(store, run, 0, 1)]:
        return None
    kept = await keep_foreign(store, path)
    if kept is not None and on_kept is not None:
        on_kept(kept)
    options = [await options_of(store, run) for run in run_ids]
    # What one of the runs holds out, no other may bring in: the fact is drawn by its sentence, not by the pair.
    strictest = max(options, key=lambda one: one.held_out_facts)
    options = [replace(one, held_out_facts=strictest.held_out_facts, seed=strictest.seed) for one in options]
    in_json = any(option.in_json(path) for option in options)
    written = 0
    seen: set[str] | None = set() if len(run_ids) > 1 else None  # a later run may have kept pairs of an earlier one
    with atomic_writer(path) as file:
        for run_id, option in zip(run_ids, options, strict=True):
            if in_json:
                async for lines in json_records(store, run_id, option):
                    records = _without_seen(lines.split("\n")[:-1], seen)
                    file.write("".join(f"{record}\n" for record in records))
                    written += len(records)
                continue
            async for found in pairs_of(store, run_id, option):
                page = _without_seen(found, seen)
                file.write("\n" if written and page else "")
                file.write(format_training_text(page))
                written += len(page)
    await _write_knowledge(store, run_ids, options, knowledge_path(path), on_kept)
    return written


_Record = TypeVar("_Record", str, tuple[str, str])


def _without_seen(records: Sequence[_Record], seen: set[str] | None) -> list[_Record]:
    """Return the records that are not among those written before, of which `seen` takes note; None: all."""
    if seen is None:
        return list(records)
    found: list[_Record] = []
    for record in records:
        key = record if isinstance(record, str) else "\0".join(record)
        if key not in seen:
            seen.add(key)
            found.append(record)
    return found


async def _write_knowledge(
    store: Store,
    run_ids: Sequence[int],
    options: Sequence[RecordOptions],
    path: Path,
    on_kept: Callable[[Path], None] | None,
) -> None:
    """Write the questions about facts that are held out; where none are, what an earlier run wrote there goes."""
    found = [
        lines
        for run_id, option in zip(run_ids, options, strict=True)
        async for lines in knowledge_records(store, run_id, option)
        if lines
    ]
    if not found:
        if await is_own_result(store, path):
            await asyncio.to_thread(path.unlink)
        return
    if (kept := await keep_foreign(store, path)) is not None and on_kept is not None:
        on_kept(kept)
    write_atomically(path, "".join(found))
