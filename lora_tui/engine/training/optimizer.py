"""AdamW over what is trained: LoRA's matrices and other parameters, each with its own rate and weight decay."""

from collections.abc import Mapping

import torch
from torch import nn

from lora_tui.config.models import FineTuning
from lora_tui.engine.training.lora import is_second_matrix, parameter_groups


def make_optimizer(model: nn.Module, settings: FineTuning) -> tuple[torch.optim.AdamW, dict[int, str]]:
    """AdamW over LoRA's parameters and the other trained ones, each group with its own rate and weight decay.

    With a ratio other than 1 the second matrices are a group of their own (LoRA+, Hayou et al. 2024, arXiv 2402.12354).
    Returns the optimizer and the name of each parameter by its id. A group's peak rate is kept as ``peak_lr``.
    """
    options = settings.optimizer
    lora, others = parameter_groups(model)
    ratio = options.loraplus_lr_ratio
    groups = [
        {
            "params": [p for name, p in lora if faster == (ratio != 1 and is_second_matrix(name))],
            "lr": rate,
            "peak_lr": rate,
            "weight_decay": options.lora_weight_decay,
        }
        for faster, rate in ((False, options.lora_lr), (True, options.lora_lr * ratio))
    ]
    groups += [
        {
            "params": [p for _, p in others],
            "lr": options.base_lr,
            "peak_lr": options.base_lr,
            "weight_decay": options.base_weight_decay,
        },
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        fused=True,
    )
    return optimizer, {id(parameter): name for name, parameter in (*lora, *others)}


def layers_with_gradient(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, bool]:
    """Tell of each trained layer whether any of its parameters has a gradient that is not all zero."""
    reached: dict[str, bool] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            layer = names[id(parameter)].partition(".lora_")[0]
            alive = parameter.grad is not None and bool(parameter.grad.any())
            reached[layer] = reached.get(layer, False) or alive
    return reached
