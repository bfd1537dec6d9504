"""The coordinator of a generation run: which task starts next, what its end means, and when the run is over.

It starts as many tasks as the model has room for, and waits for the first to end. Judging comes before writing, and no
more judge calls are in flight than pairs are missing, so the target is never overshot. All that is known of a run is in
the store: a killed run is resumed by starting again over the same rows, and only what was in flight is done twice.

Beside it stands `RunControl`, by which people pause the run, let it continue, and have its pairs counted anew.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path

from lora_tui.engine.generation.background_reading import BackgroundReading
from lora_tui.engine.generation.generation_model import CallFailed, CallStopped
from lora_tui.engine.generation.ledger import BudgetSpent
from lora_tui.engine.generation.output import write_accepted
from lora_tui.engine.generation.planner import ANALYSE, CHECK, GENERATE, JUDGE
from lora_tui.engine.generation.progress import MOST_FRUITLESS
from lora_tui.engine.generation.task_queue import TaskQueue
from lora_tui.engine.generation.workers import UnfitJudgeError, Workers
from lora_tui.engine.runtime.commands import DONE, Commands
from lora_tui.engine.runtime.context import Emit, RunContext
from lora_tui.store.rows import TaskRow

STOP_GRACE = 20.0
"""Seconds that calls in flight get to be answered when the run is asked to stop: they have been paid for."""

END_GRACE = 5.0
"""The same when the target is reached: their answers would only be kept for review."""

_MOST_UNJUDGED = 8
"""Pairs in a row that no judge could be asked about, with none judged before: more would be paid for in vain."""

_MOST_PER_CALL = 5
"""Pairs that a call asks for at most: so many fewer calls are planned at a time than pairs are missing."""

_MOST_RUNNING = 2
"""Tasks that may run, for each call that may be under way: the others are stored, measured and decided."""

_AHEAD = 16
"""Where many calls are in flight, a sixteenth of them is planned at a time, in one transaction."""

_PROGRESS_SECONDS = 0.3

_FILE_SECONDS = 5.0
"""Shortest time between two writings of the whole output file while the run lasts; its end always writes it."""


class RunEnd(Enum):
    """Why a run is over."""

    TARGET = "target reached"
    NOTHING_NEW = "nothing new accepted in a whole pass"
    FRUITLESS = f"nothing new accepted in {MOST_FRUITLESS} calls"
    BUDGET = "budget spent"
    STOPPED = "stopped"


class RunControl:
    """Control state of a live run: pause and recount requests; `changed` is set when the scheduler should look again.

    A pause holds back every request that has not left yet, further tries of a failed call included; answers of calls in
    flight are stored. It lives in memory alone: a resumed run starts unpaused.
    """

    def __init__(self, stop: asyncio.Event, emit: Emit) -> None:
        self._stop = stop
        self._emit = emit
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self.changed = asyncio.Event()
        self.recount_wanted = False

    @property
    def paused(self) -> bool:
        """Whether no request may leave."""
        return not self._unpaused.is_set()

    @contextmanager
    def handles(self, commands: Commands) -> Iterator[None]:
        """Handle the run's commands while the block lasts; a pause ends with it."""
        handlers = {"pause": self.pause, "continue": self.unpause, "recount": self.request_recount}
        try:
            with commands.handling(handlers):
                yield
        finally:
            if self.paused:
                self._emit("paused", paused=False)

    async def pause(self) -> str:
        """Hold back every further request."""
        if self.paused:
            return "it is paused already"
        self._unpaused.clear()
        return self._changed(paused=True)

    async def unpause(self) -> str:
        """End the pause."""
        if not self.paused:
            return "it is not paused"
        self._unpaused.set()
        return self._changed(paused=False)

    def _changed(self, *, paused: bool) -> str:
        self._emit("paused", paused=paused)
        self.changed.set()
        return DONE

    async def request_recount(self) -> str:
        """Have the pairs counted anew: a person has changed a verdict."""
        self.recount_wanted = True
        self.changed.set()
        return DONE

    async def wait_while_paused(self) -> None:
        """Return when a request may leave; raises `CallStopped` if the run is stopped before."""
        while self.paused:
            if self._stop.is_set():
                raise CallStopped
            await _wait_for_any(self._unpaused, self._stop)


