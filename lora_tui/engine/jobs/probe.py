"""The job of ``--run probe``: loads the model, tries rising learning rates on the data, and proposes one.

Nothing is kept but the run's result: the adapter is thrown away. Apart from `preflight`, which comes before torch.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_tui.engine.data.read import ReadResult
from lora_tui.engine.evaluation.held_out import documents_by_question
from lora_tui.engine.jobs.training_data import tokenised
from lora_tui.engine.models.base_model import BaseModel, choose_device, load_base
from lora_tui.engine.runtime.context import RunContext, Stopped, progress_events
from lora_tui.engine.runtime.resume import store_flag
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.everyday import everyday_examples
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.engine.training.rate_probe import probe_rates
from lora_tui.protocol.rate_probe import STEPS, RatePoint, propose
from lora_tui.text import power_text

_KEY = "fine_tuning.optimizer.lora_lr"


async def probe_rate_of(ctx: RunContext, data: ReadResult) -> dict[str, Any]:
    """Probe on what was read; returns the proposed rate, its reasons, the curve, and how the rate is taken over."""
    device = await ctx.in_torch_thread(choose_device, ctx.settings.fine_tuning.device)
    await ctx.take_device(str(device))
    base = await ctx.in_torch_thread(load_base, ctx.settings, progress_events(ctx.emit))
    ctx.raise_if_stopping()
    documents = await documents_by_question(ctx.store)
    points = await ctx.in_torch_thread(_probe, ctx, base, data, documents)
    if ctx.stop.is_set():
        raise Stopped({"points": len(points)})
    found = propose(points)
    written = [[point.rate, round(point.loss, 5), round(point.change, 5)] for point in points]
    result = {**found.as_json(), "configured": ctx.settings.fine_tuning.optimizer.lora_lr, "points": written}
    if found.rate is None:
        ctx.warn(
            "The loss did not fall at any rate, so none is proposed. More examples a step "
            "(fine_tuning.training.batch_size) make it clearer; or the model knows this data already."
        )
        return result
    named = ctx.options.get("train_data_file")
    file = f" --train-data-file {shlex.quote(str(named))}" if named else ""
    rate = f"--set {_KEY}={power_text(found.rate)}"
    return {**result, "commands": [f"lora-tui --run train{file} {rate}{store_flag(ctx.store.path)}"]}


def _probe(ctx: RunContext, base: BaseModel, data: ReadResult, documents: Mapping[int, str]) -> list[RatePoint]:
    """Take the steps, on the torch thread, and emit each as it is measured."""
    tuning, points = ctx.settings.fine_tuning, list[RatePoint]()
    dataset, _ = tokenised(ctx.settings, base, data, Path(), documents, resumed=False)
    assert isinstance(dataset, TextDataset), "the preflight has refused other methods"
    dataset.extend(everyday_examples(tuning.training.everyday_examples))
    model = create_lora_model(base.model, tuning.lora, tuning.training.seed)

    def on_point(point: RatePoint) -> None:
        points.append(point)
        ctx.emit("probe", step=len(points), steps=STEPS, rate=point.rate, loss=point.loss, change=point.change)

    return probe_rates(model, dataset, tuning, on_point, ctx.stop.is_set)
