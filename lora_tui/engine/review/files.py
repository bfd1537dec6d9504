"""The file of accepted pairs after a person has changed pairs of a run that has ended.

A run that is live writes its file itself. Of those that have ended, only the one that wrote a path last may write it
again: the file of another run must not come back under its name.
"""

import os
from pathlib import Path

from lora_tui.engine.generation.output import write_accepted
from lora_tui.errors import LoraTuiError
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import LIVE_STATES


async def own_file(t: Store, run_id: int) -> Path | None:
    """Return the absolute path of the file that a run wrote, if none wrote the same path after it."""
    written = [(one.run_id, Path(os.path.abspath(one.path))) for one in await runs.output_files(t)]  # noqa: ASYNC240, PTH100  # ".." is to be resolved, links are not
    path = next((path for owner, path in written if owner == run_id), None)
    last = next((owner for owner, other in written if other == path), None)
    return path if last == run_id else None


async def write_again(store: Store, run_id: int, before: Path | None) -> tuple[Path | None, str | None]:
    """Write a run's file anew; returns its path, or None where it is not to be written, and what went wrong.

    `before` is what `own_file` said before the change: a run that has no accepted pair left has still written a file.
    Others wait meanwhile, so that whoever writes last has also read last.
    """
    try:
        async with store.transaction() as t:
            path = await own_file(t, run_id) or before
            if path is None or await runs.state(t, run_id) in (None, *LIVE_STATES):
                return None, None
            await write_accepted(t, run_id, path, even_if_none=True)
    except LoraTuiError as problem:
        return None, str(problem)
    return path, None
