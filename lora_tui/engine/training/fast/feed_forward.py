"""A gated feed-forward with LoRA on a GPU: ``(silu(x Gᵀ) · x Uᵀ) Dᵀ``, the low-rank parts added where they are read.

The inner tensors are the widest of a model, and adding a low-rank product to one costs as much memory traffic as the
gated unit itself. So the gated unit's kernels compute those parts in passing, forward and backward, and the products of
the frozen weights are kept as they came.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lora_tui.engine.training.fast import fused
from lora_tui.engine.training.fast.linear import Linear, LowRanks, input_gradient

HIGHEST_RANK = 64
"""Rank up to which a kernel holds the low-rank matrices of a block."""


def can_be_fused(layers: Sequence[Linear]) -> bool:
    """Tell whether `feed_forward` takes gate, up and down: all with LoRA, of ranks it can hold, and no dropout.

    The kernels must have been tried for the highest of these ranks (`fused.adds_low_ranks`).
    """
    return all(
        layer.lora_a is not None and layer.dropped is None and layer.bias is None and len(layer.lora_a) <= HIGHEST_RANK
        for layer in layers
    )


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layers: tuple[Linear, Linear, Linear], *_: Tensor) -> Tensor:
        first, down = layers[:2], layers[2]
        gate, up = (functional.linear(x, layer.weight) for layer in first)
        ranks = LowRanks.of(x, first)
        parts = [
            (ranks.low[:, part], out, layer.scale)
            for part, out, layer in zip(ranks.slices, ranks.out, first, strict=True)
        ]
        inner = fused.kernels().gated_forward(gate, up, *parts)
        y = functional.linear(inner, down.weight)
        of_down = LowRanks.of(inner, [down])
        of_down.add_([y])
        ctx.layers, ctx.slices = layers, ranks.slices  # type: ignore[attr-defined]  # torch types the context bare
        weights = [layer.weight for layer in layers]
        ctx.save_for_backward(
            x, gate, up, inner, *weights, ranks.low, ranks.into, *ranks.out, of_down.low, of_down.into, *of_down.out
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, inner, *rest = ctx.saved_tensors  # type: ignore[attr-defined]
        of_gate_w, of_up_w, of_down_w, low, into, gate_out, up_out, low_of_down, into_of_down, out_of_down = rest
        layers: tuple[Linear, Linear, Linear] = ctx.layers  # type: ignore[attr-defined]
        slices: Sequence[slice] = ctx.slices  # type: ignore[attr-defined]
        grad = grad.contiguous()
        whole = slice(0, low_of_down.shape[1])
        down = LowRanks(layers[2:], [whole], into_of_down, [out_of_down], low_of_down)
        of_low_of_down, of_down = down.backward(inner, [grad])
        first = LowRanks(layers[:2], slices, into, [gate_out, up_out], low)
        parts = [
            (low[:, part], out, layer.scale)
            for part, out, layer in zip(slices, (gate_out, up_out), layers, strict=False)
        ]
        of_gate, of_up = fused.kernels().gated_backward(
            grad @ of_down_w, gate, up, *parts, of_low_of_down, into_of_down
        )
        of_low, of_first = first.backward(x, [of_gate, of_up])
        of_x = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            of_x = input_gradient([of_gate, of_up], [of_gate_w, of_up_w])
            first.add_to_input_(of_x, of_low)
        return of_x, None, *of_first, *of_down


def feed_forward(x: Tensor, gate: Linear, up: Linear, down: Linear) -> Tensor:
    """The feed-forward's output for `x` ``(…, hidden)``, of its shape."""
    flat = x.reshape(-1, x.shape[-1])
    layers = (gate, up, down)
    trained = [m for layer in layers for m in (layer.lora_a, layer.lora_b)]
    y: Tensor = _FeedForward.apply(flat, layers, *trained)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)
