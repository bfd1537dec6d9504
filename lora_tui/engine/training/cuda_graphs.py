"""CUDA graphs of a row's forward and backward pass: captured once for rows of a size, then replayed.

A GPU computes the 2,700 kernels of a row of a small model faster than Python can launch them. A graph is one launch.
Its inputs stand at fixed addresses, so a row is padded to a size that many rows have: with tokens that attend to
themselves and reach no label, and with labels that count nothing. What is computed is the same.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lora_tui.engine.training.fast.dropout import DropoutRng, MaskSource, SeededMask, layer_seeds, token_seeds
from lora_tui.engine.training.packing import Row

_TOKENS, _LABELS = 128, 512
"""What tokens and labels are rounded up to."""

_MIN_SPANS, _MIN_MAX_SEQLEN = 8, 512
"""The fewest spans, and the least length of the longest; both are rounded up to a power of two."""

_EAGER_ROWS = 1
"""How many rows of a size are computed without a graph before it is worth a capture."""

_MAX_GRAPHS = 16
"""Graphs that are kept; a size that comes twice as often as one of them takes its place."""


@dataclass(frozen=True, slots=True)
class PaddedSize:
    """What a graph's rows are padded to."""

    tokens: int
    spans: int
    labels: int
    max_seqlen: int

    @classmethod
    def of(cls, row: Row) -> "PaddedSize":
        """The smallest size that holds `row` and, where it does not fill it, a span of padding."""
        tokens = _round_up(len(row.input_ids), _TOKENS)
        spans = len(row.spans) + (tokens > len(row.input_ids))
        max_seqlen = max(end - start for start, end in row.spans)
        return cls(
            tokens,
            max(_MIN_SPANS, _power_of_two(spans)),
            _round_up(len(row.targets), _LABELS),
            max(_MIN_MAX_SEQLEN, _power_of_two(max_seqlen)),
        )


