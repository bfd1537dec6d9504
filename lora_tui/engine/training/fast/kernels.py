"""What a Llama does between its matrix products on a GPU, each in one pass over memory: kernels in Triton.

On a GPU these operations wait for memory, not for arithmetic: a norm in six of torch's operations reads and writes its
input six times. The formulas are those of `pointwise`, with everything inside in float32. Triton comes with torch on
CUDA and compiles a kernel when it is first called, which takes a C compiler: `trials` does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

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
    lse = top + tl.log(tl.sum(total * tl.exp(largest - top)))
    tl.store(losses + row, tl.where(counts, lse - of_target, 0.0))
    for start in range(0, vocabulary, BLOCK):
        places = start + tl.arange(0, BLOCK)
        inside = places < vocabulary
        values = tl.load(logits + places, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = tl.where(counts, tl.exp(values - lse) - tl.where(places == target, 1.0, 0.0), 0.0)
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
