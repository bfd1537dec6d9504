"""How llama.cpp names and lays out a model: its families, the entries of the file's head, and each tensor.

A GGUF file's head says what transformers' configuration says, under other names, and its tensors are the same ones but
for two turns: in llama's family the two halves of a rotation stand side by side, not one after the other, and in
Gemma's the weights of a norm hold the one that transformers adds while it runs. The forms are those of llama.cpp's
``convert_hf_to_gguf.py`` (https://github.com/ggml-org/llama.cpp) and of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType, TensorNameMap, get_tensor_name_map
from torch import Tensor
from transformers import PretrainedConfig

from lora_tui.errors import UsageError


@dataclass(frozen=True)
class Family:
    """A family of models: llama.cpp's name of it, and how it lays tensors out."""

    arch: MODEL_ARCH
    name: str
    interleaved: bool = False
    """Whether queries and keys have the two halves of a rotation side by side."""

    norms_hold_one: bool = False
    """Whether the weights of norms are stored with the one that is added to them."""


_LLAMA = Family(MODEL_ARCH.LLAMA, "llama", interleaved=True)
_FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Family(MODEL_ARCH.QWEN2, "qwen2"),
    "qwen3": Family(MODEL_ARCH.QWEN3, "qwen3"),
    "gemma2": Family(MODEL_ARCH.GEMMA2, "gemma2", norms_hold_one=True),
    "gemma3_text": Family(MODEL_ARCH.GEMMA3, "gemma3", norms_hold_one=True),
}
KNOWN = "Llama, Mistral, Qwen2, Qwen3, Gemma 2 and Gemma 3"
"""The families that can be written, in words."""


class GgufLayout:
    """The layout of one model: its family and configuration, and names and forms of its tensors."""

    def __init__(self, config: PretrainedConfig) -> None:
        """Raise `UsageError` for a family, or a setting of it, that is not known here."""
        found = _FAMILIES.get(str(config.model_type))
        if found is None:
            raise UsageError(
                f"--format gguf: models of type {config.model_type} are not known here, only {KNOWN}. "
                "Write them with --format merged, and convert that with llama.cpp's convert_hf_to_gguf.py."
            )
        self.family = found
        self.config = config
        self.head_size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self.rope = _rope_of(config)
        if (assumed := _not_as_assumed(found.name, config, self.head_size)) is not None:
            raise UsageError(
                f"--format gguf: llama.cpp computes every {found.name} with {assumed}, which this model has not. "
                "--format merged writes it as it is."
            )
        self._names: TensorNameMap = get_tensor_name_map(found.arch, config.num_hidden_layers)

    def write_head(self, writer: GGUFWriter) -> None:
        """Write what the model's configuration says."""
        config = self.config
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(self.head_size)
        writer.add_rope_freq_base(self.rope["rope_theta"])
        writer.add_vocab_size(config.vocab_size)
        if self.family is not _LLAMA or self.head_size * config.num_attention_heads != config.hidden_size:
            writer.add_key_length(self.head_size)
            writer.add_value_length(self.head_size)
        self._write_scaling(writer)
        if self.family.norms_hold_one:
            writer.add_sliding_window(config.sliding_window)
            if getattr(config, "attn_logit_softcapping", None):
                writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            if getattr(config, "final_logit_softcapping", None):
                writer.add_final_logit_softcapping(config.final_logit_softcapping)

    def _write_scaling(self, writer: GGUFWriter) -> None:
        rope = self.rope
        match rope.get("rope_type", "default"):
            case "linear":
                writer.add_rope_scaling_type(RopeScalingType.LINEAR)
                writer.add_rope_scaling_factor(rope["factor"])
            case "yarn":
                writer.add_rope_scaling_type(RopeScalingType.YARN)
                writer.add_rope_scaling_factor(rope["factor"])
                writer.add_rope_scaling_orig_ctx_len(
                    rope.get("original_max_position_embeddings") or self.config.max_position_embeddings
                )

    def name_of(self, name: str) -> str:
        """Return llama.cpp's name of a tensor; raises `UsageError` for one that it has no place for."""
        found = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UsageError(f"--format gguf: llama.cpp has no place for the tensor {name} of this model.")
        return str(found)

    def laid_out(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight or bias of the module `name` as llama.cpp has it; also the outer half of a low-rank pair."""
        module = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
        if self.family.interleaved and module in ("q_proj", "k_proj"):
            heads = self.config.num_attention_heads if module == "q_proj" else self.config.num_key_value_heads
            halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
            return halves.transpose(1, 2).reshape(weight.shape)
        if self.family.norms_hold_one and module.endswith("norm"):
            return weight + 1
        return weight

    def rotation_factors(self) -> Tensor | None:
        """Return what each frequency is divided by, shape (head_size / 2,), where llama 3's scaling changes them."""
        rope = self.rope
        if rope.get("rope_type") != "llama3":
            return None
        frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, self.head_size, 2).float() / self.head_size)
        length = 2 * math.pi / frequencies
        factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
        original = rope["original_max_position_embeddings"]
        smooth = (original / length - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        factors = torch.where(length > original / low, torch.full_like(length, factor), between)
        return torch.where(length < original / high, torch.ones_like(length), factors)


def _not_as_assumed(family: str, config: PretrainedConfig, head_size: int) -> str | None:
    """Return what llama.cpp takes for granted in a family and this model has otherwise: the file cannot say it."""
    wanted = "gelu_pytorch_tanh" if family.startswith("gemma") else "silu"
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", wanted)
    if activation != wanted:
        return f"hidden_act = {wanted}"
    if getattr(config, "use_sliding_window", False):
        return "attention to the whole text"
    if not family.startswith("gemma"):
        return None
    # The 27B models, known by their layers, scale by another size: `llama-model.cpp` has the same numbers.
    is_largest = config.num_hidden_layers == (46 if family == "gemma2" else 62)
    size = config.hidden_size // config.num_attention_heads if is_largest else head_size
    if config.query_pre_attn_scalar != size:
        return f"query_pre_attn_scalar = {size}"
    every = 2 if family == "gemma2" else 6
    layers = [
        "full_attention" if (n + 1) % every == 0 else "sliding_attention" for n in range(config.num_hidden_layers)
    ]
    return None if list(config.layer_types) == layers else f"every {every}. layer seeing the whole text"


def _rope_of(config: PretrainedConfig) -> dict[str, Any]:
    """Return the entries of the rotation; for Gemma 3 those of the layers that see everything."""
    rope: dict[str, Any] = dict(getattr(config, "rope_parameters", None) or {})
    rope = dict(rope.get("full_attention") or rope)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "yarn", "llama3"):
        raise UsageError(f"--format gguf: the scaling of positions {kind!r} is not known here; --format merged works.")
    rope.setdefault("rope_theta", 10_000.0)
    return rope
