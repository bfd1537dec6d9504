"""The pending tasks of a run, in the order in which they were planned, read from the store a page at a time.

What runs, or waits to be tried again, is not read a second time: each kind of task is read from behind the last one
that was taken, so that a turn of the scheduler costs the same whether ten tasks are under way or a thousand. The store
is only asked where somebody said that there are new ones (`announce`), and not about those that were handed over as
they were planned (`hand_over`). Small and apart from the pipeline, which decides what is taken and knows nothing of
pages.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Set

from lora_tui.store import tasks
from lora_tui.store.connection import Store
from lora_tui.store.rows import TaskRow

_PAGE = 64


class TaskQueue:
    """Hands out the pending tasks of one run."""

    def __init__(self, store: Store, run_id: int) -> None:
        self._store = store
        self._run_id = run_id
        self._ready: defaultdict[str, deque[TaskRow]] = defaultdict(deque)
        self._last: defaultdict[str, int] = defaultdict(int)  # id of the last task that was read, by kind
        self._read: set[str] = set()  # kinds of which nothing more is in the store
        self._out: frozenset[int] = frozenset()  # tasks that were out when everything was to be read anew

    async def take(self, kind: str, wanted: int) -> list[TaskRow]:
        """Return up to `wanted` pending tasks of a kind, the oldest first."""
        ready = self._ready[kind]
        while len(ready) < wanted and kind not in self._read:
            size = max(_PAGE, wanted)
            page = await tasks.pending_tasks(self._store, self._run_id, kind, size, after=self._last[kind])
            if len(page) < size:
                self._read.add(kind)
            if page:
                self._last[kind] = page[-1].id
            ready.extend(task for task in page if task.id not in self._out)
        return [ready.popleft() for _ in range(min(wanted, len(ready)))]

    def announce(self, kind: str) -> None:
        """Say that tasks of a kind may have been planned."""
        self._read.discard(kind)

    def hand_over(self, kind: str, tasks: Iterable[TaskRow]) -> None:
        """Take tasks that were planned just now; where pages are still to be read, they come with these."""
        if kind in self._read:
            self._ready[kind].extend(task for task in tasks if task.id > self._last[kind])

    def put_back(self, task: TaskRow) -> None:
        """Have a task that was taken, and is still pending, taken again before others."""
        self._ready[task.kind].appendleft(task)

    def read_anew(self, out: Set[int]) -> None:
        """Read everything from the store again, but for the tasks that are `out` (ids): people have changed it."""
        self._ready.clear()
        self._last.clear()
        self._read.clear()
        self._out = frozenset(out)
