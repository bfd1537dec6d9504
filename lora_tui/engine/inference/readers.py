"""What a model says comes next, for prompts that grow by a token at a time: `TransformersReader` and `FastReader`.

Both give the same scores. The first is transformers' own forward and works for every architecture; prompts are padded
on the left, and the padding is masked. The second is for the families of `FastModel`, and looks ahead where it reads
one prompt: text that repeats itself, as an answer repeats its passage, is read several tokens at once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.inference.fast_model import FastModel
from lora_tui.engine.inference.key_values import PromptAttention, Span, StepAttention
from lora_tui.engine.inference.matrices import RowAdapters

_MATCH = 2
"""Tokens that must repeat before those that followed them are expected again."""

_MOST_EXPECTED = 10
"""Tokens that are read ahead at most."""


def padded(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], side: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and mask of shape ``(rows, longest)``, with padding on the ``left`` or ``right``."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    pad = partial(pad_sequence, batch_first=True, padding_side=side)
    input_ids = pad(ids, padding_value=tokenizer.pad_token_id or 0)
    return input_ids.to(device), pad([torch.ones_like(row) for row in ids]).to(device)


class PromptReader(Protocol):
    """Prompts that have been read, and grow."""

    def scores(self, chosen: Tensor | None) -> Tensor:
        """Scores of the next token ``(prompts, vocabulary)``, float32, after the tokens `chosen` ``(prompts,)``.

        The first call has none: the prompts are read then.
        """


class TransformersReader:
    """Prompts of token `ids`, read by transformers' forward."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[list[int]]) -> None:
        self._model = model
        self._ids, self._mask = padded(tokenizer, ids, "left", model.device)
        self._cache = DynamicCache(config=model.config)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)

    def scores(self, chosen: Tensor | None) -> Tensor:
        """See `PromptReader`."""
        if chosen is not None:
            self._ids = chosen[:, None]
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(chosen), 1)], dim=1)
            self._positions = self._positions[:, -1:] + 1
        output = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()  # type: ignore[no-any-return]  # transformers' outputs have no types


class FastReader:
    """Prompts of token `ids`, read by a model in its fast form, with one adapter or none."""

    def __init__(self, model: FastModel, ids: Sequence[list[int]], adapter: str | None) -> None:
        self._model = model
        self._adapters = RowAdapters(everywhere=adapter)
        self._cache = model.new_cache()
        self._ids = ids
        self._lengths = [0] * len(ids)
        self._repetition = _Repetition(ids[0]) if len(ids) == 1 else None
        self._ahead: list[tuple[int, Tensor]] = []
        """Tokens that were read ahead, with the scores ``(1, vocabulary)`` of what follows each."""

    def scores(self, chosen: Tensor | None) -> Tensor:
        """See `PromptReader`."""
        if chosen is None:
            return self._read_prompts()
        if self._repetition is None:
            return self._step(chosen)
        token = int(chosen)
        self._repetition.add(token)
        if self._ahead and self._ahead[0][0] == token:
            self._lengths[0] += 1
            self._repetition.was_right()
            return self._ahead.pop(0)[1]
        self._ahead.clear()
        expected = self._repetition.expected()
        return self._look_ahead([token, *expected]) if expected else self._step(chosen)

    def _read_prompts(self) -> Tensor:
        spans, start = list[Span](), 0
        for place, prompt in enumerate(self._ids):
            spans.append(Span(place, start, start + len(prompt), 0))
            start += len(prompt)
        self._lengths = [len(prompt) for prompt in self._ids]
        self._cache.reserve(len(self._ids), max(self._lengths) + 1)
        tokens = [token for prompt in self._ids for token in prompt]
        positions = [position for prompt in self._ids for position in range(len(prompt))]
        hidden = self._hidden(tokens, positions, spans)
        return self._model.logits(hidden[[span.end - 1 for span in spans]], self._adapters)

    def _step(self, chosen: Tensor) -> Tensor:
        self._cache.reserve(len(chosen), max(self._lengths) + 1)
        positions = torch.tensor(self._lengths, device=self._model.device)
        attention = StepAttention(self._cache, self._lengths, self._model.scaling)
        hidden = self._model.hidden(chosen, positions, attention, self._adapters)
        self._lengths = [length + 1 for length in self._lengths]
        return self._model.logits(hidden, self._adapters)

    def _look_ahead(self, tokens: list[int]) -> Tensor:
        """Read a token and those that are expected after it; the cache counts only what has come true."""
        (before,) = self._lengths
        self._cache.reserve(1, before + len(tokens))
        span = Span(0, 0, len(tokens), before)
        hidden = self._hidden(tokens, range(before, before + len(tokens)), [span])
        scores = torch.split(self._model.logits(hidden, self._adapters), 1)
        self._ahead = list(zip(tokens[1:], scores[1:], strict=True))
        self._lengths[0] += 1
        return scores[0]

    def _hidden(self, tokens: Sequence[int], positions: Sequence[int], spans: Sequence[Span]) -> Tensor:
        device = self._model.device
        return self._model.hidden(
            torch.tensor(tokens, device=device),
            torch.tensor(positions, device=device),
            PromptAttention(self._cache, spans, self._model.scaling),
            self._adapters,
        )


class _Repetition:
    """Prompt look-up (Saxena 2023): where the last tokens have stood before, what followed them may follow again."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._width = 4.0
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Take the next token of the text."""
        # What is looked up must have been followed by something: the newest place is entered a token later.
        if len(self._ids) >= _MATCH:
            self._after[tuple(self._ids[-_MATCH:])] = len(self._ids)
        self._ids.append(token)

    def expected(self) -> list[int]:
        """The tokens that may come next, none where nothing repeats itself; fewer after those that did not come."""
        self._width = max(2.0, self._width - 1.0)
        place = self._after.get(tuple(self._ids[-_MATCH:]))
        return [] if place is None else self._ids[place : place + int(self._width)]

    def was_right(self) -> None:
        """An expected token came."""
        self._width = min(_MOST_EXPECTED, self._width + 1.0)
