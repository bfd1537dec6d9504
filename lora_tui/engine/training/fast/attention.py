"""Rotary positions and causal attention of one packed row on the CPU, forward and backward by matrix products.

torch's CPU flash kernel takes four times as long for the backward pass at 150-200 tokens. Here a span is visited in
blocks of queries, which see no key after their last one: the half of the scores that the mask would erase is mostly
never computed, and memory stays linear in tokens. Short spans keep their weights for the backward pass, long ones
compute them again (Dao et al. 2022, arXiv 2205.14135). Inside, all of it is float32, also in a bfloat16 model: its
scores, rounded, are a large part of its gradients' error, most of all in short spans.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

KEPT_TOKENS = 256
"""Longest span whose attention weights are kept for the backward pass, in tokens: beyond it they would be the most."""

_BLOCK = 128
"""Queries visited at once: large enough for the product, small enough to skip most of what lies in the future."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How an attention layer is cut: `kv_count` key heads of a `width`, each for a group of query heads."""

    kv_count: int
    width: int
    scaling: float

    def by_key_head(self, x: Tensor) -> Tensor:
        """A view of ``(T, heads · width)`` as ``(kv_heads, T, group, width)``."""
        return x.view(x.shape[0], self.kv_count, -1, self.width).transpose(0, 1)

    def by_token(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """``(kv_heads, T, group, width)`` as ``(T, heads · width)``."""
        return x.to(dtype).transpose(0, 1).reshape(x.shape[1], -1)


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
        heads: Heads,
        spans: Sequence[tuple[int, int]],
    ) -> Tensor:
        q = _rotate(heads.by_key_head(query).to(cos.dtype), cos * heads.scaling, sin * heads.scaling)
        k = _rotate(heads.by_key_head(key).to(cos.dtype), cos, sin).squeeze(2)
        v = heads.by_key_head(value).squeeze(2).to(cos.dtype).contiguous()
        mixed = torch.empty_like(q)
        kept: list[Tensor] = []
        for block in _blocks(spans):
            weights = _weights(block.rows(q), block.keys(k), block)
            block.rows(mixed).copy_(torch.bmm(weights, block.keys(v)))
            if block.kept:
                kept.append(weights)
        ctx.heads, ctx.spans = heads, spans  # type: ignore[attr-defined]  # torch types the context without them
        ctx.save_for_backward(q, k, v, cos, sin, *kept)
        return heads.by_token(mixed, query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        heads: Heads = ctx.heads  # type: ignore[attr-defined]
        q, k, v, cos, sin, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        saved = iter(kept)
        of_mixed = heads.by_key_head(grad).to(q.dtype).contiguous()
        of_query, of_key, of_value = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for block in _blocks(ctx.spans):  # type: ignore[attr-defined]
            rows, out = block.rows(q), block.rows(of_mixed)
            weights = next(saved) if block.kept else _weights(rows, block.keys(k), block)
            of_weights = torch.bmm(out, block.keys(v).transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            block.rows(of_query).copy_(torch.bmm(of_scores, block.keys(k)))
            block.add(of_value, torch.bmm(weights.transpose(1, 2), out))
            block.add(of_key, torch.bmm(of_scores.transpose(1, 2), rows))
        # The transpose of a rotation is the rotation by the opposite angle.
        of_query = _rotate(of_query, cos * heads.scaling, sin * -heads.scaling)
        of_key = _rotate(of_key.unsqueeze(2), cos, -sin)
        gradients = (of_query, of_key, of_value.unsqueeze(2))
        return (*(heads.by_token(gradient, grad.dtype) for gradient in gradients), None, None, None, None)


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries ``start:end`` of the span that begins at `origin`, which see the keys ``origin:end``."""

    origin: int
    start: int
    end: int
    last: bool
    kept: bool

    def rows(self, queries: Tensor) -> Tensor:
        """A view of ``(kv_heads, T, group, width)`` as ``(kv_heads, n · group, width)``."""
        part = queries[:, self.start : self.end]
        return part.view(part.shape[0], -1, part.shape[-1])

    def keys(self, x: Tensor) -> Tensor:
        """A view of ``(kv_heads, T, width)`` as far as the block's last query sees."""
        return x[:, self.origin : self.end]

    def add(self, total: Tensor, part: Tensor) -> None:
        """Add the gradient of the keys that were seen. A span's last block comes first and sees all of them."""
        seen = self.keys(total)
        if self.last:
            seen.copy_(part)
        else:
            seen.add_(part)


def packed_rotary_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angles: tuple[Tensor, Tensor],
    heads: Heads,
    spans: Sequence[tuple[int, int]],
    _cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Each span's tokens attend to those before them in the span: `query` ``(T, heads · width)``, key, value likewise.

    `angles` are the cosines and sines of the rotary embedding, ``(T, width)``, both halves alike (Su et al. 2021, arXiv
    2104.09864). Returns ``(T, heads · width)``.
    """
    inside = torch.promote_types(query.dtype, torch.float32)
    cos, sin = (x[..., : heads.width // 2].to(inside).reshape(-1, 1, heads.width // 2) for x in angles)
    mixed: Tensor = _PackedAttention.apply(query, key, value, cos, sin, heads, spans)  # type: ignore[no-untyped-call]
    return mixed


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + width / 2) of `x` ``(heads, T, group, width)`` by angles ``(T, 1, width / 2)``."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    rotated = torch.empty(x.shape, dtype=x.dtype)
    torch.mul(first, cos, out=rotated[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=rotated[..., half:]).addcmul_(first, sin)
    return rotated


def _blocks(spans: Sequence[tuple[int, int]]) -> Iterator[_Block]:
    """All blocks of queries, those of one span from its last to its first."""
    for origin, end in spans:
        kept = end - origin <= KEPT_TOKENS
        for start in reversed(range(origin, end, _BLOCK)):
            stop = min(start + _BLOCK, end)
            yield _Block(origin, start, stop, stop == end, kept)


def _weights(query: Tensor, key: Tensor, block: _Block) -> Tensor:
    """Attention weights ``(kv_heads, n · group, keys)`` of a block's queries."""
    length = block.end - block.start
    scores = torch.bmm(query, key.transpose(1, 2))
    own = scores.view(scores.shape[0], length, -1, scores.shape[-1])[..., block.start - block.origin :]
    own.add_(_future(query.dtype)[:length, None, :length])
    return scores.softmax(-1)


@lru_cache(maxsize=3)
def _future(dtype: torch.dtype) -> Tensor:
    """What is added to the scores of a block against its own keys: minus infinity after the diagonal."""
    return torch.full((_BLOCK, _BLOCK), float("-inf"), dtype=dtype).triu(1)
