"""Linear layers with LoRA beside them: ``y = x Wᵀ + b + s · drop(x) Aᵀ Bᵀ``, the sum formed inside the product.

PEFT's layer adds a full product to a full product, casts its input to float32 for float32 adapters, and leaves autograd
to keep what each operation wants. Here the input is kept once, the low-rank part is added in place, and the backward
pass is the products that the formula has. Layers that share their input, as queries, keys and values do, are computed
together: their low ranks are one product, and their input's gradient is summed inside the products.
Hu et al. 2021 (arXiv 2106.09685).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from lora_tui.engine.training.fast.dropout import Dropped


@dataclass(frozen=True, slots=True)
class Linear:
    """A frozen layer, `weight` ``(out, in)`` and `bias`, in the precision of its input, and what is trained beside it.

    `lora_a` ``(r, in)`` and `lora_b` ``(out, r)`` may be float32 beside a bfloat16 input: their gradients come in their
    own precision. `rounded` holds both in the input's, where they are at hand already. `dropped` marks the elements of
    the input that the adapter does not see; `scale` holds the ``1 / (1 - rate)`` as well. Without `lora_a` and
    `lora_b` nothing is trained.
    """

    weight: Tensor
    bias: Tensor | None = None
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scale: float = 1.0
    dropped: Dropped | None = None
    rounded: tuple[Tensor, Tensor] | None = None

    def low_rank(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both trained matrices in the precision of `like`."""
        assert self.lora_a is not None
        assert self.lora_b is not None
        return self.rounded or (self.lora_a.to(like.dtype), self.lora_b.to(like.dtype))


