"""Hardware and load of this machine: CPU, memory and NVIDIA cards, by psutil and NVML.

Neither torch nor any part of the program is needed or known here. What cannot be measured is None, never a guess and
never an exception: a panel that is drawn once a second must not end because a driver does not answer.
"""

import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from lora_tui.text import count, one_line

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

_CPU_FACTS = Path("/proc/cpuinfo")

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Names of a processor's instructions for products in bfloat16, as Linux has them: AVX-512's, AMX's, Arm's."""

_SHORTEST = 0.05
"""Seconds between two measurements of the processor below which the older figure is given: ticks are 10 ms long."""


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """How busy a card is: percent, bytes, degrees Celsius, watts; None for what it does not report."""

    utilisation: int | None
    memory_used: int | None
    memory_total: int | None
    temperature: int | None
    power: float | None


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """How busy the machine is.

    `process_cpu` is in percent of one core (two busy cores are 200) and `machine_cpu` in percent of all, both since the
    previous call (None on the first). `process_memory` is what the process holds in bytes. The process's figures are
    None once it is gone.
    """

    process_cpu: float | None
    machine_cpu: float | None
    process_memory: int | None
    memory_used: int
    memory_total: int
    gpus: tuple[GpuLoad, ...]


def machine_line() -> str:
    """Return the machine in one line, such as "2 CPU cores, 23 GiB, no GPU"."""
    memory = f"{psutil.virtual_memory().total // 2**30} GiB"
    cards = [f"{number} × {name}" if number > 1 else name for name, number in Counter(gpu_names()).items()]
    gpus = ", ".join(cards) or ("an Apple GPU" if has_apple_gpu() else "no GPU")
    return f"{count(usable_cores(), 'CPU core')}, {memory}, {gpus}"


def usable_cores() -> int:
    """Return the cores that this process may use; two threads of one core count once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


@cache
def multiplies_bfloat16() -> bool:
    """Return whether the processor is known to have instructions for products in bfloat16; only Linux tells."""
    try:
        lines = _CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    facts = (line.partition(":") for line in lines)
    return any(
        _BFLOAT16_FLAGS & set(value.split()) for name, _, value in facts if name.strip() in ("flags", "Features")
    )


def free_memory() -> int:
    """Bytes of main memory that this process may still take: the machine's, or less in a container with a limit."""
    return max(0, min([int(psutil.virtual_memory().available), *_cgroup_headroom()]))


def _cgroup_headroom() -> Iterator[int]:
    """Bytes that each limit of a Linux control group leaves; its file cache counts as free."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            root, names = _GROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = _GROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root) and (left := _group_headroom(folder, *names)) is not None:
                yield left


def _group_headroom(folder: Path, limit: str, used: str, cached: str) -> int | None:
    try:
        allowed, taken = (int((folder / name).read_text()) for name in (limit, used))
        figures = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return allowed - taken + int(figures.get(cached, 0))
    except (OSError, ValueError):  # no such group in this container, or "max"
        return None


def has_apple_gpu() -> bool:
    """Return whether this is a Mac whose GPU torch can use."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


@cache
def gpu_names() -> tuple[str, ...]:
    """Return the names of the NVIDIA cards that ``CUDA_VISIBLE_DEVICES`` leaves, in its order: of ``cuda:0`` first."""
    names = (_text("Name", handle) or "NVIDIA GPU" for handle in _visible_handles())
    return tuple(one_line(name, 60) for name in names)


