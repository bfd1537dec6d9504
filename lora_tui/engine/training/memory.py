"""How much memory a training step needs, estimated from the model's shape, and how much there is.

The estimate decides ``gradient_checkpointing = "auto"``: recomputing activations costs half as much again (6N instead
of 4N FLOPs a token), so it is worth it only where the activations do not fit.
"""

from dataclasses import dataclass

import psutil
import torch
from transformers import PreTrainedModel

from lora_tui.engine.training import footprint


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes a step's activations take without recomputation, bytes that are free, and what follows from them."""

    activation_bytes: int
    free_bytes: int
    checkpointing: bool


def plan_memory(setting: bool | str, model: PreTrainedModel, tokens_per_row: int, device: torch.device) -> MemoryPlan:
    """Decide whether to recompute activations, as ``fine_tuning.gradient_checkpointing`` asks."""
    needed = activation_bytes_per_token(model) * tokens_per_row
    free = free_bytes(device)
    checkpointing = needed > footprint.SHARE_TO_USE * free if setting == "auto" else bool(setting)
    return MemoryPlan(needed, free, checkpointing)


def activation_bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes that one token's activations keep until the backward pass, all layers of a loaded model together."""
    config = model.config.get_text_config()
    width = torch.empty(0, dtype=model.dtype).element_size()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    intermediate = getattr(config, "intermediate_size", None) or 4 * hidden
    return footprint.activation_bytes_per_token(hidden, intermediate, layers, width)


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def used_megabytes(device: torch.device) -> float:
    """Memory of this process on `device` in MB: allocated on CUDA, resident elsewhere."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device) / 1e6)
    return float(psutil.Process().memory_info().rss / 1e6)
