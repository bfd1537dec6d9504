"""A gated feed-forward with LoRA on a GPU: ``(silu(x Gᵀ) · x Uᵀ) Dᵀ``, the low-rank parts added where they are read.

The inner tensors are the widest of a model, and adding a low-rank product to one costs as much memory traffic as the
gated unit itself. So the gated unit's kernels compute those parts in passing, forward and backward, and the products of
the frozen weights are kept as they came.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lora_tui.engine.training.fast import fused
from lora_tui.engine.training.fast.linear import Linear, LowRanks, add_products

HIGHEST_RANK = 64
"""Rank up to which a kernel holds the low-rank matrices of a block."""


def can_be_fused(*layers: Linear) -> bool:
    """Tell whether `feed_forward` takes gate, up and down: all with LoRA, of ranks it can hold, no bias.

    What is dropped must be drawn inside the products. The kernels must have been tried for the highest of these ranks
    (`fused.adds_low_ranks`).
    """
    return all(
        layer.lora_a is not None
        and (layer.dropped is None or layer.rate_inside is not None)
        and layer.bias is None
        and len(layer.lora_a) <= HIGHEST_RANK
        for layer in layers
    )


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layers: tuple[Linear, Linear, Linear], *_: Tensor) -> Tensor:
        gate, up = (functional.linear(x, layer.weight) for layer in layers[:2])
        first = LowRanks.of(x, layers[:2])
        inner = fused.kernels().gated_forward(gate, up, *_parts(first))
        last = LowRanks.of(inner, layers[2:])
        (y,) = last.outputs(inner)
        ctx.outlines = first.without_marks(), last.without_marks()  # type: ignore[attr-defined]  # torch types it bare
        weights = [layer.weight for layer in layers]
        ctx.save_for_backward(x, gate, up, inner, *weights, *first.tensors(), *last.tensors())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, inner, *rest = ctx.saved_tensors  # type: ignore[attr-defined]
        of_gate_w, of_up_w, of_down_w, *kept = rest
        tensors = iter(kept)
        first, last = (outline.filled(tensors) for outline in ctx.outlines)  # type: ignore[attr-defined]
        grad = grad.contiguous()
        of_low_of_inner, of_down = last.backward(inner, [grad])
        (down,) = last.layers
        seeds = down.dropped.marks if down.dropped is not None else None
        of_gate, of_up = fused.kernels().gated_backward(
            grad @ of_down_w, gate, up, *_parts(first), (of_low_of_inner, last.into), seeds, down.rate_inside
        )
        of_low, of_first = first.backward(x, [of_gate, of_up])
        of_x = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            of_x = add_products(first.input_gradient(of_low), [of_gate, of_up], [of_gate_w, of_up_w])
        return of_x, None, *of_first, *of_down


def _parts(ranks: LowRanks) -> list[Any]:
    """The low ranks of gate and up, a slice each, and what they are multiplied by."""
    return [(ranks.low[:, part], out) for part, out in zip(ranks.slices, ranks.out, strict=True)]


def feed_forward(x: Tensor, gate: Linear, up: Linear, down: Linear) -> Tensor:
    """The feed-forward's output for `x` ``(…, hidden)``, of its shape."""
    flat = x.reshape(-1, x.shape[-1])
    layers = (gate, up, down)
    trained = [m for layer in layers for m in (layer.lora_a, layer.lora_b)]
    y: Tensor = _FeedForward.apply(flat, layers, *trained)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)
