"""Linear layers with LoRA beside them: ``y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ``, the sum formed inside the product.

PEFT's layer adds a full product to a full product, casts its input to float32 for float32 adapters, and leaves autograd
to keep what each operation wants. Here the input is kept once, the backward pass is the products that the formula has,
and the large products are added onto the small ones, so that a half-precision sum is rounded once. On the CPU the small
ones are float32, as the trained matrices are; a GPU's products take these rounded to the model's precision. Layers that
share their input, as queries, keys and values do, are computed together: their low-rank activations are one product,
and their input's gradient is summed inside the products. Hu et al. 2021 (arXiv 2106.09685).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lora_tui.engine.training.fast import compiled_ops, gpu_ops
from lora_tui.engine.training.fast.dropout import DropoutMask, SeededMask, StoredMask


@dataclass(frozen=True, slots=True)
class LoraLinearSpec:
    """One linear layer for one forward pass: frozen `weight` ``(out, in)`` and `bias`, and what is trained beside them.

    `weight` and `bias` have the input's precision; `lora_a` ``(r, in)`` and `lora_b` ``(out, r)`` may be float32 beside
    bfloat16, and their gradients come in their own precision. Without them nothing is trained. `compute_copies` holds
    both in the input's precision, where their products are to be computed in that. `mask` marks the elements of the
    input that LoRA does not see; `scale` includes the ``1 / (1 - rate)``. `drop_in_kernels` allows kernels that draw
    within a product (`gpu_ops.low_rank_kernels_usable`).

    Several layers can be described as one (`fused_projections`): their weights one below the other, and in
    `compute_copies` their A likewise and their B on the diagonal; `mask` then holds a row of seeds for each. What is
    trained are their `members`; `lora_a` and `lora_b` are those of the first and tell no more than the precision of
    all.
    """

    weight: Tensor
    bias: Tensor | None = None
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scale: float = 1.0
    mask: DropoutMask | None = None
    compute_copies: tuple[Tensor, Tensor] | None = None
    drop_in_kernels: bool = False
    members: tuple["FusedMember", ...] = ()

    def compute_matrices(self) -> tuple[Tensor, Tensor]:
        """A and B in the precision that their products have."""
        assert self.lora_a is not None
        assert self.lora_b is not None
        assert self.compute_copies or not self.members
        return self.compute_copies or (self.lora_a, self.lora_b)

    @property
    def trained(self) -> list[Tensor]:
        """A and B, of each member in turn."""
        if self.members:
            return [matrix for member in self.members for matrix in (member.lora_a, member.lora_b)]
        return [matrix for matrix in (self.lora_a, self.lora_b) if matrix is not None]

    @property
    def kernel_mask(self) -> SeededMask | None:
        """The mask that is drawn within the products; None where nothing is dropped, or beforehand."""
        return self.mask if self.drop_in_kernels and isinstance(self.mask, SeededMask) else None


@dataclass(frozen=True, slots=True)
class FusedMember:
    """One of the layers described as one: what is trained, its rows of the output, its slice of all ranks."""

    lora_a: Tensor
    lora_b: Tensor
    rows: slice
    ranks: slice


@dataclass(frozen=True, slots=True)
class LoraActivations:
    """Low-rank activations of layers that share their input, for both passes.

    `xa` ``(T, r of all)`` is ``s · drop(x) Aᵀ``, of which each layer has its slice, as of `a` ``(r of all, in)``; `b`
    holds a matrix ``(out, r)`` for each layer.
    """

    layers: Sequence[LoraLinearSpec]
    slices: Sequence[slice]
    a: Tensor
    b: Sequence[Tensor]
    xa: Tensor

    @classmethod
    def of(cls, x: Tensor, layers: Sequence[LoraLinearSpec]) -> "LoraActivations":
        """Compute them for an input ``(T, in)``."""
        pairs = [layer.compute_matrices() for layer in layers]
        ends = [0]
        for a, _ in pairs:
            ends.append(ends[-1] + len(a))
        slices = [slice(start, end) for start, end in pairwise(ends)]
        all_a = pairs[0][0] if len(pairs) == 1 else torch.cat([a for a, _ in pairs])
        activations = cls(layers, slices, all_a, [b for _, b in pairs], all_a.new_empty(len(x), ends[-1]))
        compiled = are_compiled(x, layers)
        for group, part in activations._groups():
            xa, first = activations.xa[:, part], group[0]
            if compiled:
                compiled_ops.low_rank_down(x, _dropped(first), all_a[part], first.scale, xa)
            elif (mask := first.kernel_mask) is not None:
                gpu_ops.low_rank_kernels().dropout_xa_(
                    xa, x, all_a[part], _stacked_seeds(group), mask.rate, first.scale
                )
            else:
                xa.addmm_(_lora_input(x, first, xa.dtype), all_a[part].T, beta=0.0, alpha=first.scale)
        return activations

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The layers' outputs ``(T, out)``: the frozen products added onto the low-rank ones."""
        ys = []
        compiled = are_compiled(x, self.layers)
        for layer, part, b in zip(self.layers, self.slices, self.b, strict=True):
            xa = self.xa[:, part]
            if compiled:
                y = compiled_ops.low_rank_up([(xa, b.T.contiguous(), None)], x.dtype, layer.bias)
                ys.append(y.addmm_(x, layer.weight.T))
                continue
            y = xa @ b.T if layer.bias is None else torch.addmm(layer.bias.to(xa.dtype), xa, b.T)
            ys.append(y.to(x.dtype).addmm_(x, layer.weight.T))
        return ys

    def backward(self, x: Tensor, grads: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gradients of ``drop(x) Aᵀ``, of all layers, and of the trained matrices, A and B of each in turn."""
        grad_xa = torch.empty_like(self.xa)
        grads_b = []
        compiled = are_compiled(x, self.layers) and all(grad.dtype == x.dtype for grad in grads)
        for grad, layer, part, b in zip(grads, self.layers, self.slices, self.b, strict=True):
            if compiled:
                plain = grad.contiguous()
                compiled_ops.low_rank_down(plain, None, b.T.contiguous(), layer.scale, grad_xa[:, part])
                grads_b.append(compiled_ops.low_rank_sums(plain, None, self.xa[:, part]).T.contiguous())
                continue
            grad_y = grad.to(b.dtype)
            grad_xa[:, part].addmm_(grad_y, b, beta=0.0, alpha=layer.scale)
            grads_b.append(_product(grad_y.T, self.xa[:, part], layer.lora_b))
        grads_a: list[Tensor] = []
        for group, part in self._groups():
            first, grad_part = group[0], grad_xa[:, part]
            if compiled:
                grad_a = compiled_ops.low_rank_sums(x, _dropped(first), grad_part)
            elif (mask := first.kernel_mask) is not None:
                grad_a = gpu_ops.low_rank_kernels().dropout_grad_a(grad_part, x, _stacked_seeds(group), mask.rate)
                grad_a = grad_a.to(first.lora_a)
            else:
                grad_a = _product(grad_part.T, _lora_input(x, first, grad_xa.dtype), first.lora_a)
            ranks = [len(grad_a)] if len(group) == 1 else [one.stop - one.start for one in self.slices]
            grads_a += torch.split(grad_a, ranks)
        by_layer = map(_member_gradients, self.layers, grads_a, grads_b)
        return grad_xa, [gradient for gradients in by_layer for gradient in gradients]

    def input_gradient(self, x: Tensor, grad_xa: Tensor) -> Tensor:
        """What reaches the input `x` through LoRA, ``(T, in)``, in its precision."""
        if are_compiled(x, self.layers):
            products = [(grad_xa[:, part], self.a[part], _dropped(group[0])) for group, part in self._groups()]
            return compiled_ops.low_rank_up(products, x.dtype)
        total: Tensor | None = None
        for group, part in self._groups():
            first, grad_part, a = group[0], grad_xa[:, part], self.a[part]
            if (mask := first.kernel_mask) is not None:
                seeds = _stacked_seeds(group)
                total = gpu_ops.low_rank_kernels().dropout_grad_x(grad_part, a, seeds, mask.rate, total)
            elif first.mask is None:
                total = grad_part @ a if total is None else total.addmm_(grad_part, a)
            else:
                total = first.mask.add_kept(grad_part @ a, total)
        assert total is not None
        return total.to(x.dtype)

    def _groups(self) -> Iterator[tuple[Sequence[LoraLinearSpec], slice]]:
        """Layers whose low-rank activations are one product, and their slice: all of them at once, or one by one.

        One product takes one scale, and either no dropout or one that is drawn inside, for layers of one rank.
        """
        layers = self.layers
        rates = {mask.rate if (mask := layer.kernel_mask) is not None else None for layer in layers}
        ranks = {part.stop - part.start for part in self.slices}
        dropping = any(layer.mask is not None for layer in layers)
        one_way = len(rates) == 1 and (not dropping or (None not in rates and len(ranks) == 1))
        if one_way and len({layer.scale for layer in layers}) == 1:
            yield layers, slice(0, self.slices[-1].stop)
        else:
            yield from (([layer], part) for layer, part in zip(layers, self.slices, strict=True))

    def split(self) -> "tuple[SavedLayout, list[Tensor]]":
        """A layout without tensors, and all tensors that the backward pass reads, masks among them.

        For ``save_for_backward``: there they are counted, and can be let go.
        """
        saved = [None if layer.mask is None else layer.mask.saved() for layer in self.layers]
        layout = SavedLayout(
            [layer if layer.mask is None else replace(layer, mask=None) for layer in self.layers],
            self.slices,
            [None if one is None else one[1] for one in saved],
        )
        return layout, [self.a, self.xa, *self.b, *(one[0] for one in saved if one is not None)]


@dataclass(frozen=True, slots=True)
class SavedLayout:
    """`LoraActivations` without tensors: `masks` holds what makes a layer's mask of its saved tensor."""

    layers: Sequence[LoraLinearSpec]
    slices: Sequence[slice]
    masks: Sequence[Callable[[Tensor], DropoutMask] | None]

    def restore(self, tensors: Iterator[Tensor]) -> LoraActivations:
        """The activations again, from as many `tensors` as were saved."""
        a, xa = next(tensors), next(tensors)
        b = [next(tensors) for _ in self.layers]
        layers = [
            layer if mask is None else replace(layer, mask=mask(next(tensors)))
            for layer, mask in zip(self.layers, self.masks, strict=True)
        ]
        return LoraActivations(layers, self.slices, a, b, xa)


def _member_gradients(layer: LoraLinearSpec, grad_a: Tensor, grad_b: Tensor) -> list[Tensor]:
    """The gradients of what is trained in a layer, from those of its A and B; members' B have one rank."""
    if not layer.members:
        return [grad_a, grad_b]
    blocks = torch.cat([grad_b[member.rows, member.ranks] for member in layer.members])
    grads_b = torch.split(blocks, [len(member.lora_b) for member in layer.members])
    pairs = zip(layer.members, grads_b, strict=True)
    return [gradient for member, of_member in pairs for gradient in (grad_a[member.ranks], of_member)]


def are_compiled(x: Tensor, layers: Sequence[LoraLinearSpec]) -> bool:
    """Whether compiled code computes the low-rank products of these layers for an input ``(T, in)``."""
    return len(layers) <= compiled_ops.MOST_PRODUCTS and all(
        layer.compute_copies is None
        and layer.lora_a is not None
        and layer.lora_b is not None
        and layer.lora_a.dtype == layer.lora_b.dtype == torch.float32
        and (layer.mask is None or (isinstance(layer.mask, StoredMask) and layer.mask.index.dtype == torch.int64))
        and max(layer.weight.shape) <= compiled_ops.MOST_SIZE
        and layer.weight.shape[0] % compiled_ops.LANES == 0
        and (layer.bias is None or (layer.bias.dtype == x.dtype and layer.bias.is_contiguous()))
        and compiled_ops.usable(x, layer.lora_a)
        for layer in layers
    )


def _dropped(layer: LoraLinearSpec) -> Tensor | None:
    """The flat positions that a layer's LoRA does not see of its input."""
    return layer.mask.index if isinstance(layer.mask, StoredMask) else None


def _lora_input(x: Tensor, layer: LoraLinearSpec, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if layer.mask is None else layer.mask.apply(x, dtype)


def _stacked_seeds(layers: Sequence[LoraLinearSpec]) -> Tensor:
    """The seeds of all tokens for each layer, ``(layers, T)``; fused layers have them in rows already."""
    seeds = [mask.seeds for layer in layers if (mask := layer.kernel_mask) is not None]
    return seeds[0].view(-1, seeds[0].shape[-1]) if len(seeds) == 1 else torch.stack(seeds)


def _product(a: Tensor, b: Tensor, like: Tensor | None) -> Tensor:
    """``a @ b`` in the precision of `like`; a GPU writes the sums as they are, instead of rounding them before."""
    assert like is not None
    if a.is_cuda and torch.version.hip is None and like.dtype != a.dtype:
        return torch.mm(a, b, out_dtype=like.dtype)
    return (a @ b).to(like.dtype)


class _LoraLinears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layers: Sequence[LoraLinearSpec], *_: Tensor) -> tuple[Tensor, ...]:
        adapted = [place for place, layer in enumerate(layers) if layer.lora_a is not None]
        weights = [layer.weight for layer in layers]
        ctx.adapted, ctx.layers = adapted, len(layers)  # type: ignore[attr-defined]  # torch types it bare
        if not adapted:
            ctx.save_for_backward(*weights)
            return tuple(functional.linear(x, layer.weight, layer.bias) for layer in layers)
        activations = LoraActivations.of(x, [layers[place] for place in adapted])
        adapted_outputs = iter(activations.outputs(x))
        ys = tuple(
            functional.linear(x, layer.weight, layer.bias) if layer.lora_a is None else next(adapted_outputs)
            for layer in layers
        )
        ctx.layout, tensors = activations.split()  # type: ignore[attr-defined]
        ctx.save_for_backward(*weights, x, *tensors)
        return ys

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        adapted: list[int] = ctx.adapted  # type: ignore[attr-defined]
        saved = iter(ctx.saved_tensors)  # type: ignore[attr-defined]  # a checkpoint lets them be asked for once
        weights = [next(saved) for _ in range(ctx.layers)]  # type: ignore[attr-defined]
        grad_x: Tensor | None = None
        trained: list[Tensor] = []
        if adapted:
            x, layout = next(saved), ctx.layout  # type: ignore[attr-defined]
            activations: LoraActivations = layout.restore(saved)
            grad_xa, trained = activations.backward(x, [grads[place] for place in adapted])
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            through_lora = activations.input_gradient(x, grad_xa) if adapted else None
            grad_x = add_products(through_lora, grads, weights)
        return grad_x, None, *trained


def add_products(total: Tensor | None, grads: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Add to `total` the gradient of the input that frozen layers share, inside the products."""
    for grad, weight in zip(grads, weights, strict=True):
        total = grad @ weight if total is None else total.addmm_(grad, weight)
    assert total is not None
    return total


def lora_linears(x: Tensor, layers: Sequence[LoraLinearSpec]) -> tuple[Tensor, ...]:
    """The outputs ``(…, out)`` of `layers` for one `x` of shape ``(…, in)``."""
    flat = x.reshape(-1, x.shape[-1])
    trained = [matrix for layer in layers for matrix in layer.trained]
    ys: tuple[Tensor, ...] = _LoraLinears.apply(flat, tuple(layers), *trained)  # type: ignore[no-untyped-call]
    return tuple(y.view(*x.shape[:-1], -1) for y in ys)
