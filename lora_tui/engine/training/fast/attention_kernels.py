"""Triton kernels of causal attention over packed spans, forward and backward: flash attention for short examples.

torch's variable-length kernel is made for long sequences and for GPUs before Hopper; fine-tuning packs examples of some
hundred tokens. Here a program takes a block of one span and one head, the scores stay on the chip, and the backward
pass computes them again, once for the keys' and values' gradients and once for the queries'. Of grouped queries each
head leaves its own part of its key head's gradient; whoever reads them adds them up. The softmax runs in float32, to
base 2. Dao 2023 (arXiv 2307.08691).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = 1.4426950408889634

MAX_SEQLEN = 1024
"""Longest span for which the kernels were compared with torch's, and found faster, in tokens."""

_FORWARD = {"QUERIES": 64, "KEYS": 64, "num_warps": 4, "num_stages": 3}
_BACKWARD_KV = {"QUERIES": 32, "KEYS": 64, "num_warps": 4, "num_stages": 3}
_BACKWARD_Q = {"QUERIES": 64, "KEYS": 64, "num_warps": 4, "num_stages": 2}
"""Block sizes and launch parameters: the fastest of eight each on an H200 with heads of 128.

The keys' and values' backward pass goes through a block of keys in whole blocks of queries, the others the other way
round.
"""


@triton.jit
def _load_rows(x, stride, rows, inside, WIDTH: tl.constexpr):
    """Rows ``(n, WIDTH)`` of a matrix whose rows are `stride` apart."""
    return tl.load(x + rows[:, None] * stride + tl.arange(0, WIDTH)[None, :], mask=inside[:, None], other=0.0)


