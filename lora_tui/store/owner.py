"""Proof of who owns a run: which process of which machine, since which tick, and the token that its writes carry.

Nothing here hangs on the wall clock, which NTP, a virtual machine or a laptop that wakes may step while a run works: a
process is told from a later one with the same number by the kernel's ticks from boot to its start, and machines and
containers by the kernel's boot id and the namespace of process numbers. Where neither can be known (another machine,
macOS), the heartbeat and the start time stand in, and an owner that was taken for dead takes that back by its next
heartbeat (`lora_tui.store.runs.renew_heartbeat`), unless another process has taken the run over: then its writes are
refused (`LostRunError`).
"""

import secrets
import socket
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from lora_tui.errors import LoraTuiError

_PROC = Path("/proc")

HEARTBEAT_TIMEOUT = 60.0
"""Seconds after which a heartbeat from elsewhere means that its process is gone."""


class LostRunError(LoraTuiError):
    """Another process has taken a run over, or deleted it: what this one still wants to write of it is refused."""


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """Who owns a run, as the store has it. `ticks` and `place` are empty where they cannot be known."""

    id: int
    pid: int
    pid_started: float
    host: str
    heartbeat: float
    ticks: int | None
    place: str | None


@dataclass(frozen=True, slots=True)
class _Identity:
    pid: int
    pid_started: float
    host: str
    ticks: int | None
    place: str | None


def new_token() -> str:
    """Return a token that no other ownership has."""
    return secrets.token_hex(16)


def this_process() -> dict[str, Any]:
    """Return the columns of ``runs`` that name this process as the owner."""
    process = psutil.Process()
    return asdict(
        _Identity(process.pid, process.create_time(), socket.gethostname(), start_ticks(process.pid), this_place())
    )


@cache
def this_place() -> str | None:
    """Return what the numbers of processes belong to: this boot of this kernel, and the container's namespace."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return None


def start_ticks(pid: int) -> int | None:
    """Return the ticks from boot to the start of a process; None where there is none, or no ``/proc``.

    ``psutil`` adds them to the boot's wall-clock time, which moves with each step of the clock.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
        return int(stat[stat.rindex(b")") + 2 :].split()[19])  # field 22 of proc(5); the name before may hold anything
    except (OSError, ValueError, IndexError):
        return None


def is_here(owner: OwnerRow) -> bool:
    """Tell whether the owner's process number means a process that this one can look for."""
    if owner.host != socket.gethostname():
        return False
    return owner.place is None or owner.place == this_place()


def owner_alive(owner: OwnerRow) -> bool:
    """Return whether the process that owns a run still exists, as far as can be known from here at once."""
    beating = abs(time.time() - owner.heartbeat) < HEARTBEAT_TIMEOUT
    if not is_here(owner):
        return beating and not _before_boot(owner)
    try:
        process = psutil.Process(owner.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if owner.ticks is not None:
            return start_ticks(owner.pid) == owner.ticks
        # An older version's run, or no /proc: the start time is exact but for steps of the clock.
        return beating or abs(process.create_time() - owner.pid_started) < 1.0
    except psutil.NoSuchProcess:
        return False


def may_beat(owner: OwnerRow) -> bool:
    """Tell whether only its next heartbeats could show that the owner lives: it cannot be looked for from here."""
    return not is_here(owner) and not _before_boot(owner)


def _before_boot(owner: OwnerRow) -> bool:
    """Whether this machine was started anew since the owner's last heartbeat, which ended all that ran on it."""
    return owner.host == socket.gethostname() and owner.heartbeat < psutil.boot_time() - HEARTBEAT_TIMEOUT
