"""Linear layers as one, for a GPU, which takes as long to begin a product as to compute a small one.

Layers that share their input, as queries, keys and values do, or gate and up, have their frozen weights one below the
other: all come out of one product, and their input's gradient out of another. So do the matrices A; the matrices B
stand on the diagonal of one matrix, and the zeros beside them cost nothing that a GPU would notice.

A whole feed-forward goes further: its inner tensors are the widest of a model, and adding a low-rank product to one
costs as much memory traffic as the gated unit itself. So the gated unit's kernels compute those products in passing,
forward and backward, and the products of the frozen weights are kept as they came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lora_tui.engine.training.fast import gpu_ops
from lora_tui.engine.training.fast.linear import FusedMember, LoraActivations, LoraLinearSpec, add_products

MAX_KERNEL_RANK = 64
"""Rank up to which a kernel holds the low-rank matrices of a block."""


@dataclass(frozen=True, slots=True)
class ComputeCopies:
    """Copies of the trained matrices in the model's precision, for a GPU's products, rounded together at each step.

    `masters` are A and B of each layer in turn, as they are trained; `copies` those beside them.
    """

    masters: list[Tensor]
    copies: list[Tensor]

    @classmethod
    def of(cls, adapted: Sequence[Any]) -> "ComputeCopies":
        """Make room for copies of the matrices of PEFT's layers, each with one adapter."""
        masters, copies = [], []
        for layer in adapted:
            (adapter,) = layer.active_adapters
            for matrix in (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight):
                masters.append(matrix)
                copies.append(torch.empty_like(matrix, dtype=layer.base_layer.weight.dtype, requires_grad=False))
        return cls(masters, copies)

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the matrices as they are now."""
        pairs = list(zip(self.copies, self.masters, strict=True))
        dense = [(copy, matrix) for copy, matrix in pairs if copy.is_contiguous()]
        if dense:  # asked for at once; one with gaps between its rows would have each asked for by itself
            torch._foreach_copy_([copy for copy, _ in dense], [matrix for _, matrix in dense])
        for copy, matrix in pairs:
            if not copy.is_contiguous():
                copy.copy_(matrix)

    def of_layer(self, number: int) -> tuple[Tensor, Tensor]:
        """The copies of a layer's A and B."""
        return self.copies[2 * number], self.copies[2 * number + 1]

    def move(self, places: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Let the copies of some layers, given by number, stand in these tensors from now on."""
        for number, pair in places.items():
            self.copies[2 * number : 2 * number + 2] = pair


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedLinear:
    """A plain layer with LoRA: its number among the model's, what it consists of, and the rate of its dropout."""

    number: int
    base: nn.Linear
    lora_a: Tensor
    lora_b: Tensor
    scale: float
    dropout: nn.Module
    rate: float

    @property
    def rank(self) -> int:
        """The number of A's rows."""
        return len(self.lora_a)


@dataclass(frozen=True, slots=True)
class FusedProjection:
    """Layers as one: `spec` describes them without their dropout; `adapted` are those of them that have LoRA.

    It holds the weights as they are now: nobody may give a layer another tensor afterwards.
    """

    spec: LoraLinearSpec
    adapted: Sequence[AdaptedLinear]

    @classmethod
    def of(cls, layers: Sequence[AdaptedLinear | nn.Linear], max_dropout_rank: int) -> "FusedProjection | None":
        """Fuse `layers`, in this order; None where they are too unlike, or of too high a rank to drop inside products.

        Their weights are moved, not copied: each layer keeps its own, as a part of one tensor.
        """
        bases = [layer.base if isinstance(layer, AdaptedLinear) else layer for layer in layers]
        adapted = [layer for layer in layers if isinstance(layer, AdaptedLinear)]
        kinds = {(base.weight.shape[1], base.weight.dtype, base.weight.device, base.bias is None) for base in bases}
        ways = {(layer.rank, layer.scale, layer.rate) for layer in adapted}
        dropping = any(layer.rate and layer.rank > max_dropout_rank for layer in adapted)
        if len(kinds) > 1 or len(ways) > 1 or dropping:
            return None
        weight = _stack_in_place([base.weight for base in bases])
        bias = None if bases[0].bias is None else torch.cat([base.bias.detach() for base in bases])
        if not adapted:
            return cls(LoraLinearSpec(weight, bias), [])
        ends = [0, *accumulate(len(base.weight) for base in bases)]
        slices = zip(pairwise(ends), layers, strict=True)
        rows = [slice(*pair) for pair, layer in slices if isinstance(layer, AdaptedLinear)]
        rank, first = adapted[0].rank, adapted[0]
        members = tuple(
            FusedMember(layer.lora_a, layer.lora_b, rows_of_layer, slice(place * rank, (place + 1) * rank))
            for place, (layer, rows_of_layer) in enumerate(zip(adapted, rows, strict=True))
        )
        copies = (
            weight.new_empty(len(adapted) * rank, weight.shape[1]),
            weight.new_zeros(len(weight), len(adapted) * rank),
        )
        spec = LoraLinearSpec(
            weight, bias, first.lora_a, first.lora_b, first.scale, compute_copies=copies, members=members
        )
        return cls(spec, adapted)

    def places(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Where in the fused matrices a layer's own A and B stand, by its number."""
        assert self.spec.compute_copies is not None
        a, b = self.spec.compute_copies
        members = zip(self.adapted, self.spec.members, strict=True)
        return {layer.number: (a[member.ranks], b[member.rows, member.ranks]) for layer, member in members}


def _stack_in_place(weights: Sequence[Any]) -> Tensor:
    """One tensor of which `weights` are the parts; they are moved into it unless they lie so already."""
    first: Tensor = weights[0].data
    ends = [0, *accumulate(weight.numel() for weight in weights)]
    stacked = all(
        weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and weight.storage_offset() == first.storage_offset() + start
        and weight.is_contiguous()
        for weight, start in zip(weights, ends, strict=False)
    )
    rows = [len(weight) for weight in weights]
    if stacked:
        return first.as_strided((sum(rows), first.shape[1]), first.stride())
    whole = torch.cat([weight.data for weight in weights])
    for weight, part in zip(weights, torch.split(whole, rows), strict=True):
        weight.data = part
    return whole


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, specs: tuple[LoraLinearSpec, LoraLinearSpec], *_: Tensor) -> Tensor:
        gate_and_up, down = specs
        both = functional.linear(x, gate_and_up.weight)
        first = LoraActivations.of(x, [gate_and_up])
        gate, up = both.chunk(2, dim=1)
        inner = gpu_ops.low_rank_kernels().gated_forward(gate, up, (first.xa, first.b[0]))
        last = LoraActivations.of(inner, [down])
        (y,) = last.outputs(inner)
        (first_layout, first_tensors), (last_layout, last_tensors) = first.split(), last.split()
        ctx.layouts = first_layout, last_layout  # type: ignore[attr-defined]  # torch types it bare
        ctx.save_for_backward(x, both, inner, gate_and_up.weight, down.weight, *first_tensors, *last_tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, both, inner, gate_and_up_weight, down_weight, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        tensors = iter(kept)
        first, last = (layout.restore(tensors) for layout in ctx.layouts)  # type: ignore[attr-defined]
        grad = grad.contiguous()
        grad_xa_of_down, grads_of_down = last.backward(inner, [grad])
        mask = last.layers[0].kernel_mask
        gate, up = both.chunk(2, dim=1)
        grad_both = gpu_ops.low_rank_kernels().gated_backward(
            grad @ down_weight,
            gate,
            up,
            ((first.xa, first.b[0]), (grad_xa_of_down, last.a)),
            None if mask is None else (mask.seeds, mask.rate),
        )
        grad_xa, grads_of_first = first.backward(x, [grad_both])
        grad_x = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            grad_x = add_products(first.input_gradient(x, grad_xa), [grad_both], [gate_and_up_weight])
        return grad_x, None, *grads_of_first, *grads_of_down


def can_fuse_feed_forward(gate_and_up: LoraLinearSpec, down: LoraLinearSpec) -> bool:
    """Tell whether `feed_forward` takes gate and up, described as one, and down: all with LoRA, none with a bias.

    Their ranks must be ones that a kernel can hold and has been tried for (`gpu_ops.low_rank_kernels_usable`), and what
    is dropped must be drawn inside the products.
    """
    ranks = [len(a) for a in (*(member.lora_a for member in gate_and_up.members), down.lora_a) if a is not None]
    return (
        len(gate_and_up.members) == 2
        and down.lora_a is not None
        and max(ranks) <= MAX_KERNEL_RANK
        and gate_and_up.bias is None
        and down.bias is None
        and (down.mask is None or down.kernel_mask is not None)
    )


def feed_forward(x: Tensor, gate_and_up: LoraLinearSpec, down: LoraLinearSpec) -> Tensor:
    """A gated feed-forward ``(silu(x Gᵀ) · x Uᵀ) Dᵀ`` with LoRA, for `x` ``(…, hidden)``, of its shape."""
    flat = x.reshape(-1, x.shape[-1])
    trained = [*gate_and_up.trained, *down.trained]
    y: Tensor = _FeedForward.apply(flat, (gate_and_up, down), *trained)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)
