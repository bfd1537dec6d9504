"""How the jobs that need a model begin: with all that can be refused before torch is imported.

torch, transformers and PEFT take ten seconds to import on a slow machine, which is long to wait for being told of a
file that is not there. The jobs themselves are in `lora_tui.engine.jobs.train` and `lora_tui.engine.inference`.
"""

import asyncio
import importlib
from collections.abc import Mapping
from typing import Any

from lora_tui.config import Settings
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.data.training_file import training_file
from lora_tui.engine.models.adapter_source import base_name, find_adapter
from lora_tui.engine.models.model_source import check_source
from lora_tui.engine.runtime.context import RunContext
from lora_tui.engine.training.data_plan import named
from lora_tui.errors import LoraTuiError
from lora_tui.store.connection import Store


async def train(ctx: RunContext) -> dict[str, Any]:
    """Run ``--run train``: returns the adapter's folder, the best score and how training ended."""
    data_file = training_file(ctx)
    data = await asyncio.to_thread(read_examples, data_file)
    heading = f"{data_file} holds records that cannot be trained on"
    for warning in named(heading, [(record.location, record.reason) for record in data.skipped]):
        ctx.warn(warning)
    check_source(ctx.settings.fine_tuning.model_name)
    job = await _imported("lora_tui.engine.jobs.train")
    ctx.leave_if_stopping()
    result: dict[str, Any] = await job.train(ctx, data_file, data)
    return result


async def evaluate(ctx: RunContext) -> dict[str, Any]:
    """Run ``--run evaluate``: scores the adapter and the base model; returns both scores and a row for each prompt."""
    source = await find_adapter(ctx.store, ctx.options)
    if source is None:
        raise LoraTuiError(
            "There is no finished training run to evaluate. "
            "Train first (--run train), or name an adapter with --adapter FOLDER."
        )
    check_source(source.base_model(ctx.settings))
    job = await _imported("lora_tui.engine.jobs.evaluate")
    ctx.leave_if_stopping()
    result: dict[str, Any] = await job.evaluate_adapter(ctx, source)
    return result


async def refuse_chat(store: Store, settings: Settings, options: Mapping[str, Any]) -> None:
    """Raise what opening a conversation would raise for an adapter or a model that is not there, or do not match."""
    source = None if options.get("base_only") else await find_adapter(store, options)
    check_source(await base_name(store, settings, options, source))


async def _imported(module: str) -> Any:
    """The module, imported on a thread, so that the loop goes on beside it."""
    return await asyncio.to_thread(importlib.import_module, module)
