"""A base model's architecture, read from its config.json, and what follows: parameter counts, and those of LoRA.

Known are the models whose layers are laid out like Llama's (SmolLM, Mistral, Qwen2, Qwen3 and DeepSeek's distillations
of both). Of others nothing is said, rather than something wrong. Neither torch nor transformers is needed; tests
compare the counts with models that these build.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_tui.config.models import Lora


class UnknownArchitectureError(Exception):
    """The config.json does not tell the architecture; the text says why, to be put after a colon."""


@dataclass(frozen=True, slots=True)
class _Family:
    """The defaults of a model type: biases as yes, no, or the name of the configuration key that decides."""

    qkv_bias: str | bool = False
    output_bias: str | bool = False
    mlp_bias: str | bool = False
    head_norms: bool = False
    tied: bool = False
    head_dim: int | None = None
    kv_heads_may_be_left_out: bool = False


_FAMILIES = {
    "llama": _Family("attention_bias", "attention_bias", "mlp_bias", kv_heads_may_be_left_out=True),
    "mistral": _Family(),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family("attention_bias", "attention_bias", head_norms=True, head_dim=128),
    "smollm3": _Family("attention_bias", "attention_bias", "mlp_bias", tied=True),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's sizes; `tied` says that the output layer shares the embedding's weights."""

    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    head_norms: bool

    @property
    def parameters(self) -> int:
        """All parameters, shared ones counted once."""
        total = sum(size for _, size in module_sizes(self))
        return total - (self.vocabulary * self.hidden if self.tied else 0)  # a tied one is the output layer's


@dataclass(frozen=True, slots=True)
class LinearSize:
    """A linear layer's full name in the model and its sizes; `bias` counts the bias's parameters."""

    name: str
    inputs: int
    outputs: int
    bias: int

    @property
    def parameters(self) -> int:
        """Weights and bias together."""
        return self.inputs * self.outputs + self.bias


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a parsed config.json describes. Raises `UnknownArchitectureError`."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise UnknownArchitectureError(
            f"the shape of a model of type {str(model_type)[:40]} is not known here ({known} are)"
        )
    family = _FAMILIES[model_type]
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    left_out = family.kv_heads_may_be_left_out and config.get("num_key_value_heads") is None
    own_head_dim = family.head_dim if config.get("head_dim") is None else _number(config, "head_dim")

    def has(bias: str | bool) -> bool:
        return bool(config.get(bias, False)) if isinstance(bias, str) else bias

    return Architecture(
        model_type=model_type,
        hidden=hidden,
        intermediate=_number(config, "intermediate_size"),
        layers=_number(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=heads if left_out else _number(config, "num_key_value_heads"),
        head_dim=hidden // heads if own_head_dim is None else own_head_dim,
        vocabulary=_number(config, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        qkv_bias=has(family.qkv_bias),
        output_bias=has(family.output_bias),
        mlp_bias=has(family.mlp_bias),
        head_norms=family.head_norms,
    )


def linear_layers(architecture: Architecture) -> Iterator[LinearSize]:
    """Yield every linear layer of the model, the output layer last."""
    queries, keys = architecture.heads * architecture.head_dim, architecture.kv_heads * architecture.head_dim
    parts = [
        ("self_attn.q_proj", architecture.hidden, queries, architecture.qkv_bias),
        ("self_attn.k_proj", architecture.hidden, keys, architecture.qkv_bias),
        ("self_attn.v_proj", architecture.hidden, keys, architecture.qkv_bias),
        ("self_attn.o_proj", queries, architecture.hidden, architecture.output_bias),
        ("mlp.gate_proj", architecture.hidden, architecture.intermediate, architecture.mlp_bias),
        ("mlp.up_proj", architecture.hidden, architecture.intermediate, architecture.mlp_bias),
        ("mlp.down_proj", architecture.intermediate, architecture.hidden, architecture.mlp_bias),
    ]
    for number in range(architecture.layers):
        for name, inputs, outputs, bias in parts:
            yield LinearSize(f"model.layers.{number}.{name}", inputs, outputs, outputs if bias else 0)
    yield LinearSize("lm_head", architecture.hidden, architecture.vocabulary, 0)


def module_sizes(architecture: Architecture) -> Iterator[tuple[str, int]]:
    """Yield the full name and parameter count of every module that has any; tied ones both count theirs."""
    yield "model.embed_tokens", architecture.vocabulary * architecture.hidden
    for layer in linear_layers(architecture):
        yield layer.name, layer.parameters
    for number in range(architecture.layers):
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{number}.{name}", architecture.hidden
        for name in ("self_attn.q_norm", "self_attn.k_norm") if architecture.head_norms else ():
            yield f"model.layers.{number}.{name}", architecture.head_dim
    yield "model.norm", architecture.hidden


def lora_parameters(architecture: Architecture, lora: Lora) -> int:
    """Return how many parameters PEFT would train with these options.

    Two matrices beside every targeted layer, DoRA's magnitude for each of its outputs, and whole modules; an embedding
    that is tied to the output layer is trained as one with it.
    """
    whole = {name: size for name, size in module_sizes(architecture) if name.endswith(tuple(lora.modules_to_save))}
    if architecture.tied and not whole.keys().isdisjoint(("model.embed_tokens", "lm_head")):
        whole["model.embed_tokens"] = architecture.vocabulary * architecture.hidden
        whole.pop("lm_head", None)
    matrices = 0
    for layer in linear_layers(architecture):
        if _targeted(layer.name, lora.target_modules) and layer.name not in whole:
            patterns = lora.rank_pattern.items()  # the first one that the name ends in decides, as in PEFT
            own = (rank for pattern, rank in patterns if re.match(rf"(.*\.)?({pattern})$", layer.name))
            matrices += next(own, lora.r) * (layer.inputs + layer.outputs) + (layer.outputs if lora.use_dora else 0)
    return matrices + sum(whole.values())


def unknown_targets(architecture: Architecture, targets: Sequence[str] | str) -> list[str]:
    """Return the names among `targets` that no linear layer of the model has."""
    if isinstance(targets, str):
        return []
    names = [layer.name for layer in linear_layers(architecture)]
    return [target for target in targets if not any(_targeted(name, [target]) for name in names)]


def layer_names(architecture: Architecture) -> list[str]:
    """Return the short names of the linear layers that LoRA usually targets, such as ``q_proj``."""
    return list(
        dict.fromkeys(layer.name.rpartition(".")[2] for layer in linear_layers(architecture) if layer.name != "lm_head")
    )


def _targeted(name: str, targets: Sequence[str] | str) -> bool:
    if isinstance(targets, str):
        return name != "lm_head"
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnknownArchitectureError(f"its config.json does not say {key}")
    return value
