"""The job of ``--generate-training-file``: raw lines in, a formatted training file out, every line accounted for."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_tui.engine.context import RunContext
from lora_tui.engine.data.formatting import FormatEvent, format_file
from lora_tui.engine.generation.statement import open_statement_writer
from lora_tui.engine.progress import progress_events


async def format_raw_file(ctx: RunContext) -> dict[str, Any]:
    """Format ``options["raw"]`` into ``options["out"]``; the exit status is 1 when lines were rejected."""
    raw, out = Path(str(ctx.options["raw"])), Path(str(ctx.options["out"]))
    progress = progress_events(ctx.emit)

    def on_progress(event: FormatEvent) -> None:
        progress("formatting", event.lines_done, event.lines_total)

    async with open_statement_writer(ctx) as writer:
        statement_to_pair: Callable[[str], Awaitable[tuple[str, str]]] | None = writer
        summary = await format_file(raw, out, statement_to_pair, on_progress)
    for note, number in summary.notes.items():
        ctx.warn(f"{note}: {number:,}")
    return {
        **{key: value for key, value in asdict(summary).items() if key != "notes"},
        "out": str(out),
        "rejected_file": str(summary.rejected_file) if summary.rejected_file else None,
        "exit_status": 1 if summary.rejected else 0,
    }
