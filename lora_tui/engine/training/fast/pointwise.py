"""What a Llama does between its matrix products, with as few passes over the activations as the formulas allow.

The root-mean-square norm of Zhang & Sennrich 2019 (arXiv 1910.07467) and the gated unit of Shazeer 2020 (arXiv
2002.05202). Both keep their inputs alone: the rest of what the backward pass needs is cheaper to compute again. Both
compute in float32 and round once: a bfloat16 model's gradients are a sixth closer to the exact ones for it.
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
        normed: Tensor = (wide * inverse).mul_(weight)
        return normed.to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        wide = x.float()
        inner = (grad.float() * weight).float()
        along = torch.linalg.vecdot(inner, wide).unsqueeze(-1).mul_(inverse.pow(3) / -x.shape[-1])
        return (inner * inverse).addcmul_(wide, along).to(x.dtype), None, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate.float()).mul_(up).to(up.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors  # type: ignore[attr-defined]  # torch types the context without it
        wide, of_y = gate.float(), grad.float()
        of_gate: Tensor = torch.ops.aten.silu_backward(of_y * up, wide)
        return of_gate.to(gate.dtype), functional.silu(wide).mul_(of_y).to(up.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector of `x` ``(…, width)`` to a mean square of 1, times `weight` ``(width,)``, which is frozen.

    Returned in the weight's precision; the gradient comes in x's. transformers rounds before the weight is applied as
    well as after.
    """
    y: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, of one shape."""
    y: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return y
