"""Packed rows: examples laid end to end without padding, each attending to itself alone, rows computed side by side.

A row ("micro-batch") is cut from the examples of one optimizer step, so the gradient of the step is the sum over its
rows whatever the packing. Three parts: how examples are packed into rows, the attention that keeps them apart, and the
threads that compute rows.

*Attention.* transformers passes extra keyword arguments of the backbone down to the attention function; `spans` comes
that way. On CUDA one kernel of torch takes all spans at once (`torch.nn.attention.varlen`), in half precision. On the
CPU short examples go through plain matrix products, whose backward is several times faster than that of torch's CPU
flash kernel at 150-200 tokens; long ones go through scaled_dot_product_attention, which does not keep the T × T scores.

*Threads.* A small model's layers are too small to keep several cores busy: between two matrix products one core works
and the others wait. Two rows of half the size on one core each are a quarter faster than one row on two
(SmolLM2-135M), and need no more memory, unless both are long examples. Python itself is no hindrance: torch releases
the interpreter's lock while it computes.
"""

import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

Item = TypeVar("Item")
Result = TypeVar("Result")

PACKED_ATTENTION = "lora_tui_packed"
"""Name under which transformers knows the attention of packed rows."""

_MATMUL_TOKENS = 512
"""Longest example for which keeping the scores is cheaper than recomputing them, in tokens."""

_WIDEST_HEAD = 256
"""Widest head that the variable-length kernel takes."""

_VARLEN_TAKES_ENABLE_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Whether this version of torch wants to be told that queries share their keys; older ones see it from the shapes."""

_NOT_PLAIN_ATTENTION = ("gpt_oss", "nemotron")
"""Model types whose configuration does not tell: attention with sinks, layers that drop extra arguments."""

_LEAST_TOKENS_PER_WORKER = 256
"""Shortest row worth a thread of its own: shorter ones make poor matrix products."""


# --- rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One training example as tokens.

    `is_label[i]` says that token i is predicted (by position i - 1) and counts in the loss; `source` is the file and
    line it comes from.
    """

    input_ids: tuple[int, ...]
    is_label: tuple[bool, ...]
    has_keyword: bool
    source: str

    @property
    def labels(self) -> int:
        """How many tokens count in the loss."""
        return sum(self.is_label[1:])

    @property
    def parts(self) -> tuple["EncodedExample", ...]:
        """The sequences that it lays into its row: itself."""
        return (self,)


