"""Prompts of different length as one tensor. A module of its own since all that reads prompts needs it."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase


def padded(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], side: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and mask of shape ``(rows, longest)``, with padding on the ``left`` or ``right``."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    pad = partial(pad_sequence, batch_first=True, padding_side=side)
    input_ids = pad(ids, padding_value=tokenizer.pad_token_id or 0)
    return input_ids.to(device), pad([torch.ones_like(row) for row in ids]).to(device)
