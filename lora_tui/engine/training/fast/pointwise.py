"""What a Llama does between its matrix products, with as few passes over the activations as the formulas allow.

The root-mean-square norm of Zhang & Sennrich 2019 (arXiv 1910.07467) and the gated unit of Shazeer 2020 (arXiv
2002.05202). Both keep their inputs alone: the rest of what the backward pass needs is cheaper to compute again.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = (torch.linalg.vecdot(wide, wide).unsqueeze(-1) / x.shape[-1]).add_(eps).rsqrt_()  # (…, 1)
        ctx.save_for_backward(x, weight, inverse)
        normed: Tensor = (wide * inverse).to(weight.dtype).mul_(weight)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        wide = x.float()
        inner = (grad * weight).float()
        along = torch.linalg.vecdot(inner, wide).unsqueeze(-1).mul_(inverse.pow(3) / -x.shape[-1])
        return (inner * inverse).addcmul_(wide, along).to(x.dtype), None, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        grad_up = functional.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector of `x` ``(…, width)`` to a mean square of 1, times `weight` ``(width,)``, which is frozen.

    Computed in float32 and returned in the weight's precision, rounded before the weight is applied, as transformers
    does it; the gradient comes in x's.
    """
    y: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, of one shape."""
    y: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return y
