"""The lock of a training device on this machine, whatever store its run is in.

The store's own lock (`lora_tui.store.runs.lock_device`) knows the runs of one store alone. This one is a file of the
user that the kernel keeps locked for as long as its process lives, so that a killed run leaves nothing to clear. Other
users' runs are not seen.
"""

import fcntl
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from lora_tui.config.paths import lock_folder, private_folder
from lora_tui.machine import device_identity

log = logging.getLogger(__name__)


class DeviceLock:
    """One device that is locked for this process, until `release` or its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others have the device."""
        with suppress(OSError):
            os.close(self._descriptor)


def lock_device(device: str, holder: str) -> DeviceLock | str | None:
    """Lock a device of torch ("cuda:0") for `holder`, a run in words; returns who holds it where it is taken.

    None where this machine has no locks: then only the store's own counts.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", device_identity(device))[:100]
    try:
        path = private_folder(lock_folder()) / f"device-{name}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        log.warning("%s is not locked on this machine: %s", device, problem)
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return _holder(path)
    except OSError as problem:
        log.warning("%s is not locked on this machine: %s", device, problem)
        os.close(descriptor)
        return None
    with suppress(OSError):  # a full disk: it is locked all the same
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(errors="replace"), 0)
    return DeviceLock(descriptor)


def _holder(path: Path) -> str:
    with suppress(OSError):
        if text := path.read_text(encoding="utf-8", errors="replace").strip():
            return text[:500]
    return "another run of yours"
