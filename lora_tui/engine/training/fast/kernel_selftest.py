"""Each kernel is called once on a device and compared with torch before it is used there."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn

from lora_tui.engine.training.fast import kernels, low_rank_kernels


@lru_cache(maxsize=8)
def unusable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
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
    y, inverse, _ = kernels.rms_norm_forward(x, other[0], 1e-6)
    yield "norm", y, normed
    yield "norm's gradient", kernels.rms_norm_backward(other, x, other[0], inverse), of_leaf
    halves = kernels.rms_norm_forward(x / 2, other[0], 1e-6, x / 2)
    yield "norm of a sum", halves[0], normed
    yield "sum", halves[2], x
    yield "gradient of a branch", kernels.rms_norm_backward(other, x, other[0], inverse, x), of_leaf + x.float()
    yield "gated unit", low_rank_kernels.gated_forward(x, other), gated
    of_both = torch.cat([of_gate, of_up], 1)
    yield "gated unit's gradient", low_rank_kernels.gated_backward(other, x, other), of_both
    by_head, cos = x.view(3, 2, 4), other[:, :2].repeat(1, 2)
    first, second = by_head.float().chunk(2, dim=-1)
    c = cos.float()[:, None, :2]
    turned = torch.cat([first * c + second * c, second * c - first * c], -1)
    yield "rotation", kernels.rotate(by_head, cos, -cos), turned
    keys = by_head[:, :1].contiguous()
    beside = torch.cat([by_head, keys], 1)
    yield "rotation of some heads", kernels.rotate(beside, cos, -cos, 1.0, 2), torch.cat([turned, keys], 1)
    back = torch.cat([turned, turned[:, :1], keys], 1)
    yield "rotation back", kernels.rotate_back(by_head, keys, keys, cos, cos, 1), back
    back = torch.cat([turned, turned.sum(1, keepdim=True), by_head.float().sum(1, keepdim=True)], 1)
    yield "rotation back of groups", kernels.rotate_back(by_head, by_head, by_head, cos, cos, 1), back
    logits = x.clone()
    yield "cross-entropy", kernels.cross_entropy_(logits, targets), losses
    yield "cross-entropy's gradient", logits, of_logits
    seeds = torch.arange(3, device=device)
    kept, total = low_rank_kernels.drop(torch.ones_like(x), seeds, 0.5), x.clone()
    low_rank_kernels.add_kept_(total, other, seeds, 0.5)
    yield "dropout", total, x.float() + other.float() * kept.float()


def _trials_of_low_ranks(device: torch.device, dtype: torch.dtype, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
    numbers = torch.arange(32 * rank, device=device)

    def matrix(rows: int, columns: int, by: int) -> Tensor:
        return numbers.roll(by).remainder(5).sub(2)[: rows * columns].view(rows, columns).to(dtype) / 8

    gate, up, grad = (torch.linspace(-2.0, 2.0, 48, device=device).roll(by).view(3, 16).to(dtype) for by in (0, 7, 11))
    both, low, of_low, into = torch.cat([gate, up], 1), matrix(3, 2 * rank, 1), matrix(3, rank, 2), matrix(rank, 16, 3)
    out = low.new_zeros(32, 2 * rank)
    out[:16, :rank], out[16:, rank:] = matrix(16, rank, 4), matrix(16, rank, 6)
    halves = (both[:, :16], both[:, 16:])
    seeds = torch.arange(6, device=device).view(2, 3) * 0x123456789
    with torch.enable_grad():
        sums = (both.float() + low.float() @ out.float().T).requires_grad_()
        y = nn.functional.silu(sums[:, :16]) * sums[:, 16:]
        kept = low_rank_kernels.drop(torch.ones_like(gate), seeds[0], 0.5).float()
        more = of_low.float() @ into.float()
        (whole,) = torch.autograd.grad(y, sums, grad.float() + more, retain_graph=True)
        (dropped,) = torch.autograd.grad(y, sums, grad.float() + more * kept)
    yield low_rank_kernels.gated_forward(*halves, low, out), y
    yield low_rank_kernels.gated_backward(grad, *halves, (low, out), (of_low, into)), whole
    yield low_rank_kernels.gated_backward(grad, *halves, (low, out), (of_low, into), seeds[0], 0.5), dropped
    yield from _trials_of_dropping(gate, low, matrix(2 * rank, 16, 5), seeds)


def _trials_of_dropping(x: Tensor, low: Tensor, into: Tensor, seeds: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    kept = [low_rank_kernels.drop(torch.ones_like(x), of_layer, 0.5).float() for of_layer in seeds]
    matrices = into.float().chunk(2)
    found = torch.empty_like(low)
    low_rank_kernels.dropped_low_ranks_(found, x, into, seeds, 0.5, 2.0)
    expected = [2.0 * (x.float() * keeps) @ matrix.T for keeps, matrix in zip(kept, matrices, strict=True)]
    yield found, torch.cat(expected, dim=1)
    of_low = low.float().chunk(2, dim=1)
    expected = [part.T @ (x.float() * keeps) for keeps, part in zip(kept, of_low, strict=True)]
    yield low_rank_kernels.dropped_outer(low, x, seeds, 0.5), torch.cat(expected)
    both = [keeps * (part @ matrix) for keeps, part, matrix in zip(kept, of_low, matrices, strict=True)]
    yield low_rank_kernels.dropped_input(low, into, seeds, 0.5, None), both[0] + both[1]
    yield low_rank_kernels.dropped_input(low, into, seeds, 0.5, x.clone()), x.float() + both[0] + both[1]