async def _wait_for_any(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of the events is set, `seconds` at most."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


class Pipeline:
    """Scheduler of a generation run: starts analysing, judging and writing until the target, the budget or a stop."""

    def __init__(
        self, ctx: RunContext, workers: Workers, control: RunControl, reading: BackgroundReading | None = None
    ) -> None:
        self._ctx = ctx
        self._reading = reading
        self._waits_for_files = False  # there is nothing to ask about until more of the folder is read
        self._workers = workers
        self._progress = workers.progress
        self._control = control
        self._output = Path(ctx.settings.data_generation.output_file)
        self._queue = TaskQueue(ctx.store, ctx.run_id)
        self._running: dict[asyncio.Task[None], TaskRow] = {}
        self._ended: list[asyncio.Task[None]] = []  # of those running, that have ended and are not collected yet
        self._has_ended = asyncio.Event()  # a task, or the endpoint's part of one; or there is something else to do
        self._waiters: dict[asyncio.Event, asyncio.Task[object]] = {}
        self._answered: set[int] = set()  # tasks (ids) of those running that the endpoint has done its part of
        self._judging = 0  # of those running
        self._suspended: dict[int, tuple[TaskRow, str]] = {}  # failed tasks by id, with the reason
        self._tried_again: set[int] = set()  # tasks that were suspended before
        self._unjudged: dict[int, tuple[TaskRow, str]] = {}  # judge tasks that failed before any was answered
        self._judge_works = workers.progress.accepted > 0
        self._unaffordable: set[str] = set()  # kinds of task for which the budget has no room, as far as is known
        self._reported_at = 0.0
        self._written_at = 0.0

    async def run(self) -> RunEnd:
        """Work until the run is over, and return why.

        Raises what ends a run from outside, such as `UnreachableError`; everything that was answered is stored then.
        """
        try:
            while not self._ctx.stop_async.is_set():
                await self._apply_requests()
                if self._reading is not None:
                    self._reading.raise_failure()
                if self._control.paused:
                    await self._wait_for_one()
                    continue
                await self._start_tasks()
                if not self._running:
                    if self._suspended or self._unjudged:
                        await self._give_up_or_try_again()
                        await self._give_up(self._unjudged)
                    elif self._waits_for_files:
                        await self._wait_for_one()
                    elif (end := await self._end_of_run()) is not None:
                        return end
                elif self._only_surplus:
                    await self._drain(END_GRACE, self._control.changed)
                else:
                    await self._wait_for_one()
            await self._drain(STOP_GRACE)
            return RunEnd.STOPPED
        finally:
            await self._cancel_running()
            for waiter in self._waiters.values():
                waiter.cancel()

    async def _apply_requests(self) -> None:
        """Do what people have asked for since the last turn."""
        self._control.changed.clear()
        if self._control.recount_wanted:
            self._control.recount_wanted = False
            await self._workers.recount()
            self._queue.read_anew({task.id for task in self._out})

    async def _start_tasks(self) -> None:
        """Start what can start: a check of the judges, an analysis that is due, then judging, then writing.

        Where calls cost money, or a judge may be refused, the check comes before all else. A server of one's own takes
        it beside the first pairs, once it is known what its model can do at all.
        """
        self._progress.concurrency = self._workers.model.concurrency
        if self._workers.check_first or any(self._progress.counts.values()):
            for task in await self._next(CHECK, self._capacity):
                self._start(task)
        if self._workers.check_first and any(task.kind == CHECK for task in self._running.values()):
            return
        if await self._workers.analyst.plan_due(self._progress.accepted, last=self._progress.missing == 0):
            self._queue.announce(ANALYSE)
        for task in await self._next(ANALYSE, self._capacity):
            self._start(task)
        for task in await self._next(JUDGE, min(self._capacity, self._progress.missing - self._judging)):
            self._start(task)
        self._waits_for_files = False
        while self._capacity > 0 and self._progress.missing and self._progress.wants_pairs:
            if GENERATE in self._unaffordable:
                return
            found = await self._next(GENERATE, 1)
            if found:
                self._start(found[0])
                continue
            wanted = max(self._capacity, self._progress.concurrency // _AHEAD)
            wanted = max(1, min(wanted, self._progress.wanted // _MOST_PER_CALL))
            if not await self._workers.planner.plan(wanted) and self._reading is not None:
                self._waits_for_files = True
                self._reading.wanted.set()
                return
            self._queue.announce(GENERATE)
            if self._has_ended.is_set() and self._running:
                return  # while it was planned, calls have ended: what they wrote is judged before more is written

    @property
    def _only_surplus(self) -> bool:
        """Whether the target is reached and the calls in flight only write pairs that come too late, or check."""
        return self._progress.missing == 0 and all(task.kind in (GENERATE, CHECK) for task in self._running.values())

    @property
    def _capacity(self) -> int:
        """How many more tasks can start: what we have to do ourselves keeps no request from leaving, up to a limit."""
        room, running = self._progress.concurrency, len(self._running)
        return min(room - (running - len(self._answered)), _MOST_RUNNING * room - running)

    @property
    def _out(self) -> Iterator[TaskRow]:
        """The tasks that are under way, or wait to be tried again or given up."""
        yield from self._running.values()
        for task, _ in (*self._suspended.values(), *self._unjudged.values()):
            yield task

    async def _next(self, kind: str, wanted: int) -> list[TaskRow]:
        """Return up to `wanted` pending tasks that are neither running nor suspended."""
        if wanted <= 0 or kind in self._unaffordable:
            return []
        return await self._queue.take(kind, wanted)

    def _start(self, task: TaskRow) -> None:
        if task.kind == GENERATE:
            self._progress.requested += int(task.slot["count"])
        self._judging += task.kind == JUDGE
        running = asyncio.create_task(self._run_task(task))
        self._running[running] = task
        running.add_done_callback(self._note_end)

    def _note_answer(self, task_id: int, answered: bool) -> None:
        if answered:
            self._answered.add(task_id)
            self._has_ended.set()
        else:
            self._answered.discard(task_id)

    def _note_end(self, ended: asyncio.Task[None]) -> None:
        self._ended.append(ended)
        self._has_ended.set()

    async def _run_task(self, task: TaskRow) -> None:
        workers = self._workers
        work = {
            GENERATE: workers.generate,
            JUDGE: workers.judge,
            ANALYSE: workers.analyst.analyse,
            CHECK: workers.check,
        }[task.kind]
        call = workers.call(task)
        call.on_answered = partial(self._note_answer, task.id)
        try:
            await work(task, call)
        finally:
            await call.abandon()
        if task.kind == ANALYSE and time.monotonic() - self._written_at > _FILE_SECONDS:
            self._written_at = (
                time.monotonic()
            )  # first: two analyses may end at once, and one would keep the other's file
            await write_accepted(self._ctx.store, self._ctx.run_id, self._output, on_kept=self._report_kept)

    def _report_kept(self, kept: Path) -> None:
        self._ctx.warn(f"{self._output} was changed by hand since it was written: that stays in {kept}.")

    async def _wait_for_one(self) -> None:
        """Wait until a task has ended, or until people ask for something."""
        await self._wait()
        await self._collect_ended()
        self._report_progress()

    async def _wait(self) -> None:
        """Return when a task has ended, people ask for something or the run is to stop."""
        for event in (self._ctx.stop_async, self._control.changed):
            if event not in self._waiters or self._waiters[event].done():  # kept: this is waited for again and again
                self._waiters[event] = asyncio.create_task(event.wait())
                self._waiters[event].add_done_callback(lambda _: self._has_ended.set())
        await self._has_ended.wait()

    async def _collect_ended(self) -> None:
        self._has_ended.clear()
        ended, self._ended = self._ended, []
        for position, one in enumerate(ended):
            try:
                await self._collect(one)
            except BaseException:
                self._ended += ended[position + 1 :]
                raise

    async def _collect(self, ended: asyncio.Task[None]) -> None:
        """Take a task's end into account. Raises what concerns the whole run."""
        task = self._running.pop(ended, None)
        if task is None:
            return
        self._answered.discard(task.id)
        self._judging -= task.kind == JUDGE
        if task.kind == GENERATE:
            self._progress.requested -= int(task.slot["count"])
            self._queue.hand_over(JUDGE, self._workers.take_unjudged())
        try:
            ended.result()
        except CallStopped:
            self._queue.put_back(task)
            return
        except BudgetSpent:
            self._unaffordable.add(task.kind)
            self._queue.put_back(task)
            return
        except CallFailed as failure:
            if failure.transient:
                # Perhaps the endpoint is gone, which is not the task's fault: give it up once something is answered.
                self._suspended[task.id] = (task, str(failure))
            elif task.kind == JUDGE and not self._judge_works:
                self._unjudged[task.id] = (task, str(failure))
                if len(self._unjudged) >= _MOST_UNJUDGED:
                    raise UnfitJudgeError(self._no_judgements(str(failure))) from None
            else:
                await self._workers.give_up(task, str(failure))
            self._unaffordable.clear()
            return
        self._unaffordable.clear()
        if task.id in self._workers.reopened:
            self._workers.reopened.discard(task.id)
            self._queue.put_back(task)
        await self._give_up_or_try_again()
        if task.kind == JUDGE:
            self._judge_works = True
            await self._give_up(self._unjudged)

    async def _give_up_or_try_again(self) -> None:
        """Decide about suspended tasks when something is answered: an outage is nobody's fault, a second one is."""
        for task, reason in self._suspended.values():
            if task.id in self._tried_again:
                await self._workers.give_up(task, reason)
            else:
                self._queue.put_back(task)
        self._tried_again |= self._suspended.keys()
        self._suspended.clear()

    async def _give_up(self, failed: dict[int, tuple[TaskRow, str]]) -> None:
        for task, reason in failed.values():
            await self._workers.give_up(task, reason)
        failed.clear()

    def _no_judgements(self, reason: str) -> str:
        judges = " and ".join(judge.name for judge in self._workers.model.judges)
        advice = "" if "raise data_generation" in reason else ", or name another with data_generation.judge_model"
        return (
            f"{judges} as the judge gave no judgement {_MOST_UNJUDGED} times in a row: {reason}.\n"
            f"Its pairs wait in the store: change that{advice}, and go on with --resume."
        )

    async def _end_of_run(self) -> RunEnd | None:
        """Return why nothing is left to do; None where a person's verdict has changed that."""
        if await self._workers.recount():
            self._queue.read_anew(set())
            return None
        if self._progress.missing == 0:
            await self._workers.finish()
            return RunEnd.TARGET
        if self._unaffordable:
            return RunEnd.BUDGET
        # Of a folder of many thousand passages, nobody wants to pay for a whole pass to learn that nothing comes of it.
        whole_pass = self._progress.fruitless_limit >= self._workers.planner.fruitless_limit
        return RunEnd.NOTHING_NEW if whole_pass else RunEnd.FRUITLESS

    async def _drain(self, grace: float, interrupt: asyncio.Event | None = None) -> None:
        """Let calls in flight be answered for `grace` seconds, then cancel them; `interrupt` returns at once."""
        deadline = time.monotonic() + grace
        while self._running and (left := deadline - time.monotonic()) > 0:
            if not self._has_ended.is_set():
                await _wait_for_any(self._has_ended, *(() if interrupt is None else (interrupt,)), seconds=left)
            await self._collect_ended()
            if interrupt is not None and interrupt.is_set():
                return
        await self._cancel_running()

    async def _cancel_running(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
        self._ended.clear()
        self._answered.clear()
        self._judging = self._progress.requested = 0

    def _report_progress(self) -> None:
        now = time.monotonic()
        if now - self._reported_at < _PROGRESS_SECONDS and self._progress.missing:
            return
        self._reported_at = now
        counts, load = self._progress.counts, self._workers.model.endpoint_load
        in_flight = len(self._running) if load is None else load.in_flight
        note = (
            f"{self._reading.note if self._reading is not None else ''}"
            f"pass {self._workers.planner.round}, {counts['rejected']} rejected, {counts['review']} for review, "
            f"{counts['waiting']} to judge, {in_flight} in flight"
        )
        found: dict[str, object] = {}
        if load is not None:
            speed = round(load.tokens_per_s, 1)
            found = {"in_flight": in_flight, "limit": load.limit, "limit_found": load.found, "tokens_per_s": speed}
        if endpoints := self._workers.model.endpoints:
            found["endpoints"] = [one.fields() for one in endpoints]
        done, total = self._progress.accepted, self._progress.target
        self._ctx.emit("progress", phase="generating", done=done, total=total, note=note, **found)
