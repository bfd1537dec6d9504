"""Causal attention of packed spans on a GPU, forward and backward, in Triton: flash attention for short examples.

torch's variable-length kernel is made for long sequences and for GPUs before Hopper; fine-tuning packs examples of some
hundred tokens. Here a program takes a block of one span and one head, the scores stay on the chip, and the backward
pass computes them again, once for the keys' and values' gradients and once for the queries'. Of grouped queries each
head leaves its own part of its key head's gradient; whoever reads them adds them up. The softmax runs in float32, to
base 2. Dao 2023 (arXiv 2307.08691).
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = 1.4426950408889634

MAX_SEQLEN = 1024
"""Spans up to which the kernels were compared with torch's, and found faster, in tokens."""

_FORWARD = {"QUERIES": 64, "KEYS": 64, "num_warps": 4, "num_stages": 3}
_BACKWARD_OF_KEYS = {"QUERIES": 32, "KEYS": 64, "num_warps": 4, "num_stages": 3}
_BACKWARD_OF_QUERIES = {"QUERIES": 64, "KEYS": 64, "num_warps": 4, "num_stages": 2}
"""Blocks of queries and keys, and how a program is run: the fastest of eight each on an H200 with heads of 128.

The keys' backward pass goes through a block of keys in whole blocks of queries, the others the other way round.
"""


@triton.jit
def _rows(x, stride, rows, inside, WIDTH: tl.constexpr):
    """Rows ``(n, WIDTH)`` of a matrix whose rows are `stride` apart."""
    return tl.load(x + rows[:, None] * stride + tl.arange(0, WIDTH)[None, :], mask=inside[:, None], other=0.0)


