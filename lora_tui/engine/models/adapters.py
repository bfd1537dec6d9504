"""LoRA adapters put on the base models that they were trained for."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

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
    with _explaining(base, source):
        config, weights = _read_adapter(source)
        if _changes_base(config):
            with constructing():
                model = PeftModel.from_pretrained(base.model, str(source.folder), use_safetensors=True)
            _check_layers(model, weights)
        else:
            model = _attach_adapter(base.model, config, weights, base.device)
        compute_once(model.eval())  # some entries are only believed when something is computed
    return model


def begin_as(model: PeftModel, base: BaseModel, source: AdapterSource) -> None:
    """Give a new adapter the values of one on the disk, which has the same shape; raises what `load_adapter` raises."""
    with _explaining(base, source):
        _, weights = _read_adapter(source)
        _check_layers(model, weights)
        set_peft_model_state_dict(model, dict(weights))


def load_adapters(base: BaseModel, sources: Mapping[str, AdapterSource]) -> PeftModel:
    """Put several adapters on the base model side by side, in evaluation mode; which one is active is not said.

    Each is known to PEFT by its name here, which must not contain a dot. Raises what `load_adapter` raises, and
    `UsageError` for one whose initialisation changes the base model's weights, which the others stand on.
    """
    model: PreTrainedModel | PeftModel = base.model
    for name, source in sources.items():
        with _explaining(base, source):
            config, weights = _read_adapter(source)
            if _changes_base(config):
                raise UsageError(
                    f"The adapter {source.folder} changes the base model's own weights "
                    f"(init_lora_weights {config.init_lora_weights}): it cannot share them with others. Use it alone."
                )
            model = _attach_adapter(model, config, weights, base.device, name)
            model.set_adapter(name)
            compute_once(model.eval())
    if not isinstance(model, PeftModel):
        raise ValueError("no adapter was named")
    return model.requires_grad_(requires_grad=False)


def _read_adapter(source: AdapterSource) -> tuple[PeftConfig, dict[str, Tensor]]:
    check_intact(source.folder)
    config, weights = PeftConfig.from_pretrained(str(source.folder)), load_file(source.folder / WEIGHTS)
    _check_values(weights)
    return config, weights


def _changes_base(config: PeftConfig) -> bool:
    return str(getattr(config, "init_lora_weights", "")).lower().startswith(_CHANGES_BASE)


@contextmanager
def _explaining(base: BaseModel, source: AdapterSource) -> Iterator[None]:
    """Turn what PEFT raises about an adapter inside the block into a message that names it."""
    try:
        yield
    except LoraTuiError:
        raise
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


class _DamagedWeightsError(Exception):
    """An adapter's matrices hold what no training writes."""


def _check_values(weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise _DamagedWeightsError(f"{one_line(name, 100)} holds values that are no numbers")


def adapter_weights(model: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """Return the tensors of an adapter, by the name that PEFT knows it by, under the names they are saved with."""
    tensors: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return tensors


def _attach_adapter(
    model: PreTrainedModel | PeftModel,
    config: PeftConfig,
    weights: Mapping[str, Tensor],
    device: torch.device,
    name: str = "default",
) -> PeftModel:
    """Build the adapter on the meta device, allocate its memory, and copy the saved values into it.

    `model` may have others already. PEFT's ``low_cpu_mem_usage`` would do the same, but rounds float32 adapters to the
    base model's precision on the way (the logits of SmolLM2 in bfloat16 move by up to 1), and still draws for adapters
    of embeddings.
    """
    config.inference_mode = True
    with constructing(), torch.device("meta"):  # a mode of this thread: nothing is drawn from the generator
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    _check_layers(model, weights, name)  # before memory is taken for what the configuration says
    tensors = (*model.named_parameters(), *model.named_buffers())
    empty = {key for key, tensor in tensors if tensor.is_meta}
    for module in list(model.modules()):
        _allocate(module, device)
    missing = empty.intersection(set_peft_model_state_dict(model, dict(weights), adapter_name=name).missing_keys)
    if missing:
        raise ValueError(f"{len(missing)} of its tensors are missing, such as {min(missing)}")
    return model


def _allocate(module: nn.Module, device: torch.device) -> None:
    """Give a module's own tensors on the meta device memory; others, such as those of another adapter, stay."""
    for key, parameter in module._parameters.items():  # what `Module.to_empty` goes through, too
        if parameter is not None and parameter.is_meta:
            module._parameters[key] = nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
    for key, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            module._buffers[key] = torch.empty_like(buffer, device=device)


def _check_layers(model: PeftModel, weights: Mapping[str, Tensor], name: str = "default") -> None:
    """Raise ValueError unless the saved matrices are the model's: PEFT ignores those that are too many or too few."""
    shapes = {key: tensor.shape for key, tensor in adapter_weights(model, name).items() if "lora_" in key}
    saved, wanted = {key for key in weights if "lora_" in key}, shapes.keys()
    if saved != wanted:
        raise ValueError(
            f"{len(saved - wanted)} of its matrices have no place there, {len(wanted - saved)} are missing"
        )
    for key, shape in shapes.items():
        if weights[key].shape != shape:
            raise ValueError(f"{key} is {list(weights[key].shape)}, and {list(shape)} is wanted")
