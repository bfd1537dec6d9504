"""Continuous batching: sequences of any length and adapter share each forward pass, and leave room when they end.

Orca's iteration-level scheduling (Yu et al. 2022): a step gives each running sequence one token, then reads waiting
prompts, several in one pass and long ones a part at a time, so that those that run are not held up. Each sequence has a
place in the cache; places in use are always the first ones, so that a step reads the cache as one block.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lora_tui.engine.inference.fast_model import FastModel, fast_model
from lora_tui.engine.inference.key_values import PromptAttention, Span, StepAttention
from lora_tui.engine.inference.matrices import RowAdapters
from lora_tui.engine.inference.sequences import RUNNING, DecodedToken, PlainDecoder, SequenceDecoder, SequenceRequest
from lora_tui.engine.inference.token_choice import choose, penalised, random_generator, stop_token_ids
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.adapters import load_adapters
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.engine.models.loaded_checks import context_tokens
from lora_tui.machine import free_memory

_log = logging.getLogger(__name__)

_PROMPT_TOKENS = 512
"""Prompt tokens that are read in one step at most."""

_CACHE_SHARE = 0.25
"""Share of the free memory that keys and values may take."""


def make_decoder(base: BaseModel, adapters: Mapping[str, AdapterSource], running: int = RUNNING) -> SequenceDecoder:
    """Return a decoder for a loaded base model and its adapters by name, which are loaded now.

    At most `running` sequences are decoded at once. Raises what `load_adapters` raises.
    """
    model = load_adapters(base, adapters) if adapters else base.model
    ends = stop_token_ids(base.model, base.tokenizer)
    found = fast_model(model)
    if isinstance(found, FastModel):
        longest = context_tokens(base.model)
        if found.max_tokens is None or (longest is not None and longest <= found.max_tokens):
            return BatchDecoder(found, ends, running)
        found = f"attention that sees the last {found.max_tokens:,} tokens only"
    _log.info("requests are decoded one after the other by transformers: the model has %s", found)
    return PlainDecoder(model, ends, running)


@dataclass(slots=True)
class _Sequence:
    """A sequence that waits, is being read or runs.

    `unread` are tokens that the model has not seen, `length` counts those that its place in the cache holds. `seen` are
    all tokens, where a repetition costs.
    """

    number: int
    request: SequenceRequest
    unread: list[int]
    generator: torch.Generator | None
    seen: list[int]
    length: int = 0
    written: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is the next one, and nothing else is asked."""
        decoding = self.request.decoding
        no_penalty = decoding.repetition_penalty == 1.0
        return decoding.temperature == 0.0 and no_penalty and self.request.top_logprobs is None


