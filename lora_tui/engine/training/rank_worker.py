"""The process of a rank other than 0: it loads the model, and computes its share of every step it is told of.

It has no store, no data and no optimizer; what it is to do comes from rank 0 (`ranks`). It is started by `launch`, as
``python -m lora_tui.engine.training.rank_worker``, or by torchrun as the same command that rank 0 is.
"""

import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from lora_tui.engine.runtime.process import STARTED_RANK, before_torch, keep_freed_memory
from lora_tui.logs import set_up_logging

log = logging.getLogger(__name__)


def main() -> NoReturn:
    """Be a rank that `launch` has started, to its end; end with the process that has started it."""
    set_up_logging("INFO")
    before_torch()
    threading.Thread(target=_end_with_starter, daemon=True).start()
    _leave(_serve(of_torchrun=False))


def serve_under_torchrun() -> int:
    """Be a rank that torchrun has started; returns the exit status."""
    before_torch()
    return _serve(of_torchrun=True)


def _end_with_starter() -> None:
    """End when standard input does: its other end is the starting process's, and closes however that one ends.

    A starting process that was killed has left the folder in which the ranks meet.
    """
    while sys.stdin.buffer.read(1):
        pass
    shutil.rmtree(Path(os.environ[STARTED_RANK]).parent, ignore_errors=True)
    os._exit(1)


def _leave(status: int) -> NoReturn:
    """End at once: torch takes seconds to be taken down, and nothing here is to be kept."""
    logging.shutdown()
    os._exit(status)


def _serve(*, of_torchrun: bool) -> int:
    from lora_tui.engine.training.launch import failure_message, started_store, torchrun_store
    from lora_tui.engine.training.ranks import LostRankError

    store, rank, world = torchrun_store() if of_torchrun else started_store()
    device = "?"
    try:
        job = json.loads(store.get("job"))
        device = _device(job, rank, of_torchrun=of_torchrun)
        _work(store, rank, world, device, job, of_torchrun=of_torchrun)
    except LostRankError as problem:  # rank 0 tells of it
        log.info("rank %s ends: %s", rank, problem)
        return 1
    except BaseException as problem:  # whatever it is, rank 0 must learn of it
        log.exception("rank %s failed", rank)
        store.set("failed", failure_message(rank, world, device, problem))
        return 1
    return 0


def _device(job: Mapping[str, Any], rank: int, *, of_torchrun: bool) -> str:
    from torch import device

    from lora_tui.engine.training.launch import own_device

    return str(own_device(device(job["devices"][0]))) if of_torchrun else str(job["devices"][rank])


def _work(store: Any, rank: int, world: int, device: str, job: Mapping[str, Any], *, of_torchrun: bool) -> None:
    """Load the model, join the others, and do what rank 0 says until it says that there is no more."""
    import torch
    from safetensors.torch import load

    from lora_tui.config.load import with_values
    from lora_tui.config.models import Settings
    from lora_tui.engine.models.base_model import load_base
    from lora_tui.engine.training.lora import create_lora_model
    from lora_tui.engine.training.pissa import uses_base_weights
    from lora_tui.engine.training.ranks import connect
    from lora_tui.engine.training.sharding import shard
    from lora_tui.engine.training.step import GradientStep

    if not of_torchrun:
        torch.set_num_threads(job["threads"])
    fsdp = job["kind"] == "fsdp"
    settings = with_values(Settings.model_validate(job["settings"]), {"fine_tuning.device": device})
    tuning = settings.fine_tuning
    base = load_base(settings, lambda phase, done, total: None, onto=torch.device("cpu") if fsdp else None)
    first = load(store.get("first")) if uses_base_weights(tuning.lora.init_lora_weights) else None
    model = create_lora_model(base.model, tuning.lora, tuning.training.seed, first)
    store.set(f"ready/{rank}", "")
    group = connect(store, rank, world, torch.device(device), lambda: None, one_machine=not of_torchrun)
    if fsdp:
        shard(model, group, store, group.device, one_machine=not of_torchrun)
    keep_freed_memory()
    if of_torchrun:  # which passes them on to everybody: stopping, with the work saved, is rank 0's to do
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    serve_steps(group, GradientStep.of(model, tuning.training.tokens_per_micro_batch, tuning.training.seed, group))


def serve_steps(group: Any, gradient_step: Any) -> None:
    """Compute this rank's share of every step that rank 0 sends, until it says that there are no more."""
    import torch

    from lora_tui.engine.training.memory import apply_announced
    from lora_tui.engine.training.ranks import END, FOLLOW, PLAN, STEP
    from lora_tui.engine.training.sharding import follow
    from lora_tui.engine.training.step import StepShare

    while (message := group.receive()).kind != END:
        if message.kind == PLAN:
            apply_announced(message.plan, gradient_step, group.rank)
        elif message.kind == FOLLOW:
            follow(gradient_step.model, group)
        elif message.kind == STEP:
            # What PEFT's own dropout draws from, where layers are not computed by hand: the same after a resumption.
            torch.manual_seed(gradient_step.seed + 1_000_003 * message.step + 7_919 * group.rank)
            gradient_step.model.train()
            share = StepShare(message.step, tuple(message.places), message.divisor)
            gradient_step.accumulate_share(message.examples, share)
            gradient_step.model.zero_grad(set_to_none=True)
            for line in gradient_step.fallback.messages(message.step):
                log.warning("rank %s: %s", group.rank, line)


if __name__ == "__main__":
    main()
