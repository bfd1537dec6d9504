"""Reading a run's events out of the store as they come and handing them to a narrator, until the run has ended.

The same for a run of this process and for one of another: what is shown is what the store says.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lora_tui.cli.narration import Narrator
from lora_tui.cli.signals import Interrupts
from lora_tui.cli.streams import Streams
from lora_tui.engine.runtime.engine import Outcome
from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import LIVE_STATES, Event, Run

STOPPING = "stopping: finishing the step and saving; press ctrl+c again to leave at once (resumable)"
READER_LEFT = "stopping and saving: whoever read the output has left"

_POLL_SECONDS = 0.15
_OWNER_POLLS = 10
_BATCH = 1000
_HANG_UP_GRACE_SECONDS = 0.2


@dataclass
class Watch:
    """A reader of one run: its cursor, and the ``done`` event that is held back until nothing follows it."""

    store: Store
    run_id: int
    narrator: Narrator
    streams: Streams
    cursor: int = 0
    remarks: Sequence[str] = ()
    """Warnings of the command line itself, told after ``started``, which comes first."""
    done: Event | None = None
    reader_left: bool = field(default=False, init=False)

    async def recall(self) -> None:
        """Take note of everything that happened so far without telling it."""
        while batch := await events.since(self.store, self.run_id, self.cursor, _BATCH):
            self.cursor = batch[-1].id
            for event in batch:
                self.narrator.recall(event)

    async def read(self) -> int:
        """Tell what is new; returns how many events there were. A run that was resumed has more than one ``done``."""
        batch = await events.since(self.store, self.run_id, self.cursor, _BATCH)
        for event in batch:
            self.cursor = event.id
            if event.kind == "done":
                self.done = event
                continue
            self.done = None
            await self.tell(self.narrator.event, event)
            if event.kind == "started":
                await self._make_remarks()
        await self.tell(self.narrator.tick)
        return len(batch)

    async def tell(self, call: Callable[..., None], *arguments: object) -> None:
        """Call the narrator; a reader that has gone is noted, a terminal that has gone is forgotten."""
        try:
            call(*arguments)
        except OSError as problem:
            # The hang-up that ended the reader may be about to reach us as well: then it is no reason to stop.
            await asyncio.sleep(_HANG_UP_GRACE_SECONDS)
            self.reader_left |= self.streams.survive(problem)

    async def _make_remarks(self) -> None:
        for remark in self.remarks:
            event = Event(0, self.run_id, time.time(), "warning", {"message": remark})
            await self.tell(self.narrator.event, event)
        self.remarks = ()


async def follow_own(
    watch: Watch, ending: asyncio.Future[Outcome], interrupts: Interrupts, stop: Callable[[], None]
) -> Outcome:
    """Tell a run of this process until it has ended and everything is told; pass a signal on as a request to stop."""
    asked = False
    while True:
        ended = ending.done()
        count = await watch.read()
        if ended and count < _BATCH:
            return ending.result()
        if not asked and (interrupts.stopped_by is not None or watch.reader_left):
            asked = True
            stop()
            await watch.tell(watch.narrator.say, READER_LEFT if watch.reader_left else STOPPING)
        if count < _BATCH:
            await asyncio.wait([ending], timeout=_POLL_SECONDS)


async def follow_other(watch: Watch, interrupts: Interrupts) -> Run | None:
    """Tell a run of any process until it has ended; returns it as it then is, or None when we were asked to leave."""
    polls = 0
    while True:
        count = await watch.read()
        if interrupts.stopped_by is not None or watch.reader_left:
            return None
        if count == 0 and (watch.done is not None or polls % _OWNER_POLLS == 0):
            await runs.mark_interrupted(watch.store)
            run = await runs.get(watch.store, watch.run_id)
            if run is None or run.state not in LIVE_STATES:
                await watch.read()
                return run
        if count < _BATCH:
            polls += 1
            await asyncio.sleep(_POLL_SECONDS)
