"""Single calls of an endpoint's model, with the second try that an unusable reply costs.

Cut off, a reply is asked for again with twice the tokens; malformed, it is shown to the model with what is wrong; empty
or withheld, it is simply asked for again. Every reply that cannot be read is reported to the caller, who may give up on
the form that it was asked for.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from lora_tui.config.generation import DataGeneration
from lora_tui.config.prices import BATCHED
from lora_tui.engine.generation.client.batch_rounds import BatchRounds
from lora_tui.engine.generation.client.endpoint import Endpoint
from lora_tui.engine.generation.client.wire import ChatReply, ChatRequest, CompletionRequest, Request
from lora_tui.engine.generation.generation_model import CallFailed, CallRecord
from lora_tui.engine.generation.prompts import DIGITS_WANTED, JSON_WANTED, Message, repair
from lora_tui.engine.generation.replies import MalformedReply, fault_of_reply
from lora_tui.engine.runtime.context import Emit
from lora_tui.engine.runtime.interpreter import begin_many_calls, end_many_calls
from lora_tui.store.connection import Store

T = TypeVar("T")


class ReplyCutOff(CallFailed):
    """A reply was cut off twice: the limit of the configuration is too low for it."""


def _ignore(reason: str) -> None:
    pass


class _Turns:
    """Lets those who have an answer go on one at a time, and everything else that is ready in between.

    Hundreds of answers can come at once, and what is done with each takes milliseconds: if all of it came first, no
    request would leave for seconds, and all of the next ones would be answered at once again.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for one's turn."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._next, loop)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        turn = self._waiting[0]
        if not turn.done():  # it may have been cancelled
            turn.set_result(None)
        self._waiting.popleft()
        if self._waiting:
            loop.call_soon(self._next, loop)


class RemoteCalls:
    """Sends requests to an endpoint until a reply can be read, `tries` times at most."""

    def __init__(
        self,
        chosen: DataGeneration,
        key: str,
        warn: Callable[[str], None],
        stop: asyncio.Event,
        emit: Emit,
        of_run: tuple[Store, int] | None = None,
        others_have_room: Callable[[], bool] | None = None,
    ) -> None:
        self.endpoint = Endpoint(chosen, key, warn, stop, emit, others_have_room)
        self.batches: BatchRounds | None = None
        if chosen.batch and of_run is not None:
            store, run_id = of_run
            self.batches = BatchRounds(store, run_id, self.endpoint, chosen.give_up_after, stop, emit)
        self._warn = warn
        self._turns = _Turns()
        begin_many_calls()
        self._cut_off: set[str] = set()  # sections of the configuration whose replies were cut off

    async def ask(
        self,
        request: ChatRequest,
        call: CallRecord,
        section: str,
        read: Callable[[ChatReply], T],
        *,
        tries: int = 2,
        longer: bool = True,
        on_unusable: Callable[[str], None] = _ignore,
    ) -> T:
        """Return what `read` makes of the reply; it raises `MalformedReply` where that is nothing.

        `section` is the part of the configuration that limits the reply; only if `longer`, one that is cut off gets
        twice the tokens. `on_unusable` is called with what is wrong
        with a reply, once its attempt has been recorded, and may raise. Raises `CallFailed`, `FormRefused`,
        `UnreachableError` and `CallStopped`.
        """
        limit = request.max_tokens * (2 if section in self._cut_off else 1)
        messages: Sequence[Message] = request.messages
        unusable = 0
        while True:
            reply, asked = await self._send(replace(request, messages=messages, max_tokens=limit), call)
            try:
                used = read(reply)
            except MalformedReply as problem:
                status, reason = fault_of_reply(reply, str(problem))
            else:
                await call.end_attempt(reply.attempt, replace(reply.usage, model=asked))
                await self._turns.take()
                return used
            await call.end_attempt(reply.attempt, replace(reply.usage, status=status, error=reason, model=asked))
            on_unusable(reason)
            if status == "truncated" and longer:
                if limit > request.max_tokens:
                    raise ReplyCutOff(f"{reason}; raise data_generation.{section}.max_tokens")
                limit = 2 * request.max_tokens
                self._warn_cut_off(section, request.max_tokens)
                continue
            unusable += 1
            if unusable == tries:
                raise CallFailed(f"two unusable replies: {reason}" if tries > 1 else reason)
            if status == "malformed":
                wanted = JSON_WANTED if request.schema is not None else DIGITS_WANTED
                messages = repair(request.messages, reply.text, reason, wanted)

    async def complete(self, request: CompletionRequest, call: CallRecord) -> ChatReply:
        """Return how a model goes on with a text, whatever that is. Raises as `ask` does."""
        reply, asked = await self._send(request, call)
        await call.end_attempt(reply.attempt, replace(reply.usage, model=asked))
        return reply

    async def _send(self, request: Request, call: CallRecord) -> tuple[ChatReply, str]:
        """Return the answer, and the model's name as the account has it: it costs less in a batch."""
        if self.batches is not None and call.batch_task is not None:
            return await self.batches.chat(request, call), request.model + BATCHED
        return await self.endpoint.chat(request, call), request.model

    @asynccontextmanager
    async def at_once(self, call: CallRecord) -> AsyncIterator[None]:
        """Have a call's requests go out singly: others wait for what they teach. Not one that was sent before."""
        waits = call.batch_task
        if self.batches is None or waits is None or await self.batches.was_asked(waits):
            yield
            return
        call.batch_task = None
        try:
            yield
        finally:
            call.batch_task = waits

    async def close(self) -> None:
        """End what is under way, and close the connections."""
        if self.batches is not None:
            await self.batches.close()
        await self.endpoint.close()
        end_many_calls()

    def _warn_cut_off(self, section: str, limit: int) -> None:
        if section not in self._cut_off:
            self._cut_off.add(section)
            self._warn(
                f"A reply was cut off at {limit} tokens (data_generation.{section}.max_tokens); asking for up to "
                f"{2 * limit} from now on."
            )
