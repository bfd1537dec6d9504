"""The app's own connection to the store, and whether there is anything new in it.

Looking never creates a file: before the first run there may be none. A tick on which nothing has changed costs one
pragma, whatever the size of the store.
"""

import asyncio
import time
from pathlib import Path

from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import data_version

_LIVENESS_SECONDS = 2.0


class StoreReader:
    """A reader of the store at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: Store | None = None
        self._version: int | None = None
        self._checked = 0.0

    @property
    def store(self) -> Store | None:
        """The open store; None while there is no file."""
        return self._store

    async def changed(self) -> bool:
        """Tell whether somebody has written since the last call; opens the store once it is there.

        Raises what `Store.open` raises. Runs whose owner is gone are marked on the way, now and then.
        """
        if self._store is None:
            if not await asyncio.to_thread(self.path.is_file):
                return False
            self._store = await Store.open(self.path)
        now = time.monotonic()
        if now - self._checked > _LIVENESS_SECONDS:
            self._checked = now
            if await runs.mark_interrupted(self._store):
                self._version = None  # this connection's own writes do not show in its data version
        version = await data_version(self._store)
        if version == self._version:
            return False
        self._version = version
        return True

    async def close(self) -> None:
        """Close the connection; its thread would keep the process alive."""
        store, self._store = self._store, None
        if store is not None:
            await store.close()