def device_identity(device: str) -> str:
    """Return what a device of torch is on this machine: the card's own id for "cuda:1", whoever numbers it how.

    ``CUDA_VISIBLE_DEVICES`` gives the same card other numbers in other processes.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return device
    handles = _visible_handles()
    index = int(number) if number.isdecimal() else 0
    uuid = _text("UUID", handles[index]) if index < len(handles) else ""
    return uuid or f"{device} of {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}"


def device_load(pid: int | None = None) -> DeviceLoad:
    """Return how busy the machine is, and the process `pid` (this one where None). Never raises."""
    memory = psutil.virtual_memory()
    process_cpu, process_memory = _process_load(os.getpid() if pid is None else pid)
    return DeviceLoad(
        process_cpu=process_cpu,
        machine_cpu=_machine_cpu(),
        process_memory=process_memory,
        memory_used=memory.total - memory.available,
        memory_total=memory.total,
        gpus=tuple(map(_gpu_load, _visible_handles())),
    )


class _BusyRate:
    """Utilisation of a processor from cumulative times: percent busy between one call and the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: tuple[float, float] | None = None
        self._percent: float | None = None

    def percent(self, busy: float, passed: float) -> float | None:
        """Return the percentage of the seconds `passed` since the last call that were `busy`; any origin will do."""
        with self._lock:
            if self._before is not None:
                busy_before, passed_before = self._before
                if passed - passed_before < _SHORTEST:
                    return self._percent
                self._percent = max(0.0, 100.0 * (busy - busy_before) / (passed - passed_before))
            self._before = (busy, passed)
            return self._percent


_MACHINE = _BusyRate()
_PROCESSES: dict[int, tuple[psutil.Process, _BusyRate]] = {}
"""The processes that were measured last, by id."""

_MOST_PROCESSES = 8


def _machine_cpu() -> float | None:
    times = psutil.cpu_times()
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # inside user and nice
    return _MACHINE.percent(total - times.idle - getattr(times, "iowait", 0.0), total)


def _process_load(pid: int) -> tuple[float | None, int | None]:
    try:
        if pid not in _PROCESSES or not _PROCESSES[pid][0].is_running():  # another process may have the number now
            if len(_PROCESSES) >= _MOST_PROCESSES:
                _PROCESSES.clear()
            _PROCESSES[pid] = (psutil.Process(pid), _BusyRate())
        process, share = _PROCESSES[pid]
        times = process.cpu_times()
        return share.percent(times.user + times.system, time.monotonic()), process.memory_info().rss
    except (psutil.Error, OSError):
        _PROCESSES.pop(pid, None)
        return None, None


@cache
def _nvml() -> Any:
    """Return NVIDIA's management library, ready to be asked, or None where there is no driver. Loaded once."""
    import pynvml  # a second's tenth that a machine without the app's panels need not spend

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


@cache
def _visible_handles() -> tuple[Any, ...]:
    """Return the handles that CUDA would use: in the order of ``CUDA_VISIBLE_DEVICES``, up to the first unknown one."""
    handles = [_query("HandleByIndex", number) for number in range(_query("Count") or 0)]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(handle for handle in handles if handle is not None)
    chosen = []
    for part in (part.strip() for part in named.split(",")):
        if part.isdecimal():
            found = handles[int(part)] if int(part) < len(handles) else None
        else:
            found = next((handle for handle in handles if part and _text("UUID", handle).startswith(part)), None)
        if found is None:
            break
        chosen.append(found)
    return tuple(chosen)


def _gpu_load(handle: Any) -> GpuLoad:
    utilisation = _query("UtilizationRates", handle)
    memory = _query("MemoryInfo", handle)
    power = _query("PowerUsage", handle)
    return GpuLoad(
        utilisation=None if utilisation is None else int(utilisation.gpu),
        memory_used=None if memory is None else int(memory.used),
        memory_total=None if memory is None else int(memory.total),
        temperature=_query("Temperature", handle, 0),  # NVML_TEMPERATURE_GPU, the sensor on the chip
        power=None if power is None else power / 1000,  # milliwatts
    )


def _text(name: str, handle: Any) -> str:
    """Return a text of a card, which older libraries give as bytes; empty where it is refused."""
    text = _query(name, handle) or ""
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _query(name: str, *arguments: Any) -> Any:
    """Call ``nvmlDeviceGet…``, or return None where it fails: MIG mode, an old driver, a card that fell off the bus."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        return getattr(nvml, f"nvmlDeviceGet{name}")(*arguments)
    except nvml.NVMLError:
        return None
