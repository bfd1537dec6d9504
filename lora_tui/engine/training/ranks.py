"""Ranks: processes that compute an optimizer step together, each the gradient of its share of the step's examples.

Rank 0 is the process that has the run. It alone reads data, plans steps, clips, steps the optimizer, evaluates, saves
and writes the store; the others have the model, and wait for messages. A step is one message with its examples, one
broadcast of the adapters' values, and one sum of everybody's gradients into rank 0: together as many bytes as the
all-reduce of DistributedDataParallel. In exchange ranks cannot drift apart, whatever rank 0 does between steps (stop,
evaluate, go back to a checkpoint) needs no word to the others, and a checkpoint is that of one rank.

`OneRank` is the run in one process: nothing is sent. Messages are JSON and plain numbers; nothing is pickled.
"""

import json
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lora_tui.engine.training.packing import EncodedExample, PackableExample
from lora_tui.errors import LoraTuiError

END, STEP, PLAN, FOLLOW = range(4)
"""Kinds of message: no more steps · a step's examples · how steps are computed · a forward pass of rank 0's own."""

SHARDED_IS_SLOWER = (
    "Each layer's weights are gathered from all devices before it is computed (fsdp): rows one at a time, without CUDA "
    "graphs and fused projections; an answer of the evaluation takes longer, too"
)
"""What keeps a sharded model from the fastest way; a sentence without its end."""

_CONNECT = timedelta(minutes=10)
_WAIT_FOR_MESSAGE = timedelta(days=30)
"""A rank waits this long for the next message: rank 0 may be evaluating, or paused."""

_WAIT_FOR_SUM = timedelta(minutes=30)
"""A step's shares are of like size: whoever is this late does not come any more."""

_FIGURES = 4
"""Numbers that every rank adds to the bucket about itself: tokens, seconds, and the state of its fallback ladder."""


class LostRankError(LoraTuiError):
    """Another rank's process has ended, or cannot be reached any more."""


@dataclass(frozen=True, slots=True)
class RankLoad:
    """What one rank did in a step: its tokens, the seconds that it computed, and those that it waited for the others.

    `tokens_per_row` (0: as configured) and `long_rows` are the state of its fallback ladder.
    """

    tokens: int
    seconds: float
    wait: float
    tokens_per_row: int = 0
    long_rows: int = 1


class Ranks(Protocol):
    """What a training step asks of the ranks that it is computed by."""

    world: int
    beside: int
    """How many ranks share this one's memory: those of a CPU."""
    loads: Sequence[RankLoad]
    """Every rank's part in the step before."""
    sharded: bool
    """Whether the base weights are divided among the ranks (`sharding`)."""

    def bind(self, parameters: Sequence[nn.Parameter]) -> None:
        """Say what is trained: the same parameters, in the same order, on every rank."""

    def announce(self, plan: Mapping[str, Any]) -> None:
        """Tell the other ranks how steps are computed from now on."""

    def begin_step(self, examples: Sequence[PackableExample], step: int, divisor: float) -> Sequence[int]:
        """Begin a step on every rank, its loss divided by `divisor`; returns which examples this one computes."""

    def check(self) -> None:
        """Raise `LostRankError` where a rank is gone; it costs nothing, and is asked between rows."""

    def rows_to_add(self, rows: int) -> int:
        """How many rows to compute beyond these, for nothing: where weights are sharded all ranks compute as many."""

    def sum_gradients(self, loss: Tensor, tokens: int, ladder: tuple[int | None, int]) -> Tensor:
        """Set every ``.grad`` on rank 0 to the sum over ranks; returns the sum of their losses, a scalar."""

    def close(self) -> None:
        """Tell the other ranks that there are no more steps."""


