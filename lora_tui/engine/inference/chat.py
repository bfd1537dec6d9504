"""Conversation with a model: one session, its base model with or without an adapter, and its stored turns.

A prompt takes the form that the adapter was trained on: ``Question: … Answer:``, or the model's own chat template where
the training data were conversations. Tokens come out as an async iterator, the one stream that does not pass through
the store; turns are stored as they end.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.config import Settings
from lora_tui.engine.base_model import BaseModel, load_base
from lora_tui.engine.builtin import Progress
from lora_tui.engine.engine import Engine
from lora_tui.engine.inference.adapters import AdapterSource, find_adapter, load_adapter
from lora_tui.engine.inference.decode import Decoding, answers, decode
from lora_tui.engine.inference.special import predefined_reply
from lora_tui.engine.training.dataset import prompt_text
from lora_tui.scoring.metrics import agreement
from lora_tui.store import chat
from lora_tui.store.connection import Store


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished reply. For a special command: the predefined answer, and how far the reply agrees with it (0-1)."""

    text: str
    tokens: int
    seconds: float
    predefined: str | None = None
    agreement: float | None = None


@dataclass
class ChatSession:
    """A loaded model and the conversation with it."""

    engine: Engine
    store: Store
    settings: Settings
    base: BaseModel
    model: PreTrainedModel
    source: AdapterSource | None
    conversation_id: int
    history: list[dict[str, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def title(self) -> str:
        """Who is being talked to."""
        if self.source is None:
            return f"{self.base.name} without an adapter"
        where = f"run {self.source.run_id}" if self.source.run_id is not None else self.source.folder.name
        return f"{self.base.name} with the adapter of {where}" + (
            f", step {self.source.step}" if self.source.step else ""
        )

    @property
    def streams(self) -> bool:
        """Whether replies come token by token."""
        return self.settings.fine_tuning.chat.num_beams == 1

    async def reply(self, text: str) -> AsyncIterator[str | Reply]:
        """Yield the reply's pieces as they are decoded, and last the finished `Reply`. Both turns are stored."""
        self.stop.clear()
        await chat.add_turn(self.store, self.conversation_id, "user", text)
        options = self.settings.fine_tuning.chat
        decoding = Decoding(
            options.max_new_tokens, options.temperature, options.top_p, options.repetition_penalty, options.num_beams
        )
        began = time.perf_counter()
        pieces: list[str] = []
        async for piece in self._pieces(self._prompt(text), decoding):
            pieces.append(piece)
            yield piece
        said = "".join(pieces).strip()
        predefined = predefined_reply(options.commands, text)
        agrees = None if predefined is None else agreement(said, predefined)
        tokens = len(self.base.tokenizer(said, add_special_tokens=False)["input_ids"])
        finished = Reply(said, tokens, time.perf_counter() - began, predefined, agrees)
        self.history += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
        statistics = {"tokens": tokens, "seconds": finished.seconds, "agreement": agrees}
        await chat.add_turn(self.store, self.conversation_id, "assistant", said, statistics)
        yield finished

    def _prompt(self, text: str) -> str:
        """What the model continues."""
        by_template = self.source is None or self.source.papers.get("chat_template", False)
        if self.base.tokenizer.chat_template and by_template:
            turns = [*self.history, {"role": "user", "content": text}]
            rendered = self.base.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            return _without_second_bos(self.base.tokenizer, str(rendered))
        return prompt_text(text)

    async def _pieces(self, prompt: str, decoding: Decoding) -> AsyncIterator[str]:
        """Bring the torch thread's text to the loop: token by token, or all at once from a beam search."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue()

        def work() -> None:
            try:
                for piece in self._text(prompt, decoding):
                    loop.call_soon_threadsafe(queue.put_nowait, piece)
            finally:
                loop.call_soon_threadsafe(queue.put_nowait, None)

        task = asyncio.ensure_future(self.engine.in_torch_thread(work))
        while (piece := await queue.get()) is not None:
            yield piece
        await task

    def _text(self, prompt: str, decoding: Decoding) -> Iterator[str]:
        tokenizer = self.base.tokenizer
        if decoding.num_beams > 1:
            yield from answers(self.model, tokenizer, [prompt], decoding, self.stop)
            return
        written: list[int] = []
        shown = ""
        for (token,) in decode(self.model, tokenizer, [prompt], decoding):
            if token is None or self.stop.is_set():
                return
            written.append(token)
            text = tokenizer.decode(written, skip_special_tokens=True)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a character: wait for its other bytes
                yield text[len(shown) :] if shown else text.lstrip()
                shown = text


async def open_session(
    engine: Engine, settings: Settings, options: Mapping[str, Any], progress: Progress
) -> ChatSession:
    """Find the adapter, load the model, and open a conversation. Without any finished run it is the base model's."""
    store = engine.open_store
    source = await find_adapter(store, options)
    name = source.base_model(settings) if source is not None else settings.fine_tuning.model_name
    base = await engine.in_torch_thread(lambda: load_base(settings, progress, name))
    model = base.model
    if source is not None:
        model = await engine.in_torch_thread(lambda: load_adapter(base, source))
    run_id = source.run_id if source is not None else None
    conversation = await chat.begin(store, run_id, base.name, str(source.folder) if source is not None else None)
    return ChatSession(engine, store, settings, base, model, source, conversation)


def _without_second_bos(tokenizer: PreTrainedTokenizerBase, rendered: str) -> str:
    """Leave out the template's own beginning-of-sequence text where the tokenizer adds that token by itself."""
    bos = tokenizer.bos_token_id
    if bos is not None and tokenizer(rendered)["input_ids"][:2] == [bos, bos]:
        return rendered.removeprefix(str(tokenizer.bos_token))
    return rendered
