"""Dropout of LoRA's inputs whose draws are a function of (seed, step, example, layer), and of nothing else.

The same elements are dropped however a step's examples are packed, in however small micro-batches an exhausted memory
has it computed, whether activations are kept or computed again, and after a resumption; torch's own generator is not
touched. Only the *dropped* elements are drawn, as the gaps between them: at a rate of 0.05 that is a twentieth of the
random numbers, and torch's own dropout costs the CPU more than the layer's matrix product does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor

from lora_tui.engine.training.fast import gpu_ops
from lora_tui.engine.training.packing import to_device

MAX_POSITIONS_RATE = 0.125
"""Up to this rate eight bytes for each dropped element take less memory than one byte for every element."""

_LAYERS_PER_TRANSFER = 512
"""Layers whose seeds are sent to a GPU together."""

_TOKEN_SEED_STRIDE = 0x9E3779B97F4A7C15 - 2**64
"""What the seeds of neighbouring tokens differ by: odd, so that no two tokens of an example share one."""

_LAYERS_PER_SEED_BLOCK = 64
"""Layers whose seeds are made together: numpy holds the interpreter for it, and the other rows wait."""


class DropoutMask(Protocol):
    """Which elements of a layer's input ``(T, in)`` LoRA does not see."""

    def apply(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A contiguous copy of `values`, in `dtype` where one is given, with zeros at the dropped elements."""

    def add_kept(self, part: Tensor, total: Tensor | None) -> Tensor:
        """The kept elements of `part`, added to a `total` where there is one; contiguous, `part` maybe overwritten."""

    def saved(self) -> "tuple[Tensor, Callable[[Tensor], DropoutMask]]":
        """The tensor that autograd is to keep, and what makes the mask of it again."""


@dataclass(frozen=True, slots=True)
class StoredMask:
    """Dropped elements as an index of torch's, on the CPU: their flat positions, int64, or a bool mask ``(T, in)``."""

    index: Tensor

    def apply(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """See `DropoutMask`."""
        return self._zero_(torch.empty(values.shape, dtype=dtype or values.dtype, device=values.device).copy_(values))

    def add_kept(self, part: Tensor, total: Tensor | None) -> Tensor:
        """See `DropoutMask`."""
        self._zero_(part)
        return part if total is None else total.add_(part)

    def saved(self) -> tuple[Tensor, Callable[[Tensor], DropoutMask]]:
        """See `DropoutMask`."""
        return self.index, StoredMask

    def _zero_(self, values: Tensor) -> Tensor:
        if self.index.dtype == torch.bool:
            return values.masked_fill_(self.index, 0.0)
        values.view(-1).index_fill_(0, self.index, 0.0)
        return values


@dataclass(frozen=True, slots=True)
class SeededMask:
    """Dropped elements as a seed for each token, int64 ``(T,)``, from which a GPU draws whenever it passes them.

    No mask is kept or read. For projections that are computed as one, `seeds` are ``(layers, T)``.
    """

    seeds: Tensor
    rate: float

    def apply(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """See `DropoutMask`."""
        return gpu_ops.low_rank_kernels().dropout(values.contiguous(), self.seeds, self.rate).to(dtype or values.dtype)

    def add_kept(self, part: Tensor, total: Tensor | None) -> Tensor:
        """See `DropoutMask`."""
        if total is None:
            return self.apply(part)
        gpu_ops.low_rank_kernels().add_kept_(total, part, self.seeds, self.rate)
        return total

    def saved(self) -> tuple[Tensor, Callable[[Tensor], DropoutMask]]:
        """See `DropoutMask`."""
        return self.seeds, partial(SeededMask, rate=self.rate)


class MaskSource(Protocol):
    """What draws the dropout of a row: a `DropoutRng`, or the fixed seeds that a CUDA graph reads."""

    def mask(self, layer: int, width: int, rate: float, device: torch.device, dtype: torch.dtype) -> DropoutMask:
        """The elements of a ``(T, width)`` input that layer number `layer` drops, each with probability `rate`."""


@dataclass(frozen=True, slots=True)
class DropoutRng:
    """Counter-based random numbers of one packed row's dropout.

    `examples` holds each span's place within its optimizer step, which stays the same when the step is packed anew;
    `spans` their (start, end) in the row.
    """

    seed: int
    step: int
    examples: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def mask(
        self, layer: int, width: int, rate: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> DropoutMask:
        """See `MaskSource`: a `SeededMask` where the kernels take `dtype` on `device`, a `StoredMask` elsewhere."""
        if gpu_ops.unusable_reason(device, dtype) is None:
            layers = -(-(layer + 1) // _LAYERS_PER_TRANSFER) * _LAYERS_PER_TRANSFER
            return SeededMask(_row_token_seeds(self, layers, device)[layer], rate)
        if device.type == "cpu":
            return StoredMask(self._index_on_cpu(layer, width, rate))
        mask = torch.empty(self.spans[-1][1], width, dtype=torch.bool, device=device)
        generator = torch.Generator(device)
        for example, (start, end) in zip(self.examples, self.spans, strict=True):
            generator.manual_seed(int(self._seed_words(example, layer)[0] >> np.uint64(1)))
            mask[start:end].bernoulli_(rate, generator=generator)
        return StoredMask(mask)

    def _index_on_cpu(self, layer: int, width: int, rate: float) -> Tensor:
        """Flat positions at low rates, a mask at high ones."""
        parts = []
        for example, (start, end) in zip(self.examples, self.spans, strict=True):
            source = np.random.SFC64(_SeedWords(self._seed_words(example, layer)))  # type: ignore[arg-type]  # numpy's stub
            positions = bernoulli_positions(np.random.Generator(source), (end - start) * width, rate)
            positions += start * width
            parts.append(positions)
        dropped = torch.from_numpy(np.concatenate(parts))
        if rate <= MAX_POSITIONS_RATE:
            return dropped
        mask = torch.zeros(self.spans[-1][1] * width, dtype=torch.bool)
        return mask.index_fill_(0, dropped, value=True).view(-1, width)

    def _seed_words(self, example: int, layer: int) -> np.ndarray:
        block, place = divmod(layer, _LAYERS_PER_SEED_BLOCK)
        words: np.ndarray = _seed_block(self.seed, self.step, example, block)[place]
        return words


class _SeedWords(ISeedSequence):
    """The three words that SFC64 asks a seed sequence for, computed beforehand."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> np.ndarray:
        assert n_words == len(self._words)
        return self._words


@lru_cache(maxsize=1024)
def _seed_block(seed: int, step: int, example: int, block: int) -> np.ndarray:
    """What SFC64 begins with, three words for each layer of a block."""
    words = np.random.SeedSequence([seed, step, example, block]).generate_state(3 * _LAYERS_PER_SEED_BLOCK, np.uint64)
    return words.reshape(_LAYERS_PER_SEED_BLOCK, 3)


def layer_seeds(rng: DropoutRng, layers: int) -> Tensor:
    """A seed for each of the first `layers` layers and each example, int64 ``(layers, examples)``, on the CPU."""
    blocks = range(-(-layers // _LAYERS_PER_SEED_BLOCK))
    columns = [[_seed_block(rng.seed, rng.step, example, block)[:, 0] for block in blocks] for example in rng.examples]
    words = np.stack([np.concatenate(column)[:layers] for column in columns], axis=1)
    return torch.from_numpy(words.view(np.int64))


def token_seeds(seeds: Tensor, span_of_token: Tensor, positions: Tensor) -> Tensor:
    """A seed for each layer and token, ``(layers, T)``, from those of the examples: whichever row a token is in."""
    return seeds.index_select(1, span_of_token) + positions * _TOKEN_SEED_STRIDE


@lru_cache(maxsize=2)
def _row_token_seeds(rng: DropoutRng, layers: int, device: torch.device) -> Tensor:
    lengths = torch.tensor([end - start for start, end in rng.spans])
    span_of_token = torch.arange(len(lengths)).repeat_interleave(lengths)
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    inputs = (layer_seeds(rng, layers), span_of_token, positions)
    return token_seeds(*(to_device(values, device) for values in inputs))


def bernoulli_positions(rng: np.random.Generator, count: int, rate: float) -> np.ndarray:
    """Which of `count` independent trials, each with probability `rate`, come true: their positions, ascending, int64.

    The gap to the next success is geometric: one more than the floor of an exponential variable of mean
    ``-1 / log(1 - rate)``.
    """
    mean_gap = -1.0 / math.log1p(-rate)
    expected = count * rate
    parts: list[np.ndarray] = []
    last = -1
    while last < count:
        # Six standard deviations more than expected: a second round is needed once in a billion.
        gaps = rng.standard_exponential(int(expected + 6 * math.sqrt(expected) + 8), dtype=np.float32)
        gaps *= np.float32(mean_gap)
        steps = gaps.astype(np.int64)
        steps += 1
        steps[0] += last
        parts.append(np.cumsum(steps, out=steps))
        last = int(parts[-1][-1])
    positions = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return positions[: np.searchsorted(positions, count)]
