"""A row's forward and backward pass as one CUDA graph: recorded once for rows of a size, then replayed.

A GPU computes the 2,700 kernels of a row of a small model faster than Python can ask for them. A graph asks once. Its
inputs stand at fixed addresses, so a row is padded to a size that many rows have: with tokens that attend to themselves
and reach no label, and with labels that count nothing. What is computed is the same.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lora_tui.engine.training.fast.dropout import DropoutRng, Dropped, seeds_of_layers, seeds_of_tokens
from lora_tui.engine.training.packing import Row

_TOKENS, _LABELS = 128, 512
"""What tokens and labels are rounded up to."""

_SPANS, _MIN_MAX_SEQLEN = 8, 512
"""The fewest spans and the shortest longest one; both are rounded up to a power of two."""

_SEEN_BEFORE = 1
"""How often a size must have come before it is worth a recording."""

_MOST_GRAPHS = 16
"""Graphs that are kept; a size that comes twice as often as one of them takes its place."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a graph's rows are padded to."""

    tokens: int
    spans: int
    labels: int
    max_seqlen: int

    @classmethod
    def of(cls, row: Row) -> "Size":
        """The smallest size that holds `row` and, where it does not fill it, a span of padding."""
        tokens = _rounded(len(row.input_ids), _TOKENS)
        spans = len(row.spans) + (tokens > len(row.input_ids))
        max_seqlen = max(end - start for start, end in row.spans)
        return cls(
            tokens,
            max(_SPANS, _power_of_two(spans)),
            _rounded(len(row.targets), _LABELS),
            max(_MIN_MAX_SEQLEN, _power_of_two(max_seqlen)),
        )


