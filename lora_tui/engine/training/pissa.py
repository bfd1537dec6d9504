"""PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775): adapters that begin as a part of the base weights.

Their first matrices A₀, B₀ are taken out of each weight, and training runs on what is left: W - s·B₀A₀ + s·BA. Nobody
else has such a base. So what is saved is the difference to the whole one, a plain adapter of twice the rank,
s·[B | -B₀]·[A ; A₀], which anyone loads on the original model. Nothing is lost: the saved matrices hold the trained and
the first ones side by side, and a resumed run takes them apart again. (PEFT's own conversion drops DoRA's magnitudes
and `modules_to_save`, and reads the first matrices after they were rounded to the base's precision.)

In float32 the adapter on the original base gives the trained model's logits to 5e-5 (SmolLM2-135M). A bfloat16 base has
rounded what was left of it once more, which others do not see: there the logits differ by about 1 %.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_tui.engine.models.adapter_source import WEIGHTS

_CONFIG = "adapter_config.json"

_ADAPTER = "default"


def uses_base_weights(initialisation: bool | str) -> bool:
    """Tell whether ``fine_tuning.lora.init_lora_weights`` takes the first matrices out of the base weights."""
    return isinstance(initialisation, str) and initialisation.startswith(("pissa", "olora"))


def init_from_base(model: PeftModel, initialisation: str, first: Mapping[str, Tensor]) -> None:
    """Give every LoRA layer of `model` its first matrices, and leave the rest in the base weights.

    Matrices in `first`, by their saved names, are used as they are (a resumed run's; factorising again could come out
    otherwise on another machine); the others are computed by PEFT, in float32 whatever the base's precision is.
    """
    initial: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        a, b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        names = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        saved = [first.get(key) for key in names]
        if saved[0] is not None and saved[1] is not None and (saved[0].shape, saved[1].shape) == (a.shape, b.shape):
            a.data, b.data = saved[0].to(a.device), saved[1].to(b.device)
            weight = layer.get_base_layer().weight
            product = layer.scaling[_ADAPTER] * b.data @ a.data
            # GPT-2's layers hold their weights transposed.
            rest = weight.data.float() - (product.T if layer.fan_in_fan_out else product)
            weight.data = rest.to(weight.dtype)
        elif initialisation.startswith("pissa"):
            layer.pissa_init(_ADAPTER, initialisation)
        else:
            layer.olora_init(_ADAPTER)
        initial |= {names[0]: a.data.clone(), names[1]: b.data.clone()}
    model.initial_matrices = initial


def initial_matrices(model: nn.Module) -> Mapping[str, Tensor]:
    """Return A₀ and B₀ by their saved names; nothing for a model whose base is whole."""
    found: Mapping[str, Tensor] = getattr(model, "initial_matrices", {})
    return found


def save_as_plain(model: nn.Module, folder: Path) -> None:
    """Rewrite the adapter that PEFT has just saved in `folder` so that it fits the original base model."""
    first = initial_matrices(model)
    tensors = load_file(folder / WEIGHTS)
    for name, matrix in first.items():
        trained, initial = tensors[name], matrix.cpu()
        tensors[name] = torch.cat([trained, initial], 0) if ".lora_A." in name else torch.cat([trained, -initial], 1)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    # The scale alpha / r must stay what it was at twice the rank; rsLoRA's is alpha / √r.
    scaling = math.sqrt(2) if config["use_rslora"] else 2
    config |= {
        "init_lora_weights": True,
        "r": 2 * config["r"],
        "lora_alpha": scaling * config["lora_alpha"],
        "rank_pattern": {name: 2 * rank for name, rank in config["rank_pattern"].items()},
        "alpha_pattern": {name: scaling * alpha for name, alpha in config["alpha_pattern"].items()},
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def split_saved(saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the trained tensors and the first matrices of an adapter that `save_as_plain` has written, bit for bit."""
    trained, first = dict(saved), {}
    for name, matrix in saved.items():
        if ".lora_A." in name:
            rank = matrix.shape[0] // 2
            trained[name], first[name] = matrix[:rank].clone(), matrix[rank:].clone()
        elif ".lora_B." in name:
            rank = matrix.shape[1] // 2
            trained[name], first[name] = matrix[:, :rank].clone(), -matrix[:, rank:]
    return trained, first
