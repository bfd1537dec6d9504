"""What a Llama does between its large matrix products on a GPU, in as few passes over memory as can be, in Triton.

On a GPU these operations wait for memory, not for arithmetic: a norm in six of torch's operations reads and writes its
input six times. The formulas are those of `pointwise`, with everything inside in float32. Triton comes with torch on
CUDA and compiles a kernel when it is first called, which takes a C compiler: `usable` tries.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

_BLOCK = 1024
"""Elements that one program of an element-wise kernel computes."""

_TOKENS, _COLUMNS = 32, 128
"""The block of a wide tensor that one program takes where low-rank parts are added to it."""

_LOW_TOKENS, _LOW_COLUMNS = 32, 128
"""The block that one program drops from on its way through an input that is multiplied by low-rank matrices."""

_COLUMNS_EACH, _TOKENS_EACH = 2048, 512
"""Columns and tokens that one program sums over; where there are more, partial sums are added up afterwards."""

_VOCABULARY_BLOCK = 8192
"""Logits that a program of the cross-entropy holds at once."""


@triton.jit
def _rms_norm_forward(x, more, total, weight, y, inverse, width, eps, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        values += tl.load(more + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(total.dtype.element_ty)
        tl.store(total + row * width + columns, rounded, mask=inside)
        values = rounded.to(tl.float32)
    of_row = tl.rsqrt(tl.sum(values * values) / width + eps)
    tl.store(inverse + row, of_row)
    scaled = values * of_row * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * width + columns, scaled.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _rms_norm_backward(grad, more, x, weight, inverse, of_x, width, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    inner = tl.load(grad + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    inner *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    of_row = tl.load(inverse + row)
    along = tl.sum(inner * values) * of_row * of_row * of_row / width
    result = inner * of_row - values * along
    if ADDS:
        result += tl.load(more + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(of_x + row * width + columns, result.to(of_x.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_forward(gate, up, y, count, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    g = tl.load(gate + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + places, (g * tl.sigmoid(g) * u).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(grad, gate, up, of_gate, of_up, count, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    d = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + places, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(g)
    tl.store(of_up + places, (d * g * share).to(of_up.dtype.element_ty), mask=inside)
    slope = share * (1.0 + g * (1.0 - share))
    tl.store(of_gate + places, (d * u * slope).to(of_gate.dtype.element_ty), mask=inside)


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
    both, y, low, out, count, width, rank,
    LOW: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside_t, inside_c = tokens < count, columns < width
    inside = inside_t[:, None] & inside_c[None, :]
    places = tokens[:, None] * (2 * width) + columns[None, :]
    g = tl.load(both + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(both + width + places, mask=inside, other=0.0).to(tl.float32)
    if LOW:
        stride, of_up = 2 * rank, out + width * 2 * rank + rank
        g += _low_rank_part(low, stride, out, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
        u += _low_rank_part(low + rank, stride, of_up, 1, stride, tokens, columns, rank, inside_t, inside_c, RANK)
    to = y + tokens[:, None] * width + columns[None, :]
    tl.store(to, (g * tl.sigmoid(g) * u).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward(
    grad, both, of_both, low, out, of_low, into, seeds, threshold, count, width, rank, rank_d,
    LOW: tl.constexpr, DROPS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside_t, inside_c = tokens < count, columns < width
    inside = inside_t[:, None] & inside_c[None, :]
    places = tokens[:, None] * (2 * width) + columns[None, :]
    g = tl.load(both + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(both + width + places, mask=inside, other=0.0).to(tl.float32)
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
    tl.store(of_both + width + places, (d * g * share).to(of_both.dtype.element_ty), mask=inside)
    slope = share * (1.0 + g * (1.0 - share))
    tl.store(of_both + places, (d * u * slope).to(of_both.dtype.element_ty), mask=inside)


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
def _rotate(x, cos, sin, y, heads, turned, sign, HEADS: tl.constexpr, HALF: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    place = tl.arange(0, HALF)[None, :]
    inside = head < heads
    first = token * heads * 2 * HALF + head * 2 * HALF + place
    c = tl.where(head < turned, tl.load(cos + token * 2 * HALF + place).to(tl.float32), 1.0)
    s = tl.where(head < turned, tl.load(sin + token * 2 * HALF + place).to(tl.float32) * sign, 0.0)
    a = tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + first + HALF, mask=inside, other=0.0).to(tl.float32)
    to = y + first
    tl.store(to, (a * c - b * s).to(y.dtype.element_ty), mask=inside)
    tl.store(to + HALF, (b * c + a * s).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _of_heads(of_q, of_k, of_v, head, place, q_heads, k_heads, GROUP: tl.constexpr, WIDTH: tl.constexpr):
    """The gradients of a token's heads, queries, keys and values in turn; the latter two are sums of groups."""
    before_v = q_heads + k_heads
    found = tl.load(of_q + head * WIDTH + place, mask=head < q_heads, other=0.0).to(tl.float32)
    is_key = (head >= q_heads) & (head < before_v)
    is_value = (head >= before_v) & (head < before_v + k_heads)
    for one in tl.static_range(GROUP):
        of_key = ((head - q_heads) * GROUP + one) * WIDTH + place
        of_value = ((head - before_v) * GROUP + one) * WIDTH + place
        found += tl.load(of_k + of_key, mask=is_key, other=0.0).to(tl.float32)
        found += tl.load(of_v + of_value, mask=is_value, other=0.0).to(tl.float32)
    return found


