"""The job of ``--generate-training-file``: formats a raw file, with a model for plain statements."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lora_tui.engine.data.formatting import format_file
from lora_tui.engine.generation.generation_model import CallFailed, CallStopped
from lora_tui.engine.jobs.generate import open_model
from lora_tui.engine.runtime.context import RunContext, Stopped, progress_events
from lora_tui.errors import LoraTuiError


async def format_raw_file(ctx: RunContext) -> dict[str, Any]:
    """Format ``options["raw"]`` into ``options["out"]``; the exit status is 1 when lines were rejected."""
    raw, out = Path(str(ctx.options["raw"])), Path(str(ctx.options["out"]))
    progress = progress_events(ctx.emit)

    async with AsyncExitStack() as stack:
        summary = await format_file(raw, out, _LazyWriter(ctx, stack), partial(progress, "formatting"))
    for note, number in summary.notes.items():
        ctx.warn(f"{note}: {number:,}")
    return {
        **{key: value for key, value in asdict(summary).items() if key != "notes"},
        "out": str(out),
        "rejected_file": str(summary.rejected_file) if summary.rejected_file else None,
        "exit_status": 1 if summary.rejected else 0,
    }


class _LazyWriter:
    """Turns statements into pairs with the configured model, which is opened when the first statement comes.

    Most raw files hold none, and must not need a key.
    """

    def __init__(self, ctx: RunContext, stack: AsyncExitStack) -> None:
        self._ctx = ctx
        self._stack = stack
        self._opening = asyncio.Lock()
        self._write: Callable[[str], Awaitable[tuple[str, str]]] | None = None

    async def __call__(self, statement: str) -> tuple[str, str]:
        async with self._opening:
            if self._write is None:
                self._write = await self._stack.enter_async_context(statement_writer(self._ctx))
        return await self._write(statement)


@asynccontextmanager
async def statement_writer(ctx: RunContext) -> AsyncIterator[Callable[[str], Awaitable[tuple[str, str]]]]:
    """Open the configured model for a ``with`` block and yield a function from a statement to question and answer.

    Raises `UnreachableError` if the model needs a key that is not set. The function raises `LoraTuiError` if the model
    writes no pair for this statement, `UnreachableError` if it can write none at all, `Stopped` if the run stops.
    """
    model = await open_model(ctx.settings, ctx)

    async def write(statement: str) -> tuple[str, str]:
        try:
            return await model.pair_from_statement(statement)
        except CallFailed as failure:
            raise LoraTuiError(str(failure)) from failure
        except CallStopped:
            raise Stopped from None

    try:
        yield write
    finally:
        await model.close()
