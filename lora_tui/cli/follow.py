"""Follows a run: reads its events from the store as they come and hands them to a narrator, to the run's end.

The same for a run of this process and for one of another: what is shown is what the store says.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_tui.cli.narration import Narrator, RunEnding
from lora_tui.engine.runtime.engine import Outcome
from lora_tui.engine.runtime.resume import store_flag
from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.store.rows import LIVE_STATES, RESUMABLE_MODES, Event, Run, worked_seconds
from lora_tui.terminal.signals import Interrupts
from lora_tui.terminal.streams import Streams

_STOPPING = "stopping: finishing the step and saving; press ctrl+c again to leave at once (resumable)"
_ENDING = "stopping: whoever waits for an answer is told; press ctrl+c again to leave at once"
_READER_LEFT = "stopping and saving: whoever read the output has left"

_POLL_SECONDS = 0.15
_OWNER_POLLS = 10
"""The owner of a run is looked for at every tenth poll without news."""

_BATCH = 1000
_HANG_UP_GRACE_SECONDS = 0.2


@dataclass
class RunFollower:
    """Reader of one run's events: its cursor, and the ``done`` event that is held back until nothing follows it.

    `warnings` are the command line's own, written after ``started``, which comes first. `reader_left` is set when
    whoever read the output has gone.
    """

    store: Store
    run_id: int
    narrator: Narrator
    streams: Streams
    cursor: int = 0
    warnings: Sequence[str] = ()
    done: Event | None = None
    reader_left: bool = field(default=False, init=False)

    async def skip_past(self, last: int | None = None) -> None:
        """Count what has happened so far, or up to the event with the id `last`, without writing it."""
        while batch := await events.since(self.store, self.run_id, self.cursor, _BATCH):
            for event in batch:
                if last is not None and event.id > last:
                    return
                self.cursor = event.id
                self.narrator.count(event)

    async def read(self) -> int:
        """Write what is new; returns the number of events. A run that was resumed has more than one ``done``."""
        batch = await events.since(self.store, self.run_id, self.cursor, _BATCH)
        for event in batch:
            self.cursor = event.id
            if event.kind == "done":
                self.done = event
                continue
            self.done = None
            await self.narrate(self.narrator.event, event)
            if event.kind == "started":
                for message in self.warnings:
                    warning = Event(0, self.run_id, time.time(), "warning", {"message": message})
                    await self.narrate(self.narrator.event, warning)
                self.warnings = ()
        await self.narrate(self.narrator.refresh)
        return len(batch)

    async def narrate(self, call: Callable[..., None], *arguments: object) -> None:
        """Call the narrator; a reader that has gone is noted, a terminal that has gone is forgotten."""
        try:
            call(*arguments)
        except OSError as problem:
            # The hang-up that ended the reader may be about to reach us as well: then it is no reason to stop.
            await asyncio.sleep(_HANG_UP_GRACE_SECONDS)
            self.reader_left |= self.streams.survive(problem)

    def ending(self, outcome: Outcome, run: Run | None) -> RunEnding:
        """Return how the run ended; its ``done`` event says when, the row of `run` what it took."""
        at = self.done.at if self.done is not None else run.ended_at if run is not None else None
        seconds = None if run is None else worked_seconds(run, run.ended_at)
        can_go_on = run is None or run.mode in RESUMABLE_MODES
        command = resume_command(self.run_id, self.store.path) if can_go_on else None
        return RunEnding(outcome, at or time.time(), seconds, command)


def resume_command(run_id: int, store_path: Path) -> str:
    """Return the command line that goes on with a run."""
    return f"lora-tui --resume {run_id}{store_flag(store_path)}"


async def follow_own_run(
    follower: RunFollower,
    ending: asyncio.Future[Outcome],
    interrupts: Interrupts,
    stop: Callable[[], None],
    mode: str = "",
) -> Outcome:
    """Write a run of this process to its end; a signal, or a reader that has left, stops it once."""
    asked, asked_to_stop = False, _ENDING if mode == "serve" else _STOPPING
    while True:
        ended = ending.done()
        count = await follower.read()
        if ended and count < _BATCH:
            return ending.result()
        if not asked and (interrupts.stopped_by is not None or follower.reader_left):
            asked = True
            stop()
            await follower.narrate(follower.narrator.message, _READER_LEFT if follower.reader_left else asked_to_stop)
        if count < _BATCH:
            await asyncio.wait([ending], timeout=_POLL_SECONDS)


async def follow_any_run(follower: RunFollower, interrupts: Interrupts) -> Run | None:
    """Write a run of any process to its end; returns it as it then is, or None when a signal or the reader ended us."""
    polls = 0
    while True:
        count = await follower.read()
        if interrupts.stopped_by is not None or follower.reader_left:
            return None
        if count == 0 and (follower.done is not None or polls % _OWNER_POLLS == 0):
            await runs.mark_interrupted(follower.store)
            run = await runs.get(follower.store, follower.run_id)
            if run is None or run.state not in LIVE_STATES:
                await follower.read()
                return run
        if count < _BATCH:
            polls += 1
            await asyncio.sleep(_POLL_SECONDS)
