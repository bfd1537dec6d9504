"""Chat session: a base model, with or without an adapter, the conversation with it, and its stored turns.

A reply is an async iterator of `ReplyItem`s, the one stream that does not pass through the store; turns are stored as
they end. Sessions run on the engine's loop, and the model on its inference thread: a trainer of the same process goes
on beside it, and no reply touches the random state that it draws from.
"""

import asyncio
import gc
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lora_tui.config.models import Settings
from lora_tui.engine.chat.history import History, Prompt
from lora_tui.engine.chat.streaming import ReplyGeneration, SwitchableModel
from lora_tui.engine.inference.fast_model import FastModel, fast_model
from lora_tui.engine.models.adapter_source import AdapterGoneError, AdapterSource, base_model_name, find_adapter
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.engine.models.loaded_checks import context_tokens
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.protocol.backend import LoadProgress
from lora_tui.protocol.reply import Decoding, Notice, Reply, ReplyItem, Side
from lora_tui.scoring.metrics import agreement
from lora_tui.store import chat_log
from lora_tui.store.connection import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

_SEEDS = 2**31
"""Seeds of replies lie below this: they can be written down, and JSON keeps them exactly."""


class ChatHost(Protocol):
    """What a chat needs of the engine: its store, its inference thread, and to be closed when the engine is."""

    @property
    def open_store(self) -> Store:
        """The open store, for work on the engine's loop."""

    async def in_inference_thread(self, function: Callable[[], T]) -> T:
        """Run blocking work on the thread of conversations."""

    def register_session(self, session: "ChatSession") -> None:
        """Close this session when the engine is closed."""

    def unregister_session(self, session: "ChatSession") -> None:
        """The session has been closed."""


@dataclass(frozen=True)
class _Answered:
    """A side's reply as it is stored: its question's turn, the reply with its own, and its tokens."""

    question: int
    reply: Reply
    ids: list[int]


@dataclass
class _Exchange:
    """A question, the sides that are asked, and the reply of each that has answered."""

    text: str
    sides: tuple[Side, ...]
    answered: dict[Side, _Answered] = field(default_factory=dict)


