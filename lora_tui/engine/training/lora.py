"""The LoRA model: frozen base, small trainable matrices beside its linear layers (Hu et al. 2021, arXiv 2106.09685).

Also the modules that are trained whole beside them. The options are described in `lora_tui.config.models.Lora`; PEFT
builds them.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_tui.config.models import Lora
from lora_tui.engine.models.build_lock import constructing
from lora_tui.engine.training.pissa import init_from_base, uses_base_weights
from lora_tui.errors import ConfigError
from lora_tui.text import one_line


def create_lora_model(
    model: PreTrainedModel, lora: Lora, seed: int = 42, first: Mapping[str, Tensor] | None = None
) -> PeftModel:
    """Freeze `model` and add what ``[fine_tuning.lora]`` asks for.

    Everything that is trained is float32 whatever the base is (updates are smaller than bfloat16 can represent,
    peft#1706), and its first values depend on `seed` alone. `first` are those that a resumed run began with, for
    initialisations that take them out of the base weights. Raises `ConfigError` when an option does not fit the model.
    """
    model.requires_grad_(False)
    _check_options(model, lora)
    from_base = uses_base_weights(lora.init_lora_weights)
    # Embedding and head that are one weight in this model stay one where they are trained (peft#2777).
    trained_whole = {name.rpartition(".")[2] for name in lora.modules_to_save}
    tied = model.config.get_text_config().tie_word_embeddings and trained_whole & {"embed_tokens", "lm_head"}
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        bias="none",
        task_type="CAUSAL_LM",
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights=True if from_base else lora.init_lora_weights,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        modules_to_save=list(lora.modules_to_save) or None,
        ensure_weight_tying=bool(tied),
    )
    with constructing(), torch.random.fork_rng():
        torch.manual_seed(seed)
        tuned = get_peft_model(model, config, autocast_adapter_dtype=True)
        if from_base:
            _check_matrices(tuned, str(lora.init_lora_weights))
            init_from_base(tuned, str(lora.init_lora_weights), first or {})
    _train_in_float32(tuned, model.dtype)
    return tuned


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters are trained, and how many there are."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # bitsandbytes packs two 4-bit weights in a byte and knows their shape.
    shapes = ((getattr(parameter, "quant_state", None) or parameter).shape for parameter in model.parameters())
    return trained, sum(shape.numel() for shape in shapes)


def _train_in_float32(model: PeftModel, dtype: torch.dtype) -> None:
    """Keep modules that are trained whole in float32 on a base of another precision, casting inputs and outputs."""
    if dtype == torch.float32:
        return

    def cast_inputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(entry.float() if entry.is_floating_point() else entry for entry in inputs)

    def cast_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.to(dtype)

    for wrapper in model.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for module in wrapper.modules_to_save.values():
                module.float()
                module.register_forward_pre_hook(cast_inputs)
                module.register_forward_hook(cast_output)


def _check_options(model: nn.Module, lora: Lora) -> None:
    """Raise `ConfigError` where an option names a module or layer that the model does not have."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for target in [] if isinstance(lora.target_modules, str) else lora.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            names = [name for name in linear if name.rpartition(".")[2] != "lm_head"]
            raise ConfigError(f'{_missing("target_modules", "linear layer", target, names)}; or set "all-linear".')
    names = [name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]
    for wanted in lora.modules_to_save:
        if not any(name.endswith(wanted) for name in names):
            raise ConfigError(f"{_missing('modules_to_save', 'module', one_line(wanted, 40), names)}.")
        if any(parameter.dtype.itemsize == 1 for name, parameter in model.named_parameters() if wanted in name):
            raise ConfigError(
                f'fine_tuning.lora.modules_to_save: "{one_line(wanted, 40)}" is kept in 4 bits, which cannot be '
                "trained whole. Leave it to the matrices, or set fine_tuning.qlora = false."
            )
    for key, pattern in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
        for wanted in pattern:
            if not any(re.fullmatch(rf"(.*\.)?({wanted})", name) for name in linear):
                raise ConfigError(f"{_missing(key, 'linear layer', one_line(wanted, 40), linear)}.")


def _missing(key: str, kind: str, wanted: str, names: Iterable[str]) -> str:
    """Say that the model has no module `wanted`, and which of that kind it has; without the last full stop."""
    known = sorted({name.rpartition(".")[2] for name in names})
    return f'fine_tuning.lora.{key}: this model has no {kind} "{wanted}". It has {", ".join(known[:12])}'


def _check_matrices(model: PeftModel, initialisation: str) -> None:
    """Raise `ConfigError` where the matrices cannot be taken out of a weight: it has too few directions for them."""
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if initialisation == "olora" and layer.fan_in_fan_out:
            raise ConfigError(
                'fine_tuning.lora.init_lora_weights = "olora": PEFT does not know it for the layers of this model, '
                'which hold their weights transposed. Set "pissa", or true.'
            )
        rank, largest = max(layer.r.values()), min(layer.in_features, layer.out_features)
        if rank > largest:
            raise ConfigError(
                f'fine_tuning.lora.r = {rank}: init_lora_weights = "{initialisation}" takes its matrices out of the '
                f"weights, and {name.rpartition('.')[2]} has {largest} directions. Set at most {largest}."
            )
