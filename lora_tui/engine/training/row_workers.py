"""Rows of a step computed side by side, each on its share of the cores.

A small model's layers are too small to keep several cores busy: between two matrix products one core works and the
others wait. Two rows of half the size on one core each are a quarter faster than one row on two (SmolLM2-135M), and
need no more memory, which long examples do that go side by side. Python itself is no hindrance: torch lets go of the
interpreter while it computes.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEAST_TOKENS = 256
"""Shortest row worth a thread of its own: shorter ones make poor matrix products."""


class RowWorkers:
    """Threads that compute rows, each with its share of torch's own threads; made when they are first needed."""

    def __init__(self, device: torch.device, *, allowed: bool) -> None:
        self._cores = torch.get_num_threads() if allowed and device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None
        self._workers = 1

    def workers(self, tokens: int) -> int:
        """How many rows are computed at once where `tokens` may be in work."""
        return max(1, min(self._cores, tokens // _LEAST_TOKENS))

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
        """Call `function` for every item, `workers` at a time; results come in the order of the items.

        After an exception, or when no more results are asked for, nothing is left at work.
        """
        if workers == 1:
            yield from map(function, items)
            return
        if self._pool is None or self._workers != workers:
            self.close()
            self._pool, self._workers = _pool(workers, self._cores), workers
        calls = deque(self._pool.submit(function, item) for item in items)
        try:
            while calls:
                yield calls.popleft().result()  # kept no longer than it is wanted
        finally:
            for call in calls:
                call.cancel()
            wait(calls)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _pool(workers: int, cores: int) -> ThreadPoolExecutor:
    """Start the threads. torch's setting is each thread's own, but the last one set is what new threads begin with."""
    together = threading.Barrier(workers)

    def take_share() -> None:
        torch.get_num_threads()  # the first look of a thread gives it the common setting: that must be over
        torch.set_num_threads(max(1, cores // workers))
        together.wait()  # so that every thread gets one of these

    pool = ThreadPoolExecutor(workers, thread_name_prefix="training-row")
    for started in [pool.submit(take_share) for _ in range(workers)]:
        started.result()
    torch.set_num_threads(cores)
    return pool
