"""What is between the matrix products on a GPU: the functions of `pointwise` and `attention`, by Triton's kernels."""

import importlib
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

_WIDEST_HEAD = 128
"""Widest head that the attention's blocks were chosen for: two sums of a wider one do not fit into registers."""


def kernels() -> Any:
    """The module of kernels; raises `ImportError` where Triton is not installed, as the next ones do."""
    return importlib.import_module("lora_tui.engine.training.fast.kernels")


def low_rank_kernels() -> Any:
    """The module of the kernels that compute low-rank parts and drop."""
    return importlib.import_module("lora_tui.engine.training.fast.low_rank_kernels")


def attention_kernels() -> Any:
    """The module of the attention's kernels."""
    return importlib.import_module("lora_tui.engine.training.fast.attention_kernels")


def trials() -> Any:
    """The module that tries them."""
    return importlib.import_module("lora_tui.engine.training.fast.kernel_selftest")


@lru_cache(maxsize=8)
def unusable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Say in a few words what keeps the kernels from being used on `device` in `dtype`; None where they can be."""
    if device.type != "cuda":
        return "they are for GPUs"
    try:
        with torch.cuda.device(device):  # Triton asks the current one
            reason: str | None = trials().unusable_reason(device, dtype)
    except ImportError:
        return "Triton is not installed"
    return reason


def adds_low_ranks(device: torch.device, dtype: torch.dtype, rank: int) -> bool:
    """Tell whether kernels may compute low-rank parts of a `rank`, where the others can be used.

    The gated unit adds them in passing then, and what is dropped is drawn inside their products.
    """
    with torch.cuda.device(device if device.type == "cuda" else -1):
        return bool(trials().can_add_low_ranks(device, dtype, rank))


def attends(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int) -> bool:
    """Tell whether attention may be computed by kernels of ours, where the others can be used.

    On GPUs before Hopper torch's own kernel, which is made for them, is left to do it, as it is for wider heads than
    were measured.
    """
    if width > _WIDEST_HEAD:
        return False
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0):
        return False
    with torch.cuda.device(device if device.type == "cuda" else -1):
        return bool(attention_kernels().can_attend(device, dtype, heads, key_heads, width))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        normed, inverse, _ = kernels().rms_norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return normed  # type: ignore[no-any-return]  # the kernels' module has no types

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        return kernels().rms_norm_backward(grad.contiguous(), x, weight, inverse), None, None


class _Branch(torch.autograd.Function):
    """Where the sum that the layers add to goes on and its norm branches off: both gradients meet in one kernel."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, more: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        normed, inverse, total = kernels().rms_norm_forward(x, weight, eps, None if more is None else more.contiguous())
        ctx.save_for_backward(total, weight, inverse)
        ctx.adds = more is not None  # type: ignore[attr-defined]
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, of_total: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, inverse = ctx.saved_tensors  # type: ignore[attr-defined]
        of_x = kernels().rms_norm_backward(grad.contiguous(), total, weight, inverse, of_total.contiguous())
        return of_x, of_x if ctx.adds else None, None, None  # type: ignore[attr-defined]


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return low_rank_kernels().gated_forward(gate, up)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        of_both: Tensor = low_rank_kernels().gated_backward(grad.contiguous(), *ctx.saved_tensors)  # type: ignore[attr-defined]
        return of_both.chunk(2, dim=1)


