"""A linear layer with LoRA beside it: ``y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ``, the sum formed inside the product.

PEFT's layer adds a full product to a full product, casts its input to float32 for float32 adapters, and leaves autograd
to keep what each operation wants. Here the input is kept once, the low-rank part is added in place, and the backward
pass is the four products that the formula has. Hu et al. 2021 (arXiv 2106.09685).
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lora_tui.engine.training.fast.dropout import Dropped


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora_a: Tensor,
        lora_b: Tensor,
        scale: float,
        dropped: Dropped | None,
        rounded: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        y = functional.linear(x, weight, bias)
        low_in, low_out = rounded or (lora_a.to(x.dtype), lora_b.to(x.dtype))
        low = functional.linear(dropped.copy_of(x) if dropped else x, low_in)  # (T, r)
        y.addmm_(low, low_out.T, alpha=scale)
        ctx.scale, ctx.dropped = scale, dropped  # type: ignore[attr-defined]  # torch types the context without them
        ctx.trained = lora_a.dtype  # type: ignore[attr-defined]
        marks = dropped.marks if dropped else None  # saved only so that it counts as memory that is kept
        ctx.save_for_backward(x, low, weight, low_in, low_out, marks)  # type: ignore[arg-type]  # None is allowed
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight, low_in, low_out, _ = ctx.saved_tensors  # type: ignore[attr-defined]
        scale, dropped = ctx.scale, ctx.dropped  # type: ignore[attr-defined]
        trained: torch.dtype = ctx.trained  # type: ignore[attr-defined]
        grad_low = (grad @ low_out).mul_(scale)  # (T, r)
        grad_b = _product(grad.T, low, trained).mul_(scale)
        grad_a = _product(grad_low.T, dropped.copy_of(x) if dropped else x, trained)
        grad_x = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            grad_x = grad @ weight
            if dropped is None:
                grad_x.addmm_(grad_low, low_in)
            else:
                dropped.add_kept_(grad_x, grad_low @ low_in)
        return grad_x, None, None, grad_a, grad_b, None, None, None


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """``a @ b`` in `dtype`; a GPU writes the sums as they are, instead of rounding them to the factors' precision."""
    if a.is_cuda and dtype != a.dtype:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    dropped: Dropped | None = None,
    rounded: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The layer's output ``(…, out)`` for `x` of shape ``(…, in)``.

    `weight` ``(out, in)`` and `bias` are frozen, in x's precision; `lora_a` ``(r, in)`` and `lora_b` ``(out, r)`` are
    trained and may be float32 beside a bfloat16 input: their gradients come in their own precision. `dropped` marks the
    elements of x that the adapter does not see (`dropout.Draws.dropped`); `scale` holds the ``1 / (1 - rate)`` as well.
    `rounded` holds both matrices in x's precision, where they are at hand already.
    """
    flat = x.reshape(-1, x.shape[-1])
    y: Tensor = _LoraLinear.apply(flat, weight, bias, lora_a, lora_b, scale, dropped, rounded)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)
