"""LoRA adapters put on the base models that they were trained for."""

import logging
from collections.abc import Mapping

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_tui.engine.models.adapter_source import WEIGHTS, AdapterGoneError, AdapterSource, check_intact
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.engine.models.build_lock import constructing
from lora_tui.engine.models.loaded_checks import compute_once
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.text import one_line

log = logging.getLogger(__name__)

_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` that change the base model's weights, which PEFT has to repeat when it loads."""


def load_adapter(base: BaseModel, source: AdapterSource) -> PeftModel:
    """Put the adapter on the base model, in evaluation mode.

    torch's random state is left as it is: PEFT's own loading initialises matrices that it then overwrites, with the
    generator that a trainer of this process draws its dropout from. (Adapters of other programs whose initialisation
    changes the base model, such as PiSSA's, are loaded PEFT's way.) Raises `AdapterGoneError`, with the base
    model untouched, when the files are no longer there, `UsageError` when they were made for another model or their
    configuration cannot be one, and `LoraTuiError` when the weights are damaged.
    """
    check_intact(source.folder)
    try:
        config = PeftConfig.from_pretrained(str(source.folder))
        weights = load_file(source.folder / WEIGHTS)
        _check_values(weights)
        if str(getattr(config, "init_lora_weights", "")).lower().startswith(_CHANGES_BASE):
            with constructing():
                model = PeftModel.from_pretrained(base.model, str(source.folder), use_safetensors=True)
            _check_layers(model, weights)
        else:
            model = _attach_adapter(base, config, weights)
        compute_once(model.eval())  # some entries are only believed when something is computed
    except Exception as problem:  # PEFT believes what the configuration says, and raises anything where that is wrong
        log.info("loading the adapter %s failed", source.folder, exc_info=problem)
        if not all((source.folder / name).is_file() for name in ("adapter_config.json", WEIGHTS)):
            raise AdapterGoneError(f"The adapter {source.folder} is no longer there.") from problem
        if isinstance(problem, torch.OutOfMemoryError | MemoryError):
            raise LoraTuiError(f"The adapter {source.folder} does not fit into memory beside {base.name}.") from problem
        if isinstance(problem, _DamagedWeightsError):
            raise LoraTuiError(
                f"{source.folder / WEIGHTS} is damaged: {problem}. Take it from where it is from."
            ) from problem
        reason = one_line(str(problem), 160)
        if isinstance(problem, RuntimeError | ValueError | KeyError | SafetensorError):
            raise UsageError(
                f"The adapter {source.folder} does not fit the base model {base.name}: {reason}…\n"
                "Name the base model it was trained on with --set fine_tuning.model_name=…"
            ) from problem
        raise UsageError(
            f"The adapter {source.folder} cannot be used: something in its adapter_config.json is wrong "
            f"({type(problem).__name__}: {reason}).\nCorrect it, or take the adapter from its publisher again."
        ) from problem
    return model


class _DamagedWeightsError(Exception):
    """An adapter's matrices hold what no training writes."""


def _check_values(weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise _DamagedWeightsError(f"{one_line(name, 100)} holds values that are no numbers")


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's tensors under the names they are saved with."""
    tensors: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return tensors


def _attach_adapter(base: BaseModel, config: PeftConfig, weights: Mapping[str, Tensor]) -> PeftModel:
    """Build the adapter on the meta device, allocate its memory, and copy the saved values into it.

    PEFT's ``low_cpu_mem_usage`` would do the same, but rounds float32 adapters to the base model's precision on the way
    (the logits of SmolLM2 in bfloat16 move by up to 1), and still draws for adapters of embeddings.
    """
    config.inference_mode = True
    with constructing(), torch.device("meta"):  # a mode of this thread: nothing is drawn from the generator
        model = get_peft_model(base.model, config)
    _check_layers(model, weights)  # before memory is taken for what the configuration says
    tensors = (*model.named_parameters(), *model.named_buffers())
    empty = {name for name, tensor in tensors if tensor.is_meta}
    for module in list(model.modules()):
        if any(tensor.is_meta for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            module.to_empty(device=base.device, recurse=False)
    missing = empty.intersection(set_peft_model_state_dict(model, dict(weights)).missing_keys)
    if missing:
        raise ValueError(f"{len(missing)} of its tensors are missing, such as {min(missing)}")
    return model


def _check_layers(model: PeftModel, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the saved matrices are the model's: PEFT ignores those that are too many or too few."""
    shapes = {name: tensor.shape for name, tensor in adapter_weights(model).items() if "lora_" in name}
    saved, wanted = {name for name in weights if "lora_" in name}, shapes.keys()
    if saved != wanted:
        raise ValueError(
            f"{len(saved - wanted)} of its matrices have no place there, {len(wanted - saved)} are missing"
        )
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name} is {list(weights[name].shape)}, and {list(shape)} is wanted")