@dataclass
class BatchDecoder:
    """A `SequenceDecoder` for a model in its fast form; `ends` are the tokens that end a sequence.

    `most` sequences run at once at most, fewer where keys and values would take more than a quarter of the free memory.
    """

    model: FastModel
    ends: frozenset[int]
    most: int = RUNNING
    _waiting: deque[_Sequence] = field(default_factory=deque)
    _placed: list[_Sequence] = field(default_factory=list)
    """By place in the cache: those that run, then at most one whose prompt is being read."""
    _next: int = 0

    def __post_init__(self) -> None:
        self._cache = self.model.new_cache()
        self._cache_limit = _CACHE_SHARE * _free_memory(self.model.device)

    @property
    def running(self) -> int:
        """Sequences that get a token with each step, or whose prompt is being read."""
        return len(self._placed)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self._waiting)

    def add(self, request: SequenceRequest) -> int:
        """Queue a sequence; returns its number."""
        number, self._next = self._next, self._next + 1
        decoding = request.decoding
        generator = random_generator(decoding.seed) if decoding.temperature > 0.0 else None
        self._waiting.append(_Sequence(number, request, list(request.ids), generator, list(request.ids)))
        return number

    @torch.inference_mode()
    def cancel(self, sequence: int) -> None:
        """End a sequence now and free its place."""
        self._waiting = deque(one for one in self._waiting if one.number != sequence)
        for place, one in enumerate(self._placed):
            if one.number == sequence:
                self._free([place])
                return

    @torch.inference_mode()
    def step(self) -> list[DecodedToken]:
        """Decode one token for each running sequence, then read prompts."""
        running = sum(not one.unread for one in self._placed)
        told = self._decode(running) if running else []
        return told + self._read()

    def _decode(self, count: int) -> list[DecodedToken]:
        sequences, device = self._placed[:count], self.model.device
        lengths = [one.length for one in sequences]
        self._cache.reserve(len(self._placed), max(lengths) + 1)
        adapters = _adapters(sequences, device)
        hidden = self.model.hidden(
            torch.tensor([one.seen[-1] for one in sequences], device=device),
            torch.tensor(lengths, device=device),
            StepAttention(self._cache, lengths, self.model.scaling),
            adapters,
        )
        for one in sequences:
            one.length += 1
        return self._choose(list(range(count)), self.model.logits(hidden, adapters))

    def _read(self) -> list[DecodedToken]:
        """Read the next part of prompts; those that are read to their end get their first token."""
        parts: list[tuple[int, list[int]]] = []  # place, tokens
        room = _PROMPT_TOKENS
        first = sum(not one.unread for one in self._placed)
        for place in range(first, self.most):
            if room == 0 or (place == len(self._placed) and not self._admit()):
                break
            sequence = self._placed[place]
            tokens, sequence.unread = sequence.unread[:room], sequence.unread[room:]
            room -= len(tokens)
            parts.append((place, tokens))
        if not parts:
            return []
        tokens, positions, spans, owners = list[int](), list[int](), list[Span](), list[_Sequence]()
        for place, part in parts:
            sequence = self._placed[place]
            before = sequence.length
            spans.append(Span(place, len(tokens), len(tokens) + len(part), before))
            positions += range(before, before + len(part))
            tokens += part
            owners += [sequence] * len(part)
            sequence.length += len(part)
        self._cache.reserve(len(self._placed), max(self._placed[place].length for place, _ in parts))
        device = self.model.device
        hidden = self.model.hidden(
            torch.tensor(tokens, device=device),
            torch.tensor(positions, device=device),
            PromptAttention(self._cache, spans, self.model.scaling),
            _adapters(owners, device),
        )
        done = [span for span in spans if not self._placed[span.place].unread]
        if not done:
            return []
        last = hidden[torch.tensor([span.end - 1 for span in done], device=device)]
        places = [span.place for span in done]
        adapters = _adapters([self._placed[place] for place in places], device)
        return self._choose(places, self.model.logits(last, adapters))

    def _admit(self) -> bool:
        """Give the next waiting sequence a place, if the memory allows another."""
        if not self._waiting:
            return False
        longest = max(len(one.seen) + 1 for one in (*self._placed, self._waiting[0]))
        if self._placed and self._cache.bytes_of(len(self._placed) + 1, longest) > self._cache_limit:
            return False
        self._placed.append(self._waiting.popleft())
        return True

    def _choose(self, places: Sequence[int], logits: Tensor) -> list[DecodedToken]:
        """Choose the next token of the sequences at `places` from `logits` ``(places, vocabulary)``."""
        sequences = [self._placed[place] for place in places]
        likeliest = logits.argmax(-1).tolist()
        told, ended = [], []
        for row, (place, one) in enumerate(zip(places, sequences, strict=True)):
            token, logprob, top = likeliest[row], None, tuple[tuple[int, float], ...]()
            if not one.is_plain:
                token, logprob, top = self._chosen_alone(one, logits[row : row + 1])
            end: Literal["", "stop", "length"] = ""
            if token in self.ends:
                end = "stop"
            else:
                one.seen.append(token)
                one.written += 1
                end = "length" if one.written >= one.request.decoding.max_new_tokens else ""
            if end:
                ended.append(place)
            told.append(DecodedToken(one.number, None if end == "stop" else token, end, logprob, top))
        self._free(ended)
        return told

    def _chosen_alone(self, one: _Sequence, logits: Tensor) -> tuple[int, float | None, tuple[tuple[int, float], ...]]:
        decoding, wanted = one.request.decoding, one.request.top_logprobs
        scored = logits
        if decoding.repetition_penalty != 1.0:
            scored = penalised(logits, torch.tensor([one.seen], device=logits.device), decoding.repetition_penalty)
        token = int(scored.argmax(-1) if one.generator is None else choose(scored, decoding, one.generator))
        if wanted is None:
            return token, None, ()
        scores = logits[0].log_softmax(-1)
        best = scores.topk(wanted)
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return token, float(scores[token]), top

    def _free(self, places: Sequence[int]) -> None:
        """Take sequences out; the last running one moves into the gap, then the one that is being read."""
        for place in sorted(places, reverse=True):
            reading = bool(self._placed) and bool(self._placed[-1].unread)
            last_running = len(self._placed) - 1 - reading
            if place < last_running:
                self._move(last_running, place)
            if reading and place <= last_running:
                self._move(len(self._placed) - 1, last_running)
            self._placed.pop()

    def _move(self, source: int, target: int) -> None:
        self._cache.move(source, target, self._placed[source].length)
        self._placed[target] = self._placed[source]


def _free_memory(device: torch.device) -> int:
    """Bytes that keys and values could take on a device: a GPU has its own memory, all others the machine's."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()


def _adapters(sequences: Sequence[_Sequence], device: torch.device) -> RowAdapters:
    return RowAdapters.of([one.request.adapter for one in sequences], device)
