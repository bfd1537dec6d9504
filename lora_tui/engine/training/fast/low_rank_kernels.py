"""Triton kernels of LoRA on a GPU: a gated unit that adds low-rank products in passing, and dropout inside products.

What is wide is read once: adding a low-rank product to it, or writing a copy with elements dropped, would cost as much
memory traffic as what is done with it anyway.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024
"""Elements that one program of an element-wise kernel computes."""

_GATED_TOKENS, _GATED_COLUMNS = 32, 128
"""The block of a wide tensor that one program takes where low-rank products are added to it."""

_PRODUCT_TOKENS, _PRODUCT_COLUMNS = 32, 128
"""The block that one program drops from on its way through an input that is multiplied by a matrix of low rank."""

_COLUMNS_PER_PROGRAM, _TOKENS_PER_PROGRAM = 2048, 512
"""Columns and tokens that one program sums over; where there are more, partial sums are added up afterwards."""


@triton.jit
def _low_rank_block(
    left, left_stride, right, rank_stride, column_stride, tokens, columns, rank, inside_t, inside_c, RANK: tl.constexpr
):  # fmt: skip
    """A block of the product ``left right``, tokens by columns, over `rank`.

    Rows of `left` are `left_stride` apart; those of `right` are `rank_stride` apart, its columns `column_stride`.
    """
    ranks = tl.arange(0, RANK)
    inside_r = ranks < rank
    left_block = tl.load(
        left + tokens[:, None] * left_stride + ranks[None, :], mask=inside_t[:, None] & inside_r[None, :], other=0.0
    )
    right_block = tl.load(
        right + ranks[:, None] * rank_stride + columns[None, :] * column_stride,
        mask=inside_r[:, None] & inside_c[None, :],
        other=0.0,
    )
    return tl.dot(left_block, right_block, input_precision="ieee")


@triton.jit
def _is_kept(seeds, columns, threshold):
    """Whether dropout keeps an element: a function of its token's seed, int64, and its column alone.

    Both are given in a block's shape. A multiply-xorshift hash of 64 bits of key (Wellons 2018, "hash prospector"): ten
    integer operations an element, where the ten rounds of Philox that Triton has take a hundred.
    """
    bits = columns.to(tl.uint32) * 0x9E3779B9 + seeds.to(tl.uint32)
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = bits ^ (seeds >> 32).to(tl.uint32)
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return (bits >> 1).to(tl.int32) >= threshold


@triton.jit
def _gated_forward(
    gate, up, row_stride, y, xa, b, count, width, rank,
    LOW_RANK: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """A block of tokens and columns a program."""
    tokens = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside_t, inside_c = tokens < count, columns < width
    inside = inside_t[:, None] & inside_c[None, :]
    offsets = tokens[:, None] * row_stride + columns[None, :]
    g = tl.load(gate + offsets, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + offsets, mask=inside, other=0.0).to(tl.float32)
    if LOW_RANK:
        stride, b_up = 2 * rank, b + width * 2 * rank + rank
        g += _low_rank_block(xa, stride, b, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
        u += _low_rank_block(xa + rank, stride, b_up, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
    to = y + tokens[:, None] * width + columns[None, :]
    tl.store(to, (g * tl.sigmoid(g) * u).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward(
    grad, gate, up, row_stride, grad_both, xa, b, grad_xa, a, seeds, threshold, count, width, rank, down_rank,
    LOW_RANK: tl.constexpr, DROPS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """A block of tokens and columns a program: the gate's gradient, and the up projection's beside it."""
    tokens = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside_t, inside_c = tokens < count, columns < width
    inside = inside_t[:, None] & inside_c[None, :]
    offsets = tokens[:, None] * row_stride + columns[None, :]
    g = tl.load(gate + offsets, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + offsets, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(grad + tokens[:, None] * width + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    if LOW_RANK:
        stride, b_up = 2 * rank, b + width * 2 * rank + rank
        g += _low_rank_block(xa, stride, b, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
        u += _low_rank_block(xa + rank, stride, b_up, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
        through_down = _low_rank_block(
            grad_xa, down_rank, a, width, 1, tokens, columns, down_rank, inside_t, inside_c, RANK
        )
        if DROPS:
            token_seeds = tl.load(seeds + tokens, mask=inside_t, other=0)
            through_down = tl.where(_is_kept(token_seeds[:, None], columns[None, :], threshold), through_down, 0.0)
        d += through_down
    sigmoid = tl.sigmoid(g)
    to = grad_both + tokens[:, None] * (2 * width) + columns[None, :]
    tl.store(to + width, (d * g * sigmoid).to(grad_both.dtype.element_ty), mask=inside)
    silu_slope = sigmoid * (1.0 + g * (1.0 - sigmoid))
    tl.store(to, (d * u * silu_slope).to(grad_both.dtype.element_ty), mask=inside)


@triton.jit
def _dropout_xa(
    x, a, seeds, xa, stride, part_stride, scale, threshold, count, width, rank, columns_per_program,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """Tokens, a layer and a part of the columns a program: ``scale · dropout(x) aᵀ``, summed over the part."""
    layer, part = tl.program_id(1), tl.program_id(2).to(tl.int64)
    tokens = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    ranks = tl.arange(0, RANK)
    inside_t, inside_r = tokens < count, ranks < rank
    token_seeds = tl.load(seeds + layer * count + tokens, mask=inside_t, other=0)
    total = tl.zeros((TOKENS, RANK), tl.float32)
    first = tl.program_id(2) * columns_per_program
    for start in range(first, tl.minimum(first + columns_per_program, width), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside_c = columns < width
        values = tl.load(
            x + tokens[:, None] * width + columns[None, :], mask=inside_t[:, None] & inside_c[None, :], other=0.0
        )
        values = tl.where(_is_kept(token_seeds[:, None], columns[None, :], threshold), values, 0.0).to(values.dtype)
        matrix = tl.load(
            a + (layer * rank + ranks[None, :]) * width + columns[:, None],
            mask=inside_r[None, :] & inside_c[:, None],
            other=0.0,
        )
        total += tl.dot(values, matrix, input_precision="ieee")
    offsets = part * part_stride + tokens[:, None] * stride + layer * rank + ranks[None, :]
    tl.store(xa + offsets, (total * scale).to(xa.dtype.element_ty), mask=inside_t[:, None] & inside_r[None, :])


@triton.jit
def _dropout_grad_a(
    grad_xa, stride, x, seeds, y, part_stride, threshold, count, width, rank, tokens_per_program,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """Columns, a layer and a part of the tokens a program: ``grad_xaᵀ dropout(x)``, summed over the part."""
    layer, part = tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    ranks = tl.arange(0, RANK)
    inside_c, inside_r = columns < width, ranks < rank
    total = tl.zeros((RANK, COLUMNS), tl.float32)
    first = tl.program_id(2) * tokens_per_program
    for start in range(first, tl.minimum(first + tokens_per_program, count), TOKENS):
        tokens = (start + tl.arange(0, TOKENS)).to(tl.int64)
        inside_t = tokens < count
        token_seeds = tl.load(seeds + layer * count + tokens, mask=inside_t, other=0)
        values = tl.load(
            x + tokens[:, None] * width + columns[None, :], mask=inside_t[:, None] & inside_c[None, :], other=0.0
        )
        values = tl.where(_is_kept(token_seeds[:, None], columns[None, :], threshold), values, 0.0).to(values.dtype)
        gradients = tl.load(
            grad_xa + tokens[None, :] * stride + layer * rank + ranks[:, None],
            mask=inside_t[None, :] & inside_r[:, None],
            other=0.0,
        )
        total += tl.dot(gradients, values, input_precision="ieee")
    offsets = part * part_stride + (layer * rank + ranks[:, None]) * width + columns[None, :]
    tl.store(y + offsets, total, mask=inside_r[:, None] & inside_c[None, :])


@triton.jit
def _dropout_grad_x(
    grad_xa, stride, a, seeds, y, threshold, count, width, rank,
    LAYERS: tl.constexpr, ADDS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """A block of tokens and columns a program: the sum of all layers' ``dropout(grad_xa a)``."""
    tokens = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside_t, inside_c = tokens < count, columns < width
    offsets = tokens[:, None] * width + columns[None, :]
    inside = inside_t[:, None] & inside_c[None, :]
    total = tl.zeros((TOKENS, COLUMNS), tl.float32)
    if ADDS:
        total += tl.load(y + offsets, mask=inside, other=0.0).to(tl.float32)
    for layer in tl.static_range(LAYERS):
        token_seeds = tl.load(seeds + layer * count + tokens, mask=inside_t, other=0)
        part = _low_rank_block(
            grad_xa + layer * rank, stride, a + layer * rank * width, width, 1,
            tokens, columns, rank, inside_t, inside_c, RANK,
        )  # fmt: skip
        total += tl.where(_is_kept(token_seeds[:, None], columns[None, :], threshold), part, 0.0)
    tl.store(y + offsets, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _dropout(x, seeds, y, width, threshold, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0)
    kept = tl.where(_is_kept(tl.load(seeds + row), columns, threshold), values, 0.0)
    tl.store(y + row * width + columns, kept, mask=inside)


@triton.jit
def _add_kept(total, part, seeds, width, threshold, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    more = tl.load(part + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(total + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    after = before + tl.where(_is_kept(tl.load(seeds + row), columns, threshold), more, 0.0)
    tl.store(total + row * width + columns, after.to(total.dtype.element_ty), mask=inside)


def gated_forward(gate: Tensor, up: Tensor, low_rank: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """``silu(gate) * up`` ``(T, width)``, both plus their halves of ``xa bᵀ``; rows are equally far apart in both.

    `low_rank` are `xa` ``(T, 2 · rank)`` and `b` ``(2 · width, 2 · rank)``, contiguous; of `b` only the blocks on the
    diagonal are read.
    """
    count, width = gate.shape
    y = gate.new_empty(count, width)
    xa, b = low_rank or (None, None)
    rank = 0 if xa is None else xa.shape[1] // 2
    _gated_forward[triton.cdiv(width, _GATED_COLUMNS), triton.cdiv(count, _GATED_TOKENS)](
        gate, up, gate.stride(0), y, xa, b, count, width, rank,
        LOW_RANK=low_rank is not None, TOKENS=_GATED_TOKENS, COLUMNS=_GATED_COLUMNS, RANK=_padded_rank(rank),
    )  # fmt: skip
    return y


def gated_backward(
    grad: Tensor,
    gate: Tensor,
    up: Tensor,
    low_rank: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    drop: tuple[Tensor, float] | None = None,
) -> Tensor:
    """The gradients of `gate` and `up`, side by side, where that of the product is ``grad + dropout(grad_xa a)``.

    `low_rank` are `xa` and `b` as above, then `grad_xa` ``(T, rank)`` and `a` ``(rank, width)`` of the layer that reads
    the product, contiguous; `drop` are the seeds and the rate of that layer's dropout, None where nothing is dropped.
    """
    count, width = gate.shape
    grad_both = gate.new_empty(count, 2 * width)
    (xa, b), (grad_xa, a) = low_rank or ((None, None), (None, None))
    seeds, rate = drop or (None, 0.0)
    rank, down_rank = (0 if matrix is None else matrix.shape[1] for matrix in (xa, grad_xa))
    _gated_backward[triton.cdiv(width, _GATED_COLUMNS), triton.cdiv(count, _GATED_TOKENS)](
        grad, gate, up, gate.stride(0), grad_both, xa, b, grad_xa, a, seeds, _threshold(rate),
        count, width, rank // 2, down_rank,
        LOW_RANK=low_rank is not None, DROPS=seeds is not None,
        TOKENS=_GATED_TOKENS, COLUMNS=_GATED_COLUMNS, RANK=_padded_rank(rank // 2, down_rank),
    )  # fmt: skip
    return grad_both


def dropout_xa_(xa: Tensor, x: Tensor, a: Tensor, seeds: Tensor, rate: float, scale: float) -> None:
    """Fill `xa` ``(T, layers · rank)``, a slice of wider rows, with ``scale · dropout(x) aᵀ``, dropped for each layer.

    `x` is ``(T, width)``, `a` ``(layers · rank, width)``, and `seeds` ``(layers, T)``.
    """
    (count, width), layers = x.shape, len(seeds)
    rank, parts = len(a) // layers, triton.cdiv(width, _COLUMNS_PER_PROGRAM)
    y = xa if parts == 1 else xa.new_empty(parts, *xa.shape, dtype=torch.float32)
    columns_per_program = triton.cdiv(triton.cdiv(width, parts), _PRODUCT_COLUMNS) * _PRODUCT_COLUMNS
    _dropout_xa[triton.cdiv(count, _PRODUCT_TOKENS), layers, parts](
        x, a, seeds, y, y.stride(-2), xa.numel(), scale, _threshold(rate), count, width, rank, columns_per_program,
        TOKENS=_PRODUCT_TOKENS, COLUMNS=_PRODUCT_COLUMNS, RANK=_padded_rank(rank),
        num_stages=2 if x.dtype == torch.float32 else 3,  # what a block of a small GPU has room for
    )  # fmt: skip
    if y is not xa:
        xa.copy_(y.sum(0))


def dropout_grad_a(grad_xa: Tensor, x: Tensor, seeds: Tensor, rate: float) -> Tensor:
    """``grad_xaᵀ dropout(x)`` ``(layers · rank, width)``, float32, dropped for each layer; shapes as above."""
    (count, width), layers = x.shape, len(seeds)
    rank, parts = grad_xa.shape[1] // layers, triton.cdiv(count, _TOKENS_PER_PROGRAM)
    y = x.new_empty(parts, layers * rank, width, dtype=torch.float32)
    _dropout_grad_a[triton.cdiv(width, _PRODUCT_COLUMNS), layers, parts](
        grad_xa, grad_xa.stride(0), x, seeds, y, layers * rank * width, _threshold(rate), count, width, rank,
        _TOKENS_PER_PROGRAM, TOKENS=_PRODUCT_TOKENS, COLUMNS=_PRODUCT_COLUMNS, RANK=_padded_rank(rank),
    )  # fmt: skip
    return y.sum(0)


def dropout_grad_x(grad_xa: Tensor, a: Tensor, seeds: Tensor, rate: float, total: Tensor | None) -> Tensor:
    """The sum of all layers' ``dropout(grad_xa a)``, ``(T, width)``, added to a `total` where there is one."""
    (rows, width), (layers, count) = a.shape, seeds.shape
    rank = rows // layers
    y = grad_xa.new_empty(count, width) if total is None else total
    _dropout_grad_x[triton.cdiv(width, _PRODUCT_COLUMNS), triton.cdiv(count, _PRODUCT_TOKENS)](
        grad_xa, grad_xa.stride(0), a, seeds, y, _threshold(rate), count, width, rank,
        LAYERS=layers, ADDS=total is not None,
        TOKENS=_PRODUCT_TOKENS, COLUMNS=_PRODUCT_COLUMNS, RANK=_padded_rank(rank),
    )  # fmt: skip
    return y


def dropout(x: Tensor, seeds: Tensor, rate: float) -> Tensor:
    """`x` ``(T, width)`` with each element zero with probability `rate`, drawn from int64 `seeds` ``(T,)``."""
    y = torch.empty_like(x)
    _dropout[(len(x), triton.cdiv(x.shape[1], _BLOCK))](x, seeds, y, x.shape[1], _threshold(rate), BLOCK=_BLOCK)
    return y


def add_kept_(total: Tensor, part: Tensor, seeds: Tensor, rate: float) -> None:
    """Add to `total` those elements of `part`, both ``(T, width)``, that `dropout` keeps."""
    width = total.shape[1]
    _add_kept[(len(total), triton.cdiv(width, _BLOCK))](total, part, seeds, width, _threshold(rate), BLOCK=_BLOCK)


def _threshold(rate: float) -> int:
    """The bound below which lie, of the 2³¹ values of a hash, as many as the rate says."""
    return min(round(rate * 2**31), 2**31 - 1)


def _padded_rank(*ranks: int) -> int:
    """The rank that tensor cores multiply: a power of two, 16 at least."""
    padded: int = max(16, triton.next_power_of_2(max(ranks)))
    return padded
