"""Keys and values of sequences that are being decoded, and attention over them.

A cache has a place for each sequence, ``(places, key heads, capacity, width)`` a layer, which grows in blocks and is
written in place. Query heads that share a key head are the rows of one product, so that keys are read once for all of
them and never repeated (Ainslie et al. 2023, arXiv 2305.13245).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 128
"""Tokens by which a cache grows at least."""

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer, by its number: queries ``(rows, heads, width)``, keys and values ``(rows, key heads, width)``
with their positions in them, to ``(rows, heads · width)``. What it is given is kept in the cache."""


class KeyValueCache:
    """Keys and values by layer and place; `capacity` tokens each."""

    def __init__(self, layers: int, key_heads: int, width: int, like: Tensor) -> None:
        self._layers, self._key_heads, self._width, self._like = layers, key_heads, width, like
        self.places = 0
        self.capacity = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def bytes_of(self, places: int, tokens: int) -> int:
        """Size of a cache for so many places and tokens."""
        rounded = math.ceil(tokens / _BLOCK) * _BLOCK
        return 2 * self._layers * places * self._key_heads * rounded * self._width * self._like.element_size()

    def reserve(self, places: int, tokens: int, block: int = _BLOCK) -> None:
        """Make room for so many places and tokens, a multiple of `block`; what is there is kept."""
        if places <= self.places and tokens <= self.capacity:
            return
        if tokens > self.capacity:
            tokens = math.ceil(max(tokens, self.capacity * 1.25) / block) * block
        if places > self.places:
            places = max(places, self.places * 3 // 2)
        places, capacity = max(places, self.places), max(tokens, self.capacity)
        self.keys = self._grown(self.keys, places, capacity)
        self.values = self._grown(self.values, places, capacity)
        self.places, self.capacity = places, capacity

    def _grown(self, old: list[Tensor], places: int, capacity: int) -> list[Tensor]:
        grown = []
        for layer in range(self._layers):
            # Zeros: what lies behind a sequence has weight 0, and must be a number.
            new = self._like.new_zeros((places, self._key_heads, capacity, self._width))
            if old:
                new[: self.places, :, : self.capacity] = old[layer]
            grown.append(new)
        return grown

    def copy_from(self, other: "KeyValueCache", source: int, target: int, tokens: int) -> None:
        """Copy a sequence of so many tokens from a place of another cache, of the same model."""
        for own, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for tensor, from_tensor in zip(own, theirs, strict=True):
                tensor[target, :, :tokens] = from_tensor[source, :, :tokens]

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a sequence of so many tokens to another place."""
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                tensor[target, :, :tokens] = tensor[source, :, :tokens]

    def reorder(self, order: Tensor, tokens: int) -> None:
        """Let place i continue what ``order[i]`` has so far, for the first places; `order` ``(places,)``."""
        count = len(order)
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                part = tensor[:count, :, :tokens]
                part.copy_(part.index_select(0, order))


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `start` to `end` of a forward pass are tokens of the sequence at `place`, after the `before` it has."""

    place: int
    start: int
    end: int
    before: int


@dataclass(frozen=True, slots=True)
class CachedRows:
    """Where the rows of a pass are: row i is the next token of the sequence at ``places[i]``, after ``lengths[i]``.

    Rows of one sequence follow one another. `prefix` holds what all sequences begin with, `prefix_tokens` at its first
    place; it does not count in `lengths`.
    """

    cache: KeyValueCache
    places: Sequence[int]
    lengths: Sequence[int]
    prefix: KeyValueCache | None = None
    prefix_tokens: int = 0


class CachedAttention(ABC):
    """Attention of rows whose sequences are in a cache."""

    @abstractmethod
    def rows(self) -> CachedRows:
        """Where the rows are."""

    @abstractmethod
    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Attention`."""


class PromptAttention(CachedAttention):
    """Several tokens each of one or more sequences, each token seeing what is before it in its own.

    All sequences begin with the `prefix_tokens` at the first place of `prefix`, if there is one, which the spans do not
    count.
    """

    def __init__(
        self,
        cache: KeyValueCache,
        spans: Sequence[Span],
        scaling: float,
        prefix: KeyValueCache | None = None,
        prefix_tokens: int = 0,
    ) -> None:
        self._cache, self._spans, self._scaling = cache, spans, scaling
        self._prefix, self._prefix_tokens = prefix, prefix_tokens
        self._masks: list[Tensor | None] | None = None

    def rows(self) -> CachedRows:
        """See `CachedAttention`."""
        places = [span.place for span in self._spans for _ in range(span.start, span.end)]
        lengths = [span.before + row for span in self._spans for row in range(span.end - span.start)]
        return CachedRows(self._cache, places, lengths, self._prefix, self._prefix_tokens)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Attention`."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        key_heads, width = key.shape[1:]
        output = query.new_empty(query.shape)
        if self._masks is None:
            self._masks = [_causal_mask(span, self._prefix_tokens, keys) for span in self._spans]
        for span, mask in zip(self._spans, self._masks, strict=True):
            rows, tokens = span.end - span.start, span.before + span.end - span.start
            keys[span.place, :, span.before : tokens] = key[span.start : span.end].transpose(0, 1)
            values[span.place, :, span.before : tokens] = value[span.start : span.end].transpose(0, 1)
            own_keys, own_values = keys[span.place, :, :tokens], values[span.place, :, :tokens]
            if self._prefix is not None:
                before = slice(0, self._prefix_tokens)
                own_keys = torch.cat([self._prefix.keys[layer][0, :, before], own_keys], dim=1)
                own_values = torch.cat([self._prefix.values[layer][0, :, before], own_values], dim=1)
            grouped = query[span.start : span.end].reshape(rows, key_heads, -1, width).permute(1, 2, 0, 3)
            group = grouped.shape[1]
            y = functional.scaled_dot_product_attention(
                grouped,
                own_keys[:, None].expand(-1, group, -1, -1),
                own_values[:, None].expand(-1, group, -1, -1),
                attn_mask=mask,
                is_causal=mask is None and rows > 1,
                scale=self._scaling,
            )  # (key heads, group, rows, width)
            output[span.start : span.end] = y.permute(2, 0, 1, 3).reshape(rows, -1, width)
        return output.flatten(1)


def _causal_mask(span: Span, prefix_tokens: int, like: Tensor) -> Tensor | None:
    """What each token of a span may see, ``(rows, before + rows)``; None where causality alone decides."""
    rows, before = span.end - span.start, prefix_tokens + span.before
    if before == 0 or rows == 1:
        return None
    return torch.ones(rows, before + rows, dtype=torch.bool, device=like.device).tril_(before)


class SharedPrefixAttention(CachedAttention):
    """One token each of sequences that begin with the same prefix, which one place of a cache of its own holds.

    The prefix is read once for all of them; both parts are joined by the logarithm of their sums (Dao et al. 2022,
    arXiv 2205.14135). The sequences have `length` tokens each after the prefix of `prefix_tokens`, at the first places
    of `cache`, as many as `sequences` says.
    """

    def __init__(
        self,
        prefix: KeyValueCache,
        prefix_tokens: int,
        cache: KeyValueCache,
        sequences: int,
        length: int,
        scaling: float,
    ) -> None:
        self._prefix, self._prefix_tokens = prefix, prefix_tokens
        self._cache, self._sequences, self._length, self._scaling = cache, sequences, length, scaling

    def rows(self) -> CachedRows:
        """See `CachedAttention`."""
        lengths = [self._length] * self._sequences
        return CachedRows(self._cache, range(self._sequences), lengths, self._prefix, self._prefix_tokens)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Attention`."""
        keys, values, tokens = self._cache.keys[layer], self._cache.values[layer], self._length + 1
        rows, key_heads, width = key.shape
        keys[:rows, :, self._length] = key
        values[:rows, :, self._length] = value
        grouped = query.view(rows, key_heads, -1, width)
        together = grouped.transpose(0, 1).reshape(1, key_heads, -1, width)  # (1, key heads, rows · group, width)
        whole = slice(0, self._prefix_tokens)
        first, first_sum = _attention_with_sum(
            together, self._prefix.keys[layer][:1, :, whole], self._prefix.values[layer][:1, :, whole], self._scaling
        )
        second, second_sum = _attention_with_sum(
            grouped, keys[:rows, :, :tokens], values[:rows, :, :tokens], self._scaling
        )
        first = first.view(key_heads, rows, -1, width).transpose(0, 1)
        first_sum = first_sum.view(key_heads, rows, -1).transpose(0, 1)
        share = torch.sigmoid(first_sum - second_sum).unsqueeze(-1)
        return torch.lerp(second.float(), first.float(), share).to(query.dtype).reshape(rows, -1)


def _attention_with_sum(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention ``(rows, heads, queries, width)``, and the logarithm of each softmax's sum, float32, without width."""
    if query.device.type == "cpu":
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        y, sums = attention(query, key, value, 0.0, False, scale=scaling)
        return y, sums
    scores = (query.float() @ key.float().transpose(-1, -2)) * scaling
    return (scores.softmax(-1) @ value.float()).to(query.dtype), scores.logsumexp(-1)


class StepAttention(CachedAttention):
    """One token each of the sequences at the first places, which have `lengths` tokens before it."""

    def __init__(self, cache: KeyValueCache, lengths: Sequence[int], scaling: float) -> None:
        self._cache, self._lengths, self._scaling = cache, lengths, scaling
        self._tokens = max(lengths) + 1
        self._even = min(lengths) == max(lengths)
        self._uneven: tuple[Tensor, Tensor, Tensor] | None = None

    def rows(self) -> CachedRows:
        """See `CachedAttention`."""
        return CachedRows(self._cache, range(len(self._lengths)), self._lengths)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Attention`."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        rows, key_heads, width = key.shape
        mask = None
        if self._even:
            keys[:rows, :, self._tokens - 1] = key
            values[:rows, :, self._tokens - 1] = value
        else:
            places, positions, mask = self._uneven = self._uneven or self._places(keys)
            keys[places, :, positions] = key
            values[places, :, positions] = value
        y = functional.scaled_dot_product_attention(
            query.view(rows, key_heads, -1, width),
            keys[:rows, :, : self._tokens],
            values[:rows, :, : self._tokens],
            attn_mask=mask,
            scale=self._scaling,
        )  # (rows, key heads, group, width)
        return y.reshape(rows, -1)

    def _places(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Place and position of each row's token, and a mask of what it may see."""
        own = torch.tensor(self._lengths, device=like.device)
        hidden = torch.arange(self._tokens, device=like.device) > own[:, None]
        mask = like.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)[:, None, None]
        return torch.arange(len(self._lengths), device=like.device), own, mask
