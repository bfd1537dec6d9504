"""Change detection on the store (SQLite's ``data_version``) and on its ratings, and a throttle for slow queries.

Reading never creates a file: before the first run there may be none. A poll on which nothing has changed costs one
pragma, whatever the size of the store.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from pathlib import Path
from typing import Any

from lora_tui.protocol.agreement import ScoreAgreement
from lora_tui.store import runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.ratings import ratings_state
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


class AgreementReader:
    """What ratings say of a score, asked of the engine only where something it depends on has changed.

    The answer may take a second, so it is waited for beside the polls, and is in `known` at a later one. Without any
    rating nothing is asked, and the engine not started.

    Args:
        scope: ``generation`` or ``evaluation``.
        ask: What ratings say for a run, by its id.
        run: Runs a coroutine beside the screens.
        ready: Called when the answer is there.
    """

    def __init__(
        self,
        scope: str,
        ask: Callable[[int], Awaitable[ScoreAgreement]],
        run: Callable[[Coroutine[Any, Any, None]], None],
        ready: Callable[[], None],
    ) -> None:
        self.known: ScoreAgreement | None = None
        """The newest answer; None before the first for the run in view."""
        self._scope = scope
        self._ask = ask
        self._run = run
        self._ready = ready
        self._run_id: int | None = None
        self._state: tuple[Hashable, ...] = ()
        self._throttle = Throttle()
        self._is_asking = self._is_stale = self._is_new = False

    async def update(self, store: Store, run_id: int, *depends_on: Hashable, changed: bool = True) -> bool:
        """Ask where the ratings or what else the answer `depends_on` have changed; tells whether `known` has.

        `changed`: the store has something new.
        """
        if run_id != self._run_id:
            self._run_id, self.known, self._state = run_id, None, ()
            self._throttle.reset()
        self._is_stale |= changed or not self._state
        if self._is_stale and not self._is_asking and self._throttle.due():
            self._is_stale = False
            ratings = await ratings_state(store, self._scope)
            self._throttle.done()
            if (state := (*depends_on, *ratings)) != self._state:
                self._state = state
                if ratings[0]:
                    self._is_asking = True
                    self._run(self._answer(run_id))
                else:
                    self.known, self._is_new = ScoreAgreement(), True
        is_new, self._is_new = self._is_new, False
        return is_new

    async def _answer(self, run_id: int) -> None:
        try:
            known = await self._ask(run_id)
            if run_id == self._run_id:
                self.known, self._is_new = known, True
        finally:
            self._is_asking = False
        self._ready()
