"""Self-test of the Triton kernels: each is called once on a device and compared with torch before it is used there."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn

from lora_tui.engine.training.fast import attention_kernels, kernels, low_rank_kernels


@lru_cache(maxsize=8)
def failure_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Call each kernel once on `device` in `dtype` and compare with torch; say what went wrong, or None."""
    try:
        wrong = [name for name, found, expected in _elementwise_cases(device, dtype) if not _agree(found, expected)]
    except Exception as problem:  # noqa: BLE001  # Triton raises whatever its compiler, driver or the C compiler does
        return f"Triton could not compile them ({type(problem).__name__})"
    return f"they compute something else on this device ({', '.join(wrong)})" if wrong else None


@lru_cache(maxsize=8)
def low_rank_kernels_pass(device: torch.device, dtype: torch.dtype, rank: int) -> bool:
    """Tell whether the kernels of low-rank products compile for `device`, `dtype` and a `rank`, and are right.

    They are those of the gated unit and of dropout inside products. Triton's interpreter has no products in bfloat16.
    """
    try:
        return all(_agree(found, expected) for found, expected in _low_rank_cases(device, dtype, rank))
    except Exception:  # noqa: BLE001  # as above; there is another way to compute the same
        return False


@lru_cache(maxsize=8)
def attention_kernels_pass(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int) -> bool:
    """Tell whether the kernels compile for such heads on `device`, and compute what torch does, in both directions."""
    allowed = 1e-4 if dtype == torch.float32 else 2e-2
    try:
        cases = _attention_cases(device, dtype, heads, key_heads, width)
        return all(bool((found.float() - expected).norm() <= allowed * expected.norm()) for found, expected in cases)
    except Exception:  # noqa: BLE001  # as above
        return False


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Compare with what float32 gives, as closely as the precision of `found` allows."""
    tolerance = 1e-3 if found.dtype == torch.float32 else 2e-2
    return torch.allclose(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


def _elementwise_cases(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each kernel's name, what it computes, and what is expected of it."""
    x, other = (torch.linspace(-2.0, 2.0, 24, device=device).roll(by).view(3, 8).to(dtype) for by in (0, 5))
    with torch.enable_grad():
        leaf, other_leaf = x.float().requires_grad_(), other.float().requires_grad_()
        normed = nn.functional.rms_norm(leaf, (8,), other_leaf[0].detach(), 1e-6)
        (grad_leaf,) = torch.autograd.grad(normed, leaf, other.float())
        gated = nn.functional.silu(leaf) * other_leaf
        grad_gate, grad_up = torch.autograd.grad(gated, (leaf, other_leaf), other.float())
        targets = torch.tensor([0, 7, 3], device=device)
        losses = nn.functional.cross_entropy(leaf, targets, reduction="none")
        (grad_logits,) = torch.autograd.grad(losses.sum(), leaf)
    y, rstd, _ = kernels.rms_norm_forward(x, other[0], 1e-6)
    yield "norm", y, normed
    yield "norm's gradient", kernels.rms_norm_backward(other, x, other[0], rstd), grad_leaf
    halves = kernels.rms_norm_forward(x / 2, other[0], 1e-6, x / 2)
    yield "norm of a sum", halves[0], normed
    yield "sum", halves[2], x
    yield "gradient of a branch", kernels.rms_norm_backward(other, x, other[0], rstd, x), grad_leaf + x.float()
    yield "gated unit", low_rank_kernels.gated_forward(x, other), gated
    grad_both = torch.cat([grad_gate, grad_up], 1)
    yield "gated unit's gradient", low_rank_kernels.gated_backward(other, x, other), grad_both
    yield from _rotation_cases(x.view(3, 2, 4), other[:, :2].repeat(1, 2))
    logits = x.clone()
    yield "cross-entropy", kernels.cross_entropy_(logits, targets), losses
    yield "cross-entropy's gradient", logits, grad_logits
    seeds = torch.arange(3, device=device)
    kept, total = low_rank_kernels.dropout(torch.ones_like(x), seeds, 0.5), x.clone()
    low_rank_kernels.add_kept_(total, other, seeds, 0.5)
    yield "dropout", total, x.float() + other.float() * kept.float()


