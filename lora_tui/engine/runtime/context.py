"""The context of a run, which every job gets: settings, store, events to emit, stop requests and commands.

`RunContext.emit` may be called from any thread and never waits: events pass through a queue to one writer on the
engine's loop, which stores whatever has gathered as one transaction. A slow watcher cannot hold a job up, and neither
can the disk, short of a write that fails: then the job is stopped, because a run that nobody can see must not go on.
"""

import asyncio
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from lora_tui.config.models import Settings
from lora_tui.engine.runtime.commands import Commands
from lora_tui.engine.runtime.device_lock import DeviceLock, lock_device
from lora_tui.errors import LoraTuiError
from lora_tui.secrets import redact
from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from lora_tui.store.damage import LockedStoreError
from lora_tui.text import one_line

P = ParamSpec("P")
T = TypeVar("T")

Job = Callable[["RunContext"], Awaitable[dict[str, Any]]]
"""The coroutine of a mode: returns the run's result, raises `LoraTuiError` for what a user can fix."""

_SECONDS_BETWEEN_PROGRESS = 0.25
"""What a person can follow, and a store can hold."""


STARTING_TORCH = "starting PyTorch"
"""The phase in which torch and transformers are imported: up to ten seconds on a slow machine."""


class Stopped(Exception):  # noqa: N818  # a request that was honoured, not an error
    """Raised inside a job that leaves early because it was asked to, with its work saved."""


class EventWriter:
    """The queue of events between a job's threads and the store, and the task that stores them."""

    def __init__(self, store: Store, run_id: int, on_failure: Callable[[Exception], None]) -> None:
        self._store = store
        self._run_id = run_id
        self._on_failure = on_failure
        self.loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[events.NewEvent] = asyncio.Queue()
        self._failure: BaseException | None = None
        self.patience = 0.0
        """Seconds for which a store that another program keeps locked is waited for, beyond its own ten."""
        self._task = asyncio.create_task(self._write())

    def put(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Queue one event; callable from any thread."""
        event = (time.time(), kind, finite(dict(payload)))
        self.loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def flush(self) -> None:
        """Return when everything queued so far is in the store; raises what made a write fail."""
        await asyncio.sleep(0)
        await self._queue.join()
        if isinstance(self._failure, LoraTuiError):
            raise self._failure
        if self._failure is not None:
            raise LoraTuiError(
                f"The store {self._store.path} can no longer be written: {self._failure}"
            ) from self._failure

    async def close(self) -> None:
        """Store what is queued and end the writer."""
        try:
            await self.flush()
        finally:
            self._task.cancel()

    async def _write(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                if self._failure is None:
                    await self._append(batch)
            except Exception as problem:  # noqa: BLE001  # whatever it is, the job must learn of it: `flush` raises it
                self._failure = problem
                self._on_failure(problem)
            finally:
                for _ in batch:
                    self._queue.task_done()

    async def _append(self, batch: Sequence[events.NewEvent]) -> None:
        began = time.monotonic()
        while True:
            try:
                await events.append(self._store, self._run_id, batch)
                return
            except LockedStoreError:
                if time.monotonic() - began >= self.patience:
                    raise
                await asyncio.sleep(0.2)


@dataclass(frozen=True)
class RunContext:
    """A job's view of its run; all methods but the coroutines may be called from any thread.

    `options` are what the command line or the app passed, `resumed` says that the run goes on after an interruption;
    `stop` and `stop_async` are set together, for code on the torch thread and on the loop. `lost` is set before where
    another process has taken the run over: then its folder is no longer this one's to write to.
    """

    run_id: int
    settings: Settings
    options: Mapping[str, Any]
    store: Store
    resumed: bool
    writer: EventWriter
    torch_thread: ThreadPoolExecutor
    commands: Commands = field(default_factory=Commands)
    stop: threading.Event = field(default_factory=threading.Event)
    stop_async: asyncio.Event = field(default_factory=asyncio.Event)
    lost: threading.Event = field(default_factory=threading.Event)
    devices: dict[str, DeviceLock] = field(default_factory=dict)
    listeners: tuple[Callable[[str, Mapping[str, Any]], None], ...] = ()
    """Whoever else is told of events, on the thread that emits them: trackers."""

    def emit(self, kind: str, /, **payload: Any) -> None:
        """Queue an event of this kind; from any thread, without waiting."""
        self.writer.put(kind, payload)
        for listener in self.listeners:
            listener(kind, payload)

    def warn(self, message: str) -> None:
        """Emit a ``warning`` event, its secrets redacted: it is stored, and shown to whoever watches."""
        self.emit("warning", message=redact(message))

    async def flush(self) -> None:
        """Return when every event emitted so far is in the store."""
        await self.writer.flush()

    async def in_torch_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work on the one thread that torch runs on, without blocking the loop."""
        return await asyncio.get_running_loop().run_in_executor(self.torch_thread, lambda: function(*args, **kwargs))

    def raise_if_stopping(self) -> None:
        """Raise `Stopped` when the run has been asked to stop."""
        if self.stop.is_set():
            raise Stopped

    async def take_device(self, device: str) -> None:
        """Lock a device for training; raises `LoraTuiError` when a live run holds it."""
        holder = await runs.lock_device(self.store, self.run_id, device)
        if holder is not None:
            raise LoraTuiError(
                f"{device} is training run {holder.id} (process {holder.pid} on {holder.host}). "
                "Wait for it, stop it, or choose another device with --set fine_tuning.device=…"
            )
        if device in self.devices:
            return
        own = f"run {self.run_id} of {self.store.path} (process {os.getpid()})"
        lock = await asyncio.to_thread(lock_device, device, own)
        if isinstance(lock, DeviceLock):
            self.devices[device] = lock
        elif lock is not None and device == "cpu":
            self.warn(f"This machine's CPU also trains {one_line(lock, 300)}: each takes longer, and both need memory.")
        elif lock is not None:
            raise LoraTuiError(
                f"{device} is training {one_line(lock, 300)}. "
                "Wait for it, stop it, or choose another device with --set fine_tuning.device=…"
            )

    def release_devices(self) -> None:
        """Let others have the devices of this run."""
        while self.devices:
            self.devices.popitem()[1].release()

    async def use_folder(self, folder: Path) -> None:
        """Store which folder this run's results are in."""
        await runs.set_folder(self.store, self.run_id, folder)

    def with_settings(self, settings: Settings, **options: Any) -> "RunContext":
        """Return the same run with other settings: how the quickstart calls the jobs it is made of."""
        return replace(self, settings=settings, options={**self.options, **options})


class Emit(Protocol):
    """The type of `RunContext.emit`."""

    def __call__(self, kind: str, /, **payload: object) -> None:
        """Queue an event."""


def progress_events(emit: Emit) -> Callable[[str, int, int], None]:
    """Return a callback (phase, done, total) that emits at most four ``progress`` events a second.

    The first and the last of a phase always come through. Callable from any thread.
    """
    last: dict[str, float] = {}

    def progress(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase in last and done < total and now - last[phase] < _SECONDS_BETWEEN_PROGRESS:
            return
        last[phase] = now
        emit("progress", phase=phase, done=done, total=total)

    return progress


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None, all the way down: JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value
