"""Where a training run happens: its folder, the devices it takes, the precision it keeps, and the ranks beside it.

What runs there is `lora_tui.engine.jobs.train`; how ranks compute a step together is `lora_tui.engine.training.ranks`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import torch

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.models.base_model import choose_device, choose_dtype
from lora_tui.engine.runtime.context import Emit, RunContext
from lora_tui.engine.training import checkpoint
from lora_tui.engine.training.launch import ParallelPlan, RankProcesses, choose_parallel
from lora_tui.engine.training.ranks import RankLoad
from lora_tui.store import runs

_SECONDS_BETWEEN_LOADS = 1.0
"""How often a run says what its ranks do: often enough to see one that is slow, and few rows in the store."""


async def run_folder(ctx: RunContext) -> Path:
    """The run's own folder, which a resumed run finds again. Another store may have had a run of the same number."""
    wanted = Path(ctx.settings.fine_tuning.training.save_dir) / f"run-{ctx.run_id}"
    run = await runs.get(ctx.store, ctx.run_id)
    if ctx.resumed and run is not None and run.folder is not None:
        return Path(run.folder) if Path(run.folder).is_dir() else wanted  # noqa: ASYNC240  # one look at the disk
    names = (wanted, *(wanted.with_name(f"{wanted.name}-{number}") for number in range(2, 10_000)))
    folder = next(name for name in names if not name.exists())
    await ctx.use_folder(folder.absolute())
    return folder


async def take_devices(ctx: RunContext) -> ParallelPlan | None:
    """Lock the device of the run, or all of them where it is divided, and return how; None where it is not."""

    def choose() -> tuple[torch.device, ParallelPlan | None]:
        device = choose_device(ctx.settings.fine_tuning.device)
        return device, choose_parallel(ctx.settings.fine_tuning, device)

    device, plan = await ctx.in_torch_thread(choose)
    for name in (str(device),) if plan is None else reversed(dict.fromkeys(plan.devices)):  # the run shows the last
        await ctx.take_device(name)
    return plan


def settled(ctx: RunContext, folder: Path, plan: ParallelPlan | None) -> Settings:
    """The settings with what must not be chosen twice.

    The precision that a resumed run began in: "auto" measures, and may come out another way. It may do so in every
    rank, too, so rank 0 chooses for all.
    """
    settings, values = ctx.settings, {}
    state = checkpoint.newest_state(folder, ctx.warn) if ctx.resumed else None
    if plan is not None:
        values["fine_tuning.device"] = plan.devices[0]
    if settings.fine_tuning.dtype == "auto":
        if state is not None:
            values["fine_tuning.dtype"] = state.dtype
        elif plan is not None:
            dtype = choose_dtype("auto", torch.device(plan.devices[0]))
            values["fine_tuning.dtype"] = str(dtype).removeprefix("torch.")
    return with_values(settings, values) if values else settings


@asynccontextmanager
async def started_ranks(
    ctx: RunContext, plan: ParallelPlan | None, settings: Settings
) -> AsyncIterator[RankProcesses | None]:
    """Have the run's other ranks for the block: they load the model meanwhile, and end with it."""
    if plan is None:
        yield None
        return
    processes = await ctx.in_torch_thread(RankProcesses, plan, settings)
    try:
        yield processes
    finally:
        # Whatever happens to this task: processes that nobody ends would stay.
        await asyncio.shield(ctx.in_torch_thread(processes.close))


class RankMonitor:
    """Gathers what ranks did in their steps, and emits it as ``ranks`` events, one a second at most."""

    def __init__(self, emit: Emit, plan: ParallelPlan) -> None:
        self._emit = emit
        self._plan = plan
        self._emitted = 0.0
        self._gathered: list[Sequence[RankLoad]] = []

    def add(self, step: int, loads: Sequence[RankLoad]) -> None:
        """Add a step's figures."""
        self._gathered.append(loads)
        if time.monotonic() - self._emitted < _SECONDS_BETWEEN_LOADS:
            return
        ranks = []
        for rank, done in enumerate(zip(*self._gathered, strict=True)):
            tokens, wait = sum(load.tokens for load in done), sum(load.wait for load in done)
            elapsed = max(wait + sum(load.seconds for load in done), 1e-9)
            device = self._plan.devices[rank] if rank < len(self._plan.devices) else ""
            figures = {"tokens": tokens, "tokens_per_s": tokens / elapsed, "wait": wait / elapsed}
            ranks.append({"rank": rank, "device": device, **figures})
        self._emit("ranks", step=step, parallel=self._plan.kind, ranks=ranks)
        self._gathered, self._emitted = [], time.monotonic()