def _rotation_cases(x: Tensor, cos: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For `x` ``(T, heads, width)``; the sines are minus the cosines, which tells a wrong sign."""
    first, second = x.float().chunk(2, dim=-1)
    c = cos.float()[:, None, :2]
    rotated = torch.cat([first * c + second * c, second * c - first * c], -1)
    yield "rotation", kernels.rotate(x, cos, -cos), rotated
    keys = x[:, :1].contiguous()
    beside = torch.cat([x, keys], 1)
    yield "rotation of some heads", kernels.rotate(beside, cos, -cos, 1.0, 2), torch.cat([rotated, keys], 1)
    back = torch.cat([rotated, rotated[:, :1], keys], 1)
    yield "rotation back", kernels.rotate_backward(x, keys, keys, cos, cos, 1), back
    back = torch.cat([rotated, rotated.sum(1, keepdim=True), x.float().sum(1, keepdim=True)], 1)
    yield "rotation back of groups", kernels.rotate_backward(x, x, x, cos, cos, 1), back


def _low_rank_cases(device: torch.device, dtype: torch.dtype, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    numbers = torch.arange(32 * rank, device=device)

    def matrix(rows: int, columns: int, by: int) -> Tensor:
        return numbers.roll(by).remainder(5).sub(2)[: rows * columns].view(rows, columns).to(dtype) / 8

    gate, up, grad = (torch.linspace(-2.0, 2.0, 48, device=device).roll(by).view(3, 16).to(dtype) for by in (0, 7, 11))
    both, xa, grad_xa, a = torch.cat([gate, up], 1), matrix(3, 2 * rank, 1), matrix(3, rank, 2), matrix(rank, 16, 3)
    b = xa.new_zeros(32, 2 * rank)
    b[:16, :rank], b[16:, rank:] = matrix(16, rank, 4), matrix(16, rank, 6)
    halves = (both[:, :16], both[:, 16:])
    seeds = torch.arange(6, device=device).view(2, 3) * 0x123456789
    with torch.enable_grad():
        sums = (both.float() + xa.float() @ b.float().T).requires_grad_()
        y = nn.functional.silu(sums[:, :16]) * sums[:, 16:]
        kept = low_rank_kernels.dropout(torch.ones_like(gate), seeds[0], 0.5).float()
        through_down = grad_xa.float() @ a.float()
        (whole,) = torch.autograd.grad(y, sums, grad.float() + through_down, retain_graph=True)
        (dropped,) = torch.autograd.grad(y, sums, grad.float() + through_down * kept)
    yield low_rank_kernels.gated_forward(*halves, (xa, b)), y
    low_rank = (xa, b), (grad_xa, a)
    yield low_rank_kernels.gated_backward(grad, *halves, low_rank), whole
    yield low_rank_kernels.gated_backward(grad, *halves, low_rank, (seeds[0], 0.5)), dropped
    yield from _dropout_cases(gate, xa, matrix(2 * rank, 16, 5), seeds)


def _dropout_cases(x: Tensor, xa: Tensor, a: Tensor, seeds: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    kept = [low_rank_kernels.dropout(torch.ones_like(x), of_layer, 0.5).float() for of_layer in seeds]
    matrices = a.float().chunk(2)
    found = torch.empty_like(xa)
    low_rank_kernels.dropout_xa_(found, x, a, seeds, 0.5, 2.0)
    expected = [2.0 * (x.float() * keeps) @ matrix.T for keeps, matrix in zip(kept, matrices, strict=True)]
    yield found, torch.cat(expected, dim=1)
    grad_xa = xa.float().chunk(2, dim=1)
    expected = [part.T @ (x.float() * keeps) for keeps, part in zip(kept, grad_xa, strict=True)]
    yield low_rank_kernels.dropout_grad_a(xa, x, seeds, 0.5), torch.cat(expected)
    both = [keeps * (part @ matrix) for keeps, part, matrix in zip(kept, grad_xa, matrices, strict=True)]
    yield low_rank_kernels.dropout_grad_x(xa, a, seeds, 0.5, None), both[0] + both[1]
    yield low_rank_kernels.dropout_grad_x(xa, a, seeds, 0.5, x.clone()), x.float() + both[0] + both[1]


def _attention_cases(
    device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The output and the gradients of queries, keys and values, beside those of torch's own attention in float32."""
    spans = (0, 150, 150, 287)  # more than a block, nothing, a block and a little; an odd number of tokens
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(spans[-1], heads + 2 * key_heads, width, generator=generator).to(device, dtype)
    grad = torch.randn(spans[-1], heads, width, generator=generator).to(device, dtype)
    cu_seqlens = torch.tensor(spans, dtype=torch.int32, device=device)
    y, lse = attention_kernels.attention_forward(x, key_heads, cu_seqlens, 256, width**-0.5)
    found = attention_kernels.attention_backward(grad, x, y, lse, cu_seqlens, 256, width**-0.5)
    q, k, v = (part.float() for part in (x[:, :heads], x[:, heads:-key_heads], x[:, -key_heads:]))
    k, v = (part.repeat_interleave(heads // key_heads, 1) for part in (k, v))
    with torch.enable_grad():
        leaves = [part.requires_grad_() for part in (q, k, v)]
        outputs = []
        for start, end in ((0, 150), (150, 287)):
            q, k, v = (leaf[start:end].transpose(0, 1) for leaf in leaves)
            outputs.append(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1))
        expected = torch.cat(outputs)
        gradients = torch.autograd.grad(expected, leaves, grad.float())
    yield from zip((y, *found), (expected, *gradients), strict=True)
