"""What a Llama does between its matrix products, on the CPU: norm, gated unit, rotary positions and packed attention.

The formulas are computed in as few passes over the activations as they allow, in float32 inside and rounded once: a
bfloat16 model's gradients are a sixth closer to the exact ones for it. Norm (Zhang & Sennrich 2019, arXiv 1910.07467)
and gated unit (Shazeer 2020, arXiv 2002.05202) keep their inputs alone: the rest of what the backward pass needs is
cheaper to compute again.

Attention is matrix products, forward and backward: torch's CPU flash kernel takes four times as long for the backward
pass at 150-200 tokens. A span is visited in blocks of queries, which see no key after their last one: the half of the
scores that the mask would erase is mostly never computed, and memory stays linear in tokens. Short spans keep their
weights for the backward pass, long ones compute them again (Dao et al. 2022, arXiv 2205.14135). Rounded scores would be
a large part of a bfloat16 model's error in its gradients, most of all in short spans.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lora_tui.engine.training.fast import compiled_ops
from lora_tui.engine.training.fast.compiled_ops import AttentionInputs

KEPT_TOKENS = 256
"""Longest span whose attention weights are kept for the backward pass, in tokens: beyond it they would be the most."""

_QUERIES_PER_BLOCK = 128
"""Queries visited at once: large enough for the product, small enough to skip most of what lies in the future."""


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if compiled_ops.usable(x, weight):
            y, factors = compiled_ops.rms_norm(x, weight, eps)
            ctx.save_for_backward(x, weight, factors)
            return y
        wide = x.float()
        rstd = (torch.linalg.vecdot(wide, wide).unsqueeze(-1) / x.shape[-1]).add_(eps).rsqrt_()  # (…, 1)
        ctx.save_for_backward(x, weight, rstd)
        normed: Tensor = (wide * rstd).mul_(weight)
        return normed.to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, rstd = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        if rstd.ndim != x.ndim:
            return compiled_ops.rms_norm_gradient(x, weight, rstd, _plain(grad)), None, None
        wide = x.float()
        grad_normed = (grad.float() * weight).float()
        along = torch.linalg.vecdot(grad_normed, wide).unsqueeze(-1).mul_(rstd.pow(3) / -x.shape[-1])
        return (grad_normed * rstd).addcmul_(wide, along).to(x.dtype), None, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        if compiled_ops.usable(gate, up) and gate.dtype == up.dtype:
            return compiled_ops.swiglu(gate, up)
        return functional.silu(gate.float()).mul_(up).to(up.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        if compiled_ops.usable(gate, up) and gate.dtype == up.dtype == grad.dtype:
            return compiled_ops.swiglu_gradient(gate, up, grad.contiguous())
        wide, grad_y = gate.float(), grad.float()
        grad_gate: Tensor = torch.ops.aten.silu_backward(grad_y * up, wide)
        return grad_gate.to(gate.dtype), functional.silu(wide).mul_(grad_y).to(up.dtype)


def _plain(grad: Tensor) -> Tensor:
    """A gradient that compiled code can read: autograd gives views, and other precisions, where nobody cares."""
    return grad.contiguous() if grad.dtype in (torch.float32, torch.bfloat16) else grad.float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector of `x` ``(…, width)`` to a mean square of 1, times `weight` ``(width,)``, which is frozen.

    Returned in the weight's precision; the gradient comes in x's. transformers rounds before the weight is applied as
    well as after.
    """
    y: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, of one shape."""
    y: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """How an attention layer is cut: `kv_count` key heads of a `width`, each for a group of query heads."""

    kv_count: int
    width: int
    scaling: float

    def turned(self, x: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
        """``(T, heads · width)`` as ``(kv_heads, T, group, width)``, in float32 or better, turned by angles if given.

        The angles' cosines and sines are ``(T, 1, width / 2)``.
        """
        inside = torch.promote_types(x.dtype, torch.float32)
        by_head = x.view(x.shape[0], self.kv_count, -1, self.width).transpose(0, 1).to(inside)
        return by_head.contiguous() if cos is None or sin is None else _rotate(by_head, cos, sin)

    def by_token(self, x: Tensor, dtype: torch.dtype, cos: Tensor | None = None, sin: Tensor | None = None) -> Tensor:
        """``(kv_heads, T, group, width)`` as ``(T, heads · width)`` of `dtype`, turned by angles if given."""
        turned = x if cos is None or sin is None else _rotate(x, cos, sin)
        return turned.to(dtype).transpose(0, 1).reshape(x.shape[1], -1)


class _CompiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, given: AttentionInputs) -> Tensor:
        output = torch.empty_like(query)
        log_sums = torch.empty(len(query), query.shape[1] // given.width)
        compiled_ops.attention(given, output, log_sums)
        ctx.layout = given.spans, given.width, given.scaling  # type: ignore[attr-defined]  # torch types it bare
        ctx.save_for_backward(query, key, value, given.cos, given.sin, log_sums)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, log_sums = ctx.saved_tensors  # type: ignore[attr-defined]
        given = AttentionInputs(*tensors, *ctx.layout)  # type: ignore[attr-defined]
        grads = tuple(torch.empty_like(one) for one in tensors[:3])
        compiled_ops.attention_gradient(given, log_sums, grad.to(given.query.dtype).contiguous(), grads)
        return *grads, None


class _PackedAttention(torch.autograd.Function):
    """Inside, queries are ``(kv_heads, T, group, width)``: a block of them is the rows of one product, uncopied."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cos: Tensor,
        sin: Tensor,
        heads: HeadLayout,
        spans: Sequence[tuple[int, int]],
    ) -> Tensor:
        q = heads.turned(query, cos * heads.scaling, sin * heads.scaling)
        k = heads.turned(key, cos, sin).squeeze(2)
        v = heads.turned(value, None, None).squeeze(2)
        output = torch.empty_like(q)
        kept: list[Tensor] = []
        for block in _query_blocks(spans):
            weights = _attention_weights(block.queries(q), block.keys(k), block)
            block.queries(output).copy_(torch.bmm(weights, block.keys(v)))
            if block.keeps_weights:
                kept.append(weights)
        ctx.heads, ctx.spans = heads, spans  # type: ignore[attr-defined]  # torch types the context without them
        ctx.save_for_backward(q, k, v, cos, sin, *kept)
        return heads.by_token(output, query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        heads: HeadLayout = ctx.heads  # type: ignore[attr-defined]
        q, k, v, cos, sin, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        saved = iter(kept)
        grad_output = heads.turned(grad, None, None)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for block in _query_blocks(ctx.spans):  # type: ignore[attr-defined]
            q_block, grad_block = block.queries(q), block.queries(grad_output)
            weights = next(saved) if block.keeps_weights else _attention_weights(q_block, block.keys(k), block)
            grad_weights = torch.bmm(grad_block, block.keys(v).transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            block.queries(grad_q).copy_(torch.bmm(grad_scores, block.keys(k)))
            block.add_to_keys(grad_v, torch.bmm(weights.transpose(1, 2), grad_block))
            block.add_to_keys(grad_k, torch.bmm(grad_scores.transpose(1, 2), q_block))
        # The transpose of a rotation is the rotation by the opposite angle.
        grads = (
            heads.by_token(grad_q, grad.dtype, cos * heads.scaling, sin * -heads.scaling),
            heads.by_token(grad_k.unsqueeze(2), grad.dtype, cos, -sin),
            heads.by_token(grad_v.unsqueeze(2), grad.dtype),
        )
        return *grads, None, None, None, None


@dataclass(frozen=True, slots=True)
class _QueryBlock:
    """Queries ``start:end`` of the span that begins at `origin`, which see the keys ``origin:end``."""

    origin: int
    start: int
    end: int
    is_last: bool
    keeps_weights: bool

    def queries(self, x: Tensor) -> Tensor:
        """A view of ``(kv_heads, T, group, width)`` as ``(kv_heads, n · group, width)``."""
        part = x[:, self.start : self.end]
        return part.view(part.shape[0], -1, part.shape[-1])

    def keys(self, x: Tensor) -> Tensor:
        """A view of ``(kv_heads, T, width)`` as far as the block's last query sees."""
        return x[:, self.origin : self.end]

    def add_to_keys(self, total: Tensor, part: Tensor) -> None:
        """Add the gradient of the keys that were seen. A span's last block comes first and sees all of them."""
        seen = self.keys(total)
        if self.is_last:
            seen.copy_(part)
        else:
            seen.add_(part)


def packed_rotary_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angles: tuple[Tensor, Tensor],
    heads: HeadLayout,
    spans: Sequence[tuple[int, int]],
    _cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Each span's tokens attend to those before them in the span: `query` ``(T, heads · width)``, key, value likewise.

    `angles` are the cosines and sines of the rotary embedding, ``(T, width)``, both halves alike (Su et al. 2021, arXiv
    2104.09864). Returns ``(T, heads · width)``.
    """
    inside = torch.promote_types(query.dtype, torch.float32)
    cos, sin = (x[..., : heads.width // 2].to(inside).reshape(-1, 1, heads.width // 2).contiguous() for x in angles)
    half, one_kind = heads.width // 2, query.dtype == key.dtype == value.dtype
    if one_kind and heads.width % 32 == 0 and compiled_ops.usable(query, key, value):
        turns = cos.view(-1, half), sin.view(-1, half)
        given = AttentionInputs(query, key, value, *turns, spans, heads.width, heads.scaling)
        compiled: Tensor = _CompiledAttention.apply(query, key, value, given)  # type: ignore[no-untyped-call]
        return compiled
    y: Tensor = _PackedAttention.apply(query, key, value, cos, sin, heads, spans)  # type: ignore[no-untyped-call]
    return y


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + width / 2) of `x` ``(heads, T, group, width)`` by angles ``(T, 1, width / 2)``."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    rotated = torch.empty(x.shape, dtype=x.dtype)
    torch.mul(first, cos, out=rotated[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=rotated[..., half:]).addcmul_(first, sin)
    return rotated


def _query_blocks(spans: Sequence[tuple[int, int]]) -> Iterator[_QueryBlock]:
    """All blocks of queries, those of one span from its last to its first."""
    for origin, end in spans:
        keeps_weights = end - origin <= KEPT_TOKENS
        for start in reversed(range(origin, end, _QUERIES_PER_BLOCK)):
            stop = min(start + _QUERIES_PER_BLOCK, end)
            yield _QueryBlock(origin, start, stop, stop == end, keeps_weights)


def _attention_weights(query: Tensor, key: Tensor, block: _QueryBlock) -> Tensor:
    """Attention weights ``(kv_heads, n · group, keys)`` of a block's queries."""
    length = block.end - block.start
    scores = torch.bmm(query, key.transpose(1, 2))
    own = scores.view(scores.shape[0], length, -1, scores.shape[-1])[..., block.start - block.origin :]
    own.add_(_causal_bias(query.dtype)[:length, None, :length])
    return scores.softmax(-1)


@lru_cache(maxsize=3)
def _causal_bias(dtype: torch.dtype) -> Tensor:
    """What is added to the scores of a block against its own keys: minus infinity after the diagonal."""
    return torch.full((_QUERIES_PER_BLOCK, _QUERIES_PER_BLOCK), float("-inf"), dtype=dtype).triu(1)
