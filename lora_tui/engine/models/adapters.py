"""LoRA adapters put on the base models that they were trained for."""

from collections.abc import Mapping

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_tui.engine.models.adapter_source import WEIGHTS, AdapterGoneError, AdapterSource
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.engine.models.build_lock import constructing
from lora_tui.errors import UsageError

_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` that change the base model's weights, which PEFT has to repeat when it loads."""


def load_adapter(base: BaseModel, source: AdapterSource) -> PeftModel:
    """Put the adapter on the base model, in evaluation mode.

    torch's random state is left as it is: PEFT's own loading initialises matrices that it then overwrites, with the
    generator that a trainer of this process draws its dropout from. (Adapters of other programs whose initialisation
    changes the base model, such as PiSSA's, are loaded PEFT's way.) Raises `AdapterGoneError`, with the base
    model untouched, when the files are no longer there, and `UsageError` when they were made for another model.
    """
    try:
        config = PeftConfig.from_pretrained(str(source.folder))
        weights = load_file(source.folder / WEIGHTS)
        if str(getattr(config, "init_lora_weights", "")).lower().startswith(_CHANGES_BASE):
            with constructing():
                model = PeftModel.from_pretrained(base.model, str(source.folder), use_safetensors=True)
            _check_layers(model, weights)
        else:
            model = _attach_adapter(base, config, weights)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as problem:
        if not all((source.folder / name).is_file() for name in ("adapter_config.json", WEIGHTS)):
            raise AdapterGoneError(f"The adapter {source.folder} is no longer there.") from problem
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        raise UsageError(
            f"The adapter {source.folder} does not fit the base model {base.name}: {' '.join(lines)[:160]}…\n"
            "Name the base model it was trained on with --set fine_tuning.model_name=…"
        ) from problem
    return model.eval()


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
    tensors = (*model.named_parameters(), *model.named_buffers())
    empty = {name for name, tensor in tensors if tensor.is_meta}
    for module in list(model.modules()):
        if any(tensor.is_meta for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            module.to_empty(device=base.device, recurse=False)
    _check_layers(model, weights)
    missing = empty.intersection(set_peft_model_state_dict(model, dict(weights)).missing_keys)
    if missing:
        raise ValueError(f"{len(missing)} of its tensors are missing, such as {min(missing)}")
    return model


def _check_layers(model: PeftModel, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the saved matrices are the model's: PEFT ignores those that are too many or too few."""
    saved = {name for name in weights if "lora_" in name}
    wanted = {name for name in adapter_weights(model) if "lora_" in name}
    if saved != wanted:
        raise ValueError(
            f"{len(saved - wanted)} of its matrices have no place there, {len(wanted - saved)} are missing"
        )