@dataclass
class OneRank:
    """The run in one process: it computes every example, and there is nobody to tell."""

    world: int = 1
    beside: int = 1
    loads: Sequence[RankLoad] = ()
    sharded: bool = False

    def bind(self, parameters: Sequence[nn.Parameter]) -> None:
        """See `Ranks`."""

    def announce(self, plan: Mapping[str, Any]) -> None:
        """See `Ranks`."""

    def begin_step(self, examples: Sequence[PackableExample], step: int, divisor: float) -> Sequence[int]:
        """See `Ranks`."""
        return range(len(examples))

    def check(self) -> None:
        """See `Ranks`."""

    def rows_to_add(self, rows: int) -> int:
        """See `Ranks`."""
        return 0

    def sum_gradients(self, loss: Tensor, tokens: int, ladder: tuple[int | None, int]) -> Tensor:
        """See `Ranks`."""
        return loss

    def close(self) -> None:
        """See `Ranks`."""


def share_examples(lengths: Sequence[int], world: int) -> list[list[int]]:
    """Divide a step's examples among ranks so that each has about as many tokens: longest first, to who has least.

    `lengths` are in tokens. Returns the indices of each rank's examples, ascending; deterministic. A rank gets none
    where there are fewer examples than ranks.
    """
    shares: list[list[int]] = [[] for _ in range(world)]
    tokens = [0] * world
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = tokens.index(min(tokens))
        shares[least].append(item)
        tokens[least] += lengths[item]
    return [sorted(share) for share in shares]


@dataclass(frozen=True, slots=True)
class Message:
    """What rank 0 tells the others: its kind, and of a plan its entries.

    Of a step its number, this rank's `examples` with their `places` in it, and what its summed loss is divided by.
    """

    kind: int
    step: int = 0
    places: Sequence[int] = ()
    examples: Sequence[EncodedExample] = ()
    divisor: int = 1
    plan: Mapping[str, Any] = field(default_factory=dict)


