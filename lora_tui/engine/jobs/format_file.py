"""The job of ``--generate-training-file``: formats a raw file, with a model for plain statements."""

import asyncio
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lora_tui.engine.data.formatting import format_file, rejected_path
from lora_tui.engine.data.results import keep_foreign, remember_result
from lora_tui.engine.generation.generation_model import CallFailed, CallStopped, GenerationModel
from lora_tui.engine.jobs.generate import open_model
from lora_tui.engine.runtime.context import RunContext, Stopped, progress_events
from lora_tui.errors import LoraTuiError, UnreachableError
from lora_tui.outputs import check_output


async def format_raw_file(ctx: RunContext) -> dict[str, Any]:
    """Format ``options["raw"]`` into ``options["out"]``; the exit status is 1 when lines were rejected."""
    raw, out = Path(str(ctx.options["raw"])), Path(str(ctx.options["out"]))
    for path in (out, rejected_path(out)):
        check_output(path, "--generate-training-file:")
        if (kept := await keep_foreign(ctx.store, path)) is not None:
            ctx.warn(f"{path} is there already: its lines stay in {kept}.")
    progress = progress_events(ctx.emit)

    async with aclosing(StatementModel(ctx)) as model:
        summary = await format_file(raw, out, model, partial(progress, "formatting"))
    async with ctx.store.transaction() as t:
        for path in (out, rejected_path(out)):
            await remember_result(t, path)
    for note, number in summary.notes.items():
        ctx.warn(f"{note}: {number:,}")
    return {
        **{key: value for key, value in asdict(summary).items() if key != "notes"},
        "out": str(out),
        "rejected_file": str(summary.rejected_file) if summary.rejected_file else None,
        "exit_status": 1 if summary.rejected else 0,
    }


class StatementModel:
    """Turns plain statements into pairs with the configured model, which `aclose` closes.

    The model is opened when the first statement comes: most raw files hold none, and must not need a key.
    """

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx
        self._lock = asyncio.Lock()
        self._model: GenerationModel | None = None

    async def aclose(self) -> None:
        """Close the model, if one was opened."""
        if self._model is not None:
            await self._model.close()

    async def __call__(self, statement: str) -> tuple[str, str]:
        """Return a question and its answer that say what `statement` says.

        Raises `LoraTuiError` where the model makes no pair of this statement, `UnreachableError` where it will make
        none of any, such as without a key, and `Stopped` where the run is stopping.
        """
        if refusal := self._ctx.options.get("no_model"):
            raise UnreachableError(str(refusal))
        async with self._lock:
            if self._model is None:
                self._model = await open_model(self._ctx)
        try:
            return await self._model.pair_from_statement(statement)
        except CallFailed as failure:
            raise LoraTuiError(str(failure)) from failure
        except CallStopped:
            raise Stopped from None