@dataclass(eq=False)
class ChatSession:
    """A loaded model and the conversation with it.

    `stop` ends the reply that is being decoded at its next token. `decoding` may be replaced between two replies.
    """

    host: ChatHost
    store: Store
    settings: Settings
    source: AdapterSource | None
    conversation_id: int
    decoding: Decoding
    history: History
    stop: threading.Event = field(default_factory=threading.Event)
    _model: SwitchableModel | None = None
    _running: tuple[asyncio.Task[None], threading.Event] | None = None
    _last_exchange: _Exchange | None = None
    _has_warned: bool = False

    @property
    def model(self) -> SwitchableModel:
        """The loaded model; raises `LoraTuiError` once the session is closed."""
        if self._model is None:
            raise LoraTuiError("This conversation is closed.")
        return self._model

    @property
    def base(self) -> BaseModel:
        """The base model that both sides share."""
        return self.model.base

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that can answer; the first is asked unless others are named."""
        return self.model.sides

    @property
    def title(self) -> str:
        """The model, and the adapter on it."""
        if self.source is None:
            return f"{self.base.name} without an adapter"
        where = f"run {self.source.run_id}" if self.source.run_id is not None else self.source.folder.name
        return f"{self.base.name} with the adapter of {where}" + (
            f", step {self.source.step}" if self.source.step else ""
        )

    @property
    def streams(self) -> bool:
        """Whether replies come token by token."""
        return self.decoding.num_beams == 1

    async def reply(
        self, text: str, sides: Sequence[Side] | None = None, *, seed: int | None = None
    ) -> AsyncGenerator[ReplyItem, None]:
        """Yield the replies of `sides` as they are decoded, and each one's `Reply` as it ends. All turns are stored.

        A reply that is still being decoded is ended first. `seed` repeats a sampled reply; without it each is another.
        Raises `UsageError` for a side that is not there, or a question that the model's context cannot hold.
        """
        asked = self._available(sides)
        await self._end_running()
        async with aclosing(self._stream(_Exchange(text, asked), seed)) as items:
            async for item in items:
                yield item

    async def regenerate(
        self, sides: Sequence[Side] | None = None, *, seed: int | None = None
    ) -> AsyncGenerator[ReplyItem, None]:
        """Take the last exchange back and put its question again, to the same sides unless others are named.

        Its rows stay in the store, marked as ``replaced``. Raises `UsageError` when nothing has been asked.
        """
        await self._end_running()
        last = self._last_exchange
        if last is None:
            raise UsageError("Nothing has been asked in this conversation yet.")
        asked = self._available(sides or last.sides)
        exchange = _Exchange(last.text, asked, await self._take_back(last, asked))
        async with aclosing(self._stream(exchange, seed)) as items:
            async for item in items:
                yield item

    async def continue_reply(self, sides: Sequence[Side] | None = None) -> AsyncGenerator[ReplyItem, None]:
        """Go on with the last replies where they were cut or stopped, those of `sides` or all.

        Yields the text that comes and, as each ends, its `Reply` with the whole text; its turn in the store grows.
        Greedy and seeded replies go on as if they had never been cut. Raises `UsageError` where none can go on.
        """
        await self._end_running()
        last = self._last_exchange
        able = () if last is None else tuple(side for side, done in last.answered.items() if done.reply.can_go_on)
        wanted = tuple(side for side in able if sides is None or side in sides)
        if last is None or not wanted:
            raise UsageError("There is no reply that was cut: nothing can go on.")
        async with aclosing(self._stream(replace(last, sides=wanted), None, going_on=True)) as items:
            async for item in items:
                yield item

    async def clear(self) -> None:
        """Begin a new conversation with the same model."""
        await self._end_running()
        self.conversation_id = await _new_conversation(self.store, self.source, self.base.name)
        self.history.clear()
        self._last_exchange, self._has_warned = None, False

    async def close(self) -> None:
        """End the reply that is being decoded, and free the model's memory. A closed session stays closed."""
        await self._end_running()
        if self._model is None:
            return
        device = self._model.base.device
        self._model = None
        self.host.unregister_session(self)
        await self.host.in_inference_thread(lambda: _free_memory(device))

    def _available(self, sides: Sequence[Side] | None) -> tuple[Side, ...]:
        there = self.model.sides
        wanted = tuple(dict.fromkeys(sides or there[:1]))
        for side in wanted:
            if side not in there:
                raise UsageError(f"{self.title} has no {side} side; there is {' and '.join(there)}.")
        return wanted

    async def _end_running(self) -> None:
        """Return when the reply under way has ended, at its next token, and is stored."""
        if self._running is not None:
            task, abandoned = self._running
            abandoned.set()
            await asyncio.wait([task])

    async def _take_back(self, last: _Exchange, sides: tuple[Side, ...]) -> dict[Side, _Answered]:
        """Remove what `sides` answered from their history; returns the replies of those that are not asked again."""
        kept = {side: answered for side, answered in last.answered.items() if side not in sides}
        gone = [last.answered[side] for side in sides if side in last.answered]
        questions = {answered.question for answered in gone} - {answered.question for answered in kept.values()}
        replies = [answered.reply.turn_id for answered in gone]
        await chat_log.mark_replaced(self.store, [*sorted(questions), *replies])
        for side in sides:
            if side in last.answered:
                self.history.drop_last(side)
        last.answered = kept
        return kept

    async def _stream(
        self, exchange: _Exchange, seed: int | None, *, going_on: bool = False
    ) -> AsyncGenerator[ReplyItem, None]:
        """Answer in a task of its own and yield its items; the turns are stored whether or not anybody reads on."""
        self.stop.clear()
        items: asyncio.Queue[ReplyItem | None] = asyncio.Queue()
        abandoned = threading.Event()
        answer = self._continue if going_on else self._answer
        task = asyncio.create_task(answer(exchange, seed, abandoned, items.put_nowait))
        task.add_done_callback(lambda _: items.put_nowait(None))
        self._running = task, abandoned
        try:
            while (item := await items.get()) is not None:
                yield item
            await task
        finally:
            abandoned.set()
            await asyncio.wait([task])
            if not task.cancelled() and (problem := task.exception()) is not None:
                log.info("a reply failed", exc_info=problem)

    async def _answer(
        self, exchange: _Exchange, seed: int | None, abandoned: threading.Event, emit: Callable[[ReplyItem], None]
    ) -> None:
        """Put a question to its sides, and store it and their replies."""
        asked_at = time.perf_counter()
        decoding = _seeded(self.decoding, seed)
        prompts = await asyncio.to_thread(
            lambda: {side: self.history.prompt(side, exchange.text, decoding.max_new_tokens) for side in exchange.sides}
        )
        self._warn_once(prompts.values(), emit)
        question = await chat_log.add_turn(
            self.store,
            self.conversation_id,
            "user",
            exchange.text,
            {"sides": list(exchange.sides), "by_template": self.history.by_template},
        )
        self._last_exchange = exchange

        async def store(reply: Reply, ids: list[int]) -> Reply:
            reply = self._completed(exchange, replace(reply, seed=decoding.seed))
            turn = await chat_log.add_turn(
                self.store, self.conversation_id, "assistant", reply.text, reply.statistics()
            )
            self.history.add(reply.side, exchange.text, reply.text)
            reply = replace(reply, turn_id=turn)
            exchange.answered[reply.side] = _Answered(question, reply, ids)
            return reply

        await self._decode(prompts, decoding, {}, asked_at, abandoned, store, emit)

    async def _continue(
        self, exchange: _Exchange, _: int | None, abandoned: threading.Event, emit: Callable[[ReplyItem], None]
    ) -> None:
        """Go on with the replies of the exchange's sides; their turns grow."""
        before = {side: exchange.answered[side] for side in exchange.sides}
        seed = next((answered.reply.seed for answered in before.values()), None)
        decoding = _seeded(self.decoding, seed)
        prompts = {
            side: self.history.prompt(side, exchange.text, decoding.max_new_tokens, len(answered.ids))
            for side, answered in before.items()
        }
        self._warn_once(prompts.values(), emit)

        async def store(reply: Reply, ids: list[int]) -> Reply:
            former = before[reply.side].reply
            reply = self._completed(
                exchange,
                replace(
                    reply,
                    seconds=former.seconds + reply.seconds,
                    first_token_s=former.first_token_s,
                    seed=former.seed,
                    turn_id=former.turn_id,
                ),
            )
            await chat_log.extend_turn(self.store, former.turn_id, reply.text, reply.statistics())
            self.history.replace_last(reply.side, reply.text)
            exchange.answered[reply.side] = replace(before[reply.side], reply=reply, ids=ids)
            return reply

        written = {side: answered.ids for side, answered in before.items()}
        await self._decode(prompts, decoding, written, time.perf_counter(), abandoned, store, emit)

    async def _decode(
        self,
        prompts: Mapping[Side, Prompt],
        decoding: Decoding,
        written: dict[Side, list[int]],
        asked_at: float,
        abandoned: threading.Event,
        store: Callable[[Reply, list[int]], Awaitable[Reply]],
        emit: Callable[[ReplyItem], None],
    ) -> None:
        """Decode on the inference thread, and emit each item; a `Reply` is stored first."""
        decoded: asyncio.Queue[ReplyItem | None] = asyncio.Queue()
        loop, model = asyncio.get_running_loop(), self.model
        generation = ReplyGeneration(
            model,
            prompts,
            decoding,
            should_stop=lambda: abandoned.is_set() or self.stop.is_set(),
            emit=lambda item: loop.call_soon_threadsafe(decoded.put_nowait, item),
            asked_at=asked_at,
            written=written,
        )
        decoding_done = asyncio.ensure_future(self.host.in_inference_thread(generation.run))
        decoding_done.add_done_callback(lambda _: decoded.put_nowait(None))
        try:
            while (item := await decoded.get()) is not None:
                if isinstance(item, Reply):
                    item = await store(item, generation.written[item.side])
                emit(item)
            await decoding_done
        except torch.OutOfMemoryError as problem:
            raise LoraTuiError(
                f"The reply does not fit into the memory of {model.base.device} beside what else is there. "
                "Lower num_beams or max_new_tokens, or begin a new conversation."
            ) from problem
        finally:
            abandoned.set()
            await asyncio.wait([decoding_done])

    def _warn_once(self, prompts: Iterable[Prompt], emit: Callable[[ReplyItem], None]) -> None:
        """Say, once a conversation, that the model no longer reads all of it."""
        if not self._has_warned and any(prompt.forgotten for prompt in prompts):
            self._has_warned = True
            emit(
                Notice(
                    f"The conversation is longer than this model's context ({self.history.context:,} tokens with the "
                    "reply): it no longer reads the oldest exchanges."
                )
            )

    def _completed(self, exchange: _Exchange, reply: Reply) -> Reply:
        """The reply with what the conversation knows of it: the predefined one, how far they agree, the step."""
        predefined = self.settings.fine_tuning.chat.predefined_reply(exchange.text)
        return replace(
            reply,
            predefined=predefined,
            agreement=None if predefined is None else agreement(reply.text, predefined),
            step=self.source.step if self.source is not None and reply.side == "tuned" else None,
        )


