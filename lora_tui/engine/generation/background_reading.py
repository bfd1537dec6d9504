"""Reading a large folder on beside the calls: what has been read since becomes known to the run, now and then.

The planner, the topic tree, the questions of earlier runs and what has changed since one take what has been read so
far, and are corrected as more comes: whenever the folder has grown by `_GROWTH`, when nothing is left to ask about, and
at its end. The reader rests after each batch for as long as that took, so that the calls have the machine; where they
wait for it, it does not.

A run that is over stops reading. What it has not read it does not know; the event ``folder`` tells how much that is.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from lora_tui.engine.generation.corpus import Source
from lora_tui.engine.generation.folder_reader import FOLDER, FolderReader
from lora_tui.engine.generation.workers import Workers
from lora_tui.engine.runtime.context import RunContext

_GROWTH = 1.25
_REST = 1.0
"""Seconds of rest for each that a batch took."""

_END_GRACE = 2.0

Compare = Callable[[Sequence[Source]], Awaitable[Mapping[str, Sequence[int]]]]


class BackgroundReading:
    """Reads on beside a run; `compare` returns which passages of newly read files are new since an earlier reading."""

    def __init__(self, ctx: RunContext, reader: FolderReader, workers: Workers, compare: Compare) -> None:
        self._ctx = ctx
        self._reader = reader
        self._workers = workers
        self._compare = compare
        self._found: list[Source] = []  # that the run does not know of yet
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.wanted = asyncio.Event()
        """Set by the run when it has nothing left to ask about."""
        self.changed: Callable[[], None] = lambda: None
        """Called when the run knows more files, or when there will be none."""

    @property
    def is_over(self) -> bool:
        """Whether no further file will come."""
        return self._task is None or self._task.done()

    @property
    def note(self) -> str:
        """Say how far it is; empty where nothing is left to read."""
        return "" if self.is_over else f"{self._reader.done:,} of {self._reader.total:,} files read, "

    def start(self) -> None:
        """Begin, if there is anything left to read."""
        if not self._reader.corpus.is_whole:
            self._task = asyncio.create_task(self._read_on())
            self._task.add_done_callback(lambda _: self.changed())

    def raise_failure(self) -> None:
        """Raise what ended the reading, if something has."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        """End it; a batch that is under way is read to its end, if that takes no longer than `_END_GRACE`."""
        if self._task is None or self._task.done():
            return
        self._stopping = True
        self.wanted.set()
        await asyncio.wait({self._task}, timeout=_END_GRACE)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        self._reader.corpus.add(self._found)
        report_folder(self._ctx, self._reader)
        unread = self._reader.total - self._reader.done
        self._ctx.emit(
            "note", message=f"{unread:,} of {self._reader.total:,} files were not read: the run ended before"
        )

    async def _read_on(self) -> None:
        reader, corpus = self._reader, self._reader.corpus
        while not corpus.is_whole and not self._stopping:
            began = time.monotonic()
            self._found += await reader.read_batch()
            known, found = len(corpus.sources), len(self._found)
            if self._stopping:
                return
            if corpus.is_whole or (found and (self.wanted.is_set() or known + found > _GROWTH * known)):
                await self._publish()
            elif not self.wanted.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.wanted.wait(), _REST * (time.monotonic() - began))
        if corpus.is_whole:
            report_folder(self._ctx, reader)

    async def _publish(self) -> None:
        """Let the run know of the files that have been read since."""
        workers, corpus = self._workers, self._reader.corpus
        found, self._found = self._found, []
        async with workers.planner.growing:
            corpus.add(found)
            new = await self._compare(found)
            await workers.earlier.read_more(workers.store, workers.run_id)
            await workers.planner.grow(found, new)
        workers.progress.limit_fruitless(workers.planner.fruitless_limit)
        self.wanted.clear()
        self.changed()


def report_folder(ctx: RunContext, reader: FolderReader) -> None:
    """Emit how much of the folder has been read."""
    files, passages = reader.corpus.size
    unread = reader.total - reader.done
    ctx.emit(FOLDER, files=files, passages=passages, unread=unread, skipped=len(reader.corpus.skipped))
