"""The engine: a thread with its own asyncio loop, two worker threads for torch, and the life cycle of runs.

Jobs have one of the worker threads, chat sessions the other: one can chat while a model trains for hours. The caller
(command line or app) submits a run and reads the store; it waits for the engine only at the very end. Stopping is a
request: the job finishes what it must, saves, and the run ends as ``stopped``.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lora_tui.config.models import Settings
from lora_tui.config.written import written_keys
from lora_tui.engine.jobs.quickstart_settings import quickstart_settings
from lora_tui.engine.jobs.registry import load_job
from lora_tui.engine.runtime.commands import DONE, Commands
from lora_tui.engine.runtime.context import EventWriter, RunContext, Stopped, finite
from lora_tui.engine.runtime.process import before_torch
from lora_tui.engine.runtime.resume import require_run
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.secrets import redact
from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.store.owner import LostRunError, new_token
from lora_tui.system_errors import explain

T = TypeVar("T")

log = logging.getLogger(__name__)

_COMMAND_POLL_SECONDS = 0.25

_SECONDS_TO_CLOSE = 5.0
"""A session that is still loading, or computing a long token, is abandoned after this time."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `state` as in the store, the exit status, and the message of a failure."""

    run_id: int
    state: str
    exit_status: int
    result: dict[str, Any]
    error: str | None


class Session(Protocol):
    """A resource that stays open beside the runs, such as a chat session."""

    async def close(self) -> None:
        """Cancel what is running and free its memory."""


