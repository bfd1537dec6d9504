"""Starting the ranks of a training run: which devices it takes, their processes, how they meet, and what ends them.

Rank 0 stays in the process that has the run. A launcher of torch's (torchrun, its elastic agent as a library) would
make it another process: one more interpreter with torch in it (ten seconds and half a gigabyte), events through one
more pipe, and restarts that exact resumption has no use for. The ranks meet as under torchrun all the same: with RANK
and WORLD_SIZE set, by torchrun itself, they are not started but found.

Ranks of one machine meet in a private file and talk over the loopback address: nothing listens to the network.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel

from lora_tui.config.models import FineTuning, Settings
from lora_tui.engine.models.activation_memory import WIDTHS
from lora_tui.engine.models.hub_info import find_architecture
from lora_tui.engine.runtime.process import STARTED_RANK, torchrun_rank
from lora_tui.engine.training.ranks import LostRankError, RankGroup, connect
from lora_tui.engine.training.sharding import shard
from lora_tui.errors import ConfigError
from lora_tui.text import one_line

log = logging.getLogger(__name__)

_c10d: Any = dist  # its names are not all in its list of them

_PATIENCE = timedelta(hours=12)
"""How long ranks wait for each other while models are fetched and loaded; one that ends is noticed at once."""

_SECONDS_TO_END = 5.0

_RANKS_OF_A_CPU = 2

_FEW_RANKS = 4
"""So many may share however few processors a machine has: slower, but somebody may be trying things out."""

_POLL_SECONDS = 0.05

_SECONDS_BETWEEN_LOOKS = 0.5
"""How often it is looked whether all ranks are there, while this one may be waiting for them."""

_SHARE_FOR_WEIGHTS = 2 / 3
"""Share of a GPU's memory that a whole base model may take, before its weights are divided among the GPUs."""


@dataclass(frozen=True, slots=True)
class ParallelPlan:
    """How a run is divided: `kind` is ``ddp`` or ``fsdp``, `devices` has one of torch's for each rank.

    `threads` are torch's threads of each rank. With `torchrun` the ranks were started by it, and each chooses its own
    device; the list then has rank 0's alone.
    """

    kind: str
    devices: tuple[str, ...]
    world: int
    threads: int
    torchrun: bool = False

    def as_json(self) -> dict[str, Any]:
        """What the plan of a run says of it."""
        return {"parallel": self.kind, "ranks": self.world, "devices": list(self.devices)}


def choose_parallel(settings: FineTuning, device: torch.device) -> ParallelPlan | None:
    """Return how ``fine_tuning.parallel`` and ``devices`` divide a run that would train on `device`; None: not at all.

    Raises `ConfigError` for what this machine does not have.
    """
    kind, wanted = settings.parallel, settings.devices
    if settings.method != "sft":  # both answers of a preference, and what they are held against, stay in one place
        one = f'fine_tuning.method = "{settings.method}" trains on one device'
        if torchrun_rank() is not None:
            raise ConfigError(f"{one}: start lora-tui without torchrun.")
        if kind in ("ddp", "fsdp"):
            raise ConfigError(f'{one}: set fine_tuning.parallel = "none" (it is "{kind}").')
        return None
    if (found := torchrun_rank()) is not None:
        chosen = "fsdp" if kind == "fsdp" else "ddp"
        threads = torch.get_num_threads()  # torchrun sets OMP_NUM_THREADS for each rank
        return ParallelPlan(chosen, (str(own_device(device)),), found[1], threads, torchrun=True)
    if kind == "fsdp" and settings.qlora:
        raise ConfigError(
            'fine_tuning.parallel = "fsdp" cannot divide weights in 4 bits. Set "ddp", or fine_tuning.qlora = false.'
        )
    if kind == "none" or (kind == "auto" and (device.type != "cuda" or settings.device not in ("auto", "cuda"))):
        return None
    if device.type == "cpu":
        if isinstance(wanted, list):
            raise ConfigError("fine_tuning.devices: a list names GPUs, and this run trains on the CPU. Set a number.")
        count = wanted or _RANKS_OF_A_CPU
        if count > max(_FEW_RANKS, os.cpu_count() or 1):
            raise ConfigError(
                f"fine_tuning.devices = {count}: this machine has {os.cpu_count()} processors, and each of the ranks "
                "takes one, and memory for the whole model. Set a smaller number."
            )
        return _plan(kind, ["cpu"] * count, _threads(count))
    if device.type != "cuda":
        raise ConfigError(f'fine_tuning.parallel = "{kind}" needs NVIDIA cards or a CPU, not {device}. Set "none".')
    there = torch.cuda.device_count()
    numbers = wanted if isinstance(wanted, list) else list(range(wanted or there))
    if missing := [number for number in numbers if number >= there]:
        raise ConfigError(
            f"fine_tuning.devices: there is no cuda:{missing[0]}; this machine has {there}, numbered from 0."
        )
    if kind == "auto":
        kind = "ddp" if settings.qlora or _fits_one(settings, numbers) else "fsdp"
    return _plan(kind, [f"cuda:{number}" for number in numbers], _threads(len(numbers)))


def _fits_one(settings: FineTuning, numbers: Sequence[int]) -> bool:
    """Whether the base model leaves a third of the smallest of these GPUs free; yes where its size is not known."""
    architecture = find_architecture(settings.model_name)
    if isinstance(architecture, str):
        return True
    width = WIDTHS["float32" if settings.dtype == "float32" else "bfloat16"]
    smallest = min(torch.cuda.get_device_properties(number).total_memory for number in numbers)
    return architecture.parameters * width <= _SHARE_FOR_WEIGHTS * smallest


