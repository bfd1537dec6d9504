"""Linear layers with LoRA beside them: ``y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ``, the sum formed inside the product.

PEFT's layer adds a full product to a full product, casts its input to float32 for float32 adapters, and leaves autograd
to keep what each operation wants. Here the input is kept once, the backward pass is the products that the formula has,
and the large products are added onto the small ones, so that a half-precision sum is rounded once. On the CPU the small
ones are float32, as what is trained; a GPU's products take it rounded to the model's precision. Layers that share their
input, as queries, keys and values do, are computed together: their low ranks are one product, and their input's
gradient is summed inside the products. Hu et al. 2021 (arXiv 2106.09685).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lora_tui.engine.training.fast import gpu_ops
from lora_tui.engine.training.fast.dropout import Dropped


@dataclass(frozen=True, slots=True)
class Linear:
    """A frozen layer, `weight` ``(out, in)`` and `bias`, in the precision of its input, and what is trained beside it.

    `lora_a` ``(r, in)`` and `lora_b` ``(out, r)`` may be float32 beside a bfloat16 input: their gradients come in their
    own precision. `rounded` holds both in the input's, where the low ranks are to be computed in that. `dropped` marks
    the elements of the input that the adapter does not see; `scale` holds the ``1 / (1 - rate)`` as well. With
    `draws_inside`, kernels that draw within a product may be used (`gpu_ops.adds_low_ranks`). Without `lora_a` and
    `lora_b` nothing is trained.

    Several layers can be described as one (`joint`): their weights one below the other, their A likewise and their B on
    the diagonal in `rounded`, and the marks of what they drop in rows. What is trained are then their `members`;
    `lora_a` and `lora_b` are those of the first and tell no more than the precision of all.
    """

    weight: Tensor
    bias: Tensor | None = None
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scale: float = 1.0
    dropped: Dropped | None = None
    rounded: tuple[Tensor, Tensor] | None = None
    draws_inside: bool = False
    members: tuple["Member", ...] = ()

    def low_rank(self) -> tuple[Tensor, Tensor]:
        """Both trained matrices in the precision that their products have."""
        assert self.lora_a is not None
        assert self.lora_b is not None
        assert self.rounded or not self.members
        return self.rounded or (self.lora_a, self.lora_b)

    @property
    def trained(self) -> list[Tensor]:
        """A and B, of each member in turn."""
        if self.members:
            return [matrix for member in self.members for matrix in (member.lora_a, member.lora_b)]
        return [matrix for matrix in (self.lora_a, self.lora_b) if matrix is not None]

    @property
    def rate_inside(self) -> float | None:
        """The rate of a dropout that is drawn within the products; None where nothing is, or beforehand."""
        return self.dropped.drawn_at if self.dropped is not None and self.draws_inside else None


@dataclass(frozen=True, slots=True)
class Member:
    """One of the layers that are described as one: what is trained, its rows of the output, its ranks of them all."""

    lora_a: Tensor
    lora_b: Tensor
    rows: slice
    ranks: slice


@dataclass(frozen=True, slots=True)
class LoraActivations:
    """The low-rank parts of layers that share their input, for both passes.

    `low` ``(T, r of all)`` is ``s · drop(x) Aᵀ``, of which each layer has its slice, as of `into` ``(r of all, in)``;
    `out` holds a matrix ``(out, r)`` for each layer.
    """

    layers: Sequence[Linear]
    slices: Sequence[slice]
    into: Tensor
    out: Sequence[Tensor]
    low: Tensor

    @classmethod
    def of(cls, x: Tensor, layers: Sequence[Linear]) -> "LoraActivations":
        """Compute the low ranks of an input ``(T, in)``."""
        pairs = [layer.low_rank() for layer in layers]
        ends = [0]
        for a, _ in pairs:
            ends.append(ends[-1] + len(a))
        slices = [slice(start, end) for start, end in pairwise(ends)]
        into = pairs[0][0] if len(pairs) == 1 else torch.cat([a for a, _ in pairs])
        ranks = cls(layers, slices, into, [b for _, b in pairs], into.new_empty(len(x), ends[-1]))
        for alike, part in ranks._groups():
            low = ranks.low[:, part]
            if alike[0].rate_inside is not None:
                seeds = _seeds(alike)
                gpu_ops.low_rank_kernels().dropped_low_ranks_(
                    low, x, into[part], seeds, alike[0].rate_inside, alike[0].scale
                )
            else:
                low.addmm_(_seen(x, alike[0], low.dtype), into[part].T, beta=0.0, alpha=alike[0].scale)
        return ranks

    def outputs(self, x: Tensor) -> list[Tensor]:
        """What the layers give: the frozen products added onto the low-rank parts."""
        ys = []
        for layer, part, out in zip(self.layers, self.slices, self.out, strict=True):
            low = self.low[:, part]
            y = low @ out.T if layer.bias is None else torch.addmm(layer.bias.to(low.dtype), low, out.T)
            ys.append(y.to(x.dtype).addmm_(x, layer.weight.T))
        return ys

    def backward(self, x: Tensor, grads: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gradients of ``drop(x) Aᵀ``, of all layers, and of the trained matrices, A and B of each in turn."""
        of_low = torch.empty_like(self.low)
        of_b = []
        for grad, layer, part, out in zip(grads, self.layers, self.slices, self.out, strict=True):
            of_y = grad.to(out.dtype)
            of_low[:, part].addmm_(of_y, out, beta=0.0, alpha=layer.scale)
            of_b.append(_product(of_y.T, self.low[:, part], layer.lora_b))
        of_a: list[Tensor] = []
        for alike, part in self._groups():
            if alike[0].rate_inside is not None:
                together = gpu_ops.low_rank_kernels().dropped_outer(
                    of_low[:, part], x, _seeds(alike), alike[0].rate_inside
                )
                together = together.to(alike[0].lora_a)
            else:
                together = _product(of_low[:, part].T, _seen(x, alike[0], of_low.dtype), alike[0].lora_a)
            sizes = [len(together)] if len(alike) == 1 else [one.stop - one.start for one in self.slices]
            of_a += torch.split(together, sizes)
        apart = map(_of_members, self.layers, of_a, of_b)
        return of_low, [matrix for matrices in apart for matrix in matrices]

    def input_gradient(self, of_low: Tensor) -> Tensor:
        """What reaches the input through the low ranks, ``(T, in)``."""
        total: Tensor | None = None
        for alike, part in self._groups():
            first, low, into = alike[0], of_low[:, part], self.into[part]
            if first.rate_inside is not None:
                total = gpu_ops.low_rank_kernels().dropped_input(low, into, _seeds(alike), first.rate_inside, total)
            elif first.dropped is None:
                total = low @ into if total is None else total.addmm_(low, into)
            else:
                total = first.dropped.kept(low @ into, total)
        assert total is not None
        return total

    def _groups(self) -> Iterator[tuple[Sequence[Linear], slice]]:
        """The layers, and their slices, whose low ranks are one product: all of them where they are alike.

        Alike they are with one scale and nothing dropped, or with a dropout that is drawn inside and one rank as well.
        """
        layers = self.layers
        inside = [layer.rate_inside for layer in layers]
        ranks = {part.stop - part.start for part in self.slices}
        dropping = any(layer.dropped is not None for layer in layers)
        one_way = len(set(inside)) == 1 and (not dropping or (inside[0] is not None and len(ranks) == 1))
        if one_way and len({layer.scale for layer in layers}) == 1:
            yield layers, slice(0, self.slices[-1].stop)
        else:
            yield from (([layer], part) for layer, part in zip(layers, self.slices, strict=True))

    def without_marks(self) -> "Outline":
        """What is left when autograd has `tensors` in keeping."""
        marked = [layer.dropped is not None for layer in self.layers]
        drawn_at = [layer.dropped.drawn_at if layer.dropped is not None else None for layer in self.layers]
        return Outline([replace(layer, dropped=None) for layer in self.layers], self.slices, marked, drawn_at)

    def tensors(self) -> list[Tensor]:
        """All that the backward pass reads, what is dropped among it, so that it is counted and can be let go."""
        marks = [layer.dropped.marks for layer in self.layers if layer.dropped is not None]
        return [self.into, self.low, *self.out, *marks]


