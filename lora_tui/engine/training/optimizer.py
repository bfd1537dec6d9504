"""AdamW over what is trained, in groups with a learning rate each; and which layers a first step gave a gradient.

Small, because it is apart from `step`: the ranks beside rank 0 compute gradients and have no optimizer.
"""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import nn

from lora_tui.config.models import FineTuning


def make_optimizer(model: nn.Module, settings: FineTuning) -> tuple[torch.optim.AdamW, dict[int, str]]:
    """Return AdamW over what is trained, and the name of each parameter by its id.

    LoRA's parameters and the others are groups with a learning rate and a weight decay each. With a ratio other than 1
    the second matrices, with DoRA's magnitudes as in PEFT, are a group of their own (LoRA+, Hayou et al. 2024, arXiv
    2402.12354). A group's peak rate is kept as ``peak_lr``.
    """
    options, ratio = settings.optimizer, settings.optimizer.loraplus_lr_ratio
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    second = {name for name in trained if ratio != 1 and (".lora_B." in name or ".lora_magnitude_vector." in name)}
    first = {name for name in trained if "lora_" in name} - second
    others = trained.keys() - first - second
    groups = [
        {
            "params": [trained[name] for name in trained if name in group],
            "lr": rate,
            "peak_lr": rate,
            "weight_decay": decay,
        }
        for group, rate, decay in (
            (first, options.lora_lr, options.lora_weight_decay),
            (second, options.lora_lr * ratio, options.lora_weight_decay),
            (others, options.base_lr, options.base_weight_decay),
        )
        if group
    ]
    betas = (options.beta1, options.beta2)
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=options.eps, fused=True)
    return optimizer, {id(parameter): name for name, parameter in trained.items()}


def layers_with_gradient(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, bool]:
    """Tell of each trained layer whether any of its parameters has a gradient that is not all zero."""
    learns: defaultdict[str, bool] = defaultdict(bool)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            layer = names[id(parameter)].partition(".lora_")[0]
            learns[layer] |= parameter.grad is not None and bool(parameter.grad.any())
    return learns
