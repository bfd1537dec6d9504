"""Examples laid end to end in rows without padding, each attending to itself alone.

A row ("micro-batch") is cut from the examples of one optimizer step, so the gradient of the step is the sum over its
rows whatever the packing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_tui.engine.training.dataset import Encoded


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row of T tokens holding L labels.

    `input_ids` and `position_ids` have shape ``(T,)``; positions restart at 0 with each example. `spans` holds each
    example's (start, end). `label_positions` ``(L,)`` are the positions whose *next* token is a label, `targets`
    ``(L,)`` those next tokens: the last token of an example predicts nothing, since its successor belongs to the next
    example. `examples` says which of the step's examples they are; `boundaries` holds the spans' starts and the end, as
    int32 ``(examples + 1,)``, for kernels that take them from the device.
    """

    input_ids: Tensor
    position_ids: Tensor
    spans: tuple[tuple[int, int], ...]
    label_positions: Tensor
    targets: Tensor
    examples: tuple[int, ...]
    boundaries: Tensor


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
    input_ids: list[int] = []
    position_ids: list[int] = []
    label_positions: list[int] = []
    targets: list[int] = []
    spans: list[tuple[int, int]] = []
    for example in (examples[item] for item in items):
        start = len(input_ids)
        input_ids += example.input_ids
        position_ids += range(len(example.input_ids))
        spans.append((start, len(input_ids)))
        for i in range(1, len(example.input_ids)):
            if example.is_label[i]:
                label_positions.append(start + i - 1)
                targets.append(example.input_ids[i])
    return Row(
        _indices(input_ids, device),
        _indices(position_ids, device),
        tuple(spans),
        _indices(label_positions, device),
        _indices(targets, device),
        tuple(items),
        torch.tensor([0, *(end for _, end in spans)], dtype=torch.int32, device=device),
    )


def _indices(values: list[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)
