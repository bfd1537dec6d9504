"""Small tensors on their way to the device, without waiting for what it is doing."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`; a GPU takes it in the order of its other work, and nobody waits for that."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
