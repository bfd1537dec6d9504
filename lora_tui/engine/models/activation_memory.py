"""Estimate of the bytes that a training step needs, from the sizes of the model alone: arithmetic, without torch.

`training.memory` has them from a loaded model, the forecast of a run from a configuration file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SHARE_TO_USE = 0.8
"""Share of the free memory that activations may take; the rest is for workspaces and fragmentation."""

BYTES_PER_TRAINED_PARAMETER = 16
"""In float32: the weight, its gradient, and AdamW's two moments."""

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number, by the name of its precision."""

FOUR_BIT_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of one number in NF4: half a byte, a scale in one byte for 64 of them, and one in float32 for 256 scales."""

BY_HAND = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Types of models whose layers `fast` computes, which keeps half of what autograd keeps."""

_ATTENTION_WEIGHTS = 1.25
"""Short examples keep their attention weights, a few hundred values a token and head, on top of the rest."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model that its activations depend on: features, layers, and `width`, the bytes of a number.

    `by_hand` says that `training.fast` computes the layers; their attention then takes numbers of `attention_width`
    bytes: on the CPU float32, whatever the model is.
    """

    hidden: int
    intermediate: int
    layers: int
    width: int
    by_hand: bool = False
    attention_width: int = 4

    @property
    def layer_bytes(self) -> float:
        """Bytes of one token's activations of one layer, kept until the backward pass.

        By hand: the inputs of both norms in float32, those of the layers with LoRA, queries, keys and values after
        rotation, what attention returns, and the feed-forward's two inner products. Otherwise also queries and keys
        before rotation, the feed-forward's other products, and the norms' float32 copies.
        """
        if self.by_hand:
            plain = self.width * (2 * self.hidden + 2 * self.intermediate) + 2 * 4 * self.hidden
            plain += self.attention_width * 3 * self.hidden
        else:
            plain = self.width * (8 * self.hidden + 4 * self.intermediate) + 4 * 4 * self.hidden
        return _ATTENTION_WEIGHTS * plain


@dataclass(frozen=True, slots=True)
class Recomputation:
    """Which activations are computed again in the backward pass instead of being kept.

    `every` says that every so many-th layer is (1: all, 0: none), `feed_forward` that only the inner products of the
    feed-forward are, in all layers; `offload` moves what remains to the host's memory. `extra` is the time it adds, as
    a share of a step without: a forward pass is half of such a step (two products a weight instead of three).
    """

    name: str
    every: int = 0
    feed_forward: bool = False
    offload: bool = False
    extra: float = 0.0

    def bytes_per_token(self, sizes: Sizes) -> int:
        """Bytes of activations on the device for each token of a row."""
        if self.every:
            again = -(-sizes.layers // self.every)
            inputs = 0 if self.offload else again * sizes.hidden * (4 if sizes.by_hand else sizes.width)
            live = sizes.layer_bytes if self.every == 1 else 0.0
            return int((sizes.layers - again) * sizes.layer_bytes + inputs + live)
        saved = sizes.width * 2 * sizes.intermediate * (sizes.layers - 1) if self.feed_forward else 0
        return int(sizes.layers * sizes.layer_bytes - saved)


NONE = Recomputation("kept")
ALL = Recomputation("recomputed in every layer", every=1, extra=0.5)
OFFLOADED = Recomputation("recomputed in every layer, their inputs moved to the host", every=1, offload=True, extra=0.6)
RECOMPUTATIONS: Sequence[Recomputation] = (
    NONE,
    Recomputation("recomputed in every 4th layer", every=4, extra=0.125),
    Recomputation("recomputed in every 3rd layer", every=3, extra=0.167),
    Recomputation("recomputed in the feed-forward", feed_forward=True, extra=0.2),
    Recomputation("recomputed in every 2nd layer", every=2, extra=0.25),
    ALL,
    OFFLOADED,
)
"""From the fastest to the one that keeps least."""


def cheapest(sizes: Sizes, tokens: int, free: float, *, scale: float = 1.0, offload: bool = False) -> Recomputation:
    """Return the fastest way whose activations of a row of `tokens` fit into `free` bytes; if none do, the last.

    `scale` is measured bytes over estimated ones; `offload` says that the host's memory is another than the device's.
    """
    possible = [
        way for way in RECOMPUTATIONS if (offload or not way.offload) and (sizes.by_hand or not way.feed_forward)
    ]
    fitting = (way for way in possible if way.bytes_per_token(sizes) * tokens * scale <= SHARE_TO_USE * free)
    return next(fitting, possible[-1])