class _Graph(Protocol):
    def replay(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _StaticMaskSource:
    """The dropout of whatever row the graph's inputs hold: a seed for each layer and token, ``(layers, T)``."""

    seeds: Tensor

    def mask(self, layer: int, width: int, rate: float, device: torch.device, dtype: torch.dtype) -> SeededMask:
        return SeededMask(self.seeds[layer], rate)


class _StaticInputs:
    """All that a graph reads, in one tensor on the device, so that a row is one copy."""

    def __init__(self, size: PaddedSize, layers: int, device: torch.device) -> None:
        self.size = size
        parts = (size.tokens, size.tokens, size.tokens, size.labels, size.labels, size.spans + 1, layers * size.spans)
        self.all = torch.zeros(sum(parts), dtype=torch.int64, device=device)
        self.ids, self.positions, self.span_of_token, self.label_positions, self.targets, self.cu_seqlens, seeds = (
            torch.split(self.all, list(parts))
        )
        self.seeds = seeds.view(layers, size.spans)

    def load(self, row: Row, rng: DropoutRng | None) -> None:
        """Take a row that is still on the CPU, padded."""
        size, tokens = self.size, len(row.input_ids)
        padding = size.tokens - tokens
        ends = [*(end for _, end in row.spans), *([size.tokens] * (size.spans - len(row.spans)))]
        lengths = torch.tensor([end - start for start, end in row.spans] + ([padding] if padding else []))
        seeds = torch.zeros(self.seeds.shape, dtype=torch.int64)
        if rng is not None:
            seeds[:, : len(row.spans)] = layer_seeds(rng, len(seeds))
        parts = (
            nn.functional.pad(row.input_ids, (0, padding)),
            torch.cat([row.position_ids, torch.arange(padding)]),
            torch.arange(len(lengths)).repeat_interleave(lengths),
            nn.functional.pad(row.label_positions, (0, size.labels - len(row.targets))),
            nn.functional.pad(row.targets, (0, size.labels - len(row.targets)), value=-1),
            torch.tensor([0, *ends]),
            seeds.flatten(),
        )
        values = torch.cat(parts)
        pinned = values.pin_memory() if self.all.is_cuda else values
        self.all.copy_(pinned, non_blocking=True)

    def row(self) -> tuple[Row, MaskSource]:
        """The row that the inputs hold, as the model takes it: its spans' ends are known on the device alone."""
        spans = ((0, self.size.max_seqlen),)  # which is all that the attention wants to know of the spans
        cu_seqlens = self.cu_seqlens.to(torch.int32)
        examples = tuple(range(self.size.spans))
        row = Row(self.ids, self.positions, spans, self.label_positions, self.targets, examples, cu_seqlens)
        return row, _StaticMaskSource(token_seeds(self.seeds, self.span_of_token, self.positions))


def capture(function: Callable[[], None], pool: Any) -> _Graph:
    """Capture what `function` launches on the GPU, after it has run once so that everything is compiled and warm."""
    side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch does not type it
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        function()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on to use the GPU: a conversation beside the training does.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        function()
    return graph


class GraphedRows:
    """Adds up the loss and the gradients of rows, by graphs for the sizes that come often.

    `summed_loss` computes a row's loss, with the dropout that `set_dropout_rng` is given before. The sums are at fixed
    addresses: `total`, a float32 scalar, and one tensor for each parameter.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        layers: int,
        summed_loss: Callable[[Row], Tensor],
        set_dropout_rng: Callable[[MaskSource | None], None],
        *,
        capture: Callable[[Callable[[], None], Any], _Graph] = capture,
    ) -> None:
        self.parameters, self._layers = parameters, layers
        self._summed_loss, self._set_dropout_rng, self._capture = summed_loss, set_dropout_rng, capture
        device = parameters[0].device
        self.total = torch.zeros((), dtype=torch.float32, device=device)
        self.sums = [torch.zeros_like(parameter) for parameter in parameters]
        self._loss_weight = torch.ones((), dtype=torch.float32, device=device)
        self._addresses = [parameter.data_ptr() for parameter in parameters]
        self._graphs: dict[PaddedSize, tuple[_StaticInputs, _Graph]] = {}
        self._seen: Counter[PaddedSize] = Counter()
        self._pool: Any = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def begin(self, divisor: float) -> None:
        """Set the sums to zero; gradients of what follows are divided by `divisor`."""
        addresses = [parameter.data_ptr() for parameter in self.parameters]
        if addresses != self._addresses:  # a graph reads the weights where they were
            self._graphs.clear()
            self._addresses = addresses
        torch._foreach_zero_([self.total, *self.sums])
        self._loss_weight.fill_(1.0 / divisor)

    def add(self, row: Row, rng: DropoutRng | None) -> None:
        """Add the summed loss of a row that is still on the CPU, and its gradients.

        `rng` may be None where the model drops nothing.
        """
        size = PaddedSize.of(row)
        graph = self._graphs.get(size)
        self._seen[size] += 1
        if graph is None and not self._worth_capturing(size):
            inputs = _StaticInputs(size, self._layers, self.total.device)
            inputs.load(row, rng)
            self._compute(inputs)
            return
        if graph is None:
            graph = self._graphs[size] = self._captured(size)
        inputs, replayable = graph
        inputs.load(row, rng)
        replayable.replay()

    def _worth_capturing(self, size: PaddedSize) -> bool:
        """A size that came before is; where there are graphs enough, one that comes more often than another does."""
        if self._seen[size] <= _EAGER_ROWS:
            return False
        if len(self._graphs) < _MAX_GRAPHS:
            return True
        rarest = min(self._graphs, key=lambda other: self._seen[other])
        if self._seen[size] <= 2 * self._seen[rarest]:
            return False
        del self._graphs[rarest]
        return True

    def _captured(self, size: PaddedSize) -> tuple[_StaticInputs, _Graph]:
        inputs = _StaticInputs(size, self._layers, self.total.device)
        # The run that warms up has no labels; its spans are no longer than `max_seqlen`.
        inputs.targets.fill_(-1)
        ends = torch.arange(1, size.spans + 1, device=self.total.device) * size.max_seqlen
        inputs.cu_seqlens[1:] = ends.clamp(max=size.tokens)
        before = [sums.clone() for sums in (self.total, *self.sums)]
        graph = self._capture(lambda: self._compute(inputs), self._pool)
        torch._foreach_copy_([self.total, *self.sums], before)
        return inputs, graph

    def _compute(self, inputs: _StaticInputs) -> None:
        row, mask_source = inputs.row()
        self._set_dropout_rng(mask_source)
        loss = self._summed_loss(row)
        gradients = torch.autograd.grad(loss * self._loss_weight, self.parameters, allow_unused=True)
        self.total += loss.detach()
        pairs = [(total, part) for total, part in zip(self.sums, gradients, strict=True) if part is not None]
        torch._foreach_add_([total for total, _ in pairs], [part for _, part in pairs])


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _round_up(number: int, step: int) -> int:
    return max(1, -(-number // step)) * step