@dataclass(frozen=True, slots=True)
class Outline:
    """Low-rank parts without their tensors."""

    layers: Sequence[Linear]
    slices: Sequence[slice]
    marked: Sequence[bool]
    drawn_at: Sequence[float | None]

    def filled(self, tensors: Iterator[Tensor]) -> LoraActivations:
        """The parts again, from as many `tensors` as were kept."""
        into, low = next(tensors), next(tensors)
        out = [next(tensors) for _ in self.layers]
        layers = [
            replace(layer, dropped=Dropped(next(tensors), rate)) if marked else layer
            for layer, marked, rate in zip(self.layers, self.marked, self.drawn_at, strict=True)
        ]
        return LoraActivations(layers, self.slices, into, out, low)


def _of_members(layer: Linear, of_a: Tensor, of_b: Tensor) -> list[Tensor]:
    """The gradients of what is trained in a layer, from those of its A and B; members' B have one rank."""
    if not layer.members:
        return [of_a, of_b]
    blocks = torch.cat([of_b[member.rows, member.ranks] for member in layer.members])
    of_bs = torch.split(blocks, [len(member.lora_b) for member in layer.members])
    return [part for member, of_one in zip(layer.members, of_bs, strict=True) for part in (of_a[member.ranks], of_one)]


def _seen(x: Tensor, layer: Linear, dtype: torch.dtype) -> Tensor:
    return layer.dropped.copy_of(x, dtype) if layer.dropped else x.to(dtype)


