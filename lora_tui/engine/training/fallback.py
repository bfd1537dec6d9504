"""Out-of-memory fallback: ways to compute the same gradient with less memory, tried in order (the ladder).

    graphs off · long rows alone · one row at a time · half rows · recompute all

Each rung computes the same gradient with less in memory at once, and more slowly. The step computes as `current` says
and calls `lower` after an error; the loop passes on `messages` and saves `state`, so that a resumed run does not try
again what did not fit. Nothing here knows of models: the step says how large its rows are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch

from lora_tui.text import one_line

T = TypeVar("T")

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


class RowTooLargeError(Exception):
    """Memory ran out for a row that cannot be cut: a single example, of `tokens` tokens."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"memory ran out for a row of {tokens} tokens")
        self.tokens = tokens


@dataclass(frozen=True, slots=True)
class Rung:
    """How a step is computed: in rows of at most `tokens_per_row`, unless a single example is longer.

    With `graphs` rows are replayed as CUDA graphs. Up to `long_rows` rows that exceed their share of `tokens_per_row`
    are computed side by side; with `one_at_a_time` no rows are. With `recompute_all` every layer's activations are
    computed again in the backward pass.
    """

    tokens_per_row: int
    graphs: bool = False
    long_rows: int = 1
    one_at_a_time: bool = False
    recompute_all: bool = False


@dataclass(frozen=True, slots=True)
class RowLoad:
    """What a step has in memory at once: its largest row in tokens and examples, and how many rows of each kind."""

    tokens: int
    examples: int
    rows_at_once: int
    long_rows_at_once: int


class FallbackLadder:
    """Where on the ladder a model trains; `graphs_error` is why CUDA graphs were given up (None: they were not)."""

    def __init__(self, tokens_per_row: int) -> None:
        self.current = Rung(tokens_per_row)
        self.graphs_error: str | None = None
        self._reported = self.current
        self._tokens_before = tokens_per_row

    def begin_at(self, rung: Rung) -> None:
        """Start from `rung`, which was chosen before the first step: there is nothing to report of it."""
        self.current = self._reported = rung
        self._tokens_before = rung.tokens_per_row

    def resume(self, tokens_per_row: int | None, long_rows: int) -> None:
        """Start from the `state` of a checkpoint."""
        if tokens_per_row is not None:
            self.begin_at(replace(self.current, tokens_per_row=tokens_per_row, one_at_a_time=True))
        self.begin_at(replace(self.current, long_rows=long_rows))

    def state(self) -> tuple[int | None, int]:
        """What a checkpoint keeps: `tokens_per_row` if memory set it (None: as configured), and `long_rows`."""
        return self.current.tokens_per_row if self.current.one_at_a_time else None, self.current.long_rows

    def can_lower(self, error: RuntimeError) -> bool:
        """Tell whether a lower rung may help against `error`; graphs fail in many ways, so they go whatever it is."""
        return self.current.graphs or out_of_memory(error)

    def lower(self, error: str, load: RowLoad) -> Rung:
        """Go one rung down after `error`, which the rows of `load` met; returns the new one.

        Raises `RowTooLargeError` where there is none left.
        """
        now = self.current
        if now.graphs:  # they hold memory of their own
            self.current, self.graphs_error = replace(now, graphs=False), error
        elif load.long_rows_at_once > 1:
            self.current = replace(now, long_rows=1)
        elif load.rows_at_once > 1:
            self.current = replace(now, one_at_a_time=True, tokens_per_row=min(now.tokens_per_row, load.tokens))
        elif load.examples > 1:
            self.current = replace(now, one_at_a_time=True, tokens_per_row=load.tokens // 2)
        elif not now.recompute_all:
            self.current = replace(now, recompute_all=True)
            self._tokens_before = now.tokens_per_row  # smaller rows did not help: what follows is compared with them
        else:
            # Only what a caller may still want to know is left to report: the other rungs did not help.
            self._reported = replace(now, recompute_all=self._reported.recompute_all)
            raise RowTooLargeError(load.tokens)
        return self.current

    def messages(self, step: int) -> list[str]:
        """What has changed since the last call, by memory that ran out at `step`: a sentence each."""
        now, before = self.current, self._reported
        found: list[str] = []
        if now.recompute_all and not before.recompute_all:
            found.append(f"Memory ran out at step {step}: from here on every layer's activations are recomputed.")
        if before.graphs and not now.graphs:
            reason = one_line(self.graphs_error or "", 120)
            found.append(f"Steps go on without CUDA graphs, slower: the GPU could not record one ({reason}).")
        if now.long_rows < before.long_rows:
            found.append(f"Memory ran out at step {step}; it goes on with long rows one at a time.")
        if (now.one_at_a_time, now.tokens_per_row) != (before.one_at_a_time, before.tokens_per_row):
            smaller = f" of at most {now.tokens_per_row:,} tokens instead of {self._tokens_before:,}"
            how = smaller if now.tokens_per_row < self._tokens_before else ", one at a time"
            found.append(f"Memory ran out at step {step}; it was taken again, and goes on, in rows{how}.")
        self.begin_at(now)
        return found


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory has run out, on whichever device."""
    reported = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return reported or isinstance(error, torch.OutOfMemoryError)


class _Tokens(Protocol):
    @property
    def input_ids(self) -> Sequence[int]: ...


def in_halves(
    compute: Callable[[Sequence[int]], T], items: Sequence[int], examples: Sequence[_Tokens]
) -> Iterator[tuple[Sequence[int], T]]:
    """Yield what `compute` returns for the examples with the indices `items`, with those it was given.

    All at once, or where memory runs out in halves and halves of those: for passes without a gradient, which no rung
    changes. Raises `RowTooLargeError` when a single example does not fit.
    """
    try:
        found = compute(items)
    except RuntimeError as problem:
        if not out_of_memory(problem):
            raise
    else:
        yield items, found
        return
    torch.cuda.empty_cache()  # here the failed row has been freed
    half = len(items) // 2
    if not half:
        raise RowTooLargeError(len(examples[items[0]].input_ids))
    yield from in_halves(compute, items[:half], examples)
    yield from in_halves(compute, items[half:], examples)