class RankGroup:
    """One rank's end of a group of `world`: rank 0 calls `begin_step`, the others `receive`; the rest is the same.

    `control` carries messages between CPUs, `data` the adapters' values and gradients between `device`s. `lost` says
    why another rank is known to have ended (None: it is not).
    """

    def __init__(
        self, rank: int, world: int, control: Any, data: Any, device: torch.device, lost: Callable[[], str | None]
    ) -> None:
        self.rank, self.world, self.device = rank, world, device
        self.beside = world if device.type == "cpu" else 1
        self.loads: Sequence[RankLoad] = ()
        self.sharded = False
        self._in_step = False
        self._control, self._data, self._lost = control, data, lost
        self._parameters: list[nn.Parameter] = []
        self._began = 0.0
        self._closed = False

    def bind(self, parameters: Sequence[nn.Parameter]) -> None:
        """See `Ranks`: one bucket for all gradients, which of them there are, the loss, and everybody's figures."""
        self._parameters = list(parameters)
        sizes = [parameter.numel() for parameter in self._parameters]
        self._values = torch.empty(sum(sizes), dtype=torch.float32, device=self.device)
        parts = [*sizes, len(sizes), 1, self.world * _FIGURES]
        self._bucket = torch.empty(sum(parts), dtype=torch.float32, device=self.device)
        *gradients, self._present, self._loss, figures = self._bucket.split_with_sizes(parts)
        self._figures = figures.view(self.world, _FIGURES)
        shapes = [parameter.shape for parameter in self._parameters]
        self._gradients = [part.view(shape) for part, shape in zip(gradients, shapes, strict=True)]
        values = self._values.split_with_sizes(sizes)
        self._value_views = [part.view(shape) for part, shape in zip(values, shapes, strict=True)]

    def announce(self, plan: Mapping[str, Any]) -> None:
        """See `Ranks`."""
        self._send(PLAN, 0, json.dumps(plan).encode())

    def begin_step(self, examples: Sequence[PackableExample], step: int, divisor: float) -> Sequence[int]:
        """See `Ranks`; on rank 0. The others `receive` it."""
        self._send(STEP, step, pack_examples(examples), int(divisor))
        torch._foreach_copy_(self._value_views, [parameter.detach() for parameter in self._parameters])
        self._spread_values()
        return share_examples([len(example.input_ids) for example in examples], self.world)[0]

    def _spread_values(self) -> None:
        with self._communicating():
            self._data.broadcast(self._values, 0).wait()
        self._began, self._in_step = time.perf_counter(), True

    def check(self) -> None:
        """See `Ranks`."""
        if (reason := self._lost()) is not None:
            raise LostRankError(reason)

    def rows_to_add(self, rows: int) -> int:
        """See `Ranks`."""
        if not self.sharded:
            return 0
        most = torch.tensor([rows])
        with self._communicating():
            self._control.allreduce(most, dist.ReduceOp.MAX, timeout=_WAIT_FOR_SUM).wait()
        return int(most) - rows

    def sum_gradients(self, loss: Tensor, tokens: int, ladder: tuple[int | None, int]) -> Tensor:
        """See `Ranks`; the order of the sum is that of the library for so many ranks, the same every time."""
        self._in_step = False
        gradients = [parameter.grad for parameter in self._parameters]
        present = [gradient is not None for gradient in gradients]
        self._bucket.zero_()
        there = [part for part, is_there in zip(self._gradients, present, strict=True) if is_there]
        if there:
            torch._foreach_copy_(there, [gradient for gradient in gradients if gradient is not None])
        self._present.copy_(torch.tensor(present, dtype=torch.float32))
        self._loss.copy_(loss)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.check()
        seconds = time.perf_counter() - self._began
        self._figures[self.rank] = torch.tensor([tokens, seconds, ladder[0] or 0, ladder[1]], dtype=torch.float32)
        with self._communicating():
            self._data.reduce(self._bucket, 0, timeout=_WAIT_FOR_SUM).wait()
        if self.rank != 0:
            return loss
        with self._communicating():
            figures, counts = self._figures.tolist(), self._present.tolist()  # waits for the device
        self.check()  # a sum that was broken off holds anything
        whole = time.perf_counter() - self._began
        self.loads = [RankLoad(int(t), s, max(0.0, whole - s), int(row), int(long)) for t, s, row, long in figures]
        for parameter, gradient, count in zip(self._parameters, self._gradients, counts, strict=True):
            parameter.grad = gradient.to(parameter.dtype) if count else None
        total: Tensor = self._loss[0].clone()
        return total

    def receive(self) -> Message:
        """Wait for rank 0's next message; with a step come the values that everything trained has."""
        header = torch.zeros(4, dtype=torch.int64)
        with self._communicating():
            self._control.broadcast(header, 0, timeout=_WAIT_FOR_MESSAGE).wait()
            kind, step, size, divisor = header.tolist()
            body = torch.empty(size, dtype=torch.uint8)
            if size:
                self._control.broadcast(body, 0, timeout=_WAIT_FOR_SUM).wait()
        content = body.numpy().tobytes()
        if kind != STEP:
            return Message(kind, plan=json.loads(content) if kind == PLAN else {})
        places, examples = unpack_examples(content, self.rank, self.world)
        self._spread_values()
        with torch.no_grad():
            torch._foreach_copy_([parameter.detach() for parameter in self._parameters], self._value_views)
        return Message(STEP, step, places, examples, divisor)

    def close(self) -> None:
        """See `Ranks`; whoever is gone need not be told."""
        if self.rank == 0 and not self._closed:
            self._closed = True
            try:
                self._send(END, 0, b"")
            except LostRankError:
                return

    def abort(self) -> None:
        """Break off what waits for a rank that is gone: on a GPU it would wait for ever. From any thread."""
        if self.device.type == "cuda":
            with suppress(RuntimeError):
                self._data.abort()
            with suppress(RuntimeError, ValueError, AttributeError):  # that of the sharded weights, where there is one
                dist.distributed_c10d._abort_process_group()

    def follow(self) -> None:
        """Have the other ranks take part in a forward pass of rank 0's own, which needs their parts of the weights.

        Nothing is sent within a step, and within `following`: there everybody computes at the same time.
        """
        if not self._in_step:
            self._send(FOLLOW, 0, b"")

    @contextmanager
    def following(self) -> Iterator[None]:
        """Compute what every rank computes, for the block."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False

    def _send(self, kind: int, step: int, content: bytes, divisor: int = 1) -> None:
        header = torch.tensor([kind, step, len(content), divisor], dtype=torch.int64)
        with self._communicating():
            self._control.broadcast(header, 0).wait()
            if content:
                self._control.broadcast(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0).wait()

    @contextmanager
    def _communicating(self) -> Iterator[None]:
        """Turn what a library raises when a rank has gone into `LostRankError`, in the words of who knows more."""
        self.check()
        try:
            yield
        except (RuntimeError, ValueError) as problem:
            deadline = time.monotonic() + 2.0  # the connection breaks before the process has been seen to end
            while (reason := self._lost()) is None and time.monotonic() < deadline:
                time.sleep(0.05)
            raise LostRankError(reason or "The connection to another rank of this training has broken.") from problem


def pack_examples(examples: Sequence[PackableExample]) -> bytes:
    """Return a step's examples as bytes: their number and lengths, tokens (int32), and which are labels (a byte each).

    Their sources stay behind: rank 0 alone names examples. About 10 ns a token.
    """
    lengths = array("i", [len(examples), *(len(example.input_ids) for example in examples)])
    tokens = [array("i", example.input_ids).tobytes() for example in examples]
    labels = [bytes(part.is_label) for example in examples for part in example.parts]
    return b"".join([lengths.tobytes(), *tokens, *labels])


def unpack_examples(content: bytes, rank: int, world: int) -> tuple[list[int], list[EncodedExample]]:
    """Return the places and examples of a rank's share of what `pack_examples` has packed; others are not looked at."""
    count = memoryview(content)[:4].cast("i")[0]
    lengths = memoryview(content)[4 : 4 * (count + 1)].cast("i").tolist()
    starts, total, first = [0, *accumulate(lengths)], sum(lengths), 4 * (count + 1)
    tokens, labels = memoryview(content)[first : first + 4 * total].cast("i"), content[first + 4 * total :]
    places = share_examples(lengths, world)[rank]
    spans = [slice(starts[place], starts[place + 1]) for place in places]
    return places, [EncodedExample(tuple(tokens[s]), tuple(map(bool, labels[s])), False, "") for s in spans]


def connect(
    store: Any, rank: int, world: int, device: torch.device, lost: Callable[[], str | None], *, one_machine: bool
) -> RankGroup:
    """Join the group whose ranks meet in `store`, once all of them do; raises `LostRankError` where one never comes.

    On one machine connections keep to its loopback address: nobody else can reach them.
    """

    library: Any = dist  # its names are not all in its list of them

    def gloo(name: str) -> Any:
        options = library.ProcessGroupGloo._Options()
        options._timeout = _CONNECT
        gloo_class = library.ProcessGroupGloo
        here, found = gloo_class.create_device, gloo_class.create_default_device  # GLOO_SOCKET_IFNAME names another
        options._devices = [here(hostname="127.0.0.1") if one_machine else found()]
        return library.ProcessGroupGloo(library.PrefixStore(name, store), rank, world, options)

    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        control = gloo("control")
        if device.type == "cuda":
            options = library.ProcessGroupNCCL.Options()
            data = library.ProcessGroupNCCL(library.PrefixStore("data", store), rank, world, options)
        else:
            data = gloo("data")
    except RuntimeError as problem:
        raise LostRankError(lost() or f"Rank {rank} of {world} found no connection to the others.") from problem
    return RankGroup(rank, world, control, data, device, lost)
