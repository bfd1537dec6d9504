"""What is called in the place of a Llama's blocks: of its attention, its norms, whole layers and its embedding.

Each function takes the model's own module, whose weights it uses, and returns what stands for its `forward`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_tui.engine.training.fast import gpu_ops
from lora_tui.engine.training.fast.attention import Heads
from lora_tui.engine.training.fast.linear import Linear, lora_linears
from lora_tui.engine.training.packing import varlen_attention

Forward = Callable[..., Any]

Spans = Sequence[tuple[int, int]]

Mix = Callable[[Tensor, tuple[Tensor, Tensor], Spans, Tensor], Tensor]
"""What an attention does before its output layer: ``(1, T, hidden)``, angles ``(T, width)`` twice, spans and their
`cu_seqlens` on the device to ``(T, heads · width)``."""


def attention(module: Any, mix: Mix) -> Forward:
    """Attention by `apart` or `together`."""

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        *,
        spans: Spans,
        cu_seqlens: Tensor,
        **_: Any,
    ) -> tuple[Tensor, None]:
        cos, sin = position_embeddings
        mixed = mix(hidden_states, (cos[0], sin[0]), spans, cu_seqlens)
        return module.o_proj(mixed.unsqueeze(0)), None

    return forward


def apart(module: Any, project: Callable[[Tensor], tuple[Tensor, ...]], attend: Callable[..., Tensor]) -> Mix:
    """Queries, keys and values as `project` gives them, and `attend` for what is done with them."""
    width = module.head_dim
    heads = Heads(module.k_proj.out_features // width, width, float(module.scaling))
    normed = hasattr(module, "q_norm")

    def mix(hidden: Tensor, angles: tuple[Tensor, Tensor], spans: Spans, cu_seqlens: Tensor) -> Tensor:
        # Not [0]: its backward pass would copy the gradient into a tensor of zeros.
        query, key, value = (x.squeeze(0) for x in project(hidden))
        if normed:
            query = module.q_norm(query.view(len(query), -1, width)).flatten(1)
            key = module.k_norm(key.view(len(key), -1, width)).flatten(1)
        return attend(query, key, value, angles, heads, spans, cu_seqlens)

    return mix


def together(module: Any, joined: Callable[[Tensor], Linear]) -> Mix:
    """Queries, keys and values out of one product, on a GPU."""
    width, scaling, weight = module.head_dim, float(module.scaling), module.o_proj.weight
    heads, key_heads = weight.shape[1] // width, module.k_proj.out_features // width
    uses_kernels = gpu_ops.attends(weight.device, weight.dtype, heads, key_heads, width)
    max_seqlen_of_kernels = gpu_ops.attention_kernels().MAX_SEQLEN if uses_kernels else 0

    def mix(hidden: Tensor, angles: tuple[Tensor, Tensor], spans: Spans, cu_seqlens: Tensor) -> Tensor:
        (all_three,) = lora_linears(hidden, [joined(hidden)])
        x = all_three.view(hidden.shape[1], -1, width)
        max_seqlen = max(end - start for start, end in spans)
        if max_seqlen <= max_seqlen_of_kernels:
            mixed = gpu_ops.rotary_attention(x, *angles, cu_seqlens, key_heads, max_seqlen, scaling)
        else:
            mixed = varlen_attention(*gpu_ops.rotated_heads(x, *angles, key_heads), scaling, spans, cu_seqlens)
        return mixed.view(len(mixed), -1)

    return mix


def varlen_rotary_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angles: tuple[Tensor, Tensor],
    heads: Heads,
    spans: Spans,
    cu_seqlens: Tensor,
) -> Tensor:
    """What `packed_rotary_attention` computes, by the kernel of torch that takes spans of any length, on a GPU."""
    tokens = len(query)
    q, k = (gpu_ops.rotated(x.view(tokens, -1, heads.width), *angles) for x in (query, key))
    v = value.view(tokens, -1, heads.width)
    return varlen_attention(q, k, v, heads.scaling, spans, cu_seqlens).view(tokens, -1)


def norm(module: Any, normed: Callable[[Tensor, Tensor, float], Tensor]) -> Forward:
    """A norm by `normed`."""

    def forward(x: Tensor) -> Tensor:
        return normed(x, module.weight, module.variance_epsilon)

    return forward


def layer(module: Any) -> Forward:
    """A layer whose norms are computed with the additions beside them, on a GPU; not where it is to be recomputed."""
    before, after = module.input_layernorm, module.post_attention_layernorm

    def forward(hidden_states: Tensor, **more: Any) -> Tensor:
        if module.gradient_checkpointing and module.training and torch.is_grad_enabled():
            whole: Tensor = type(module).forward(module, hidden_states, **more)  # which sees to it
            return whole
        residual, normed = gpu_ops.branch(hidden_states, None, before.weight, before.variance_epsilon)
        mixed, _ = module.self_attn(hidden_states=normed, **more)
        residual, normed = gpu_ops.branch(residual, mixed, after.weight, after.variance_epsilon)
        return residual + module.mlp(normed)  # type: ignore[no-any-return]

    return forward


def embedding(module: nn.Embedding) -> Forward:
    """Begin the sum that the layers add to in float32, so that a bfloat16 model does not round it sixty times."""

    def forward(ids: Tensor) -> Tensor:
        return functional.embedding(ids, module.weight, module.padding_idx).float()

    return forward
