"""One model in memory that answers with its adapter, without it, or both ways at once, token by token.

This is the part of a conversation that runs on the inference thread. Both sides share the base model's weights: the
adapter is switched off for the base model's tokens. Each side has its own prompt, its own cache of keys and values and
its own generator, so that taking turns gives what each side gives alone.
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
from lora_tui.protocol.reply import Decoding, Side, TextDelta, TokenCount

_TOKENS_BETWEEN_SIGNS = 4
_SECONDS_BETWEEN_SIGNS = 0.5
"""A beam search shows a sign of life after so many tokens or seconds, whichever comes first."""


class SwitchableModel:
    """A base model, and the same model with an adapter on it where there is one."""

    def __init__(self, base: BaseModel, model: PreTrainedModel | PeftModel) -> None:
        self.base = base
        self.model = model
        switchable = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self._adapted = [module for module in model.modules() if isinstance(module, switchable)]

    @property
    def sides(self) -> tuple[Side, ...]:
        """Who can be asked, the one that is asked by default first."""
        return ("tuned", "base") if self._adapted else ("base",)

    @contextmanager
    def as_side(self, side: Side) -> Iterator[None]:
        """Let the model be `side` inside the block.

        PEFT's ``disable_adapter`` does the same, but looks through the whole model each time: 20 ms for SmolLM2, as
        long as a token takes.
        """
        silenced = self._adapted if side == "base" else []
        try:
            for module in silenced:
                module.enable_adapters(False)
            yield
        finally:
            for module in silenced:
                module.enable_adapters(True)


@dataclass(frozen=True, slots=True)
class Ended:
    """A side has said all it has to say, or was stopped. Times in seconds, as in `Reply`."""

    side: Side
    text: str
    seconds: float
    first_token_s: float | None
    stopped: bool


Told = TextDelta | TokenCount | Ended


def speak(
    model: SwitchableModel,
    prompts: Mapping[Side, Prompt],
    decoding: Decoding,
    should_stop: Callable[[], bool],
    tell: Callable[[Told], None],
    asked_at: float,
) -> None:
    """Answer each side's prompt, telling what is said as it is decoded, and how each side ended.

    Sides take turns token by token; a beam search has one after the other. `asked_at` is when the question came, on
    ``time.perf_counter``'s clock.
    """
    if decoding.num_beams > 1:
        for side, prompt in prompts.items():
            _search(model, side, prompt, decoding, should_stop, tell)
    else:
        _take_turns(model, prompts, decoding, should_stop, tell, asked_at)


@dataclass
class _Speaker:
    """A side that is speaking."""

    side: Side
    tokens: Iterator[list[int | None]]
    text: "_Text"
    seconds: float = 0.0
    first_token_s: float | None = None

    def ended(self, *, stopped: bool) -> Ended:
        return Ended(self.side, self.text.shown.strip(), self.seconds, self.first_token_s, stopped)


def _take_turns(
    model: SwitchableModel,
    prompts: Mapping[Side, Prompt],
    decoding: Decoding,
    should_stop: Callable[[], bool],
    tell: Callable[[Told], None],
    asked_at: float,
) -> None:
    tokenizer = model.base.tokenizer
    speaking = []
    for side, prompt in prompts.items():
        own = replace(decoding, max_new_tokens=prompt.max_new_tokens)
        speaking.append(_Speaker(side, decode(model.model, tokenizer, [prompt.text], own), _Text(tokenizer)))
    while speaking:
        for speaker in tuple(speaking):
            stopped = should_stop()
            token = None if stopped else _next_token(model, speaker)
            if token is None:
                speaking.remove(speaker)
                tell(speaker.ended(stopped=stopped))
                continue
            if speaker.first_token_s is None:
                speaker.first_token_s = time.perf_counter() - asked_at
            if piece := speaker.text.add(token):
                tell(TextDelta(speaker.side, piece))


def _next_token(model: SwitchableModel, speaker: _Speaker) -> int | None:
    """Decode one token of a side; None when it has ended."""
    began = time.perf_counter()
    with model.as_side(speaker.side):
        (token,) = next(speaker.tokens, [None])
    speaker.seconds += time.perf_counter() - began
    return token


def _search(
    model: SwitchableModel,
    side: Side,
    prompt: Prompt,
    decoding: Decoding,
    should_stop: Callable[[], bool],
    tell: Callable[[Told], None],
) -> None:
    began = told_at = time.perf_counter()
    told = 0
    stopped = should_stop()

    def asked_to_stop() -> bool:
        nonlocal stopped
        stopped = should_stop()
        return stopped

    def on_step(tokens: int) -> None:
        nonlocal told, told_at
        now = time.perf_counter()
        if told == 0 or tokens - told >= _TOKENS_BETWEEN_SIGNS or now - told_at >= _SECONDS_BETWEEN_SIGNS:
            told, told_at = tokens, now
            tell(TokenCount(side, tokens))

    said = ""
    if not stopped:
        own = replace(decoding, max_new_tokens=prompt.max_new_tokens)
        with model.as_side(side):
            said = beam_answer(model.model, model.base.tokenizer, prompt.text, own, asked_to_stop, on_step)
    if said:
        tell(TextDelta(side, said))
    tell(Ended(side, said, time.perf_counter() - began, None, stopped))


@dataclass
class _Text:
    """The text of the tokens so far, handed out as soon as its characters are whole."""

    tokenizer: PreTrainedTokenizerBase
    tokens: list[int] = field(default_factory=list)
    shown: str = ""

    def add(self, token: int) -> str:
        """Take the next token; returns the text that it completes, without white space before the first word."""
        self.tokens.append(token)
        text = str(self.tokenizer.decode(self.tokens, skip_special_tokens=True)).lstrip()
        if text.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a character: wait for its other bytes
            return ""
        piece = text[len(self.shown) :]
        self.shown = text
        return piece