class Engine:
    """Runs jobs on a thread of its own; one instance a process."""

    def __init__(self, store_path: Path) -> None:
        self._store_path = store_path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._torch_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")
        self._inference_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._active: dict[int, RunContext] = {}
        self._sessions: set[Session] = set()
        self._store: Store | None = None

    def start(self) -> None:
        """Start the thread and open the store; raises what `Store.open` raises."""
        before_torch()
        self._thread.start()
        self._store = self.call(Store.open(self._store_path)).result()

    def call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the engine's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def submit(
        self, mode: str, settings: Settings, options: Mapping[str, Any] | None = None, resume: int | None = None
    ) -> tuple[int, Future[Outcome]]:
        """Create (or take over) a run and begin it; returns its id and a future of how it ends."""
        if mode == "quickstart":
            settings = quickstart_settings(settings)
        given, token = dict(options or {}), new_token()
        run_id = self.call(self._create_or_take_over(mode, settings, given, resume, token)).result()
        return run_id, self.call(self._run(run_id, token, mode, settings, given, resumed=resume is not None))

    def begin_taken(
        self, run_id: int, token: str, mode: str, settings: Settings, options: Mapping[str, Any], *, resumed: bool
    ) -> Future[Outcome]:
        """Begin a run that this process has made itself the owner of, with `token`; returns a future of how it ends."""
        return self.call(self._run(run_id, token, mode, settings, options, resumed=resumed))

    async def iterate(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Iterate over a generator of the engine's loop from the caller's loop; breaking off closes it there."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[T, ...]] = asyncio.Queue()

        async def forward() -> None:
            try:
                async with aclosing(items):
                    async for item in items:
                        loop.call_soon_threadsafe(queue.put_nowait, (item,))
            finally:
                loop.call_soon_threadsafe(queue.put_nowait, ())

        forwarding = self.call(forward())
        try:
            while item_or_end := await queue.get():
                yield item_or_end[0]
            await asyncio.wrap_future(forwarding)
        finally:
            forwarding.cancel()

    async def in_inference_thread(self, function: Callable[[], T]) -> T:
        """Run blocking work on the chat sessions' thread; for coroutines on the engine's loop."""
        return await asyncio.get_running_loop().run_in_executor(self._inference_thread, function)

    def register_session(self, session: Session) -> None:
        """Have an open session closed when the engine is closed."""
        self._sessions.add(session)

    def unregister_session(self, session: Session) -> None:
        """Forget a session that has been closed."""
        self._sessions.discard(session)

    def stop(self, run_id: int) -> None:
        """Ask a run of this process to save its work and end; returns at once."""
        self.call(self._stop(run_id))  # as a task, like the run's own: one that was submitted before has begun by then

    def close(self) -> None:
        """Close the sessions and the store, and end the thread. Runs must have ended."""
        if self._thread.is_alive():
            self.call(self._shut_down()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        for thread in (self._torch_thread, self._inference_thread):
            thread.shutdown(wait=False, cancel_futures=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _shut_down(self) -> None:
        if closing := [asyncio.ensure_future(session.close()) for session in tuple(self._sessions)]:
            done, late = await asyncio.wait(closing, timeout=_SECONDS_TO_CLOSE)
            for task in late:
                task.cancel()
            for problem in filter(None, (task.exception() for task in done)):
                log.error("a session could not be closed", exc_info=problem)
        if self._store is not None:
            await self._store.close()
            self._store = None

    @property
    def open_store(self) -> Store:
        """The engine's connection to the store, for work on its loop."""
        assert self._store is not None, "start() has opened it"
        return self._store

    async def _create_or_take_over(
        self, mode: str, settings: Settings, options: dict[str, Any], resume: int | None, token: str
    ) -> int:
        store = self.open_store
        if await store.is_elsewhere():
            raise UsageError(f"The store {store.path} was removed, renamed or replaced; start lora-tui again.")
        if resume is None:
            values, written = settings.model_dump(mode="json"), written_keys(settings)
            return await runs.create(store, mode, values, options, written, token)
        await runs.mark_interrupted(store)
        taken = await runs.take_over(store, resume, token)
        run = await require_run(store, resume)
        if not taken:
            raise UsageError(
                f"Run {resume} is live (process {run.pid} on {run.host}); watch it with --attach {resume}."
            )
        return resume

    async def _stop(self, run_id: int) -> None:
        self._request_stop(run_id)

    def _stop_after(self, run_id: int, problem: Exception) -> None:
        """Ask a run to end because its store can no longer be written, or is another process's to write."""
        log.warning("run %s: %s", run_id, problem)
        context = self._active.get(run_id)
        if context is not None and isinstance(problem, LostRunError):
            context.lost.set()
        self._request_stop(run_id)

    def _request_stop(self, run_id: int) -> None:
        context = self._active.get(run_id)
        if context is not None and not context.stop.is_set():
            context.stop.set()
            context.stop_async.set()
            self._marking_stopped = asyncio.ensure_future(_mark_stopping(context))

    async def _run(
        self, run_id: int, token: str, mode: str, settings: Settings, options: Mapping[str, Any], *, resumed: bool
    ) -> Outcome:
        store = runs.owned_by(self.open_store, run_id, token)
        writer = EventWriter(store, run_id, on_failure=lambda problem: self._stop_after(run_id, problem))
        context = RunContext(run_id, settings, options, store, resumed, writer, self._torch_thread, Commands(mode))
        self._active[run_id] = context
        await runs.start(store, run_id)
        context.emit("started", mode=mode, resumed=resumed, config=settings.model_dump(mode="json"))
        if store.warning:
            context.warn(store.warning)
        heartbeat = asyncio.create_task(self._keep_alive(context))
        try:
            state, status, result, error = await _run_job(context, mode)
            result = finite(result)
            context.emit("done", status=state, exit_status=status, result=result, error=error)
            await writer.close()
        except LoraTuiError as problem:  # the store itself cannot be written
            state, status, result, error = "failed", problem.exit_status, {}, str(problem)
        finally:
            heartbeat.cancel()
            del self._active[run_id]
            context.release_devices()
        try:
            if await store.is_elsewhere():
                state, status, error = "failed", 1, f"The store {store.path} was removed while this run wrote to it."
                await runs.end(store, run_id, state, result, error)
                error = await store.rescue(f"--resume {run_id}")
                return Outcome(run_id, state, status, result, error)
            await runs.end(store, run_id, state, result, error)
            # Not before: whoever changes a pair from now on sees a run that has ended, and rewrites its file itself.
            await self._handle_commands(context, last=True)
        except Exception as problem:  # the caller waits for an outcome whatever happens to the store
            log.exception("the end of run %s cannot be stored", run_id)
            state, status = "failed", status or 1
            error = error or redact(f"The store {store.path} can no longer be written: {problem}")
        return Outcome(run_id, state, status, result, error)

    async def _keep_alive(self, context: RunContext) -> None:
        """Renew the heartbeat and handle watchers' commands, for as long as the run lasts."""
        beats = round(runs.HEARTBEAT_SECONDS / _COMMAND_POLL_SECONDS)
        for tick in range(1_000_000_000):
            try:
                if tick % beats == 0:
                    await runs.renew_heartbeat(context.store, context.run_id)
                    if await context.store.is_elsewhere():
                        self._request_stop(context.run_id)
                        return
                await self._handle_commands(context)
            except LostRunError as problem:
                self._stop_after(context.run_id, problem)
                return
            except Exception:  # whatever it is, the run goes on without this beat
                # A store that is locked now may not be at the next beat; one that stays so stops the event writer.
                log.exception("the heartbeat of run %s cannot be stored", context.run_id)
            await asyncio.sleep(_COMMAND_POLL_SECONDS)

    async def _handle_commands(self, context: RunContext, *, last: bool = False) -> None:
        """Handle and answer the open commands, except for those that wait for their phase."""
        for command in await events.open_commands(context.store, context.run_id):
            outcome: str | None = DONE
            if command.kind == "stop":
                self._request_stop(context.run_id)
            else:
                outcome = await context.commands.handle(command, last=last)
            if outcome is not None:
                await events.answer_command(context.store, command.id, outcome)


async def _mark_stopping(context: RunContext) -> None:
    try:
        await runs.mark_stopping(context.store, context.run_id)
    except LoraTuiError as problem:  # the run ends all the same, and says why
        log.warning("run %s cannot be marked as stopping: %s", context.run_id, problem)


async def _run_job(context: RunContext, mode: str) -> tuple[str, int, dict[str, Any], str | None]:
    """Run a mode's job to its end, however it ends; returns state, exit status, result and error message."""
    try:
        job = await asyncio.to_thread(load_job, mode)
        result = await job(context)
        await context.flush()
    except Stopped as stopped:
        return "stopped", 0, dict(stopped.args[0]) if stopped.args else {}, None
    except LoraTuiError as problem:
        log.info("run %s failed: %s", context.run_id, problem, exc_info=True)
        return "failed", problem.exit_status, getattr(problem, "result", {}), str(problem)
    except Exception as problem:  # a job's bug ends its run, never the engine
        if (explained := explain(problem)) is not None:
            log.warning("run %s failed: %s", context.run_id, explained, exc_info=True)
            return "failed", explained.exit_status, {}, str(explained)
        log.exception("run %s failed", context.run_id)
        return "failed", 1, {}, redact(f"Unexpected {type(problem).__name__}: {problem}")
    state = str(result.pop("state", "finished"))
    return state, int(result.pop("exit_status", 0)), result, None
