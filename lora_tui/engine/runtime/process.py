"""Process-wide settings for torch: OpenMP's threads before it is loaded, glibc's allocator after; and which rank it is.

The engine calls `before_torch` before it imports a job, the training loop `keep_freed_memory`: apart, because the one
must not import what the other needs. Both settings were found by measuring on two CPU cores.
"""

import ctypes
import logging
import os
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGEST_BLOCK = 1 << 30
"""Blocks up to this size (bytes) come from the heap, which is kept, instead of from fresh pages."""


def before_torch() -> None:
    """Let OpenMP's threads sleep, not spin, while they wait for each other; a user's own setting wins.

    libgomp reads this when torch loads it. With spinning, a single busy process beside a two-thread matrix product
    makes each small product wait a scheduler's time slice: 4.5 ms instead of 0.15 ms for 1 × 576 × 1536. Something is
    always busy beside torch here: the engine's loop, and the app.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' progress bars; ours come as events
    # Where it is installed PEFT imports it, and it warns on the terminal of a faster kernel that nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


STARTED_RANK = "LORA_TUI_RANKS"
"""Environment variable of a rank that a run has started: the file in which the ranks of that run meet."""


def torchrun_rank() -> tuple[int, int] | None:
    """Return rank and number of ranks where torchrun, or something like it, has started this process as one of many."""
    rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if STARTED_RANK in os.environ or not (rank.isdecimal() and world.isdecimal()) or int(world) < 2:
        return None
    return int(rank), int(world)


def keep_freed_memory() -> None:
    """Make glibc's allocator keep what it has.

    By default it returns every large block to the kernel when it is freed and takes fresh, zeroed pages for the next
    one. A training step frees and takes the same activations thousands of times. Elsewhere (musl, macOS) this does
    nothing.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # mallopt takes C ints: the largest trim threshold is 2 GiB - 1, after which the heap's top is returned.
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_TOP_PAD, 64 << 20)
        mallopt(_M_ARENA_MAX, 1)  # threads with heaps of their own could not use what another has freed