@triton.jit
def _span(q, k, v, cu_seqlens, stride, GROUP: tl.constexpr, WIDTH: tl.constexpr):
    """Where a program's span begins, how long it is, and its queries, keys and values for the program's head."""
    head, span = tl.program_id(2), tl.program_id(1)
    start = tl.load(cu_seqlens + span).to(tl.int64)
    length = (tl.load(cu_seqlens + span + 1) - start).to(tl.int32)
    of_key_head = start * stride + (head // GROUP) * WIDTH
    return start, length, q + start * stride + head * WIDTH, k + of_key_head, v + of_key_head


@triton.jit
def _weigh(q, k, v, rows, columns, total, largest, mixed, scale, MASKED: tl.constexpr):
    """Take one more block of keys into the running softmax of a block of queries."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if MASKED:
        scores = tl.where(rows[:, None] >= columns[None, :], scores, float("-inf"))
    larger = tl.maximum(largest, tl.max(scores, 1))
    weights = tl.exp2(scores - larger[:, None])
    shrink = tl.exp2(largest - larger)
    total = total * shrink + tl.sum(weights, 1)
    mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return total, larger, mixed


@triton.jit
def _attend(
    q, k, v, cu_seqlens, y, lse, stride, tokens, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(2)
    start, length, q, k, v = _span(q, k, v, cu_seqlens, stride, GROUP, WIDTH)
    # Blocks that see the most keys come first: what is left for the end is short.
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES
    if first < length:
        rows = first + tl.arange(0, QUERIES)
        of_q = _rows(q, stride, rows, rows < length, WIDTH)
        total = tl.zeros((QUERIES,), tl.float32)
        largest = tl.full((QUERIES,), float("-inf"), tl.float32)
        mixed = tl.zeros((QUERIES, WIDTH), tl.float32)
        for begin in range(0, first, KEYS):
            columns = begin + tl.arange(0, KEYS)
            of_k = _rows(k, stride, columns, columns < length, WIDTH)
            of_v = _rows(v, stride, columns, columns < length, WIDTH)
            total, largest, mixed = _weigh(of_q, of_k, of_v, rows, columns, total, largest, mixed, scale, False)
        for begin in range(first, tl.minimum(first + QUERIES, length), KEYS):
            columns = begin + tl.arange(0, KEYS)
            of_k = _rows(k, stride, columns, columns < length, WIDTH)
            of_v = _rows(v, stride, columns, columns < length, WIDTH)
            total, largest, mixed = _weigh(of_q, of_k, of_v, rows, columns, total, largest, mixed, scale, True)
        y += (start * HEADS + head) * WIDTH
        to = y + rows[:, None] * (HEADS * WIDTH) + tl.arange(0, WIDTH)[None, :]
        tl.store(to, (mixed / total[:, None]).to(y.dtype.element_ty), mask=(rows < length)[:, None])
        tl.store(lse + head * tokens + start + rows, largest + tl.log2(total), mask=rows < length)


@triton.jit
def _inner(grad, y, inner, tokens, HEADS: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr):
    """The product of each head's output and its gradient."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, PADDED)
    places = token * HEADS * WIDTH + heads[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = heads < HEADS
    product = tl.load(grad + places, mask=inside[:, None], other=0.0).to(tl.float32)
    product *= tl.load(y + places, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(inner + heads * tokens + token, tl.sum(product, 1), mask=inside)


@triton.jit
def _of_keys(q, k, v, grad, lse, inner, rows, columns, of_k, of_v, scale, MASKED: tl.constexpr):
    """Add what a block of queries gives to the gradients of a block of keys and values."""
    scores = tl.dot(k, tl.trans(q), input_precision="ieee") * scale
    weights = tl.exp2(scores - lse[None, :])
    if MASKED:
        weights = tl.where(rows[None, :] >= columns[:, None], weights, 0.0)
    of_v += tl.dot(weights.to(v.dtype), grad, input_precision="ieee")
    of_weights = tl.dot(v, tl.trans(grad), input_precision="ieee")
    of_scores = weights * (of_weights - inner[None, :])
    of_k += tl.dot(of_scores.to(q.dtype), q, input_precision="ieee")
    return of_k, of_v


@triton.jit
def _backward_of_keys(
    q, k, v, grad, cu_seqlens, lse, inner, of_k, of_v, stride, tokens, scale, scaling,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(2)
    start, length, q, k, v = _span(q, k, v, cu_seqlens, stride, GROUP, WIDTH)
    first = tl.program_id(0) * KEYS
    if first < length:
        grad += (start * HEADS + head) * WIDTH
        lse += head * tokens + start
        inner += head * tokens + start
        columns = first + tl.arange(0, KEYS)
        keys = _rows(k, stride, columns, columns < length, WIDTH)
        values = _rows(v, stride, columns, columns < length, WIDTH)
        sum_k = tl.zeros((KEYS, WIDTH), tl.float32)
        sum_v = tl.zeros((KEYS, WIDTH), tl.float32)
        for begin in range(first, tl.minimum(first + KEYS, length), QUERIES):
            rows = begin + tl.arange(0, QUERIES)
            inside = rows < length
            queries = _rows(q, stride, rows, inside, WIDTH)
            grads = _rows(grad, HEADS * WIDTH, rows, inside, WIDTH)
            of_row, along = tl.load(lse + rows, inside, 0.0), tl.load(inner + rows, inside, 0.0)
            sum_k, sum_v = _of_keys(
                queries, keys, values, grads, of_row, along, rows, columns, sum_k, sum_v, scale, True
            )
        for begin in range(first + KEYS, length, QUERIES):
            rows = begin + tl.arange(0, QUERIES)
            inside = rows < length
            queries = _rows(q, stride, rows, inside, WIDTH)
            grads = _rows(grad, HEADS * WIDTH, rows, inside, WIDTH)
            of_row, along = tl.load(lse + rows, inside, 0.0), tl.load(inner + rows, inside, 0.0)
            sum_k, sum_v = _of_keys(
                queries, keys, values, grads, of_row, along, rows, columns, sum_k, sum_v, scale, False
            )
        places = ((start + columns[:, None]) * HEADS + head) * WIDTH + tl.arange(0, WIDTH)[None, :]
        tl.store(of_k + places, (sum_k * scaling).to(of_k.dtype.element_ty), mask=(columns < length)[:, None])
        tl.store(of_v + places, sum_v.to(of_v.dtype.element_ty), mask=(columns < length)[:, None])


@triton.jit
def _of_queries(q, k, v, grad, lse, inner, rows, columns, of_q, scale, MASKED: tl.constexpr):
    """Add what a block of keys gives to the gradient of a block of queries."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    weights = tl.exp2(scores - lse[:, None])
    if MASKED:
        weights = tl.where(rows[:, None] >= columns[None, :], weights, 0.0)
    of_weights = tl.dot(grad, tl.trans(v), input_precision="ieee")
    of_scores = weights * (of_weights - inner[:, None])
    return of_q + tl.dot(of_scores.to(k.dtype), k, input_precision="ieee")


@triton.jit
def _backward_of_queries(
    q, k, v, grad, cu_seqlens, lse, inner, of_q, stride, tokens, scale, scaling,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(2)
    start, length, q, k, v = _span(q, k, v, cu_seqlens, stride, GROUP, WIDTH)
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES
    if first < length:
        rows = first + tl.arange(0, QUERIES)
        inside = rows < length
        queries = _rows(q, stride, rows, inside, WIDTH)
        grads = _rows(grad + (start * HEADS + head) * WIDTH, HEADS * WIDTH, rows, inside, WIDTH)
        of_row = tl.load(lse + head * tokens + start + rows, inside, 0.0)
        along = tl.load(inner + head * tokens + start + rows, inside, 0.0)
        total = tl.zeros((QUERIES, WIDTH), tl.float32)
        for begin in range(0, first, KEYS):
            columns = begin + tl.arange(0, KEYS)
            keys = _rows(k, stride, columns, columns < length, WIDTH)
            values = _rows(v, stride, columns, columns < length, WIDTH)
            total = _of_queries(queries, keys, values, grads, of_row, along, rows, columns, total, scale, False)
        for begin in range(first, tl.minimum(first + QUERIES, length), KEYS):
            columns = begin + tl.arange(0, KEYS)
            keys = _rows(k, stride, columns, columns < length, WIDTH)
            values = _rows(v, stride, columns, columns < length, WIDTH)
            total = _of_queries(queries, keys, values, grads, of_row, along, rows, columns, total, scale, True)
        places = ((start + rows[:, None]) * HEADS + head) * WIDTH + tl.arange(0, WIDTH)[None, :]
        tl.store(of_q + places, (total * scaling).to(of_q.dtype.element_ty), mask=inside[:, None])


def attend(x: Tensor, key_heads: int, cu_seqlens: Tensor, max_seqlen: int, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention over spans of `x` ``(T, heads + 2 · key heads, width)``: queries, keys and values, side by side.

    `cu_seqlens` ``(spans + 1,)`` are int32, on the device; no span is longer than `max_seqlen`. Returns the output
    ``(T, heads, width)`` and the logarithms to base 2 of the softmax's sums, ``(heads, T)``, float32.
    """
    tokens, heads, width = len(x), x.shape[1] - 2 * key_heads, x.shape[2]
    y = x.new_empty(tokens, heads, width)
    lse = x.new_empty(heads, tokens, dtype=torch.float32)
    _attend[_grid(max_seqlen, _FORWARD["QUERIES"], cu_seqlens, heads)](
        *_parts(x, key_heads), cu_seqlens, y, lse, x.stride(0), tokens, scaling * _LOG2_E,
        HEADS=heads, GROUP=heads // key_heads, WIDTH=width, **_FORWARD,
    )  # fmt: skip
    return y, lse


def attend_backward(
    grad: Tensor,
    x: Tensor,
    key_heads: int,
    y: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, ``(T, heads, width)`` each, from that of the output, contiguous.

    Those of keys and values are what each query head gives: a key head's is the sum of its group's.
    """
    tokens, heads, width = y.shape
    inner = torch.empty_like(lse)
    _inner[(tokens,)](grad, y, inner, tokens, HEADS=heads, PADDED=triton.next_power_of_2(heads), WIDTH=width)
    of_q, of_k, of_v = (torch.empty_like(y) for _ in range(3))
    inputs = (*_parts(x, key_heads), grad, cu_seqlens, lse, inner)
    numbers = (x.stride(0), tokens, scaling * _LOG2_E, scaling)
    shape = {"HEADS": heads, "GROUP": heads // key_heads, "WIDTH": width}
    _backward_of_keys[_grid(max_seqlen, _BACKWARD_OF_KEYS["KEYS"], cu_seqlens, heads)](
        *inputs, of_k, of_v, *numbers, **shape, **_BACKWARD_OF_KEYS
    )
    _backward_of_queries[_grid(max_seqlen, _BACKWARD_OF_QUERIES["QUERIES"], cu_seqlens, heads)](
        *inputs, of_q, *numbers, **shape, **_BACKWARD_OF_QUERIES
    )
    return of_q, of_k, of_v


def _parts(x: Tensor, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    return x[:, : -2 * key_heads], x[:, -2 * key_heads : -key_heads], x[:, -key_heads:]


def _grid(max_seqlen: int, block: int, cu_seqlens: Tensor, heads: int) -> tuple[int, int, int]:
    return triton.cdiv(max_seqlen, block), len(cu_seqlens) - 1, heads


@lru_cache(maxsize=8)
def can_attend(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int) -> bool:
    """Tell whether the kernels compile for such heads on `device`, and compute what torch does, in both directions."""
    try:
        return _agrees(device, dtype, heads, key_heads, width)
    except Exception:  # noqa: BLE001  # Triton raises whatever its compiler, driver or the C compiler does
        return False


def _agrees(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int) -> bool:
    spans = (0, 150, 150, 287)  # more than a block, nothing, a block and a little; an odd number of tokens
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(spans[-1], heads + 2 * key_heads, width, generator=generator).to(device, dtype)
    grad = torch.randn(spans[-1], heads, width, generator=generator).to(device, dtype)
    cu_seqlens = torch.tensor(spans, dtype=torch.int32, device=device)
    y, lse = attend(x, key_heads, cu_seqlens, 256, width**-0.5)
    found = attend_backward(grad, x, key_heads, y, lse, cu_seqlens, 256, width**-0.5)
    q, k, v = (part.float() for part in _parts(x, key_heads))
    k, v = (part.repeat_interleave(heads // key_heads, 1) for part in (k, v))
    with torch.enable_grad():
        leaves = [part.requires_grad_() for part in (q, k, v)]
        mixed = [
            torch.nn.functional.scaled_dot_product_attention(
                *(part[start:end].transpose(0, 1) for part in leaves), is_causal=True
            ).transpose(0, 1)
            for start, end in ((0, 150), (150, 287))
        ]
        expected = torch.cat(mixed)
        gradients = torch.autograd.grad(expected, leaves, grad.float())
    allowed = 1e-4 if dtype == torch.float32 else 2e-2
    pairs = zip((y, *found), (expected, *gradients), strict=True)
    return all(bool((one.float() - other).norm() <= allowed * other.norm()) for one, other in pairs)