async def open_session(
    host: ChatHost, settings: Settings, options: Mapping[str, Any], progress: LoadProgress
) -> ChatSession:
    """Find the adapter, load the model, and open a session that the host closes when it is closed.

    `options` are those of `find_adapter`; with ``base_only`` there is no adapter, and ``adapter_run`` names the run
    whose base model speaks. Without any finished run it is the configured base model. A run that is named brings its
    own base model along; unless one is named, or with ``model_must_match``, a configuration that names another one is
    refused (`UsageError`).
    """
    store = host.open_store
    source = None if options.get("base_only") else await find_adapter(store, options)
    name = await base_model_name(store, settings, options, source)
    base = await host.in_inference_thread(lambda: load_base(settings, progress, name))
    model: Any = base.model
    if source is not None:
        model, source = await _with_adapter(host, options, base, source)
    if settings.fine_tuning.chat.int8:
        await host.in_inference_thread(lambda: _read_int8(model))
    by_template = bool(base.tokenizer.chat_template) and (
        source is None or bool(source.metadata.get("chat_template", False))
    )
    history = History(base.tokenizer, by_template, context_tokens(base.model))
    conversation = await _new_conversation(store, source, base.name)
    decoding = Decoding.of_settings(settings)
    switchable = SwitchableModel(base, model)
    session = ChatSession(host, store, settings, source, conversation, decoding, history, _model=switchable)
    host.register_session(session)
    return session


