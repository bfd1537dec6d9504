"""Batches: works of many coroutines that are done as one: a hundred calls that end at once are few transactions.

Apart from the connection, which does them, since it knows nothing of SQL. Whoever comes while a batch is under way
waits for the next one; when batches follow closely, each waits a moment for company.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
Work = Callable[[Any], Awaitable[Any]]

_BUSY, _PAUSE = 0.05, 0.005
"""Seconds between two batches below which the next one waits, and for how long. A call takes a hundred times that."""


def run_to_end(work: Awaitable[T]) -> T:
    """Return the result of a coroutine that never waits."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("it waits for something, in a thread that cannot")


class Batches:
    """A queue of works, done by `run_all`, which returns for each its result or an exception."""

    def __init__(self, run_all: Callable[[Sequence[Work]], Awaitable[list[Any]]]) -> None:
        self._run_all = run_all
        self._waiting: list[tuple[Work, asyncio.Future[Any]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._ended = 0.0

    async def run(self, work: Work) -> Any:
        """Have a work done in the next batch; returns its result, or raises what it raised."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await done

    async def _flush(self) -> None:
        try:
            while self._waiting:
                if time.monotonic() - self._ended < _BUSY:
                    await asyncio.sleep(_PAUSE)
                batch, self._waiting = [one for one in self._waiting if not one[1].cancelled()], []
                try:
                    outcomes: Sequence[Any] = await self._run_all([work for work, _ in batch]) if batch else ()
                except Exception as problem:  # noqa: BLE001  # whoever waits must learn of it
                    outcomes = [problem] * len(batch)
                for (_, done), outcome in zip(batch, outcomes, strict=True):
                    if done.cancelled():
                        continue
                    if isinstance(outcome, Exception):
                        done.set_exception(outcome)
                    else:
                        done.set_result(outcome)
                self._ended = time.monotonic()
        finally:
            self._flushing = None
