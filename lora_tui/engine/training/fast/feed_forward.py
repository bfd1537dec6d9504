"""A gated feed-forward with LoRA on a GPU: ``(silu(x Gᵀ) · x Uᵀ) Dᵀ``, the low-rank parts added where they are read.

The inner tensors are the widest of a model, and adding a low-rank product to one costs as much memory traffic as the
gated unit itself. So the gated unit's kernels compute those parts in passing, forward and backward, and the products of
the frozen weights are kept as they came.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lora_tui.engine.training.fast import gpu_ops
from lora_tui.engine.training.fast.linear import Linear, LoraActivations, add_products

HIGHEST_RANK = 64
"""Rank up to which a kernel holds the low-rank matrices of a block."""


def can_be_fused(both: Linear, down: Linear) -> bool:
    """Tell whether `feed_forward` takes gate and up, described as one, and down: all with LoRA, none with a bias.

    Their ranks must be ones that a kernel can hold and has been tried for (`gpu_ops.adds_low_ranks`), and what is
    dropped must be drawn inside the products.
    """
    ranks = [len(a) for a in (*(member.lora_a for member in both.members), down.lora_a) if a is not None]
    return (
        len(both.members) == 2
        and down.lora_a is not None
        and max(ranks) <= HIGHEST_RANK
        and both.bias is None
        and down.bias is None
        and (down.dropped is None or down.rate_inside is not None)
    )


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layers: tuple[Linear, Linear], *_: Tensor) -> Tensor:
        gate_and_up, down = layers
        both = functional.linear(x, gate_and_up.weight)
        first = LoraActivations.of(x, [gate_and_up])
        inner = gpu_ops.low_rank_kernels().gated_forward(*both.chunk(2, dim=1), first.low, first.out[0])
        last = LoraActivations.of(inner, [down])
        (y,) = last.outputs(inner)
        ctx.outlines = first.without_marks(), last.without_marks()  # type: ignore[attr-defined]  # torch types it bare
        weights = [layer.weight for layer in layers]
        ctx.save_for_backward(x, both, inner, *weights, *first.tensors(), *last.tensors())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, both, inner, of_both_w, of_down_w, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        tensors = iter(kept)
        first, last = (outline.filled(tensors) for outline in ctx.outlines)  # type: ignore[attr-defined]
        grad = grad.contiguous()
        of_low_of_inner, of_down = last.backward(inner, [grad])
        (down,) = last.layers
        of_both = gpu_ops.low_rank_kernels().gated_backward(
            grad @ of_down_w,
            *both.chunk(2, dim=1),
            (first.low, first.out[0]),
            (of_low_of_inner, last.into),
            down.dropped.marks if down.dropped is not None else None,
            down.rate_inside,
        )
        of_low, of_first = first.backward(x, [of_both])
        of_x = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            of_x = add_products(first.input_gradient(of_low), [of_both], [of_both_w])
        return of_x, None, *of_first, *of_down


def feed_forward(x: Tensor, gate_and_up: Linear, down: Linear) -> Tensor:
    """The feed-forward's output for `x` ``(…, hidden)``, of its shape."""
    flat = x.reshape(-1, x.shape[-1])
    trained = [*gate_and_up.trained, *down.trained]
    y: Tensor = _FeedForward.apply(flat, (gate_and_up, down), *trained)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)