def own_device(device: torch.device) -> torch.device:
    """The device of a rank that torchrun has started: the card of its number on this machine, or the CPU."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", local % torch.cuda.device_count()) if device.type == "cuda" else device


def _plan(kind: str, devices: Sequence[str], threads: int) -> ParallelPlan | None:
    return ParallelPlan(kind, tuple(devices), len(devices), threads) if len(devices) > 1 else None


def _threads(ranks: int) -> int:
    """torch's threads of each of so many ranks on this machine."""
    return max(1, torch.get_num_threads() // ranks)


class RankProcesses:
    """The ranks beside this one: their processes, where this run has started them, and the store where all meet."""

    def __init__(self, plan: ParallelPlan, settings: Settings) -> None:
        """Start the ranks; they load the model of `settings` while this one does."""
        self.plan = plan
        self._folder: Path | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads_before = torch.get_num_threads()
        self._group: RankGroup | None = None
        self._looked_at = 0.0
        self._closed = threading.Event()
        if plan.torchrun:
            self._store = torchrun_store()[0]
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="lora-tui-ranks-"))
            self._store = _c10d.FileStore(str(self._folder / "store"), plan.world)
        job = {
            "settings": settings.model_dump(mode="json"),
            "kind": plan.kind,
            "devices": plan.devices,
            "threads": plan.threads,
        }
        self._store.set("job", json.dumps(job))
        if self._folder is not None:
            self._processes = [self._start(rank, self._folder) for rank in range(1, plan.world)]

    def _start(self, rank: int, folder: Path) -> "subprocess.Popen[bytes]":
        root = str(Path(__file__).parents[3])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "RANK": str(rank),
            "WORLD_SIZE": str(self.plan.world),
            "OMP_NUM_THREADS": str(self.plan.threads),
            STARTED_RANK: str(folder / "store"),
        }
        with (folder / f"rank-{rank}.txt").open("wb") as words:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "lora_tui.engine.training.rank_worker"],
                stdin=subprocess.PIPE,  # which ends with this process, whatever ends it
                stdout=words,
                stderr=words,
                env=environment,
                start_new_session=True,  # Ctrl+C and a hang-up are this process's to handle
            )

    def put(self, key: str, value: bytes) -> None:
        """Leave something for the other ranks to find."""
        self._store.set(key, value)

    def connect(self, model: PeftModel, check: Callable[[], None] = lambda: None) -> RankGroup:
        """Wait until every rank has loaded the model, and join them; `check` is called meanwhile, and may raise.

        With ``fsdp`` the weights of `model` are divided among all then.
        """
        device = torch.device(self.plan.devices[0])
        keys = [f"ready/{rank}" for rank in range(1, self.plan.world)]
        while not self._store.check(keys):
            check()
            if (reason := self.lost()) is not None:
                raise LostRankError(reason)
            time.sleep(_POLL_SECONDS)
        torch.set_num_threads(self.plan.threads)
        place = self._store, 0, self.plan.world, device, self.lost
        self._group = connect(*place, one_machine=not self.plan.torchrun)
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        if self.plan.kind == "fsdp":
            shard(model, self._group, self._store, device, one_machine=not self.plan.torchrun)
        return self._group

    def _watch(self) -> None:
        """Break off what this rank waits for when another one has ended."""
        while not self._closed.wait(_SECONDS_BETWEEN_LOOKS):
            if self._group is not None and self.lost() is not None:
                self._group.abort()
                return

    def lost(self) -> str | None:
        """Say which rank's process has ended, and of what; None while all are there."""
        for rank, process in enumerate(self._processes, 1):
            if process.poll() is not None:
                return self._ending(rank, process)
        if self.plan.torchrun and time.monotonic() - self._looked_at > 1.0:
            self._looked_at = time.monotonic()
            with suppress(RuntimeError):  # the store is gone, too
                return self._last_words()
        return None

    def _last_words(self) -> str | None:
        """What a rank that failed has left in the store."""
        return str(self._store.get("failed").decode(errors="replace")) if self._store.check(["failed"]) else None

    def _ending(self, rank: int, process: "subprocess.Popen[bytes]") -> str:
        who = f"Rank {rank} of {self.plan.world} ({self.plan.devices[rank]}, process {process.pid})"
        if (words := self._last_words()) is not None:
            return words
        code = process.returncode
        if self._folder is not None:
            written = (self._folder / f"rank-{rank}.txt").read_text(encoding="utf-8", errors="replace")
            log.error("rank %s ended with %s; it had written:\n%s", rank, code, written[-8000:])
        if code == -signal.SIGKILL:
            return f"{who} was killed: by someone, or by the system because memory ran out."
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        return f"{who} ended {how}."

    def close(self) -> None:
        """End the other ranks: they are told, and ended where they do not listen."""
        self._closed.set()
        listening = self._group is not None and self.lost() is None
        if self._group is not None:
            self._group.close()
            if dist.is_initialized():
                dist.destroy_process_group()
        deadline = time.monotonic() + (_SECONDS_TO_END if listening else 0.0)  # who waits for a lost one hears nothing
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
        torch.set_num_threads(self._threads_before)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def torchrun_store() -> tuple[Any, int, int]:
    """Return the store in which ranks that torchrun has started meet, this one's rank, and how many there are."""
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://", timeout=_PATIENCE))
    return _c10d.PrefixStore("lora-tui", store), rank, world


def started_store() -> tuple[Any, int, int]:
    """The same for a rank that `RankProcesses` has started."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _c10d.FileStore(os.environ[STARTED_RANK], world)
    store.set_timeout(_PATIENCE)
    return store, rank, world


def failure_message(rank: int, world: int, device: str, problem: BaseException) -> str:
    """What the run says of a rank that has failed; the log has its traceback."""
    return f"Rank {rank} of {world} ({device}) failed: {one_line(str(problem) or type(problem).__name__, 300)}"
