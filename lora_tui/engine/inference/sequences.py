"""Sequences that are decoded side by side, each with limits, seed and adapter of its own, joining and leaving at will.

`SequenceDecoder` is what a server of many requests stands on: a sequence is added while others run, is told of token by
token, and makes room when it ends. `PlainDecoder` is the one that works for every architecture: transformers' own
forward, a cache for each sequence, one after the other. Everything here belongs to one thread. What tokens are as text,
and where a stop string ends it, is for others to know.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lora_tui.engine.inference.token_choice import choose, penalised, random_generator
from lora_tui.protocol.reply import Decoding

RUNNING = 32
"""Sequences that are decoded at once where nothing else is said; further ones wait."""


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """A prompt to continue.

    `ids` are the prompt's tokens, at least one; they and ``max_new_tokens`` must fit into the model's context.
    `decoding` has ``num_beams`` 1, and its ``until`` is not looked at. `adapter` names a loaded adapter, None the base
    model. With `top_logprobs`, log-probabilities come along: the chosen token's, and those of so many likeliest ones.
    """

    ids: Sequence[int]
    decoding: Decoding
    adapter: str | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """The next token of a sequence, or its end.

    `sequence` is what `add` returned. `token` is None where the sequence ended on a stop token (which is not told) or
    was cancelled; the token at the limit comes with `ended` ``length``. Log-probabilities are the model's own, in nats,
    before temperature, nucleus and penalty: `top` has pairs of token and log-probability, the likeliest first.
    """

    sequence: int
    token: int | None
    ended: Literal["", "stop", "length"] = ""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class SequenceDecoder(Protocol):
    """Decodes sequences side by side; all calls come from one thread.

    Each sequence gets what it would get alone, whatever runs beside it; in half precision that is up to rounding, which
    differs with the number of rows.
    """

    def add(self, request: SequenceRequest) -> int:
        """Queue a sequence; returns its number, which is not used again."""

    def cancel(self, sequence: int) -> None:
        """End a sequence now and free its place; one that has ended is none. Its tokens need not be told any more."""

    def step(self) -> list[DecodedToken]:
        """Decode one token for each running sequence, after admitting waiting ones; nothing where none is there."""

    @property
    def running(self) -> int:
        """Sequences that get a token with each step."""

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place."""


@dataclass(slots=True)
class _PlainSequence:
    """A sequence that waits or runs: `ids` are the tokens that the model has not read yet, `seen` all of them."""

    number: int
    request: SequenceRequest
    ids: Tensor
    seen: Tensor
    cache: DynamicCache
    generator: torch.Generator
    written: int = field(default=0)


class PlainDecoder:
    """Decodes with transformers' own forward: one cache a sequence, sequences in turn, PEFT's adapters switched.

    `model` has the adapters, under the names that requests use; `ends` are the tokens that end a sequence. With each
    step at most one waiting sequence is admitted beside those that run, so that reading prompts holds nobody up long.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, ends: frozenset[int], running: int = RUNNING) -> None:
        self._model = model
        self._ends = ends
        self._most = running
        self._waiting: deque[_PlainSequence] = deque()
        self._running: dict[int, _PlainSequence] = {}
        self._next = 0
        switchable = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self._adapted = [module for module in model.modules() if isinstance(module, switchable)]
        self._adapter: str | None = None
        self._switch_now(None)

    @property
    def running(self) -> int:
        """Sequences that get a token with each step."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self._waiting)

    def add(self, request: SequenceRequest) -> int:
        """Queue a sequence; returns its number."""
        number, self._next = self._next, self._next + 1
        ids = torch.tensor([list(request.ids)], dtype=torch.long, device=self._model.device)
        cache = DynamicCache(config=self._model.config)
        generator = random_generator(request.decoding.seed)
        self._waiting.append(_PlainSequence(number, request, ids, ids, cache, generator))
        return number

    def cancel(self, sequence: int) -> None:
        """End a sequence now and free its place."""
        self._running.pop(sequence, None)
        self._waiting = deque(one for one in self._waiting if one.number != sequence)

    @torch.inference_mode()
    def step(self) -> list[DecodedToken]:
        """Decode one token for each running sequence, those of one adapter after the other."""
        if self._waiting and len(self._running) < self._most:
            admitted = self._waiting.popleft()
            self._running[admitted.number] = admitted
        # Those of the adapter that is switched on come first: a switch goes through all layers.
        turn = sorted(
            self._running.values(), key=lambda one: (one.request.adapter != self._adapter, one.request.adapter or "")
        )
        return [self._advance(sequence) for sequence in turn]

    def _advance(self, sequence: _PlainSequence) -> DecodedToken:
        request, decoding = sequence.request, sequence.request.decoding
        self._switch(request.adapter)
        read = sequence.seen.shape[1] - sequence.ids.shape[1]
        output = self._model(
            input_ids=sequence.ids,
            position_ids=torch.arange(read, sequence.seen.shape[1], device=sequence.ids.device)[None],
            past_key_values=sequence.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        chosen = choose(penalised(logits, sequence.seen, decoding.repetition_penalty), decoding, sequence.generator)
        token = int(chosen)
        if token in self._ends:
            del self._running[sequence.number]
            return DecodedToken(sequence.number, None, "stop")
        logprob, top = None, list[tuple[int, float]]()
        if request.top_logprobs is not None:
            scores = logits[0].log_softmax(-1)
            logprob = float(scores[token])
            best = scores.topk(request.top_logprobs)
            top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        sequence.written += 1
        sequence.ids = chosen[:, None]
        sequence.seen = torch.cat([sequence.seen, sequence.ids], dim=1)
        at_limit = sequence.written >= decoding.max_new_tokens
        if at_limit:
            del self._running[sequence.number]
        return DecodedToken(sequence.number, token, "length" if at_limit else "", logprob, tuple(top))

    def _switch(self, adapter: str | None) -> None:
        """Have the model compute with this adapter, or with none."""
        if adapter != self._adapter:
            self._switch_now(adapter)

    def _switch_now(self, adapter: str | None) -> None:
        for module in self._adapted:
            # A layer that the adapter does not change must not keep another one's.
            has_it = adapter is not None and adapter in _adapters_of(module)
            if has_it:
                module.set_adapter([adapter], inference_mode=True)
            module.enable_adapters(has_it)
        self._adapter = adapter


def _adapters_of(module: BaseTunerLayer | AuxiliaryTrainingWrapper) -> Collection[str]:
    """The names of the adapters that a layer has something of."""
    if isinstance(module, BaseTunerLayer):
        return {name for part in module.adapter_layer_names for name in getattr(module, part)}
    names: Collection[str] = module._adapters  # PEFT has no public name for them
    return names
