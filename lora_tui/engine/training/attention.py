"""Attention over a packed row: each example attends causally to itself and to nothing else.

transformers passes extra keyword arguments of the backbone down to the attention function; `spans` comes that way. On
CUDA one kernel of torch takes all spans at once (`torch.nn.attention.varlen`), in half precision. On the CPU short
examples go through plain matrix products, whose backward is several times faster than that of torch's CPU flash kernel
at 150-200 tokens; long ones go through scaled_dot_product_attention, which does not keep the T × T scores.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "lora_tui_packed"

_MATMUL_TOKENS = 512
"""Longest example for which keeping the scores is cheaper than recomputing them, in tokens."""


_WIDEST_HEAD = 256
"""Widest head that the variable-length kernel takes."""

_ASKED_FOR_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Whether this version of torch wants to be told that queries share their keys; older ones see it from the shapes."""

_OTHERWISE = ("gpt_oss", "nemotron")
"""Kinds of models whose configuration does not tell: attention with sinks, layers that drop extra arguments."""


def supports_packing(model: PreTrainedModel) -> bool:
    """Tell whether every layer of `model` is plain causal attention, so that `packed_attention` equals its own.

    Sliding windows, soft-capping, sinks, linear attention and recurrent layers are not: such models train one example
    a row.
    """
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False) or getattr(model, "_is_stateful", False):
        return False
    layer_types = getattr(config, "layer_types", None) or ["full_attention"]
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return (
        set(layer_types) == {"full_attention"} and not windowed and not capped and config.model_type not in _OTHERWISE
    )


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let `model` attend per span inside the block; outside it keeps its own implementation (for generation)."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend_per_span(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    spans: Sequence[tuple[int, int]],
    cu_seqlens: Tensor | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention for one packed row: query ``(1, heads, T, d)``, key and value ``(1, kv_heads, T, d)``.

    Returns ``(1, T, heads, d)``, as transformers expects it.
    """
    if cu_seqlens is not None and dropout == 0.0 and has_varlen_kernel(query):
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return varlen_attention(q, k, v, scaling, spans, cu_seqlens)[None].contiguous(), None
    outputs = []
    for start, end in spans:
        q, k, v = query[:, :, start:end], key[:, :, start:end], value[:, :, start:end]
        if q.device.type == "cpu" and end - start <= _MATMUL_TOKENS and dropout == 0.0:
            outputs.append(_matmul_attention(q, k, v, scaling))
        else:
            outputs.append(
                functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def has_varlen_kernel(query: Tensor) -> bool:
    """Tell whether torch's variable-length kernel takes such queries ``(…, head width)``."""
    halves = (torch.bfloat16, torch.float16)
    return query.is_cuda and query.dtype in halves and query.shape[-1] <= _WIDEST_HEAD


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, spans: Sequence[tuple[int, int]], cu_seqlens: Tensor
) -> Tensor:
    """All spans in one call: no padding, no mask, and no wait for the device, since the lengths are known here.

    `query` is ``(T, heads, width)``, `key` and `value` ``(T, kv_heads, width)``; returns the query's shape.
    """
    max_seqlen = max(end - start for start, end in spans)
    grouped: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]} if _ASKED_FOR_GROUPS else {}
    mixed: Tensor = varlen_attn(  # type: ignore[assignment]  # a tuple only where its log-sum-exp is asked for
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        scale=scaling,
        window_size=(-1, 0),  # causal
        **grouped,
    )
    return mixed


def _matmul_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Causal attention by two matrix products; the softmax runs in float32 as in the flash kernels."""
    heads, kv_heads, length = query.shape[1], key.shape[1], query.shape[2]
    # Grouped queries share their key head without copying it: (kv, group · T, d) @ (kv, d, T).
    grouped = query.reshape(kv_heads, heads // kv_heads * length, -1)
    scores = torch.matmul(grouped, key[0].transpose(1, 2)).view(heads, length, length).float() * scaling
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1).to(value.dtype)
    mixed = torch.matmul(weights.view(kv_heads, heads // kv_heads * length, length), value[0])
    return mixed.view(1, heads, length, -1)


def _no_mask(*_: Any, **__: Any) -> None:
    """The spans say who sees whom: no mask is built."""


AttentionInterface.register(NAME, _attend_per_span)
AttentionMaskInterface.register(NAME, _no_mask)
