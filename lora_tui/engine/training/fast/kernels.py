"""Triton kernels of a Llama's norm, rotary positions and cross-entropy, each in one pass over memory.

On a GPU these operations wait for memory, not for arithmetic: a norm in six of torch's operations reads and writes its
input six times. The formulas are those of `cpu_ops`, with everything inside in float32. Triton comes with torch on CUDA
and compiles a kernel when it is first called, which takes a C compiler: `kernel_selftest` does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_VOCABULARY_BLOCK = 8192
"""Logits that a program of the cross-entropy holds at once, one of these blocks after the other."""


@triton.jit
def _rms_norm_forward(x, addend, sum_out, weight, y, rstd, width, eps, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    """One row a program: its norm, or that of its sum with `addend`, which is stored rounded."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        values += tl.load(addend + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(sum_out.dtype.element_ty)
        tl.store(sum_out + row * width + columns, rounded, mask=inside)
        values = rounded.to(tl.float32)
    row_rstd = tl.rsqrt(tl.sum(values * values) / width + eps)
    tl.store(rstd + row, row_rstd)
    scaled = values * row_rstd * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * width + columns, scaled.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _rms_norm_backward(grad, addend, x, weight, rstd, grad_x, width, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    """One row a program: the gradient of the norm's input, plus `addend`."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    grad_normed = tl.load(grad + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    grad_normed *= tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    row_rstd = tl.load(rstd + row)
    along = tl.sum(grad_normed * values) * row_rstd * row_rstd * row_rstd / width
    result = grad_normed * row_rstd - values * along
    if ADDS:
        result += tl.load(addend + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_x + row * width + columns, result.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(x, cos, sin, y, heads, rotated_heads, sign, HEADS: tl.constexpr, HALF: tl.constexpr):
    """All heads of one token a program; those after `rotated_heads` are turned by an angle of zero."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    columns = tl.arange(0, HALF)[None, :]
    inside = head < heads
    first = token * heads * 2 * HALF + head * 2 * HALF + columns
    c = tl.where(head < rotated_heads, tl.load(cos + token * 2 * HALF + columns).to(tl.float32), 1.0)
    s = tl.where(head < rotated_heads, tl.load(sin + token * 2 * HALF + columns).to(tl.float32) * sign, 0.0)
    a = tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + first + HALF, mask=inside, other=0.0).to(tl.float32)
    to = y + first
    tl.store(to, (a * c - b * s).to(y.dtype.element_ty), mask=inside)
    tl.store(to + HALF, (b * c + a * s).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _load_head_gradients(
    grad_q, grad_k, grad_v, head, columns, q_heads, k_heads, GROUP: tl.constexpr, WIDTH: tl.constexpr
):
    """The gradients of a token's heads, queries, keys and values in turn; the latter two are sums of groups."""
    before_v = q_heads + k_heads
    gradient = tl.load(grad_q + head * WIDTH + columns, mask=head < q_heads, other=0.0).to(tl.float32)
    is_key = (head >= q_heads) & (head < before_v)
    is_value = (head >= before_v) & (head < before_v + k_heads)
    for one in tl.static_range(GROUP):
        k_offset = ((head - q_heads) * GROUP + one) * WIDTH + columns
        v_offset = ((head - before_v) * GROUP + one) * WIDTH + columns
        gradient += tl.load(grad_k + k_offset, mask=is_key, other=0.0).to(tl.float32)
        gradient += tl.load(grad_v + v_offset, mask=is_value, other=0.0).to(tl.float32)
    return gradient


@triton.jit
def _rotate_backward(
    grad_q, grad_k, grad_v, cos, sin, y, q_heads, k_heads,
    GROUP: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    columns = tl.arange(0, HALF)[None, :]
    is_rotated = head < q_heads + k_heads
    c = tl.where(is_rotated, tl.load(cos + token * 2 * HALF + columns).to(tl.float32), 1.0)
    s = tl.where(is_rotated, tl.load(sin + token * 2 * HALF + columns).to(tl.float32), 0.0)
    grad_q += token * q_heads * 2 * HALF
    grad_k += token * k_heads * GROUP * 2 * HALF
    grad_v += token * k_heads * GROUP * 2 * HALF
    a = _load_head_gradients(grad_q, grad_k, grad_v, head, columns, q_heads, k_heads, GROUP, 2 * HALF)
    b = _load_head_gradients(grad_q, grad_k, grad_v, head, columns + HALF, q_heads, k_heads, GROUP, 2 * HALF)
    heads = q_heads + 2 * k_heads
    to = y + token * heads * 2 * HALF + head * 2 * HALF + columns
    tl.store(to, (a * c + b * s).to(y.dtype.element_ty), mask=head < heads)
    tl.store(to + HALF, (b * c - a * s).to(y.dtype.element_ty), mask=head < heads)


@triton.jit
def _cross_entropy(logits, targets, losses, vocabulary, BLOCK: tl.constexpr):
    """One position a program: the loss by a running log-sum-exp, then the gradient over the logits."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocabulary
    target = tl.load(targets + row)
    counts = target >= 0
    target_logit = tl.load(logits + tl.maximum(target, 0)).to(tl.float32)
    running_max = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(logits + columns, mask=columns < vocabulary, other=float("-inf")).to(tl.float32)
        new_max = tl.maximum(running_max, values)
        # A lane that has seen nothing but minus infinity keeps its sum of zero.
        safe = tl.where(new_max == float("-inf"), 0.0, new_max)
        total = total * tl.exp(running_max - safe) + tl.exp(values - safe)
        running_max = new_max
    top = tl.max(running_max)
    lse = top + tl.log(tl.sum(total * tl.exp(running_max - top)))
    tl.store(losses + row, tl.where(counts, lse - target_logit, 0.0))
    for start in range(0, vocabulary, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocabulary
        values = tl.load(logits + columns, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = tl.where(counts, tl.exp(values - lse) - tl.where(columns == target, 1.0, 0.0), 0.0)
        tl.store(logits + columns, gradient.to(logits.dtype.element_ty), mask=inside)


def rms_norm_forward(
    x: Tensor, weight: Tensor, eps: float, addend: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of `x` ``(…, width)``, contiguous, in the weight's precision, the inverse roots, float32, and `x`.

    With `addend`, of the same shape, it is the sum's norm, and the sum comes in the place of `x`.
    """
    width = x.shape[-1]
    rows = x.numel() // width
    y, rstd = torch.empty_like(x, dtype=weight.dtype), torch.empty(rows, dtype=torch.float32, device=x.device)
    sum_out = x if addend is None else torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _rms_norm_forward[(rows,)](
        x, addend, sum_out, weight, y, rstd, width, eps, ADDS=addend is not None, BLOCK=block, num_warps=_warps(block)
    )
    return y, rstd, sum_out


def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, addend: Tensor | None = None) -> Tensor:
    """The gradient of the norm's input, in its precision, plus `addend` where it is given."""
    width, grad_x, block = x.shape[-1], torch.empty_like(x), triton.next_power_of_2(x.shape[-1])
    _rms_norm_backward[(len(rstd),)](
        grad, addend, x, weight, rstd, grad_x, width, ADDS=addend is not None, BLOCK=block, num_warps=_warps(block)
    )
    return grad_x


def rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float = 1.0, rotated_heads: int | None = None) -> Tensor:
    """Rotate the pairs (i, i + width / 2) of `x` ``(T, heads, width)`` by angles ``(T, width)``, both halves alike.

    A `sign` of -1 rotates by the opposite angle. Only the first `rotated_heads` are rotated; the others are copied.
    """
    tokens, heads, width = x.shape
    y = torch.empty_like(x)
    padded = triton.next_power_of_2(heads)
    rotated_heads = heads if rotated_heads is None else rotated_heads
    _rotate[(tokens,)](x, cos, sin, y, heads, rotated_heads, sign, HEADS=padded, HALF=width // 2)
    return y


def rotate_backward(grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, cos: Tensor, sin: Tensor, key_heads: int) -> Tensor:
    """The gradient ``(T, heads + 2 · key heads, width)`` of heads side by side, from those of the rotated ones.

    `grad_q` is ``(T, heads, width)``; `grad_k` and `grad_v` may have several parts for each of the `key_heads`, one
    after the other, which are added up. All are contiguous; what reaches the values was not rotated.
    """
    tokens, heads, width = grad_q.shape
    y = grad_q.new_empty(tokens, heads + 2 * key_heads, width)
    padded = triton.next_power_of_2(y.shape[1])
    _rotate_backward[(tokens,)](
        grad_q, grad_k, grad_v, cos, sin, y, heads, key_heads,
        GROUP=grad_k.shape[1] // key_heads, HEADS=padded, HALF=width // 2,
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