@triton.jit
def _rotate_back(
    of_q, of_k, of_v, cos, sin, y, q_heads, k_heads,
    GROUP: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    place = tl.arange(0, HALF)[None, :]
    rotated = head < q_heads + k_heads
    c = tl.where(rotated, tl.load(cos + token * 2 * HALF + place).to(tl.float32), 1.0)
    s = tl.where(rotated, tl.load(sin + token * 2 * HALF + place).to(tl.float32), 0.0)
    of_q += token * q_heads * 2 * HALF
    of_k += token * k_heads * GROUP * 2 * HALF
    of_v += token * k_heads * GROUP * 2 * HALF
    a = _of_heads(of_q, of_k, of_v, head, place, q_heads, k_heads, GROUP, 2 * HALF)
    b = _of_heads(of_q, of_k, of_v, head, place + HALF, q_heads, k_heads, GROUP, 2 * HALF)
    heads = q_heads + 2 * k_heads
    to = y + token * heads * 2 * HALF + head * 2 * HALF + place
    tl.store(to, (a * c + b * s).to(y.dtype.element_ty), mask=head < heads)
    tl.store(to + HALF, (b * c - a * s).to(y.dtype.element_ty), mask=head < heads)


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


@triton.jit
def _cross_entropy(logits, targets, losses, vocabulary, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocabulary
    target = tl.load(targets + row)
    counts = target >= 0
    of_target = tl.load(logits + tl.maximum(target, 0)).to(tl.float32)
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        places = start + tl.arange(0, BLOCK)
        values = tl.load(logits + places, mask=places < vocabulary, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(largest, values)
        # A lane that has seen nothing but minus infinity keeps its sum of zero.
        safe = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp(largest - safe) + tl.exp(values - safe)
        largest = larger
    top = tl.max(largest)
    normaliser = top + tl.log(tl.sum(total * tl.exp(largest - top)))
    tl.store(losses + row, tl.where(counts, normaliser - of_target, 0.0))
    for start in range(0, vocabulary, BLOCK):
        places = start + tl.arange(0, BLOCK)
        inside = places < vocabulary
        values = tl.load(logits + places, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = tl.where(counts, tl.exp(values - normaliser) - tl.where(places == target, 1.0, 0.0), 0.0)
        tl.store(logits + places, gradient.to(logits.dtype.element_ty), mask=inside)


def rms_norm_forward(
    x: Tensor, weight: Tensor, eps: float, more: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of `x` ``(…, width)``, contiguous, in the weight's precision, the inverse roots, float32, and `x`.

    With `more`, of the same shape, it is the sum's norm, and the sum comes in the place of `x`.
    """
    width = x.shape[-1]
    rows = x.numel() // width
    y, inverse = torch.empty_like(x, dtype=weight.dtype), torch.empty(rows, dtype=torch.float32, device=x.device)
    total = x if more is None else torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _rms_norm_forward[(rows,)](
        x, more, total, weight, y, inverse, width, eps, ADDS=more is not None, BLOCK=block, num_warps=_warps(block)
    )
    return y, inverse, total


def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, more: Tensor | None = None) -> Tensor:
    """The gradient of the norm's input, in its precision, plus `more` where it is given."""
    width, of_x, block = x.shape[-1], torch.empty_like(x), triton.next_power_of_2(x.shape[-1])
    _rms_norm_backward[(len(inverse),)](
        grad, more, x, weight, inverse, of_x, width, ADDS=more is not None, BLOCK=block, num_warps=_warps(block)
    )
    return of_x


def swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, both contiguous."""
    y = torch.empty_like(gate)
    _swiglu_forward[(triton.cdiv(y.numel(), _BLOCK),)](gate, up, y, y.numel(), BLOCK=_BLOCK)
    return y


def swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `gate` and `up`."""
    of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
    programs = triton.cdiv(gate.numel(), _BLOCK)
    _swiglu_backward[(programs,)](grad, gate, up, of_gate, of_up, gate.numel(), BLOCK=_BLOCK)
    return of_gate, of_up


def gated_forward(both: Tensor, low: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """``silu(gate) * up`` ``(T, width)`` of gate and up side by side, ``(T, 2 · width)``, plus ``low outᵀ`` for each.

    `low` ``(T, 2 · rank)`` and `out` ``(2 · width, 2 · rank)`` are contiguous; of `out` only the blocks on the diagonal
    are read.
    """
    count, width = both.shape[0], both.shape[1] // 2
    y = both.new_empty(count, width)
    rank = 0 if low is None else low.shape[1] // 2
    _gated_forward[triton.cdiv(width, _COLUMNS), triton.cdiv(count, _TOKENS)](
        both, y, low, out, count, width, rank,
        LOW=low is not None, TOKENS=_TOKENS, COLUMNS=_COLUMNS, RANK=_padded_rank(rank),
    )  # fmt: skip
    return y


def gated_backward(
    grad: Tensor,
    both: Tensor,
    ranks: tuple[Tensor, Tensor] | None = None,
    of_product: tuple[Tensor, Tensor] | None = None,
    seeds: Tensor | None = None,
    rate: float | None = None,
) -> Tensor:
    """The gradient of `both`, where that of the product is ``grad + drop(low into)``.

    `ranks` are `low` and `out` as above; `of_product` is another `low` ``(T, rank)``, contiguous, and `into` ``(rank,
    width)``; without `seeds` nothing is dropped.
    """
    of_both = torch.empty_like(both)
    count, width = grad.shape
    (low, out), (of_low, into) = ranks or (None, None), of_product or (None, None)
    rank, rank_d = (0 if matrix is None else matrix.shape[1] for matrix in (low, of_low))
    _gated_backward[triton.cdiv(width, _COLUMNS), triton.cdiv(count, _TOKENS)](
        grad, both, of_both, low, out, of_low, into, seeds, _threshold(rate or 0.0), count, width, rank // 2, rank_d,
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


def _threshold(rate: float) -> int:
    """Below it lie, of the 2³¹ values of a hash, as many as the rate says."""
    return min(round(rate * 2**31), 2**31 - 1)


def _padded_rank(*ranks: int) -> int:
    """What the tensor cores' products take: a power of two, 16 at least."""
    return max(16, triton.next_power_of_2(max(ranks)))


def rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float = 1.0, turned: int | None = None) -> Tensor:
    """Rotate the pairs (i, i + width / 2) of `x` ``(T, heads, width)`` by angles ``(T, width)``, both halves alike.

    With a `sign` of -1 it turns back. `turned` says how many of the heads are rotated; the others are copied.
    """
    tokens, heads, width = x.shape
    y = torch.empty_like(x)
    padded = triton.next_power_of_2(heads)
    _rotate[(tokens,)](x, cos, sin, y, heads, heads if turned is None else turned, sign, HEADS=padded, HALF=width // 2)
    return y


def rotate_back(of_q: Tensor, of_k: Tensor, of_v: Tensor, cos: Tensor, sin: Tensor, key_heads: int) -> Tensor:
    """The gradient ``(T, heads + 2 · key heads, width)`` of heads side by side, from those of the rotated ones.

    `of_q` is ``(T, heads, width)``; `of_k` and `of_v` may have several parts for each of the `key_heads`, one after the
    other, which are added up. All are contiguous; what reaches the values was not rotated.
    """
    tokens, heads, width = of_q.shape
    y = of_q.new_empty(tokens, heads + 2 * key_heads, width)
    padded = triton.next_power_of_2(y.shape[1])
    _rotate_back[(tokens,)](
        of_q, of_k, of_v, cos, sin, y, heads, key_heads,
        GROUP=of_k.shape[1] // key_heads, HEADS=padded, HALF=width // 2,
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


def cross_entropy_(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropies ``(L,)``, float32, of `logits` ``(L, vocabulary)``, which are overwritten by their gradients.

    The gradients are those of the sum. A negative target counts nothing.
    """
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    vocabulary = logits.shape[1]
    block = min(_VOCABULARY_BLOCK, triton.next_power_of_2(vocabulary))
    _cross_entropy[(len(logits),)](logits, targets, losses, vocabulary, BLOCK=block, num_warps=_warps(block))
    return losses


def _warps(block: int) -> int:
    """Threads for a block of numbers, in groups of 32: eight numbers or more each."""
    return max(1, min(16, block // 256))


@lru_cache(maxsize=8)
def why_unusable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Call each kernel once on `device` in `dtype` and compare with torch; say what went wrong, or None."""
    try:
        wrong = [name for name, found, expected in _trials(device, dtype) if not _alike(found, expected)]
    except Exception as problem:  # noqa: BLE001  # Triton raises whatever its compiler, driver or the C compiler does
        return f"Triton could not compile them ({type(problem).__name__})"
    return f"they compute something else on this device ({', '.join(wrong)})" if wrong else None


@lru_cache(maxsize=8)
def can_add_low_ranks(device: torch.device, dtype: torch.dtype, rank: int) -> bool:
    """Tell whether the kernels that compute low-rank parts compile for `device`, `dtype` and a `rank`, and are right.

    They are those of the gated unit and of dropout inside products. Triton's interpreter has no products in bfloat16.
    """
    try:
        return all(_alike(found, expected) for found, expected in _trials_of_low_ranks(device, dtype, rank))
    except Exception:  # noqa: BLE001  # as above; there is another way to compute the same
        return False


def _alike(found: Tensor, expected: Tensor) -> bool:
    """Compare with what float32 gives, as closely as the precision of `found` allows."""
    tolerance = 1e-3 if found.dtype == torch.float32 else 2e-2
    return torch.allclose(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


def _trials(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, Tensor]]:
    x, other = (torch.linspace(-2.0, 2.0, 24, device=device).roll(by).view(3, 8).to(dtype) for by in (0, 5))
    with torch.enable_grad():
        leaf, leaf_of_other = x.float().requires_grad_(), other.float().requires_grad_()
        normed = nn.functional.rms_norm(leaf, (8,), leaf_of_other[0].detach(), 1e-6)
        (of_leaf,) = torch.autograd.grad(normed, leaf, other.float())
        gated = nn.functional.silu(leaf) * leaf_of_other
        of_gate, of_up = torch.autograd.grad(gated, (leaf, leaf_of_other), other.float())
        targets = torch.tensor([0, 7, 3], device=device)
        losses = nn.functional.cross_entropy(leaf, targets, reduction="none")
        (of_logits,) = torch.autograd.grad(losses.sum(), leaf)
    y, inverse, _ = rms_norm_forward(x, other[0], 1e-6)
    yield "norm", y, normed
    yield "norm's gradient", rms_norm_backward(other, x, other[0], inverse), of_leaf
    halves = rms_norm_forward(x / 2, other[0], 1e-6, x / 2)
    yield "norm of a sum", halves[0], normed
    yield "sum", halves[2], x
    yield "gradient of a branch", rms_norm_backward(other, x, other[0], inverse, x), of_leaf + x.float()
    yield "gated unit", swiglu_forward(x, other), gated
    for name, found, expected in zip(("gate", "up"), swiglu_backward(other, x, other), (of_gate, of_up), strict=True):
        yield f"{name}'s gradient", found, expected
    by_head, cos = x.view(3, 2, 4), other[:, :2].repeat(1, 2)
    first, second = by_head.float().chunk(2, dim=-1)
    c = cos.float()[:, None, :2]
    turned = torch.cat([first * c + second * c, second * c - first * c], -1)
    yield "rotation", rotate(by_head, cos, -cos), turned
    keys = by_head[:, :1].contiguous()
    beside = torch.cat([by_head, keys], 1)
    yield "rotation of some heads", rotate(beside, cos, -cos, 1.0, 2), torch.cat([turned, keys], 1)
    back = torch.cat([turned, turned[:, :1], keys], 1)
    yield "rotation back", rotate_back(by_head, keys, keys, cos, cos, 1), back
    back = torch.cat([turned, turned.sum(1, keepdim=True), by_head.float().sum(1, keepdim=True)], 1)
    yield "rotation back of groups", rotate_back(by_head, by_head, by_head, cos, cos, 1), back
    both, of_both = torch.cat([x, other], 1), torch.cat([of_gate, of_up], 1)
    yield "gated unit of both", gated_forward(both), gated
    yield "gradient of both", gated_backward(other, both), of_both
    logits = x.clone()
    yield "cross-entropy", cross_entropy_(logits, targets), losses
    yield "cross-entropy's gradient", logits, of_logits
    seeds = torch.arange(3, device=device)
    kept, total = drop(torch.ones_like(x), seeds, 0.5), x.clone()
    add_kept_(total, other, seeds, 0.5)
    yield "dropout", total, x.float() + other.float() * kept.float()


def _trials_of_low_ranks(device: torch.device, dtype: torch.dtype, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    numbers = torch.arange(32 * rank, device=device)

    def matrix(rows: int, columns: int, by: int) -> Tensor:
        return numbers.roll(by).remainder(5).sub(2)[: rows * columns].view(rows, columns).to(dtype) / 8

    gate, up, grad = (torch.linspace(-2.0, 2.0, 48, device=device).roll(by).view(3, 16).to(dtype) for by in (0, 7, 11))
    both, low, of_low, into = torch.cat([gate, up], 1), matrix(3, 2 * rank, 1), matrix(3, rank, 2), matrix(rank, 16, 3)
    out = torch.block_diag(matrix(16, rank, 4), matrix(16, rank, 6))
    seeds = torch.arange(6, device=device).view(2, 3) * 0x123456789
    with torch.enable_grad():
        sums = (both.float() + low.float() @ out.float().T).requires_grad_()
        y = nn.functional.silu(sums[:, :16]) * sums[:, 16:]
        kept = drop(torch.ones_like(gate), seeds[0], 0.5).float()
        more = of_low.float() @ into.float()
        (whole,) = torch.autograd.grad(y, sums, grad.float() + more, retain_graph=True)
        (dropped,) = torch.autograd.grad(y, sums, grad.float() + more * kept)
    yield gated_forward(both, low, out), y
    yield gated_backward(grad, both, (low, out), (of_low, into)), whole
    yield gated_backward(grad, both, (low, out), (of_low, into), seeds[0], 0.5), dropped
    yield from _trials_of_dropping(gate, low, matrix(2 * rank, 16, 5), seeds)


def _trials_of_dropping(x: Tensor, low: Tensor, into: Tensor, seeds: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    kept = [drop(torch.ones_like(x), of_layer, 0.5).float() for of_layer in seeds]
    matrices = into.float().chunk(2)
    found = torch.empty_like(low)
    dropped_low_ranks_(found, x, into, seeds, 0.5, 2.0)
    expected = [2.0 * (x.float() * keeps) @ matrix.T for keeps, matrix in zip(kept, matrices, strict=True)]
    yield found, torch.cat(expected, dim=1)
    of_low = low.float().chunk(2, dim=1)
    expected = [part.T @ (x.float() * keeps) for keeps, part in zip(kept, of_low, strict=True)]
    yield dropped_outer(low, x, seeds, 0.5), torch.cat(expected)
    both = [keeps * (part @ matrix) for keeps, part, matrix in zip(kept, of_low, matrices, strict=True)]
    yield dropped_input(low, into, seeds, 0.5, None), both[0] + both[1]
    yield dropped_input(low, into, seeds, 0.5, x.clone()), x.float() + both[0] + both[1]
