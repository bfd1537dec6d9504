"""Dropout of LoRA's inputs whose draws are a function of (seed, step, example, layer), and of nothing else.

The same elements are dropped however a step's examples are packed, in however small micro-batches an exhausted memory
has it computed, whether activations are kept or computed again, and after a resumption; torch's own generator is not
touched. Only the *dropped* elements are drawn, as the gaps between them: at a rate of 0.05 that is a twentieth of the
random numbers, and torch's own dropout costs the CPU more than the layer's matrix product does.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor

from lora_tui.engine.training.fast import gpu_ops
from lora_tui.engine.training.packing import to_device

_INDEX_RATE = 0.125
"""Up to this rate eight bytes for each dropped element take less memory than one byte for every element."""


_MOST_LAYERS = 512
"""Layers whose seeds are sent to a GPU together."""

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
"""What the seeds of neighbouring tokens differ by: odd, so that no two tokens of an example share one."""

_LAYERS_AT_ONCE = 64
"""Layers whose seeds are made together: numpy holds the interpreter for it, and the other rows wait."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Which elements of a ``(T, width)`` tensor are dropped.

    `marks` holds their flat positions as int64, or a bool mask of that shape. With `drawn_at`, a rate, it holds a seed
    for each token, ``(T,)``, and a GPU draws the elements anew whenever it passes them: no mask is kept or read.
    """

    marks: Tensor
    drawn_at: float | None = None

    def copy_of(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`values`, in the precision `dtype` where one is given, with zeros at the dropped elements; contiguous."""
        dtype = dtype or values.dtype
        if self.drawn_at is not None:
            without: Tensor = gpu_ops.low_rank_kernels().drop(values.contiguous(), self.marks, self.drawn_at)
            return without.to(dtype)
        return self._zero_(torch.empty(values.shape, dtype=dtype, device=values.device).copy_(values))

    def kept(self, part: Tensor, total: Tensor | None) -> Tensor:
        """The other elements of `part`, added to a `total` where there is one; contiguous, and maybe overwritten."""
        if self.drawn_at is None:
            self._zero_(part)
            return part if total is None else total.add_(part)
        if total is None:
            return self.copy_of(part)
        gpu_ops.low_rank_kernels().add_kept_(total, part, self.marks, self.drawn_at)
        return total

    def _zero_(self, values: Tensor) -> Tensor:
        if self.marks.dtype == torch.bool:
            return values.masked_fill_(self.marks, 0.0)
        values.view(-1).index_fill_(0, self.marks, 0.0)
        return values


@dataclass(frozen=True, slots=True)
class DropoutRng:
    """The dropout of one packed row.

    `examples` holds each span's place within its optimizer step, which stays the same when the step is packed anew.
    """

    seed: int
    step: int
    examples: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def dropped(
        self, layer: int, width: int, rate: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> "Dropped":
        """The elements of a ``(T, width)`` input that layer number `layer` drops, each with probability `rate`."""
        if gpu_ops.unusable_reason(device, dtype) is None:
            layers = -(-(layer + 1) // _MOST_LAYERS) * _MOST_LAYERS
            return Dropped(_seeds_of_row(self, layers, device)[layer], drawn_at=rate)
        if device.type == "cpu":
            return Dropped(self._on_cpu(layer, width, rate))
        mask = torch.empty(self.spans[-1][1], width, dtype=torch.bool, device=device)
        generator = torch.Generator(device)
        for example, (start, end) in zip(self.examples, self.spans, strict=True):
            generator.manual_seed(int(self._seed(example, layer)[0] >> np.uint64(1)))
            mask[start:end].bernoulli_(rate, generator=generator)
        return Dropped(mask)

    def _on_cpu(self, layer: int, width: int, rate: float) -> Tensor:
        found = []
        for example, (start, end) in zip(self.examples, self.spans, strict=True):
            source = np.random.SFC64(_Ready(self._seed(example, layer)))  # type: ignore[arg-type]  # numpy's stub
            numbers = np.random.Generator(source)
            positions = bernoulli_positions(numbers, (end - start) * width, rate)
            positions += start * width
            found.append(positions)
        dropped = torch.from_numpy(np.concatenate(found))
        if rate <= _INDEX_RATE:
            return dropped
        mask = torch.zeros(self.spans[-1][1] * width, dtype=torch.bool)
        return mask.index_fill_(0, dropped, value=True).view(-1, width)

    def _seed(self, example: int, layer: int) -> np.ndarray:
        block, place = divmod(layer, _LAYERS_AT_ONCE)
        words: np.ndarray = _seeds(self.seed, self.step, example, block)[place]
        return words


class _Ready(ISeedSequence):
    """The three words that SFC64 asks for, there already."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> np.ndarray:
        assert n_words == len(self._words)
        return self._words


@lru_cache(maxsize=1024)
def _seeds(seed: int, step: int, example: int, block: int) -> np.ndarray:
    """What SFC64 begins with, three words for each layer of a block."""
    words = np.random.SeedSequence([seed, step, example, block]).generate_state(3 * _LAYERS_AT_ONCE, np.uint64)
    return words.reshape(_LAYERS_AT_ONCE, 3)


def seeds_of_layers(draws: DropoutRng, layers: int) -> Tensor:
    """A seed for each of the first `layers` layers and each example, int64 ``(layers, examples)``, on the CPU."""
    blocks = range(-(-layers // _LAYERS_AT_ONCE))
    columns = [[_seeds(draws.seed, draws.step, example, block)[:, 0] for block in blocks] for example in draws.examples]
    words = np.stack([np.concatenate(column)[:layers] for column in columns], axis=1)
    return torch.from_numpy(words.view(np.int64))


def seeds_of_tokens(seeds: Tensor, span_of_token: Tensor, positions: Tensor) -> Tensor:
    """A seed for each layer and token, ``(layers, T)``, from those of the examples: whichever row a token is in."""
    return seeds.index_select(1, span_of_token) + positions * _GOLDEN


@lru_cache(maxsize=2)
def _seeds_of_row(draws: DropoutRng, layers: int, device: torch.device) -> Tensor:
    lengths = torch.tensor([end - start for start, end in draws.spans])
    span_of_token = torch.arange(len(lengths)).repeat_interleave(lengths)
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    inputs = (seeds_of_layers(draws, layers), span_of_token, positions)
    return seeds_of_tokens(*(to_device(values, device) for values in inputs))


def bernoulli_positions(numbers: np.random.Generator, count: int, rate: float) -> np.ndarray:
    """Which of `count` independent trials, each with probability `rate`, come true: their positions, ascending.

    The gap to the next success is geometric: one more than the floor of an exponential variable of mean
    ``-1 / log(1 - rate)``.
    """
    mean_gap = -1.0 / math.log1p(-rate)
    expected = count * rate
    parts: list[np.ndarray] = []
    last = -1
    while last < count:
        # Six standard deviations more than expected: a second round is needed once in a billion.
        gaps = numbers.standard_exponential(int(expected + 6 * math.sqrt(expected) + 8), dtype=np.float32)
        gaps *= np.float32(mean_gap)
        steps = gaps.astype(np.int64)
        steps += 1
        steps[0] += last
        parts.append(np.cumsum(steps, out=steps))
        last = int(parts[-1][-1])
    positions = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return positions[: np.searchsorted(positions, count)]