class PackableExample(Protocol):
    """What a step is made of: one sequence, or several that must share a row, since one loss is a function of all.

    `input_ids` are those of all its `parts` together, `labels` how many of them count in a loss. Every example of a
    step has equally many parts.
    """

    @property
    def input_ids(self) -> tuple[int, ...]:
        """Tokens of all parts, one part after the other."""

    @property
    def labels(self) -> int:
        """How many tokens count in a loss."""

    @property
    def has_keyword(self) -> bool:
        """Whether it is drawn more often."""

    @property
    def source(self) -> str:
        """The file and line it comes from."""

    @property
    def parts(self) -> tuple[EncodedExample, ...]:
        """The sequences that it lays into its row, each a span."""


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row of T tokens holding L labels.

    `input_ids` and `position_ids` have shape ``(T,)``; positions restart at 0 with each example. `spans` holds each
    example's (start, end). `label_positions` ``(L,)`` are the positions whose *next* token is a label, `targets`
    ``(L,)`` those next tokens: the last token of an example predicts nothing, since its successor belongs to the next
    example. `examples` holds the spans' places within the step; `cu_seqlens` the spans' starts and the end, as int32
    ``(examples + 1,)``, for kernels that take them from the device.
    """

    input_ids: Tensor
    position_ids: Tensor
    spans: tuple[tuple[int, int], ...]
    label_positions: Tensor
    targets: Tensor
    examples: tuple[int, ...]
    cu_seqlens: Tensor


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Distribute items over rows of at most `budget` tokens: best fit, longest first; a longer item gets its own row.

    `lengths` are in tokens. Returns the item indices of each row. Deterministic: ties keep the order given.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[item]]
        if fitting:
            row = min(fitting, key=lambda candidate: room[candidate])
            rows[row].append(item)
            room[row] -= lengths[item]
        else:
            rows.append([item])
            room.append(budget - lengths[item])
    return rows


def balance(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Distribute items over rows of like length, at most `budget` tokens each.

    For rows that are replayed, which are padded to few lengths. Longest first, each to the shortest row so far; a
    longer item than the budget gets its own row. Returns the item indices of each row; deterministic.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    alone = [[item] for item in longest_first if lengths[item] > budget]
    shared = longest_first[len(alone) :]
    wanted = -(-sum(lengths[item] for item in shared) // budget)
    for rows in range(wanted, len(shared)):
        found: list[list[int]] = [[] for _ in range(rows)]
        used = [0] * rows
        for item in shared:
            shortest = used.index(min(used))
            found[shortest].append(item)
            used[shortest] += lengths[item]
        if max(used) <= budget:
            return alone + found
    return [[item] for item in longest_first]


def lay_out(examples: Sequence[PackableExample], items: Sequence[int], device: torch.device) -> Row:
    """Build the row of the examples with the indices `items`, in the order given, on `device`; a span for each part."""
    placed = [
        (item * len(examples[item].parts) + number, part)
        for item in items
        for number, part in enumerate(examples[item].parts)
    ]
    chosen = [part for _, part in placed]
    ends = list(accumulate(len(example.input_ids) for example in chosen))
    starts = [0, *ends[:-1]]
    ids = torch.tensor([token for example in chosen for token in example.input_ids])
    positions = torch.cat([torch.arange(end - start) for start, end in zip(starts, ends, strict=True)])
    is_label = torch.tensor([label for example in chosen for label in example.is_label])
    is_label[starts] = False  # an example's first token has nothing before it in the row
    labels = is_label.nonzero().squeeze(1)
    return Row(
        to_device(ids, device),
        to_device(positions, device),
        tuple(zip(starts, ends, strict=True)),
        to_device(labels - 1, device),
        to_device(ids[labels], device),
        tuple(place for place, _ in placed),
        to_device(torch.tensor([0, *ends], dtype=torch.int32), device),
    )


def share_of_row(tokens_per_row: int, ranks: int) -> int:
    """Return a rank's share of `tokens_per_row` where `ranks` have one machine's memory: what a row worker would have.

    Rows of so many tokens are at least as long as is worth a thread.
    """
    return max(tokens_per_row // ranks, min(tokens_per_row, _LEAST_TOKENS_PER_WORKER))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device`, on a GPU without waiting: it comes in the order of the GPU's other work."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


# --- attention -----------------------------------------------------------------------------------------------------


def supports_packing(model: PreTrainedModel) -> bool:
    """Tell whether every layer of `model` is plain causal attention, so that `packed_attention` equals its own.

    Sliding windows, soft-capping, sinks, linear attention and recurrent layers are not: such models train one example
    a row.
    """
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False) or getattr(model, "_is_stateful", False):
        return False
    layer_types = getattr(config, "layer_types", None) or ["full_attention"]
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    plain = set(layer_types) == {"full_attention"} and config.model_type not in _NOT_PLAIN_ATTENTION
    return plain and not windowed and not capped


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Have `model` attend per span inside the block; outside it keeps its own implementation (for generation)."""
    before = model.config._attn_implementation
    model.set_attn_implementation(PACKED_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attend_per_span(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    spans: Sequence[tuple[int, int]],
    cu_seqlens: Tensor | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention for one packed row: query ``(1, heads, T, d)``, key and value ``(1, kv_heads, T, d)``.

    Returns ``(1, T, heads, d)``, as transformers expects it.
    """
    if cu_seqlens is not None and dropout == 0.0 and has_varlen_kernel(query):
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return varlen_attention(q, k, v, scaling, spans, cu_seqlens)[None].contiguous(), None
    outputs = []
    for start, end in spans:
        q, k, v = query[:, :, start:end], key[:, :, start:end], value[:, :, start:end]
        if q.device.type == "cpu" and end - start <= _MATMUL_TOKENS and dropout == 0.0:
            outputs.append(_matmul_attention(q, k, v, scaling))
        else:
            outputs.append(
                functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def has_varlen_kernel(query: Tensor) -> bool:
    """Tell whether torch's variable-length kernel takes such queries ``(…, head width)``."""
    halves = (torch.bfloat16, torch.float16)
    return query.is_cuda and query.dtype in halves and query.shape[-1] <= _WIDEST_HEAD


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, spans: Sequence[tuple[int, int]], cu_seqlens: Tensor
) -> Tensor:
    """All spans in one call: no padding, no mask, and no wait for the device, since the lengths are known here.

    `query` is ``(T, heads, width)``, `key` and `value` ``(T, kv_heads, width)``; returns the query's shape.
    """
    max_seqlen = max(end - start for start, end in spans)
    grouped: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]} if _VARLEN_TAKES_ENABLE_GQA else {}
    mixed: Tensor = varlen_attn(  # type: ignore[assignment]  # a tuple only where its log-sum-exp is asked for
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        scale=scaling,
        window_size=(-1, 0),  # causal
        **grouped,
    )
    return mixed