class _GatedUnit(torch.autograd.Function):
    """The same of halves: autograd would join their gradients by a copy."""

    @staticmethod
    def forward(ctx: FunctionCtx, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        return low_rank_kernels().gated_forward(*both.chunk(2, dim=1))  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return low_rank_kernels().gated_backward(grad.contiguous(), *both.chunk(2, dim=1))  # type: ignore[no-any-return]


class _RotatedHeads(torch.autograd.Function):
    """Queries, keys and values that came out of one product, for an attention that takes them apart."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        turned = kernels().rotate(x, cos, sin, 1.0, x.shape[1] - key_heads)
        return turned[:, : -2 * key_heads], turned[:, -2 * key_heads : -key_heads], turned[:, -key_heads:]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors  # type: ignore[attr-defined]
        of_q, of_k, of_v = (grad.contiguous() for grad in grads)
        return kernels().rotate_back(of_q, of_k, of_v, cos, sin, of_k.shape[1]), None, None, None


class _RotaryAttention(torch.autograd.Function):
    """The rotation and the attention after it; of what came out of the product nothing is kept."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, numbers: tuple[int, int, float]
    ) -> Tensor:
        key_heads, max_seqlen, scaling = numbers
        turned = kernels().rotate(x, cos, sin, 1.0, x.shape[1] - key_heads)
        mixed, lse = attention_kernels().attend(turned, key_heads, cu_seqlens, max_seqlen, scaling)
        ctx.numbers = numbers  # type: ignore[attr-defined]
        ctx.save_for_backward(turned, mixed, lse, cos, sin, cu_seqlens)
        return mixed  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        turned, mixed, lse, cos, sin, cu_seqlens = ctx.saved_tensors  # type: ignore[attr-defined]
        key_heads, max_seqlen, scaling = ctx.numbers  # type: ignore[attr-defined]
        of_heads = attention_kernels().attend_backward(
            grad.contiguous(), turned, key_heads, mixed, lse, cu_seqlens, max_seqlen, scaling
        )
        return kernels().rotate_back(*of_heads, cos, sin, key_heads), None, None, None, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return kernels().rotate(x.contiguous(), cos, sin)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors  # type: ignore[attr-defined]
        # The transpose of a rotation is the rotation by the opposite angle.
        return kernels().rotate(grad.contiguous(), cos, sin, -1.0), None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What `pointwise.rms_norm` computes."""
    y: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


def branch(x: Tensor, more: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + more``, or `x` where there is no more, and its norm."""
    both: tuple[Tensor, Tensor] = _Branch.apply(x, more, weight, eps)  # type: ignore[no-untyped-call]
    return both


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """What `pointwise.swiglu` computes."""
    flat = (values.reshape(-1, values.shape[-1]).contiguous() for values in (gate, up))
    y: Tensor = _SwiGlu.apply(*flat)  # type: ignore[no-untyped-call]
    return y.view(gate.shape)


def gated_unit(both: Tensor) -> Tensor:
    """``silu(gate) * up`` ``(…, width)`` of gate and up side by side ``(…, 2 · width)``."""
    flat = both.reshape(-1, both.shape[-1])
    y: Tensor = _GatedUnit.apply(flat)  # type: ignore[no-untyped-call]
    return y.view(*both.shape[:-1], -1)


def rotated_heads(x: Tensor, cos: Tensor, sin: Tensor, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of `x` ``(T, heads, width)``, in which they lie in turn, the first two rotated.

    There are `key_heads` heads of keys, and of values; the angles' cosines and sines are ``(T, width)``.
    """
    apart: tuple[Tensor, Tensor, Tensor] = _RotatedHeads.apply(x, cos.contiguous(), sin.contiguous(), key_heads)  # type: ignore[no-untyped-call]
    return apart


def rotary_attention(
    x: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, key_heads: int, max_seqlen: int, scaling: float
) -> Tensor:
    """Causal attention over the spans between `cu_seqlens`, ``(T, heads, width)``; `x` and angles as above.

    `cu_seqlens` ``(spans + 1,)`` are int32, on the device, and no span is longer than `max_seqlen`.
    """
    numbers = (key_heads, max_seqlen, scaling)
    y: Tensor = _RotaryAttention.apply(x, cos.contiguous(), sin.contiguous(), cu_seqlens, numbers)  # type: ignore[no-untyped-call]
    return y


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions for `x` ``(T, heads, width)``; the angles' cosines and sines are ``(T, width)``."""
    y: Tensor = _Rotation.apply(x, cos.contiguous(), sin.contiguous())  # type: ignore[no-untyped-call]
    return y
