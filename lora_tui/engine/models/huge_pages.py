"""Weights in pages of 2 MiB, where Linux moves them there: a processor then finds their addresses without looking.

Decoding reads all weights for each token. In pages of 4 KiB, as memory comes, every 64th line of them waits for an
address to be looked up, in a virtual machine twice. ``MADV_COLLAPSE`` (Linux 6.1) copies what lies in small pages into
a large one, in place: SmolLM2's step of one token takes 16.0 ms then and 18.8 before, two threads. It takes a second
for 250 MB, so a thread of its own does it while the weights are used. Small, and apart from the fast form, which is
long enough and knows nothing of the system.
"""

import ctypes
import sys
import threading
from collections import Counter
from collections.abc import Sequence

from torch import Tensor

_PAGE = 1 << 21
_COLLAPSE = 25
"""``MADV_COLLAPSE``, see madvise(2)."""

_LEAST = 64 << 20
"""Bytes of weights from which it is worth a thread."""


def move_to_huge_pages(weights: Sequence[Tensor]) -> int:
    """Have Linux put weights on a CPU into huge pages; returns how many pages it has made. Other systems make none."""
    if not sys.platform.startswith("linux"):
        return 0
    covered = Counter[int]()  # bytes of weights by page
    for weight in weights:
        start, end = weight.data_ptr(), weight.data_ptr() + weight.numel() * weight.element_size()
        for page in range(start // _PAGE, -(-end // _PAGE)):
            covered[page] += min(end, (page + 1) * _PAGE) - max(start, page * _PAGE)
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(advise(page * _PAGE, _PAGE, _COLLAPSE) == 0 for page, size in covered.items() if size > _PAGE // 2)


def start_moving_to_huge_pages(weights: Sequence[Tensor]) -> None:
    """Do `move_to_huge_pages` in a thread of its own, where there are many weights and they are on a CPU."""
    if weights[0].device.type == "cpu" and sum(one.numel() * one.element_size() for one in weights) >= _LEAST:
        held = [weight.detach() for weight in weights]  # their memory is nobody else's meanwhile
        threading.Thread(target=move_to_huge_pages, args=(held,), name="huge pages", daemon=True).start()