def _matmul_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Causal attention by two matrix products; the softmax runs in float32 as in the flash kernels."""
    heads, kv_heads, length = query.shape[1], key.shape[1], query.shape[2]
    # Grouped queries share their key head without copying it: (kv, group · T, d) @ (kv, d, T).
    grouped = query.reshape(kv_heads, heads // kv_heads * length, -1)
    scores = torch.matmul(grouped, key[0].transpose(1, 2)).view(heads, length, length).float() * scaling
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1).to(value.dtype)
    mixed = torch.matmul(weights.view(kv_heads, heads // kv_heads * length, length), value[0])
    return mixed.view(1, heads, length, -1)


AttentionInterface.register(PACKED_ATTENTION, _attend_per_span)
AttentionMaskInterface.register(PACKED_ATTENTION, lambda *_, **__: None)  # the spans say who attends to whom


# --- threads -------------------------------------------------------------------------------------------------------


class RowWorkers:
    """Pool of threads that compute rows, each with its share of torch's own threads; started when first needed."""

    def __init__(self, device: torch.device, *, allowed: bool) -> None:
        self._cores = torch.get_num_threads() if allowed and device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None
        self._workers = 1

    def workers(self, tokens: int) -> int:
        """How many rows to compute side by side where they may hold `tokens` together."""
        return max(1, min(self._cores, tokens // _LEAST_TOKENS_PER_WORKER))

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
        """Call `function` for every item, `workers` at a time; results come in the order of the items.

        After an exception, or when the iterator is closed, no call is left running.
        """
        if workers == 1:
            yield from map(function, items)
            return
        if self._pool is None or self._workers != workers:
            self.close()
            self._pool, self._workers = _start_threads(workers, self._cores), workers
        calls = deque(self._pool.submit(function, item) for item in items)
        try:
            while calls:
                yield calls.popleft().result()  # kept no longer than it is wanted
        finally:
            for call in calls:
                call.cancel()
            wait(calls)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _start_threads(workers: int, cores: int) -> ThreadPoolExecutor:
    """Start the threads. torch's thread count is each thread's own, but new threads begin with the last one set."""
    every_thread = threading.Barrier(workers)

    def take_share() -> None:
        torch.get_num_threads()  # a thread's first call gives it the common setting: that must be over
        torch.set_num_threads(max(1, cores // workers))
        every_thread.wait()  # so that each takes one of these calls

    pool = ThreadPoolExecutor(workers, thread_name_prefix="training-row")
    for started in [pool.submit(take_share) for _ in range(workers)]:
        started.result()
    torch.set_num_threads(cores)
    return pool
