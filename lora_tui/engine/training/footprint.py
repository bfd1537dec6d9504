"""How many bytes a training step needs, from the shape of the model alone: pure arithmetic, without torch.

`memory` puts a loaded model's numbers in; whoever shows a run before it begins has them from a configuration file.
"""

SHARE_TO_USE = 0.8
"""Share of the free memory that activations may take; the rest is for workspaces and fragmentation."""

BYTES_PER_TRAINED_PARAMETER = 16
"""In float32: the weight, its gradient, and AdamW's two memories."""

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number, by the name of its precision."""

FOUR_BIT_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of one number in NF4: half a byte, a scale in one byte for 64 of them, and one in float32 for 256 scales."""

_ATTENTION_SCORES = 1.25
"""On the CPU short examples keep their attention scores, a few hundred values a token and head, on top of the rest."""


def activation_bytes_per_token(hidden: int, intermediate: int, layers: int, width: int) -> int:
    """Bytes that one token's activations keep until the backward pass, all layers together.

    Per layer: the inputs of both norms and of every linear layer, queries, keys and values before and after rotation,
    the feed-forward's three products, and the norms' float32 copies. `width` is the bytes of one number.
    """
    return int(_ATTENTION_SCORES * layers * _of_a_layer(hidden, intermediate, width))


def recomputed_bytes_per_token(hidden: int, intermediate: int, layers: int, width: int) -> int:
    """The same with ``gradient_checkpointing``: every layer keeps its input alone, and one at a time all it needs."""
    return int(layers * width * hidden + _ATTENTION_SCORES * _of_a_layer(hidden, intermediate, width))


def _of_a_layer(hidden: int, intermediate: int, width: int) -> int:
    return width * (8 * hidden + 4 * intermediate) + 4 * 4 * hidden