@triton.jit
def _span_pointers(q, k, v, cu_seqlens, stride, GROUP: tl.constexpr, WIDTH: tl.constexpr):
    """A program's span: its first token, its length, and pointers to its queries, keys and values of one head."""
    head, span = tl.program_id(2), tl.program_id(1)
    start = tl.load(cu_seqlens + span).to(tl.int64)
    length = (tl.load(cu_seqlens + span + 1) - start).to(tl.int32)
    kv_offset = start * stride + (head // GROUP) * WIDTH
    return start, length, q + start * stride + head * WIDTH, k + kv_offset, v + kv_offset


@triton.jit
def _softmax_step(q, k, v, rows, columns, row_sum, row_max, acc, scale, MASKED: tl.constexpr):
    """One step of the online softmax: a block of queries takes in one more block of keys."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if MASKED:
        scores = tl.where(rows[:, None] >= columns[None, :], scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    weights = tl.exp2(scores - new_max[:, None])
    rescale = tl.exp2(row_max - new_max)
    row_sum = row_sum * rescale + tl.sum(weights, 1)
    acc = acc * rescale[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return row_sum, new_max, acc


@triton.jit
def _attention_forward(
    q, k, v, cu_seqlens, y, lse, stride, tokens, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A block of queries, a span and a head a program: the output, and the log-sum-exp of each query's scores."""
    head = tl.program_id(2)
    start, length, q, k, v = _span_pointers(q, k, v, cu_seqlens, stride, GROUP, WIDTH)
    # Blocks that see the most keys come first: what is left for the end is short.
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES
    if first < length:
        rows = first + tl.arange(0, QUERIES)
        q_block = _load_rows(q, stride, rows, rows < length, WIDTH)
        row_sum = tl.zeros((QUERIES,), tl.float32)
        row_max = tl.full((QUERIES,), float("-inf"), tl.float32)
        acc = tl.zeros((QUERIES, WIDTH), tl.float32)
        for begin in range(0, first, KEYS):
            columns = begin + tl.arange(0, KEYS)
            k_block = _load_rows(k, stride, columns, columns < length, WIDTH)
            v_block = _load_rows(v, stride, columns, columns < length, WIDTH)
            row_sum, row_max, acc = _softmax_step(
                q_block, k_block, v_block, rows, columns, row_sum, row_max, acc, scale, False
            )
        for begin in range(first, tl.minimum(first + QUERIES, length), KEYS):
            columns = begin + tl.arange(0, KEYS)
            k_block = _load_rows(k, stride, columns, columns < length, WIDTH)
            v_block = _load_rows(v, stride, columns, columns < length, WIDTH)
            row_sum, row_max, acc = _softmax_step(
                q_block, k_block, v_block, rows, columns, row_sum, row_max, acc, scale, True
            )
        y += (start * HEADS + head) * WIDTH
        to = y + rows[:, None] * (HEADS * WIDTH) + tl.arange(0, WIDTH)[None, :]
        tl.store(to, (acc / row_sum[:, None]).to(y.dtype.element_ty), mask=(rows < length)[:, None])
        tl.store(lse + head * tokens + start + rows, row_max + tl.log2(row_sum), mask=rows < length)


@triton.jit
def _output_delta(grad, y, delta, tokens, HEADS: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr):
    """One token a program: each head's product of the output and its gradient, the "delta" of flash attention."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, PADDED)
    offsets = token * HEADS * WIDTH + heads[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = heads < HEADS
    product = tl.load(grad + offsets, mask=inside[:, None], other=0.0).to(tl.float32)
    product *= tl.load(y + offsets, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(delta + heads * tokens + token, tl.sum(product, 1), mask=inside)


@triton.jit
def _add_key_value_gradients(q, k, v, grad, lse, delta, rows, columns, grad_k, grad_v, scale, MASKED: tl.constexpr):
    """Add what a block of queries gives to the gradients of a block of keys and values."""
    scores = tl.dot(k, tl.trans(q), input_precision="ieee") * scale
    weights = tl.exp2(scores - lse[None, :])
    if MASKED:
        weights = tl.where(rows[None, :] >= columns[:, None], weights, 0.0)
    grad_v += tl.dot(weights.to(v.dtype), grad, input_precision="ieee")
    grad_weights = tl.dot(v, tl.trans(grad), input_precision="ieee")
    grad_scores = weights * (grad_weights - delta[None, :])
    grad_k += tl.dot(grad_scores.to(q.dtype), q, input_precision="ieee")
    return grad_k, grad_v


@triton.jit
def _attention_backward_kv(
    q, k, v, grad, cu_seqlens, lse, delta, grad_k, grad_v, stride, tokens, scale, scaling,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A block of keys, a span and a query head a program: that head's part of the keys' and values' gradients."""
    head = tl.program_id(2)
    start, length, q, k, v = _span_pointers(q, k, v, cu_seqlens, stride, GROUP, WIDTH)
    first = tl.program_id(0) * KEYS
    if first < length:
        grad += (start * HEADS + head) * WIDTH
        lse += head * tokens + start
        delta += head * tokens + start
        columns = first + tl.arange(0, KEYS)
        k_block = _load_rows(k, stride, columns, columns < length, WIDTH)
        v_block = _load_rows(v, stride, columns, columns < length, WIDTH)
        acc_k = tl.zeros((KEYS, WIDTH), tl.float32)
        acc_v = tl.zeros((KEYS, WIDTH), tl.float32)
        for begin in range(first, tl.minimum(first + KEYS, length), QUERIES):
            rows = begin + tl.arange(0, QUERIES)
            inside = rows < length
            q_block = _load_rows(q, stride, rows, inside, WIDTH)
            grad_block = _load_rows(grad, HEADS * WIDTH, rows, inside, WIDTH)
            lse_block, delta_block = tl.load(lse + rows, inside, 0.0), tl.load(delta + rows, inside, 0.0)
            acc_k, acc_v = _add_key_value_gradients(
                q_block, k_block, v_block, grad_block, lse_block, delta_block, rows, columns, acc_k, acc_v, scale, True
            )
        for begin in range(first + KEYS, length, QUERIES):
            rows = begin + tl.arange(0, QUERIES)
            inside = rows < length
            q_block = _load_rows(q, stride, rows, inside, WIDTH)
            grad_block = _load_rows(grad, HEADS * WIDTH, rows, inside, WIDTH)
            lse_block, delta_block = tl.load(lse + rows, inside, 0.0), tl.load(delta + rows, inside, 0.0)
            acc_k, acc_v = _add_key_value_gradients(
                q_block, k_block, v_block, grad_block, lse_block, delta_block, rows, columns, acc_k, acc_v, scale, False
            )
        offsets = ((start + columns[:, None]) * HEADS + head) * WIDTH + tl.arange(0, WIDTH)[None, :]
        tl.store(grad_k + offsets, (acc_k * scaling).to(grad_k.dtype.element_ty), mask=(columns < length)[:, None])
        tl.store(grad_v + offsets, acc_v.to(grad_v.dtype.element_ty), mask=(columns < length)[:, None])


@triton.jit
def _add_query_gradient(q, k, v, grad, lse, delta, rows, columns, grad_q, scale, MASKED: tl.constexpr):
    """Add what a block of keys gives to the gradient of a block of queries."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    weights = tl.exp2(scores - lse[:, None])
    if MASKED:
        weights = tl.where(rows[:, None] >= columns[None, :], weights, 0.0)
    grad_weights = tl.dot(grad, tl.trans(v), input_precision="ieee")
    grad_scores = weights * (grad_weights - delta[:, None])
    return grad_q + tl.dot(grad_scores.to(k.dtype), k, input_precision="ieee")


@triton.jit
def _attention_backward_q(
    q, k, v, grad, cu_seqlens, lse, delta, grad_q, stride, tokens, scale, scaling,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A block of queries, a span and a head a program: the queries' gradient."""
    head = tl.program_id(2)
    start, length, q, k, v = _span_pointers(q, k, v, cu_seqlens, stride, GROUP, WIDTH)
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES
    if first < length:
        rows = first + tl.arange(0, QUERIES)
        inside = rows < length
        q_block = _load_rows(q, stride, rows, inside, WIDTH)
        grad_block = _load_rows(grad + (start * HEADS + head) * WIDTH, HEADS * WIDTH, rows, inside, WIDTH)
        lse_block = tl.load(lse + head * tokens + start + rows, inside, 0.0)
        delta_block = tl.load(delta + head * tokens + start + rows, inside, 0.0)
        acc_q = tl.zeros((QUERIES, WIDTH), tl.float32)
        for begin in range(0, first, KEYS):
            columns = begin + tl.arange(0, KEYS)
            k_block = _load_rows(k, stride, columns, columns < length, WIDTH)
            v_block = _load_rows(v, stride, columns, columns < length, WIDTH)
            acc_q = _add_query_gradient(
                q_block, k_block, v_block, grad_block, lse_block, delta_block, rows, columns, acc_q, scale, False
            )
        for begin in range(first, tl.minimum(first + QUERIES, length), KEYS):
            columns = begin + tl.arange(0, KEYS)
            k_block = _load_rows(k, stride, columns, columns < length, WIDTH)
            v_block = _load_rows(v, stride, columns, columns < length, WIDTH)
            acc_q = _add_query_gradient(
                q_block, k_block, v_block, grad_block, lse_block, delta_block, rows, columns, acc_q, scale, True
            )
        offsets = ((start + rows[:, None]) * HEADS + head) * WIDTH + tl.arange(0, WIDTH)[None, :]
        tl.store(grad_q + offsets, (acc_q * scaling).to(grad_q.dtype.element_ty), mask=inside[:, None])


def attention_forward(
    x: Tensor, key_heads: int, cu_seqlens: Tensor, max_seqlen: int, scaling: float
) -> tuple[Tensor, Tensor]:
    """Causal attention over the spans of `x` ``(T, heads + 2 · key heads, width)``: queries, keys, values side by side.

    `cu_seqlens` ``(spans + 1,)`` are int32, on the device; no span is longer than `max_seqlen`. Returns the output
    ``(T, heads, width)`` and the log-sum-exp to base 2 of the scores, ``(heads, T)``, float32.
    """
    tokens, heads, width = len(x), x.shape[1] - 2 * key_heads, x.shape[2]
    y = x.new_empty(tokens, heads, width)
    lse = x.new_empty(heads, tokens, dtype=torch.float32)
    _attention_forward[_grid(max_seqlen, _FORWARD["QUERIES"], cu_seqlens, heads)](
        *_split_heads(x, key_heads), cu_seqlens, y, lse, x.stride(0), tokens, scaling * _LOG2_E,
        HEADS=heads, GROUP=heads // key_heads, WIDTH=width, **_FORWARD,
    )  # fmt: skip
    return y, lse


def attention_backward(
    grad: Tensor, x: Tensor, y: Tensor, lse: Tensor, cu_seqlens: Tensor, max_seqlen: int, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, ``(T, heads, width)`` each, from that of the output, contiguous.

    Those of keys and values are what each query head gives: a key head's is the sum of its group's.
    """
    tokens, heads, width = y.shape
    key_heads = (x.shape[1] - heads) // 2
    delta = torch.empty_like(lse)
    _output_delta[(tokens,)](grad, y, delta, tokens, HEADS=heads, PADDED=triton.next_power_of_2(heads), WIDTH=width)
    grad_q, grad_k, grad_v = (torch.empty_like(y) for _ in range(3))
    inputs = (*_split_heads(x, key_heads), grad, cu_seqlens, lse, delta)
    numbers = (x.stride(0), tokens, scaling * _LOG2_E, scaling)
    shape = {"HEADS": heads, "GROUP": heads // key_heads, "WIDTH": width}
    _attention_backward_kv[_grid(max_seqlen, _BACKWARD_KV["KEYS"], cu_seqlens, heads)](
        *inputs, grad_k, grad_v, *numbers, **shape, **_BACKWARD_KV
    )
    _attention_backward_q[_grid(max_seqlen, _BACKWARD_Q["QUERIES"], cu_seqlens, heads)](
        *inputs, grad_q, *numbers, **shape, **_BACKWARD_Q
    )
    return grad_q, grad_k, grad_v


def _split_heads(x: Tensor, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    return x[:, : -2 * key_heads], x[:, -2 * key_heads : -key_heads], x[:, -key_heads:]


def _grid(max_seqlen: int, block: int, cu_seqlens: Tensor, heads: int) -> tuple[int, int, int]:
    return triton.cdiv(max_seqlen, block), len(cu_seqlens) - 1, heads