def _seeds(layers: Sequence[Linear]) -> Tensor:
    """The seeds of all tokens for each layer, ``(layers, T)``; a layer of several has them in rows already."""
    marks = [layer.dropped.marks for layer in layers if layer.dropped is not None]
    return marks[0].view(-1, marks[0].shape[-1]) if len(marks) == 1 else torch.stack(marks)


def _product(a: Tensor, b: Tensor, like: Tensor | None) -> Tensor:
    """``a @ b`` in the precision of `like`; a GPU writes the sums as they are, instead of rounding them before."""
    assert like is not None
    if a.is_cuda and torch.version.hip is None and like.dtype != a.dtype:
        return torch.mm(a, b, out_dtype=like.dtype)
    return (a @ b).to(like.dtype)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layers: Sequence[Linear], *_: Tensor) -> tuple[Tensor, ...]:
        adapted = [place for place, layer in enumerate(layers) if layer.lora_a is not None]
        kept: list[Tensor] = [layer.weight for layer in layers]
        ctx.adapted, ctx.layers = adapted, len(layers)  # type: ignore[attr-defined]  # torch types it bare
        if not adapted:
            ctx.save_for_backward(*kept)
            return tuple(functional.linear(x, layer.weight, layer.bias) for layer in layers)
        ranks = LoraActivations.of(x, [layers[place] for place in adapted])
        of_adapted = iter(ranks.outputs(x))
        ys = tuple(
            functional.linear(x, layer.weight, layer.bias) if layer.lora_a is None else next(of_adapted)
            for layer in layers
        )
        ctx.outline = ranks.without_marks()  # type: ignore[attr-defined]
        ctx.save_for_backward(*kept, x, *ranks.tensors())
        return ys

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        adapted: list[int] = ctx.adapted  # type: ignore[attr-defined]
        saved = iter(ctx.saved_tensors)  # type: ignore[attr-defined]  # a checkpoint lets them be asked for once
        weights = [next(saved) for _ in range(ctx.layers)]  # type: ignore[attr-defined]
        of_x: Tensor | None = None
        trained: list[Tensor] = []
        if adapted:
            x, outline = next(saved), ctx.outline  # type: ignore[attr-defined]
            ranks: LoraActivations = outline.filled(saved)
            of_low, trained = ranks.backward(x, [grads[place] for place in adapted])
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            through_ranks = ranks.input_gradient(of_low).to(x.dtype) if adapted else None
            of_x = add_products(through_ranks, grads, weights)
        return of_x, None, *trained


def add_products(total: Tensor | None, grads: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Add to `total` the gradient of the input that frozen layers share, inside the products."""
    for grad, weight in zip(grads, weights, strict=True):
        total = grad @ weight if total is None else total.addmm_(grad, weight)
    assert total is not None
    return total


def lora_linears(x: Tensor, layers: Sequence[Linear]) -> tuple[Tensor, ...]:
    """The outputs ``(…, out)`` of `layers` for one `x` of shape ``(…, in)``."""
    flat = x.reshape(-1, x.shape[-1])
    trained = [matrix for layer in layers for matrix in layer.trained]
    ys: tuple[Tensor, ...] = _Linears.apply(flat, tuple(layers), *trained)  # type: ignore[no-untyped-call]
    return tuple(y.view(*x.shape[:-1], -1) for y in ys)
