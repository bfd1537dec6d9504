"""What is between the matrix products on a GPU: the functions of `pointwise` and `attention`, by Triton's kernels."""

import importlib
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def kernels() -> Any:
    """The module of kernels; raises `ImportError` where Triton is not installed."""
    return importlib.import_module("lora_tui.engine.training.fast.kernels")


@lru_cache(maxsize=8)
def why_unusable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Say in a few words what keeps the kernels from being used on `device` in `dtype`; None where they can be."""
    if device.type != "cuda":
        return "they are for GPUs"
    try:
        with torch.cuda.device(device):  # Triton asks the current one
            reason: str | None = kernels().why_unusable(device, dtype)
    except ImportError:
        return "Triton is not installed"
    return reason


def adds_low_ranks(device: torch.device, dtype: torch.dtype, rank: int) -> bool:
    """Tell whether the gated unit's kernels may add low-rank parts of a `rank`, where the others can be used."""
    with torch.cuda.device(device if device.type == "cuda" else -1):
        return bool(kernels().can_add_low_ranks(device, dtype, rank))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        normed, inverse = kernels().rms_norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return normed  # type: ignore[no-any-return]  # the kernels' module has no types

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        return kernels().rms_norm_backward(grad.contiguous(), x, weight, inverse), None, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return kernels().swiglu_forward(gate, up)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors  # type: ignore[attr-defined]
        return kernels().swiglu_backward(grad.contiguous(), gate, up)  # type: ignore[no-any-return]


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


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """What `pointwise.swiglu` computes."""
    y: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions for `x` ``(T, heads, width)``; the angles' cosines and sines are ``(T, width)``."""
    y: Tensor = _Rotation.apply(x, cos.contiguous(), sin.contiguous())  # type: ignore[no-untyped-call]
    return y
