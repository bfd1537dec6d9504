"""Change detection on the store (SQLite's ``data_version``), and a throttle for queries that are slow.

Reading never creates a file: before the first run there may be none. A poll on which nothing has changed costs one
pragma, whatever the size of the store.
"""

import asyncio
import time
from pathlib import Path

from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import data_version

_LIVENESS_SECONDS = 2.0
"""How often runs are marked whose owner is gone."""

_COST = 0.04
"""Share of one core's time that a repeated question may take."""


class StoreReader:
    """Connection to the store at `path`, opened by the first poll that finds the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store: Store | None = None
        """The open store; None while there is no file."""
        self._version: int | None = None
        self._liveness_checked_at = 0.0

    async def changed(self) -> bool:
        """Tell whether anybody has written since the last call; opens the store once it is there.

        Raises what `Store.open` raises. Runs whose owner is gone are marked as interrupted now and then.
        """
        if self.store is None:
            if not await asyncio.to_thread(self.path.is_file):
                return False
            self.store = await Store.open(self.path)
        now = time.monotonic()
        if now - self._liveness_checked_at > _LIVENESS_SECONDS:
            self._liveness_checked_at = now
            if await runs.mark_interrupted(self.store):
                self._version = None  # this connection's own writes do not show in its data version
        version = await data_version(self.store)
        if version == self._version:
            return False
        self._version = version
        return True

    async def close(self) -> None:
        """Close the connection; its thread would keep the process alive."""
        store, self.store = self.store, None
        if store is not None:
            await store.close()


class Throttle:
    """Rate limit of a repeated query by how long its last answer took: a large store is summarised less often."""

    def __init__(self, least_seconds: float = 1.0) -> None:
        self._least = least_seconds
        self._next = 0.0
        self._started = 0.0

    def due(self) -> bool:
        """Tell whether to query now; if so, the time until `done` is measured."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._started = now
        return True

    def done(self) -> None:
        """Note that the answer has arrived."""
        now = time.monotonic()
        self._next = now + max(self._least, (now - self._started) / _COST)

    def reset(self) -> None:
        """Query at the next opportunity: something else is shown."""
        self._next = 0.0
