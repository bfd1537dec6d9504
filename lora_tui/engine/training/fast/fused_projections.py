"""Layers that share their input as one, for a GPU, which takes as long to begin a product as to compute a small one.

The frozen weights lie one below the other, so that queries, keys and values, or gate and up, come out of one product,
and their input's gradient out of another. So do the matrices A; the matrices B stand on the diagonal of one matrix, and
the zeros beside them cost nothing that a GPU would notice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lora_tui.engine.training.fast.linear import Linear, Member


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
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
    """Layers as one: `linear` describes them without their dropout; `adapted` are those of them that have LoRA.

    It holds the weights as they are now: nobody may give a layer another tensor afterwards.
    """

    linear: Linear
    adapted: Sequence[Adapted]

    @classmethod
    def of(cls, layers: Sequence[Adapted | nn.Linear], highest_rank_that_drops: int) -> "FusedProjection | None":
        """Join `layers`, in this order; None where they are too unlike, or of too high a rank to drop inside products.

        Their weights are moved, not copied: each layer keeps its own, as a part of one tensor.
        """
        bases = [layer.base if isinstance(layer, Adapted) else layer for layer in layers]
        adapted = [layer for layer in layers if isinstance(layer, Adapted)]
        kinds = {(base.weight.shape[1], base.weight.dtype, base.weight.device, base.bias is None) for base in bases}
        ways = {(layer.rank, layer.scale, layer.rate) for layer in adapted}
        dropping = any(layer.rate and layer.rank > highest_rank_that_drops for layer in adapted)
        if len(kinds) > 1 or len(ways) > 1 or dropping:
            return None
        weight = _one_below_the_other([base.weight for base in bases])
        bias = None if bases[0].bias is None else torch.cat([base.bias.detach() for base in bases])
        if not adapted:
            return cls(Linear(weight, bias), [])
        ends = [0, *accumulate(len(base.weight) for base in bases)]
        rows = [slice(*pair) for pair, layer in zip(pairwise(ends), layers, strict=True) if isinstance(layer, Adapted)]
        rank, first = adapted[0].rank, adapted[0]
        members = tuple(
            Member(layer.lora_a, layer.lora_b, of_layer, slice(place * rank, (place + 1) * rank))
            for place, (layer, of_layer) in enumerate(zip(adapted, rows, strict=True))
        )
        into = weight.new_empty(len(adapted) * rank, weight.shape[1])
        out = weight.new_zeros(len(weight), len(adapted) * rank)
        linear = Linear(weight, bias, first.lora_a, first.lora_b, first.scale, rounded=(into, out), members=members)
        return cls(linear, adapted)

    def copies(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Where in the joint matrices a layer's own A and B stand, by its number."""
        assert self.linear.rounded is not None
        into, out = self.linear.rounded
        places = zip(self.adapted, self.linear.members, strict=True)
        return {layer.number: (into[member.ranks], out[member.rows, member.ranks]) for layer, member in places}


def _one_below_the_other(weights: Sequence[Any]) -> Tensor:
    """One tensor of which `weights` are the parts; they are moved into it unless they lie so already."""
    first: Tensor = weights[0].data
    ends = [0, *accumulate(weight.numel() for weight in weights)]
    together = all(
        weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and weight.storage_offset() == first.storage_offset() + start
        and weight.is_contiguous()
        for weight, start in zip(weights, ends, strict=False)
    )
    rows = [len(weight) for weight in weights]
    if together:
        return first.as_strided((sum(rows), first.shape[1]), first.stride())
    joined = torch.cat([weight.data for weight in weights])
    for weight, part in zip(weights, torch.split(joined, rows), strict=True):
        weight.data = part
    return joined
