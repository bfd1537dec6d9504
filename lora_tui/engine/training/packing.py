"""Examples laid end to end in rows without padding, each attending to itself alone.

A row ("micro-batch") is cut from the examples of one optimizer step, so the gradient of the step is the sum over its
rows whatever the packing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from lora_tui.engine.training.dataset import Encoded
from lora_tui.engine.training.transfer import to_device


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row of T tokens holding L labels.

    `input_ids` and `position_ids` have shape ``(T,)``; positions restart at 0 with each example. `spans` holds each
    example's (start, end). `label_positions` ``(L,)`` are the positions whose *next* token is a label, `targets`
    ``(L,)`` those next tokens: the last token of an example predicts nothing, since its successor belongs to the next
    example. `examples` says which of the step's examples they are; `cu_seqlens` holds the spans' starts and the end, as
    int32 ``(examples + 1,)``, for kernels that take them from the device.
    """

    input_ids: Tensor
    position_ids: Tensor
    spans: tuple[tuple[int, int], ...]
    label_positions: Tensor
    targets: Tensor
    examples: tuple[int, ...]
    cu_seqlens: Tensor


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Distribute items over rows of at most `budget` tokens: best fit, longest first. A longer item gets its own row.

    Returns the item indices of each row. Deterministic: ties keep the order given.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[item]]
        if fitting:
            row = min(fitting, key=lambda candidate: room[candidate])
            rows[row].append(item)
            room[row] -= lengths[item]
        else:
            rows.append([item])
            room.append(budget - lengths[item])
    return rows


def balance(lengths: Sequence[int], budget: int, multiple: int) -> list[list[int]]:
    """Distribute items over rows of like length, at most `budget` tokens each, their number a multiple of `multiple`.

    For rows that are computed side by side: nobody waits for a long one. Longest first, each to the shortest row so
    far; a longer item than the budget gets its own row. Returns the item indices of each row; deterministic.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    alone = [[item] for item in longest_first if lengths[item] > budget]
    shared = longest_first[len(alone) :]
    wanted = -(-sum(lengths[item] for item in shared) // budget)
    for rows in range(-(-wanted // multiple) * multiple, len(shared), multiple):
        found: list[list[int]] = [[] for _ in range(rows)]
        used = [0] * rows
        for item in shared:
            shortest = used.index(min(used))
            found[shortest].append(item)
            used[shortest] += lengths[item]
        if max(used) <= budget:
            return alone + found
    return [[item] for item in longest_first]


def lay_out(examples: Sequence[Encoded], items: Sequence[int], device: torch.device) -> Row:
    """Build one row out of the examples numbered `items`, in the order given."""
    chosen = [examples[item] for item in items]
    ends = list(accumulate(len(example.input_ids) for example in chosen))
    starts = [0, *ends[:-1]]
    ids = torch.tensor([token for example in chosen for token in example.input_ids])
    positions = torch.cat([torch.arange(end - start) for start, end in zip(starts, ends, strict=True)])
    is_label = torch.tensor([label for example in chosen for label in example.is_label])
    is_label[starts] = False  # an example's first token has nothing before it in the row
    labels = is_label.nonzero().squeeze(1)
    return Row(
        to_device(ids, device),
        to_device(positions, device),
        tuple(zip(starts, ends, strict=True)),
        to_device(labels - 1, device),
        to_device(ids[labels], device),
        tuple(items),
        to_device(torch.tensor([0, *ends], dtype=torch.int32), device),
    )