@dataclass(frozen=True, slots=True)
class LowRanks:
    """The low-rank parts of layers that share their input, for both passes.

    `low` is ``(T, r of all)``, of which each layer has its slice, as of `into` ``(r of all, in)``; `out` holds a matrix
    ``(out, r)`` for each layer.
    """

    layers: Sequence[Linear]
    slices: Sequence[slice]
    into: Tensor
    out: Sequence[Tensor]
    low: Tensor

    @classmethod
    def of(cls, x: Tensor, layers: Sequence[Linear]) -> "LowRanks":
        """Compute the low ranks of an input ``(T, in)``."""
        pairs = [layer.low_rank(x) for layer in layers]
        ends = [0]
        for a, _ in pairs:
            ends.append(ends[-1] + len(a))
        slices = [slice(start, end) for start, end in pairwise(ends)]
        into = pairs[0][0] if len(pairs) == 1 else torch.cat([a for a, _ in pairs])
        if any(layer.dropped for layer in layers):
            low = x.new_empty(len(x), ends[-1])
            for layer, part in zip(layers, slices, strict=True):
                low[:, part] = functional.linear(_seen(x, layer), into[part])
        else:
            low = functional.linear(x, into)
        return cls(layers, slices, into, [b for _, b in pairs], low)

    def add_(self, ys: Sequence[Tensor]) -> None:
        """Add each layer's part to its output."""
        for y, layer, part, out in zip(ys, self.layers, self.slices, self.out, strict=True):
            y.addmm_(self.low[:, part], out.T, alpha=layer.scale)

    def backward(self, x: Tensor, grads: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gradients of `low` and of the trained matrices, A and B of each layer in turn."""
        of_low = torch.empty_like(self.low)
        of_b = []
        for grad, layer, part, out in zip(grads, self.layers, self.slices, self.out, strict=True):
            torch.mm(grad, out, out=of_low[:, part]).mul_(layer.scale)
            assert layer.lora_b is not None
            of_b.append(_product(grad.T, self.low[:, part], layer.lora_b.dtype).mul_(layer.scale))
        if any(layer.dropped for layer in self.layers):
            of_a = [
                self._of_into(of_low[:, part].T, _seen(x, layer))
                for layer, part in zip(self.layers, self.slices, strict=True)
            ]
        else:
            together = self._of_into(of_low.T, x)
            of_a = [together[part] for part in self.slices]
        return of_low, [matrix for pair in zip(of_a, of_b, strict=True) for matrix in pair]

    def add_to_input_(self, of_x: Tensor, of_low: Tensor) -> None:
        """Add what reaches the input through the low ranks to its gradient."""
        if not any(layer.dropped for layer in self.layers):
            of_x.addmm_(of_low, self.into)
            return
        for layer, part in zip(self.layers, self.slices, strict=True):
            if layer.dropped is None:
                of_x.addmm_(of_low[:, part], self.into[part])
            else:
                layer.dropped.add_kept_(of_x, of_low[:, part] @ self.into[part])

    def _of_into(self, of_low: Tensor, x: Tensor) -> Tensor:
        lora_a = self.layers[0].lora_a
        assert lora_a is not None
        return _product(of_low, x, lora_a.dtype)


def _seen(x: Tensor, layer: Linear) -> Tensor:
    return layer.dropped.copy_of(x) if layer.dropped else x


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """``a @ b`` in `dtype`; a GPU writes the sums as they are, instead of rounding them to the factors' precision."""
    if a.is_cuda and torch.version.hip is None and dtype != a.dtype:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layers: Sequence[Linear], *_: Tensor) -> tuple[Tensor, ...]:
        ys = tuple(functional.linear(x, layer.weight, layer.bias) for layer in layers)
        adapted = [place for place, layer in enumerate(layers) if layer.lora_a is not None]
        # What is dropped is kept with the tensors, so that it is counted, and let go where it is computed again.
        ctx.layers = [replace(layer, dropped=None) for layer in layers]  # type: ignore[attr-defined]  # torch types it bare
        ctx.adapted = adapted  # type: ignore[attr-defined]
        ctx.drawn_at = [layer.dropped and layer.dropped.drawn_at for layer in layers]  # type: ignore[attr-defined]
        ctx.dropping = [place for place, layer in enumerate(layers) if layer.dropped]  # type: ignore[attr-defined]
        kept: list[Tensor] = [layer.weight for layer in layers]
        if adapted:
            ranks = LowRanks.of(x, [layers[place] for place in adapted])
            ranks.add_([ys[place] for place in adapted])
            ctx.slices = ranks.slices  # type: ignore[attr-defined]
            marks = [layer.dropped.marks for layer in layers if layer.dropped]
            kept += [x, ranks.into, ranks.low, *ranks.out, *marks]
        ctx.save_for_backward(*kept)
        return ys

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layers: list[Linear] = [*ctx.layers]  # type: ignore[attr-defined]
        adapted: list[int] = ctx.adapted  # type: ignore[attr-defined]
        saved = ctx.saved_tensors  # type: ignore[attr-defined]  # a checkpoint lets them be asked for once
        weights, kept = saved[: len(layers)], saved[len(layers) :]
        of_x: Tensor | None = None
        trained: list[Tensor] = []
        if adapted:
            x, into, low, *rest = kept
            out, marks = rest[: len(adapted)], iter(rest[len(adapted) :])
            drawn_at, dropping = ctx.drawn_at, ctx.dropping  # type: ignore[attr-defined]
            for place in dropping:
                layers[place] = replace(layers[place], dropped=Dropped(next(marks), drawn_at[place]))
            slices: Sequence[slice] = ctx.slices  # type: ignore[attr-defined]
            ranks = LowRanks([layers[place] for place in adapted], slices, into, out, low)
            of_low, trained = ranks.backward(x, [grads[place] for place in adapted])
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            of_x = input_gradient(grads, weights)
            if adapted:
                ranks.add_to_input_(of_x, of_low)
        return of_x, None, *trained


def input_gradient(grads: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """The gradient of the input that frozen layers share, summed inside the products."""
    of_x = grads[0] @ weights[0]
    for grad, weight in zip(grads[1:], weights[1:], strict=True):
        of_x.addmm_(grad, weight)
    return of_x


def lora_linears(x: Tensor, layers: Sequence[Linear]) -> tuple[Tensor, ...]:
    """The outputs ``(…, out)`` of `layers` for one `x` of shape ``(…, in)``."""
    flat = x.reshape(-1, x.shape[-1])
    trained = [m for layer in layers for m in (layer.lora_a, layer.lora_b) if m is not None]
    ys: tuple[Tensor, ...] = _Linears.apply(flat, tuple(layers), *trained)  # type: ignore[no-untyped-call]
    return tuple(y.view(*x.shape[:-1], -1) for y in ys)
