"""The file of accepted pairs: written whole or not at all, at the end, on a stop and after each analysis."""

from pathlib import Path

from lora_tui.engine.data.write import format_training_text
from lora_tui.files import atomic_writer
from lora_tui.store import generation as store_generation
from lora_tui.store.connection import Store

_PAGE = 500


async def write_accepted(store: Store, run_id: int, path: Path) -> int:
    """Write a run's accepted pairs as training text; returns how many. Without any, an older file is left alone."""
    page = await store_generation.pairs(store, run_id, ("accepted",), 0, _PAGE)
    written = 0
    if not page:
        return 0
    with atomic_writer(path) as file:
        while page:
            file.write("\n" if written else "")
            file.write(format_training_text((pair.question, pair.answer) for pair in page))
            written += len(page)
            page = await store_generation.pairs(store, run_id, ("accepted",), page[-1].id, _PAGE)
    return written
