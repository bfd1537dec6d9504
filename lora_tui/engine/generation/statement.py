"""Plain statements turned into pairs by the configured model, for the formatting of raw lines."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from lora_tui.engine.generation.generation_model import CallFailed, CallStopped, GenerationModel
from lora_tui.engine.jobs.generate import open_model
from lora_tui.engine.runtime.context import RunContext, Stopped
from lora_tui.errors import LoraTuiError


@asynccontextmanager
async def statement_writer(ctx: RunContext) -> AsyncIterator[Callable[[str], Awaitable[tuple[str, str]]]]:
    """Open the configured model for a ``with`` block and yield a function from a statement to question and answer.

    Raises `UnreachableError` where the model needs a key that is not set. The function raises as `statement_to_pair`.
    """
    model = await open_model(ctx.settings, ctx)

    async def convert(statement: str) -> tuple[str, str]:
        return await statement_to_pair(model, statement)

    try:
        yield convert
    finally:
        await model.close()


async def statement_to_pair(model: GenerationModel, statement: str) -> tuple[str, str]:
    """Return a question and its answer that say what `statement` says.

    Raises `LoraTuiError` where the model makes none of this statement, `UnreachableError` where it will make none of
    any, `Stopped` where the run is stopping.
    """
    try:
        return await model.pair_from_statement(statement)
    except CallFailed as failure:
        raise LoraTuiError(str(failure)) from failure
    except CallStopped:
        raise Stopped from None
