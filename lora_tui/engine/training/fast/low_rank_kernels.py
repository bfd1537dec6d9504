"""A gated unit that adds low-rank parts in passing, and dropout inside LoRA's small products: kernels in Triton.

What is wide is read once: adding a low-rank product to it, or writing a copy with elements dropped, would cost as much
memory traffic as what is done with it anyway.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024
"""Elements that one program of an element-wise kernel computes."""

_TOKENS, _COLUMNS = 32, 128
"""The block of a wide tensor that one program takes where low-rank parts are added to it."""

_LOW_TOKENS, _LOW_COLUMNS = 32, 128
"""The block that one program drops from on its way through an input that is multiplied by low-rank matrices."""

_COLUMNS_EACH, _TOKENS_EACH = 2048, 512
"""Columns and tokens that one program sums over; where there are more, partial sums are added up afterwards."""


@triton.jit
def _low_rank_part(
    low, stride, matrix, of_rank, of_column, tokens, columns, rank, inside_t, inside_c, RANK: tl.constexpr
):  # fmt: skip
    """A block of ``low matrix``, tokens by columns.

    Rows of `low` are `stride` apart, neighbours in a column of `matrix` `of_rank`, and those in a row `of_column`.
    """
    ranks = tl.arange(0, RANK)
    inside_r = ranks < rank
    of_tokens = tl.load(
        low + tokens[:, None] * stride + ranks[None, :], mask=inside_t[:, None] & inside_r[None, :], other=0.0
    )
    of_columns = tl.load(
        matrix + ranks[:, None] * of_rank + columns[None, :] * of_column,
        mask=inside_r[:, None] & inside_c[None, :],
        other=0.0,
    )
    return tl.dot(of_tokens, of_columns, input_precision="ieee")


@triton.jit
def _keeps(seeds, columns, threshold):
    """Which elements dropout keeps: a function of each token's seed, int64, and the column alone.

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
    gate, up, apart, y, low, out, count, width, rank,
    LOW: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside_t, inside_c = tokens < count, columns < width
    inside = inside_t[:, None] & inside_c[None, :]
    places = tokens[:, None] * apart + columns[None, :]
    g = tl.load(gate + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + places, mask=inside, other=0.0).to(tl.float32)
    if LOW:
        stride, of_up = 2 * rank, out + width * 2 * rank + rank
        g += _low_rank_part(low, stride, out, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
        u += _low_rank_part(low + rank, stride, of_up, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
    to = y + tokens[:, None] * width + columns[None, :]
    tl.store(to, (g * tl.sigmoid(g) * u).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward(
    grad, gate, up, apart, of_both, low, out, of_low, into, seeds, threshold, count, width, rank, rank_d,
    LOW: tl.constexpr, DROPS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside_t, inside_c = tokens < count, columns < width
    inside = inside_t[:, None] & inside_c[None, :]
    places = tokens[:, None] * apart + columns[None, :]
    g = tl.load(gate + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + places, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(grad + tokens[:, None] * width + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    if LOW:
        stride, of_up = 2 * rank, out + width * 2 * rank + rank
        g += _low_rank_part(low, stride, out, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
        u += _low_rank_part(low + rank, stride, of_up, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
        more = _low_rank_part(of_low, rank_d, into, width, 1, tokens, columns, rank_d, inside_t, inside_c, RANK)
        if DROPS:
            of_token = tl.load(seeds + tokens, mask=inside_t, other=0)
            more = tl.where(_keeps(of_token[:, None], columns[None, :], threshold), more, 0.0)
        d += more
    share = tl.sigmoid(g)
    to = of_both + tokens[:, None] * (2 * width) + columns[None, :]
    tl.store(to + width, (d * g * share).to(of_both.dtype.element_ty), mask=inside)
    slope = share * (1.0 + g * (1.0 - share))
    tl.store(to, (d * u * slope).to(of_both.dtype.element_ty), mask=inside)


@triton.jit
def _dropped_low_ranks(
    x, into, seeds, low, stride, apart, scale, threshold, count, width, rank, columns_each,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    layer, part = tl.program_id(1), tl.program_id(2).to(tl.int64)
    tokens = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    ranks = tl.arange(0, RANK)
    inside_t, inside_r = tokens < count, ranks < rank
    of_token = tl.load(seeds + layer * count + tokens, mask=inside_t, other=0)
    total = tl.zeros((TOKENS, RANK), tl.float32)
    first = tl.program_id(2) * columns_each
    for start in range(first, tl.minimum(first + columns_each, width), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside_c = columns < width
        values = tl.load(
            x + tokens[:, None] * width + columns[None, :], mask=inside_t[:, None] & inside_c[None, :], other=0.0
        )
        values = tl.where(_keeps(of_token[:, None], columns[None, :], threshold), values, 0.0).to(values.dtype)
        matrix = tl.load(
            into + (layer * rank + ranks[None, :]) * width + columns[:, None],
            mask=inside_r[None, :] & inside_c[:, None],
            other=0.0,
        )
        total += tl.dot(values, matrix, input_precision="ieee")
    places = part * apart + tokens[:, None] * stride + layer * rank + ranks[None, :]
    tl.store(low + places, (total * scale).to(low.dtype.element_ty), mask=inside_t[:, None] & inside_r[None, :])


@triton.jit
def _dropped_outer(
    of_low, stride, x, seeds, y, apart, threshold, count, width, rank, tokens_each,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    layer, part = tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    ranks = tl.arange(0, RANK)
    inside_c, inside_r = columns < width, ranks < rank
    total = tl.zeros((RANK, COLUMNS), tl.float32)
    first = tl.program_id(2) * tokens_each
    for start in range(first, tl.minimum(first + tokens_each, count), TOKENS):
        tokens = (start + tl.arange(0, TOKENS)).to(tl.int64)
        inside_t = tokens < count
        of_token = tl.load(seeds + layer * count + tokens, mask=inside_t, other=0)
        values = tl.load(
            x + tokens[:, None] * width + columns[None, :], mask=inside_t[:, None] & inside_c[None, :], other=0.0
        )
        values = tl.where(_keeps(of_token[:, None], columns[None, :], threshold), values, 0.0).to(values.dtype)
        gradients = tl.load(
            of_low + tokens[None, :] * stride + layer * rank + ranks[:, None],
            mask=inside_t[None, :] & inside_r[:, None],
            other=0.0,
        )
        total += tl.dot(gradients, values, input_precision="ieee")
    places = part * apart + (layer * rank + ranks[:, None]) * width + columns[None, :]
    tl.store(y + places, total, mask=inside_r[:, None] & inside_c[None, :])


@triton.jit
def _dropped_input(
    of_low, stride, into, seeds, y, threshold, count, width, rank,
    LAYERS: tl.constexpr, ADDS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside_t, inside_c = tokens < count, columns < width
    places = tokens[:, None] * width + columns[None, :]
    inside = inside_t[:, None] & inside_c[None, :]
    total = tl.zeros((TOKENS, COLUMNS), tl.float32)
    if ADDS:
        total += tl.load(y + places, mask=inside, other=0.0).to(tl.float32)
    for layer in tl.static_range(LAYERS):
        of_token = tl.load(seeds + layer * count + tokens, mask=inside_t, other=0)
        part = _low_rank_part(
            of_low + layer * rank, stride, into + layer * rank * width, width, 1,
            tokens, columns, rank, inside_t, inside_c, RANK,
        )  # fmt: skip
        total += tl.where(_keeps(of_token[:, None], columns[None, :], threshold), part, 0.0)
    tl.store(y + places, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _drop(x, seeds, y, width, threshold, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0)
    kept = tl.where(_keeps(tl.load(seeds + row), columns, threshold), values, 0.0)
    tl.store(y + row * width + columns, kept, mask=inside)


@triton.jit
def _add_kept(total, part, seeds, width, threshold, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    more = tl.load(part + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(total + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    after = before + tl.where(_keeps(tl.load(seeds + row), columns, threshold), more, 0.0)
    tl.store(total + row * width + columns, after.to(total.dtype.element_ty), mask=inside)


def gated_forward(gate: Tensor, up: Tensor, low: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """``silu(gate) * up`` ``(T, width)``, both plus their halves of ``low outᵀ``; rows are equally far apart in both.

    `low` ``(T, 2 · rank)`` and `out` ``(2 · width, 2 · rank)`` are contiguous; of `out` only the blocks on the diagonal
    are read.
    """
    count, width = gate.shape
    y = gate.new_empty(count, width)
    rank = 0 if low is None else low.shape[1] // 2
    _gated_forward[triton.cdiv(width, _COLUMNS), triton.cdiv(count, _TOKENS)](
        gate, up, gate.stride(0), y, low, out, count, width, rank,
        LOW=low is not None, TOKENS=_TOKENS, COLUMNS=_COLUMNS, RANK=_padded_rank(rank),
    )  # fmt: skip
    return y


def gated_backward(
    grad: Tensor,
    gate: Tensor,
    up: Tensor,
    ranks: tuple[Tensor, Tensor] | None = None,
    of_product: tuple[Tensor, Tensor] | None = None,
    seeds: Tensor | None = None,
    rate: float | None = None,
) -> Tensor:
    """The gradients of `gate` and `up`, side by side, where that of the product is ``grad + drop(low into)``.

    `ranks` are `low` and `out` as above; `of_product` is another `low` ``(T, rank)``, contiguous, and `into` ``(rank,
    width)``; without `seeds` nothing is dropped.
    """
    count, width = gate.shape
    of_both = gate.new_empty(count, 2 * width)
    (low, out), (of_low, into) = ranks or (None, None), of_product or (None, None)
    rank, rank_d = (0 if matrix is None else matrix.shape[1] for matrix in (low, of_low))
    _gated_backward[triton.cdiv(width, _COLUMNS), triton.cdiv(count, _TOKENS)](
        grad, gate, up, gate.stride(0), of_both, low, out, of_low, into, seeds, _threshold(rate or 0.0),
        count, width, rank // 2, rank_d,
        LOW=ranks is not None, DROPS=seeds is not None,
        TOKENS=_TOKENS, COLUMNS=_COLUMNS, RANK=_padded_rank(rank // 2, rank_d),
    )  # fmt: skip
    return of_both


def dropped_low_ranks_(low: Tensor, x: Tensor, into: Tensor, seeds: Tensor, rate: float, scale: float) -> None:
    """Fill `low` ``(T, layers · rank)``, a slice of wider rows, with ``scale · drop(x) intoᵀ``, dropped for each layer.

    `x` is ``(T, width)``, `into` ``(layers · rank, width)``, and `seeds` ``(layers, T)``.
    """
    (count, width), layers = x.shape, len(seeds)
    rank, parts = len(into) // layers, triton.cdiv(width, _COLUMNS_EACH)
    y = low if parts == 1 else low.new_empty(parts, *low.shape, dtype=torch.float32)
    columns_each = triton.cdiv(triton.cdiv(width, parts), _LOW_COLUMNS) * _LOW_COLUMNS
    _dropped_low_ranks[triton.cdiv(count, _LOW_TOKENS), layers, parts](
        x, into, seeds, y, y.stride(-2), low.numel(), scale, _threshold(rate), count, width, rank, columns_each,
        TOKENS=_LOW_TOKENS, COLUMNS=_LOW_COLUMNS, RANK=_padded_rank(rank),
        num_stages=2 if x.dtype == torch.float32 else 3,  # what a block of a small GPU has room for
    )  # fmt: skip
    if y is not low:
        low.copy_(y.sum(0))


def dropped_outer(of_low: Tensor, x: Tensor, seeds: Tensor, rate: float) -> Tensor:
    """``of_lowᵀ drop(x)`` ``(layers · rank, width)``, float32, dropped for each layer; shapes as above."""
    (count, width), layers = x.shape, len(seeds)
    rank, parts = of_low.shape[1] // layers, triton.cdiv(count, _TOKENS_EACH)
    y = x.new_empty(parts, layers * rank, width, dtype=torch.float32)
    _dropped_outer[triton.cdiv(width, _LOW_COLUMNS), layers, parts](
        of_low, of_low.stride(0), x, seeds, y, layers * rank * width, _threshold(rate), count, width, rank,
        _TOKENS_EACH, TOKENS=_LOW_TOKENS, COLUMNS=_LOW_COLUMNS, RANK=_padded_rank(rank),
    )  # fmt: skip
    return y.sum(0)


def dropped_input(of_low: Tensor, into: Tensor, seeds: Tensor, rate: float, total: Tensor | None) -> Tensor:
    """The sum of all layers' ``drop(of_low into)``, ``(T, width)``, added to a `total` where there is one."""
    (rows, width), (layers, count) = into.shape, seeds.shape
    rank = rows // layers
    y = of_low.new_empty(count, width) if total is None else total
    _dropped_input[triton.cdiv(width, _LOW_COLUMNS), triton.cdiv(count, _LOW_TOKENS)](
        of_low, of_low.stride(0), into, seeds, y, _threshold(rate), count, width, rank,
        LAYERS=layers, ADDS=total is not None, TOKENS=_LOW_TOKENS, COLUMNS=_LOW_COLUMNS, RANK=_padded_rank(rank),
    )  # fmt: skip
    return y


def drop(x: Tensor, seeds: Tensor, rate: float) -> Tensor:
    """`x` ``(T, width)`` with each element zero with probability `rate`, as `seeds` ``(T,)`` have it; int64."""
    y = torch.empty_like(x)
    _drop[(len(x), triton.cdiv(x.shape[1], _BLOCK))](x, seeds, y, x.shape[1], _threshold(rate), BLOCK=_BLOCK)
    return y


def add_kept_(total: Tensor, part: Tensor, seeds: Tensor, rate: float) -> None:
    """Add to `total` those elements of `part`, both ``(T, width)``, that `drop` keeps."""
    width = total.shape[1]
    _add_kept[(len(total), triton.cdiv(width, _BLOCK))](total, part, seeds, width, _threshold(rate), BLOCK=_BLOCK)


def _threshold(rate: float) -> int:
    """Below it lie, of the 2³¹ values of a hash, as many as the rate says."""
    return min(round(rate * 2**31), 2**31 - 1)


def _padded_rank(*ranks: int) -> int:
    """What the tensor cores' products take: a power of two, 16 at least."""
    return max(16, triton.next_power_of_2(max(ranks)))
