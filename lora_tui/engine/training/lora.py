"""The LoRA model: frozen base, small trainable matrices beside its linear layers (Hu et al. 2021, arXiv 2106.09685)."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from lora_tui.config.models import Lora
from lora_tui.engine.construction import constructing
from lora_tui.errors import ConfigError


def create_lora_model(model: PreTrainedModel, lora: Lora, seed: int = 42) -> PeftModel:
    """Freeze `model` and add adapters of rank ``lora.r`` to its ``lora.target_modules``.

    The adapters are float32 whatever the base is (updates are smaller than bfloat16 can represent, peft#1706) and their
    first values depend on `seed` alone. Raises `ConfigError` when a target module is not in the model.
    """
    model.requires_grad_(False)
    targets = lora.target_modules
    if not isinstance(targets, str):
        _check_targets(model, targets)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with constructing(), torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config, autocast_adapter_dtype=True)


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters are trained, and how many there are."""
    return (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        sum(parameter.numel() for parameter in model.parameters()),
    )


def parameter_groups(model: nn.Module) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """Return the trained parameters by name: those of LoRA, and the others (none unless asked for)."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [entry for entry in trained if "lora_" in entry[0]], [entry for entry in trained if "lora_" not in entry[0]]


def _check_targets(model: nn.Module, targets: list[str]) -> None:
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    unknown = [
        target for target in targets if not any(name == target or name.endswith(f".{target}") for name in linear)
    ]
    if unknown:
        known = sorted({name.rpartition(".")[2] for name in linear} - {"lm_head"})
        raise ConfigError(
            f'fine_tuning.lora.target_modules: this model has no linear layer "{unknown[0]}". '
            f'It has {", ".join(known[:12])}; or set "all-linear".'
        )
