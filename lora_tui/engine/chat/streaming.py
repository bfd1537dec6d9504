"""Token streams of a chat: a model answers with its adapter, without it, or both ways at once, token by token.

This is the part of a conversation that runs on the inference thread. Both sides share the base model's weights: the
adapter is switched off for the base model's tokens. Each side has its own prompt, its own cache of keys and values and
its own generator, so that interleaving them gives what each side gives alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field, replace

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.chat.history import Prompt
from lora_tui.engine.inference.decode import beam_search, decode, text_of
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.protocol.reply import Decoding, Reply, ReplyItem, Side, TextDelta, TokenCount

_TOKENS_BETWEEN_COUNTS = 4
_SECONDS_BETWEEN_COUNTS = 0.5
"""A beam search reports its token count after so many tokens or seconds, whichever comes first."""

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What tokens decode to at their end while a character's other bytes are still to come."""


def _whole_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The stripped text of these tokens up to its last whole character."""
    return text_of(tokenizer, ids).rstrip(_HALF_CHARACTER).rstrip()


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
    `written` holds the tokens of a reply that goes on, and those of all replies once they have ended.
    """

    model: SwitchableModel
    prompts: Mapping[Side, Prompt]
    decoding: Decoding
    should_stop: Callable[[], bool]
    emit: Callable[[ReplyItem], object]
    asked_at: float
    written: dict[Side, list[int]] = field(default_factory=dict)

    def run(self) -> None:
        """Answer all prompts: sides take turns token by token, beam searches run one after the other."""
        if self.decoding.num_beams > 1:
            for side, prompt in self.prompts.items():
                self._beam_search(side, prompt)
        else:
            self._interleave()

    def _interleave(self) -> None:
        running = [self._stream_of(side, prompt) for side, prompt in self.prompts.items()]
        while running:
            for stream in tuple(running):
                stopped = self.should_stop()
                token = None if stopped else self._next_token(stream)
                if token is None:
                    running.remove(stream)
                    cut = not stopped and stream.new_tokens >= self.prompts[stream.side].max_new_tokens
                    self._end(stream.side, stream.ids, stream.seconds, stopped, cut, stream.first_token_s)
                    continue
                if stream.first_token_s is None:
                    stream.first_token_s = time.perf_counter() - self.asked_at
                if text := stream.add(token):
                    self.emit(TextDelta(stream.side, text))

    def _stream_of(self, side: Side, prompt: Prompt) -> "_SideStream":
        tokenizer, written = self.model.base.tokenizer, self.written.get(side, [])
        tokens = decode(self.model.model, tokenizer, [prompt.text], self._decoding_of(prompt), [written])
        return _SideStream(side, tokenizer, tokens, written)

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

        model, tokenizer = self.model.model, self.model.base.tokenizer
        written, found = self.written.get(side, []), list[int]()
        if not stopped:
            decoding = self._decoding_of(prompt)
            with self.model.as_side(side):
                found = beam_search(model, tokenizer, prompt.text, decoding, should_stop, on_step, written)
        ids = [*written, *found]
        before, text = _whole_text(tokenizer, written), _whole_text(tokenizer, ids)
        if added := text.removeprefix(before):
            self.emit(TextDelta(side, added))
        cut = not stopped and len(found) >= prompt.max_new_tokens
        self._end(side, ids, time.perf_counter() - began, stopped, cut)

    def _end(
        self,
        side: Side,
        ids: list[int],
        seconds: float,
        stopped: bool,
        cut: bool,
        first_token_s: float | None = None,
    ) -> None:
        self.written[side] = ids
        text = _whole_text(self.model.base.tokenizer, ids)
        self.emit(Reply(text, len(ids), seconds, side=side, stopped=stopped, first_token_s=first_token_s, cut=cut))

    def _decoding_of(self, prompt: Prompt) -> Decoding:
        return replace(self.decoding, max_new_tokens=prompt.max_new_tokens)


@dataclass
class _SideStream:
    """A side that is being decoded: `text` is that of its `ids` so far, up to its last whole character.

    `written` are the tokens that it had before. `seconds` were spent on it alone.
    """

    side: Side
    tokenizer: PreTrainedTokenizerBase
    tokens: Iterator[list[int | None]]
    written: InitVar[Sequence[int]]
    ids: list[int] = field(init=False)
    text: str = field(init=False)
    new_tokens: int = 0
    seconds: float = 0.0
    first_token_s: float | None = None

    def __post_init__(self, written: Sequence[int]) -> None:
        self.ids = list(written)
        self.text = self._decoded().rstrip(_HALF_CHARACTER)

    def _decoded(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True)).lstrip()

    def add(self, token: int) -> str:
        """Take the next token; returns the text that it completes, without white space before the first word."""
        self.ids.append(token)
        self.new_tokens += 1
        text = self._decoded()
        if text.endswith(_HALF_CHARACTER):  # half of a character: wait for its other bytes
            return ""
        added = text[len(self.text) :]
        self.text = text
        return added
