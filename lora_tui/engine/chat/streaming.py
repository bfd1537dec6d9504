"""Token streams of a chat: a model answers with its adapter, without it, or both ways at once, token by token.

This is the part of a conversation that runs on the inference thread. Both sides share the base model's weights: the
adapter is switched off for the base model's tokens. Each side has its own prompt, its own cache of keys and values and
its own generator, so that interleaving them gives what each side gives alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.chat.history import Prompt
from lora_tui.engine.inference.decode import beam_answer, decode
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.protocol.reply import Decoding, Reply, ReplyItem, Side, TextDelta, TokenCount

_TOKENS_BETWEEN_COUNTS = 4
_SECONDS_BETWEEN_COUNTS = 0.5
"""A beam search reports its token count after so many tokens or seconds, whichever comes first."""


class SwitchableModel:
    """A base model, and the same model with an adapter on it where there is one."""

    def __init__(self, base: BaseModel, model: PreTrainedModel | PeftModel) -> None:
        self.base = base
        self.model = model
        switchable = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self._adapted = [module for module in model.modules() if isinstance(module, switchable)]

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that can answer, the default one first."""
        return ("tuned", "base") if self._adapted else ("base",)

    @contextmanager
    def as_side(self, side: Side) -> Iterator[None]:
        """Switch the adapter on or off for the block.

        PEFT's ``disable_adapter`` does the same, but looks through the whole model each time: 20 ms for SmolLM2, as
        long as a token takes.
        """
        disabled = self._adapted if side == "base" else []
        try:
            for module in disabled:
                module.enable_adapters(False)
            yield
        finally:
            for module in disabled:
                module.enable_adapters(True)


@dataclass(frozen=True)
class ReplyGeneration:
    """One question, answered by each side that has a prompt; `run` blocks the inference thread until all have ended.

    `emit` gets each item as it is decoded. `asked_at` is when the question came, on ``time.perf_counter``'s clock.
    """

    model: SwitchableModel
    prompts: Mapping[Side, Prompt]
    decoding: Decoding
    should_stop: Callable[[], bool]
    emit: Callable[[ReplyItem], object]
    asked_at: float

    def run(self) -> None:
        """Answer all prompts: sides take turns token by token, beam searches run one after the other."""
        if self.decoding.num_beams > 1:
            for side, prompt in self.prompts.items():
                self._beam_search(side, prompt)
        else:
            self._interleave()

    def _interleave(self) -> None:
        tokenizer = self.model.base.tokenizer
        running = [
            _SideStream(side, tokenizer, decode(self.model.model, tokenizer, [prompt.text], self._decoding_of(prompt)))
            for side, prompt in self.prompts.items()
        ]
        while running:
            for stream in tuple(running):
                stopped = self.should_stop()
                token = None if stopped else self._next_token(stream)
                if token is None:
                    running.remove(stream)
                    self._end(stream.side, stream.text.strip(), stream.seconds, stopped, stream.first_token_s)
                    continue
                if stream.first_token_s is None:
                    stream.first_token_s = time.perf_counter() - self.asked_at
                if text := stream.add(token):
                    self.emit(TextDelta(stream.side, text))

    def _next_token(self, stream: "_SideStream") -> int | None:
        """Decode one token of a side; None when it has ended."""
        began = time.perf_counter()
        with self.model.as_side(stream.side):
            (token,) = next(stream.tokens, [None])
        stream.seconds += time.perf_counter() - began
        return token

    def _beam_search(self, side: Side, prompt: Prompt) -> None:
        began = reported_at = time.perf_counter()
        reported = 0
        stopped = self.should_stop()

        def should_stop() -> bool:
            nonlocal stopped
            stopped = self.should_stop()
            return stopped

        def on_step(tokens: int) -> None:
            nonlocal reported, reported_at
            now = time.perf_counter()
            due = tokens - reported >= _TOKENS_BETWEEN_COUNTS or now - reported_at >= _SECONDS_BETWEEN_COUNTS
            if reported == 0 or due:
                reported, reported_at = tokens, now
                self.emit(TokenCount(side, tokens))

        text = ""
        if not stopped:
            model, tokenizer = self.model.model, self.model.base.tokenizer
            with self.model.as_side(side):
                text = beam_answer(model, tokenizer, prompt.text, self._decoding_of(prompt), should_stop, on_step)
        if text:
            self.emit(TextDelta(side, text))
        self._end(side, text, time.perf_counter() - began, stopped)

    def _end(self, side: Side, text: str, seconds: float, stopped: bool, first_token_s: float | None = None) -> None:
        tokens = len(self.model.base.tokenizer(text, add_special_tokens=False)["input_ids"])
        self.emit(Reply(text, tokens, seconds, side=side, stopped=stopped, first_token_s=first_token_s))

    def _decoding_of(self, prompt: Prompt) -> Decoding:
        return replace(self.decoding, max_new_tokens=prompt.max_new_tokens)


@dataclass
class _SideStream:
    """A side that is being decoded: `text` is that of its `ids` so far, up to its last whole character.

    `seconds` were spent on it alone.
    """

    side: Side
    tokenizer: PreTrainedTokenizerBase
    tokens: Iterator[list[int | None]]
    ids: list[int] = field(default_factory=list)
    text: str = ""
    seconds: float = 0.0
    first_token_s: float | None = None

    def add(self, token: int) -> str:
        """Take the next token; returns the text that it completes, without white space before the first word."""
        self.ids.append(token)
        text = str(self.tokenizer.decode(self.ids, skip_special_tokens=True)).lstrip()
        if text.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a character: wait for its other bytes
            return ""
        added = text[len(self.text) :]
        self.text = text
        return added