class _Replayable(Protocol):
    def replay(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _FixedDraws:
    """The dropout of whatever row the graph's inputs hold: a seed for each layer and token, ``(layers, T)``."""

    seeds: Tensor

    def dropped(self, layer: int, width: int, rate: float, device: torch.device, dtype: torch.dtype) -> Dropped:
        return Dropped(self.seeds[layer], drawn_at=rate)


class _Inputs:
    """All that a graph reads, in one tensor on the device, so that a row is one copy."""

    def __init__(self, size: Size, layers: int, device: torch.device) -> None:
        self.size = size
        parts = (size.tokens, size.tokens, size.tokens, size.labels, size.labels, size.spans + 1, layers * size.spans)
        self.all = torch.zeros(sum(parts), dtype=torch.int64, device=device)
        self.ids, self.positions, self.span_of_token, self.label_positions, self.targets, self.ends, seeds = (
            torch.split(self.all, list(parts))
        )
        self.seeds = seeds.view(layers, size.spans)

    def hold(self, row: Row, draws: DropoutRng | None) -> None:
        """Take a row that is still on the CPU, padded."""
        size, tokens = self.size, len(row.input_ids)
        padding = size.tokens - tokens
        ends = [*(end for _, end in row.spans), *([size.tokens] * (size.spans - len(row.spans)))]
        lengths = torch.tensor([end - start for start, end in row.spans] + ([padding] if padding else []))
        seeds = torch.zeros(self.seeds.shape, dtype=torch.int64)
        if draws is not None:
            seeds[:, : len(row.spans)] = seeds_of_layers(draws, len(seeds))
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

    def row(self) -> tuple[Row, _FixedDraws]:
        """The row that the inputs hold, as the model takes it: its spans' ends are known on the device alone."""
        spans = ((0, self.size.max_seqlen),)  # which is all that the attention wants to know of the spans
        ends = self.ends.to(torch.int32)
        places = tuple(range(self.size.spans))
        row = Row(self.ids, self.positions, spans, self.label_positions, self.targets, places, ends)
        return row, _FixedDraws(seeds_of_tokens(self.seeds, self.span_of_token, self.positions))


def record(function: Callable[[], None], pool: Any) -> _Replayable:
    """Record what `function` asks of the GPU, after it has run once so that everything is compiled and warm."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        function()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on to use the GPU: a conversation beside the training does.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        function()
    return graph


class GraphedRows:
    """Adds up the loss and the gradients of rows, by graphs for the sizes that come often.

    `summed_loss` computes a row's loss; `use` is told the draws before. The sums are at fixed addresses: `total`, a
    float32 scalar, and one tensor for each parameter.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        layers: int,
        summed_loss: Callable[[Row], Tensor],
        use: Callable[[DropoutRng | _FixedDraws | None], None],
        *,
        recorded: Callable[[Callable[[], None], Any], _Replayable] = record,
    ) -> None:
        self.parameters, self._layers = parameters, layers
        self._summed_loss, self._use, self._record = summed_loss, use, recorded
        device = parameters[0].device
        self.total = torch.zeros((), dtype=torch.float32, device=device)
        self.sums = [torch.zeros_like(parameter) for parameter in parameters]
        self._share = torch.ones((), dtype=torch.float32, device=device)
        self._addresses = [parameter.data_ptr() for parameter in parameters]
        self._graphs: dict[Size, tuple[_Inputs, _Replayable]] = {}
        self._seen: Counter[Size] = Counter()
        self._pool: Any = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def begin(self, labels: int) -> None:
        """Set the sums to zero; what follows is divided by `labels`."""
        addresses = [parameter.data_ptr() for parameter in self.parameters]
        if addresses != self._addresses:  # a graph reads the weights where they were
            self._graphs.clear()
            self._addresses = addresses
        torch._foreach_zero_([self.total, *self.sums])
        self._share.fill_(1.0 / labels)

    def add(self, row: Row, draws: DropoutRng | None) -> None:
        """Add the summed loss of a row that is still on the CPU, and its gradients.

        `draws` may be None where the model drops nothing.
        """
        size = Size.of(row)
        graph = self._graphs.get(size)
        self._seen[size] += 1
        if graph is None and not self._worth_recording(size):
            inputs = _Inputs(size, self._layers, self.total.device)
            inputs.hold(row, draws)
            self._compute(inputs)
            return
        if graph is None:
            graph = self._graphs[size] = self._recording(size)
        inputs, replayable = graph
        inputs.hold(row, draws)
        replayable.replay()

    def _worth_recording(self, size: Size) -> bool:
        """A size that came before is; where there are graphs enough, one that comes more often than another does."""
        if self._seen[size] <= _SEEN_BEFORE:
            return False
        if len(self._graphs) < _MOST_GRAPHS:
            return True
        rarest = min(self._graphs, key=lambda other: self._seen[other])
        if self._seen[size] <= 2 * self._seen[rarest]:
            return False
        del self._graphs[rarest]
        return True

    def _recording(self, size: Size) -> tuple[_Inputs, _Replayable]:
        inputs = _Inputs(size, self._layers, self.total.device)
        # The run that warms up has no labels; its spans are no longer than the attention will be told.
        inputs.targets.fill_(-1)
        ends = torch.arange(1, size.spans + 1, device=self.total.device) * size.max_seqlen
        inputs.ends[1:] = ends.clamp(max=size.tokens)
        before = [sums.clone() for sums in (self.total, *self.sums)]
        recorded = self._record(lambda: self._compute(inputs), self._pool)
        torch._foreach_copy_([self.total, *self.sums], before)
        return inputs, recorded

    def _compute(self, inputs: _Inputs) -> None:
        row, draws = inputs.row()
        self._use(draws)
        loss = self._summed_loss(row)
        gradients = torch.autograd.grad(loss * self._share, self.parameters, allow_unused=True)
        self.total += loss.detach()
        pairs = [(total, part) for total, part in zip(self.sums, gradients, strict=True) if part is not None]
        torch._foreach_add_([total for total, _ in pairs], [part for _, part in pairs])


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _rounded(number: int, step: int) -> int:
    return max(1, -(-number // step)) * step
