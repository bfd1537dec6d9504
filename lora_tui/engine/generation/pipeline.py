"""The coordinator: which task begins next, what its end means, and when the run is over.

It starts a bounded number of tasks and waits for the first to end. Judging comes before writing, and no more judge
calls are in flight than could still be needed, so the target is never overshot. What is known of a run is in the store:
a killed run is taken up by starting again over the same rows, and only what was in flight is done twice.

What people ask of a generation run while it works: to pause, to go on, and to count its pairs anew.

A pause holds back every request that has not left yet, further tries of a call that failed included; what is in flight
is answered and stored. It lives in memory alone: a run that is resumed goes on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from lora_tui.engine.generation.generation_model import CallFailed, CallStopped
from lora_tui.engine.generation.ledger import BudgetSpent
from lora_tui.engine.generation.planner import ANALYSE, GENERATE, JUDGE, Planner
from lora_tui.engine.generation.progress import GenerationProgress
from lora_tui.engine.generation.workers import Workers
from lora_tui.engine.runtime.commands import DONE, Commands
from lora_tui.engine.runtime.context import Emit
from lora_tui.store import tasks
from lora_tui.store.tasks import TaskRow

STOP_GRACE = 20.0
"""Seconds that calls in flight get to be answered when the run is asked to stop: they have been paid for."""

END_GRACE = 5.0
"""The same when the target is reached: their answers would only be kept for review."""

_PROGRESS_SECONDS = 0.3


class End(Enum):
    """Why a run is over."""

    TARGET = "target reached"
    NOTHING_NEW = "nothing new accepted in a whole pass"
    BUDGET = "budget spent"
    STOPPED = "stopped"


class RunControl:
    """Whether calls may leave, and whether the coordinator has something to look at (`changed`)."""

    def __init__(self, stop: asyncio.Event, emit: Emit) -> None:
        self._stop = stop
        self._emit = emit
        self._going = asyncio.Event()
        self._going.set()
        self.changed = asyncio.Event()
        self.recount_wanted = False

    @property
    def paused(self) -> bool:
        """Whether nothing may begin."""
        return not self._going.is_set()

    @contextmanager
    def steers(self, commands: Commands) -> Iterator[None]:
        """Honour the commands while the block lasts; a pause ends with it."""
        handlers = {"pause": self.pause, "continue": self.go_on, "recount": self.recount}
        try:
            with commands.handling(handlers):
                yield
        finally:
            if self.paused:
                self._emit("paused", paused=False)

    async def pause(self) -> str:
        """Let nothing begin any more."""
        if self.paused:
            return "it is paused already"
        self._going.clear()
        self._emit("paused", paused=True)
        self.changed.set()
        return DONE

    async def go_on(self) -> str:
        """End the pause."""
        if not self.paused:
            return "it is not paused"
        self._going.set()
        self._emit("paused", paused=False)
        self.changed.set()
        return DONE

    async def recount(self) -> str:
        """Have the pairs counted anew: a person has changed a verdict."""
        self.recount_wanted = True
        self.changed.set()
        return DONE

    async def may_call(self) -> None:
        """Return when a request may leave; raises `CallStopped` when the run is to stop before it may."""
        while self.paused:
            if self._stop.is_set():
                raise CallStopped
            waiting = [asyncio.ensure_future(event.wait()) for event in (self._going, self._stop)]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waiting:
                    one.cancel()


class Pipeline:
    """One run's coordinator. `after_analysis` is awaited whenever an analysis has been stored."""

    def __init__(
        self,
        workers: Workers,
        planner: Planner,
        standing: GenerationProgress,
        stop: asyncio.Event,
        steering: RunControl,
        interval: int,
        progress: Callable[[int, int, str], None],
        after_analysis: Callable[[], Awaitable[None]],
    ) -> None:
        self._workers = workers
        self._planner = planner
        self._standing = standing
        self._stop = stop
        self._steering = steering
        self._interval = interval
        self._progress = progress
        self._after_analysis = after_analysis
        self._most_running = 2 * workers.model.concurrency  # half of them may be waiting for a retry
        self._running: dict[asyncio.Task[None], TaskRow] = {}
        self._set_aside: dict[int, tuple[TaskRow, str]] = {}
        self._batches = 0  # whole batches of accepted pairs whose analysis has been planned
        self._no_budget = False
        self._told = 0.0

    async def run(self) -> End:
        """Work until the run is over, and return why.

        Raises what ends a run from outside, such as `UnreachableError`; everything that was answered is stored then.
        """
        stop = asyncio.create_task(self._stop.wait())
        try:
            while not self._stop.is_set():
                await self._heed()
                if self._steering.paused:
                    await self._wait_for_one(stop)
                    continue
                await self._dispatch()
                if not self._running:
                    if self._set_aside:
                        await self._bury_set_aside()
                    elif (end := await self._conclude()) is not None:
                        return end
                elif self._only_surplus:
                    await self._wind_down(END_GRACE, self._steering.changed)
                else:
                    await self._wait_for_one(stop)
            await self._wind_down(STOP_GRACE)
            return End.STOPPED
        finally:
            stop.cancel()
            await self._cancel_running()

    async def _heed(self) -> None:
        """Look at what people have asked for since the last turn."""
        self._steering.changed.clear()
        if self._steering.recount_wanted:
            self._steering.recount_wanted = False
            await self._workers.recount()

    async def _dispatch(self) -> None:
        """Begin what can begin: an analysis that is due, then judging, then writing."""
        if self._no_budget:
            return
        kinds = [task.kind for task in self._running.values()]
        if (batches := self._standing.accepted // self._interval) > self._batches:
            await self._workers.plan_analyses([n * self._interval for n in range(self._batches + 1, batches + 1)])
            self._batches = batches
        for task in await self._next(ANALYSE, self._room):
            self._begin(task)
        judges = min(self._room, self._standing.need - kinds.count(JUDGE))
        for task in await self._next(JUDGE, judges):
            self._begin(task)
        while self._room > 0 and self._standing.need and self._standing.wants_pairs:
            found = await self._next(GENERATE, 1)
            if found:
                self._begin(found[0])
            else:
                await self._planner.plan(1)

    @property
    def _only_surplus(self) -> bool:
        """Whether the target is reached and what is in flight would come too late."""
        return self._standing.need == 0 and all(task.kind == GENERATE for task in self._running.values())

    @property
    def _room(self) -> int:
        return self._most_running - len(self._running)

    async def _next(self, kind: str, wanted: int) -> list[TaskRow]:
        """Return up to `wanted` pending tasks that are neither running nor set aside."""
        if wanted <= 0:
            return []
        taken = {task.id for task in self._running.values()} | self._set_aside.keys()
        workers = self._workers
        page = await tasks.pending_tasks(workers.store, workers.run_id, kind, len(taken) + wanted)
        return [task for task in page if task.id not in taken][:wanted]

    def _begin(self, task: TaskRow) -> None:
        if task.kind == GENERATE:
            self._standing.asked += int(task.slot["count"])
        self._running[asyncio.create_task(self._perform(task))] = task

    async def _perform(self, task: TaskRow) -> None:
        workers = self._workers
        work = {GENERATE: workers.generate, JUDGE: workers.judge, ANALYSE: workers.analyse}[task.kind]
        call = workers.call(task)
        try:
            await work(task, call)
        finally:
            await call.abandon()
        if task.kind == ANALYSE:
            await self._after_analysis()

    async def _wait_for_one(self, stop: asyncio.Task[bool]) -> None:
        """Wait until a task has ended, or until people ask for something."""
        changed = asyncio.create_task(self._steering.changed.wait())
        await asyncio.wait([*self._running, stop, changed], return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        await self._finish_ended()
        self._tell_progress()

    async def _finish_ended(self) -> None:
        for ended in [running for running in self._running if running.done()]:
            await self._finish(ended)

    async def _finish(self, finished: asyncio.Task[None]) -> None:
        """Take a task's end into account. Raises what concerns the whole run."""
        task = self._running.pop(finished)
        if task.kind == GENERATE:
            self._standing.asked -= int(task.slot["count"])
        try:
            finished.result()
        except CallStopped:
            return
        except BudgetSpent:
            self._no_budget = True
            return
        except CallFailed as failure:
            if failure.transient:
                # Perhaps the endpoint is gone: then the task is not to blame. It is buried once something is answered.
                self._set_aside[task.id] = (task, str(failure))
            else:
                await self._workers.bury(task, str(failure))
            self._no_budget = False
            return
        self._no_budget = False
        await self._bury_set_aside()

    async def _bury_set_aside(self) -> None:
        for task, reason in self._set_aside.values():
            await self._workers.bury(task, reason)
        self._set_aside.clear()

    async def _conclude(self) -> End | None:
        """Return why nothing is left to do; None where a person's verdict makes that untrue."""
        if await self._workers.recount():
            return None
        if self._standing.need == 0:
            await self._workers.close_books()
            return End.TARGET
        return End.BUDGET if self._no_budget else End.NOTHING_NEW

    async def _wind_down(self, grace: float, unless: asyncio.Event | None = None) -> None:
        """Let calls in flight be answered for a while; nothing new begins. `unless` breaks it off: look again."""
        deadline = time.monotonic() + grace
        changed = [] if unless is None else [asyncio.create_task(unless.wait())]
        try:
            while self._running and (left := deadline - time.monotonic()) > 0:
                await asyncio.wait([*self._running, *changed], timeout=left, return_when=asyncio.FIRST_COMPLETED)
                await self._finish_ended()
                if unless is not None and unless.is_set():
                    return
        finally:
            for one in changed:
                one.cancel()
        await self._cancel_running()

    async def _cancel_running(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if now - self._told < _PROGRESS_SECONDS and self._standing.need:
            return
        self._told = now
        counts = self._standing.counts
        note = (
            f"pass {self._planner.round}, {counts['rejected']} rejected, {counts['review']} for review, "
            f"{counts['waiting']} to judge, {len(self._running)} in flight"
        )
        self._progress(self._standing.accepted, self._standing.target, note)
