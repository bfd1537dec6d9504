"""Works the queue of runs inside the app's process, beside whatever else its engine does.

It begins nothing before somebody has begun or queued a run in this app, or has asked for it: who opens the app to look
does not set a machine to work. Then it goes on until it is turned off, also when the app has left its terminal. Small
and apart from `engine_backend`, which hands on what it is asked and has no loop of its own.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_tui.engine.runtime.engine import Engine, Outcome
    from lora_tui.engine.runtime.queue import QueueWorker

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class QueueLoop:
    """A task on the engine's loop that begins runs of the queue, one at a time; `add_own` is told of each."""

    def __init__(self, add_own: "Callable[[int, Future[Outcome]], None]") -> None:
        self._add_own = add_own
        self._task: Future[None] | None = None
        self._begun: set[int] = set()
        self.is_on = False
        self._is_idle = True

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left in the queue that it would begin."""
        return self._is_idle or not self.is_on

    def turn_on(self, engine: "Engine") -> None:
        """Begin to work, unless it does."""
        self._is_idle = False
        if not self.is_on:
            self.is_on = True
            self._task = engine.call(self._work(engine, self._task))

    def turn_off(self) -> None:
        """Begin nothing more; what is under way goes on."""
        self.is_on = False

    def stop_and_go_on_later(self, engine: "Engine", run_id: int) -> bool:
        """Stop a run of the queue because the process leaves: the next one goes on with it. False for another run."""
        if run_id not in self._begun:
            return False
        from lora_tui.engine.runtime.queue import stop_and_go_on_later

        engine.call(stop_and_go_on_later(engine, run_id)).result()
        return True

    async def _work(self, engine: "Engine", before: "Future[None] | None") -> None:
        from lora_tui.engine.runtime.queue import QueueWorker

        if before is not None:  # turned off and on again, while a run was under way
            await asyncio.wrap_future(before)
        worker = QueueWorker(engine)
        while self.is_on:
            try:
                await self._begin(worker)
            except Exception:  # the store may be locked for a moment; the next look may succeed
                log.exception("the queue cannot be worked")
            await asyncio.sleep(_POLL_SECONDS)

    async def _begin(self, worker: "QueueWorker") -> None:
        """Begin the next run and wait for its end."""
        begun = await worker.begin_next()
        if begun is None:
            self._is_idle = not await worker.left()
            return
        self._is_idle = False
        self._begun.add(begun.run_id)
        self._add_own(begun.run_id, begun.ending)
        await asyncio.wait([asyncio.wrap_future(begun.ending)])