def _read_int8(model: PreTrainedModel | PeftModel) -> None:
    """Have replies computed with 8-bit weights, where the model's family is known."""
    found = fast_model(model)
    if isinstance(found, FastModel):
        found.read_int8()
    else:
        log.warning("fine_tuning.chat.int8 has no effect: the model has %s", found)


async def _with_adapter(
    host: ChatHost, options: Mapping[str, Any], base: BaseModel, source: AdapterSource
) -> tuple[PeftModel, AdapterSource]:
    """Load the adapter, or the one that a trainer has put in its place since it was found."""
    try:
        return await host.in_inference_thread(lambda: load_adapter(base, source)), source
    except AdapterGoneError:
        newer = await find_adapter(host.open_store, options)
        if newer is None:
            raise
    return await host.in_inference_thread(lambda: load_adapter(base, newer)), newer


async def _new_conversation(store: Store, source: AdapterSource | None, model: str) -> int:
    run_id, folder = (None, None) if source is None else (source.run_id, str(source.folder))
    return await chat_log.begin(store, run_id, model, folder)


def _seeded(decoding: Decoding, seed: int | None) -> Decoding:
    """The decoding of one reply: where it samples it gets a seed, so that it can be repeated."""
    samples = decoding.temperature > 0 and decoding.num_beams == 1
    if samples and seed is None:
        seed = secrets.randbelow(_SEEDS)
    return replace(decoding, seed=seed if samples else None)


def _free_memory(device: torch.device) -> None:
    """Collect the model, whose modules refer to one another, and return cached device memory."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
