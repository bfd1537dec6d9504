"""An OpenAI-compatible endpoint.

`Endpoint.chat` sends one request and returns its answer, having dealt with everything that is none: it retries
transient failures (408, 409, 5xx, time-outs, lost connections), waits as long as the server asks, waits an endpoint
that is away out (`outage`), learns from refusals which parameters the server knows, and ends the whole run where
further requests are pointless (a refused key, an unknown model, no credit: `refusals`). The limit of requests in flight
counts single attempts, not the sleeps between them.

Every attempt is reported to the `CallRecord` before it leaves. The key lives in this object alone: texts from the
server are redacted before they become part of an error, an event or a row.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from lora_tui.config.addresses import OPENAI_URL
from lora_tui.config.generation import DataGeneration
from lora_tui.engine.generation.client.answers import (
    Answer,
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
    UnreadableReply,
)
from lora_tui.engine.generation.client.contact import Contact
from lora_tui.engine.generation.client.enforcement import ENFORCEMENT_PARAMETERS
from lora_tui.engine.generation.client.outage import Outage
from lora_tui.engine.generation.client.rate_limit import (
    AdaptiveLimit,
    Place,
    RateHold,
    RetryWaits,
    TransientFailure,
    asked_wait,
    backoff,
)
from lora_tui.engine.generation.client.refusals import (
    REFUSAL_STATUSES,
    ErrorAnswer,
    FormRefused,
    Refused,
    end_of_run,
    error_in_answer,
    meaning_of,
    read_error,
)
from lora_tui.engine.generation.client.transport import make_http_client
from lora_tui.engine.generation.client.wire import (
    Capabilities,
    ChatReply,
    CompletionRequest,
    NotJson,
    Request,
    estimated_prompt_tokens,
    exceeds_context,
    never_connected,
    read_reply,
    request_body,
    root_cause,
    shown_url,
    stored_id,
)
from lora_tui.engine.generation.generation_model import (
    CallFailed,
    CallRecord,
    CallStopped,
    EndpointAway,
    EndpointGoneError,
    EndpointLoad,
)
from lora_tui.engine.runtime.context import Emit
from lora_tui.errors import UnreachableError
from lora_tui.secrets import holds_value, is_placeholder, redact, register_key_variable
from lora_tui.store.rows import AttemptEnd
from lora_tui.text import one_line

_GONE_AFTER_CALLS, _GONE_AFTER_ATTEMPTS = 2, 4
"""The endpoint is away when this many calls and attempts in a row have failed."""

_LEAVES_FROM, _SLICE = 0.3, 0.25
"""Seconds that an endpoint must ask to wait for before its calls go to another; how often these look for room there."""

_MAX_REFUSALS = 12
_LONGEST_MESSAGE = 4000
"""Characters of an error body that are looked at."""


class Endpoint:
    """One endpoint: its client, the limit of requests in flight, and what has been learned about it.

    With `others_have_room` it is one of several: a call does not wait for it while it is away, or asks to wait and
    another has room, but raises `EndpointAway`.
    """

    def __init__(
        self,
        chosen: DataGeneration,
        key: str,
        warn: Callable[[str], None],
        stop: asyncio.Event,
        emit: Emit,
        others_have_room: Callable[[], bool] | None = None,
    ) -> None:
        self._others_have_room = others_have_room
        base_url = chosen.base_url or OPENAI_URL
        # OpenAI's newer models refuse `max_tokens`; most other servers know nothing else.
        self._tokens_key = "max_completion_tokens" if base_url == OPENAI_URL else "max_tokens"
        self._chosen = chosen
        self._key, self._key_name = key, chosen.api_key_env
        register_key_variable(chosen.api_key_env)
        self._url = shown_url(base_url)
        self._warn = warn
        self._stop = stop
        self._limit = AdaptiveLimit(chosen.max_concurrency, chosen.timeout, self._warn_of_overdue)
        self._unproven_lock = asyncio.Lock()
        self._reached = False  # a request was answered
        self._fatal: str | None = None  # why no request will be answered
        self._hold = RateHold(chosen.generation.initial_delay)
        self._failures = self._exhausted = 0  # attempts that failed, calls that ran out of tries, since the last answer
        self._answers = self._active = 0  # answers; calls
        self._waits = RetryWaits(stop, emit, chosen.generation.max_retries + 1)
        self._random = random.Random()  # noqa: S311  # jitter
        self._capabilities: dict[str, Capabilities] = {}
        who = f"{self._url} (model {chosen.model}, key from {self._key_name})"
        self.http = make_http_client(base_url, key, chosen.timeout)
        self._contact = Contact(base_url, chosen.address_key, self.http, self._redacted_line, warn, stop)
        tell = emit if others_have_room is None else lambda kind, /, **payload: None  # whoever has several tells
        self._outage = Outage(self._url, who, chosen.give_up_after, stop, self._contact.look, tell)
        self.may_come_back = True
        """Whether it may be asked again: it has refused neither the key nor the model, nor for want of credit."""
        self._trial = 0  # failures in a row that are too many, of an endpoint that was away; 0: as usual

    async def close(self) -> None:
        """Close the connections."""
        self._contact.close()
        await self.http.close()

    async def chat(self, request: Request, call: CallRecord) -> ChatReply:
        """Return the answer to one request, which goes to ``/chat/completions`` or ``/completions``.

        Raises `CallFailed` where this request got none, `FormRefused` where it must ask for another form,
        `UnreachableError` where no request will be answered, `CallStopped` where the run stops before there is one.
        """
        capabilities = self.capabilities_of(request.model)
        self._active += 1
        try:
            return await self._until_answered(request, call, capabilities)
        finally:
            self._active -= 1

    def capabilities_of(self, model: str) -> Capabilities:
        """Return what is known of a model's parameters."""
        return self._capabilities.setdefault(model, Capabilities(self._tokens_key))

    async def _until_answered(self, request: Request, call: CallRecord, capabilities: Capabilities) -> ChatReply:
        failed = refusals = 0
        answers = answers_before = self._answers
        while True:
            self._raise_if_away()
            await self._sleep(self._hold.seconds)
            looks = await self._outage.turn()
            try:
                proven = self._alone_until_proven(capabilities, request)
                async with proven, self._limit.place(ahead=request.ahead) as place:
                    if self._hold.seconds > 0 or (self._outage.lasts and not looks):
                        continue  # held back while this call waited for its turn
                    reply = await self._attempt(request, capabilities, call, place)
            except Refused as refused:
                self._outage.end()
                refusals += 1
                if refusals > _MAX_REFUSALS or not self.adapt(capabilities, request, refused):
                    fault = "the endpoint refuses the request"
                    if exceeds_context(str(refused)):
                        fault = "passage and reply do not fit the model; lower data_generation.chunk_tokens"
                    raise CallFailed(f"{fault} ({refused})") from None
            except TransientFailure as failure:
                self._failures += 1
                patience = self._chosen.give_up_after
                if failure.rate_limited and self._answers > answers:
                    failed = 0  # others were answered meanwhile: this is a queue, and its turn will come
                answers = self._answers
                if failed == 0:
                    answers_before = answers
                if self._is_away(failure):
                    self._outage.begin(str(failure), unreachable=failure.unreachable)
                    failed = 0
                    continue
                waited_out = failure.rate_limited and patience > 0  # without patience, a limit is one failure of many
                failed += not waited_out
                if waited_out:
                    if self._hold.limited_for >= patience:
                        raise EndpointGoneError(self._outage.gone(str(failure), self._hold.limited_for)) from None
                elif failed > self._chosen.generation.max_retries:
                    self._raise_exhausted(str(failure), failed, alone=self._answers == answers_before)
                    failed = 0
                    continue
                jitter = backoff(failed - 1, self._chosen.generation.initial_delay, self._random)
                wait = jitter if failure.wait is None else failure.wait + min(jitter, 1.0)
                self._waits.report(failure, max(wait, self._hold.seconds), failed)
                await self._sleep(wait)
            else:
                self._answered()
                return reply
            finally:
                if looks:
                    self._outage.looked()

    @asynccontextmanager
    async def _alone_until_proven(self, capabilities: Capabilities, request: Request) -> AsyncIterator[None]:
        """Send requests of a shape that was never answered one at a time.

        A wrong key then costs one request and not eight, and one call learns the server's parameters for all of them.
        """
        if not capabilities.is_proven(request):
            async with self._unproven_lock:
                if not capabilities.is_proven(request):
                    yield
                    return
        yield

    async def _attempt(self, request: Request, capabilities: Capabilities, call: CallRecord, place: Place) -> ChatReply:
        if self._stop.is_set():
            raise CallStopped
        if self._fatal is None:
            self._fatal = await self._contact.first()
        if self._fatal is not None:  # learned by another call while this one waited
            raise UnreachableError(self._fatal)
        prompt = estimated_prompt_tokens(request)
        parameters = capabilities.parameters(request)
        attempt = await call.begin_attempt(prompt + request.max_tokens)
        self._limit.leaves_now(place)
        try:
            async with asyncio.timeout(self._chosen.timeout):
                path = "/completions" if isinstance(request, CompletionRequest) else "/chat/completions"
                sending = self.http.post(path, request_body(parameters))
                answer = await self._contact.watch(sending, self._outage if self._answers else None)
            reply = self.read(attempt, answer, prompt)
        except (ConnectTimeout, TimeoutError) as problem:
            unreached = never_connected(problem)
            reason = "no connection came about" if unreached else f"no answer within {self._chosen.timeout:g} s"
            await call.end_attempt(attempt, AttemptEnd("unreached" if unreached else "timeout", error=reason))
            overdue = not unreached
            raise await self._failed_connection(reason, request.model, unreached=unreached, overdue=overdue) from None
        except (ConnectError, ConnectionBroken) as problem:
            reason, unreached = self._redacted_line(root_cause(problem)), never_connected(problem)
            await call.end_attempt(attempt, AttemptEnd("unreached" if unreached else "connection", error=reason))
            raise await self._failed_connection(reason, request.model, unreached=unreached) from None
        except (NotJson, UnreadableReply) as problem:
            what = "is not JSON: " if isinstance(problem, NotJson) else "cannot be read: "
            reason = f"the answer {what}{self._redacted_line(str(problem), 80)}"
            await call.end_attempt(attempt, AttemptEnd("malformed", error=reason, http_status=200))
            raise TransientFailure(reason) from None
        except asyncio.CancelledError:
            await call.end_attempt(attempt, AttemptEnd("cancelled", error="given up while it was in flight"))
            raise
        if isinstance(reply, ErrorAnswer):
            raise await self.failed_status(attempt, call, reply, answer.headers, request.model, parameters)
        capabilities.prove(parameters)
        self._limit.answered(place, reply.usage.completion_tokens)
        self._hold.heed(answer.headers)
        return reply

    async def _failed_connection(self, reason: str, model: str, *, unreached: bool, overdue: bool = False) -> Exception:
        """Return what a lost or missing connection means: before anything was answered, the address is at fault."""
        if self._reached or self._answers:
            return TransientFailure(f"the connection failed ({reason})", unreachable=unreached, overdue=overdue)
        hint = await self._contact.advice(self._url, reason, unreached=unreached)
        if not hint and not unreached:
            return TransientFailure(f"the connection failed ({reason})", overdue=overdue)
        start = f"Start the server that answers for {model}, or set {self._chosen.address_key}"
        hint = hint or f"{start} (the key comes from {self._key_name})."
        self._fatal = f"Cannot connect to {self._url} ({reason}).\n{hint}"
        return UnreachableError(self._fatal)

    def read(self, attempt: int, answer: Answer, prompt_tokens: int) -> ChatReply | ErrorAnswer:
        """Return the reply in an answer, or the error that it is. Raises `NotJson`."""
        if not 200 <= answer.status < 300:
            return read_error(answer.status, answer.text)
        reply = read_reply(attempt, answer.text, answer.headers, prompt_tokens, self._without_key)
        return (None if reply.text else error_in_answer(answer.text)) or reply

    async def failed_status(
        self, attempt: int, call: CallRecord, error: ErrorAnswer, headers: Any, model: str, parameters: dict[str, Any]
    ) -> Exception:
        """Record an error status; returns the exception for it, which ends the run where that says so."""
        text = self._redacted_line(error.text)
        request_id = stored_id(headers.get("x-request-id"), self._without_key)
        await call.end_attempt(
            attempt, AttemptEnd("http_error", error=text, http_status=error.status, request_id=request_id)
        )
        exception = self._exception_for(error, text, headers, model, parameters)
        if isinstance(exception, UnreachableError):
            self._fatal, self.may_come_back = str(exception), False
        return exception

    def _exception_for(
        self, error: ErrorAnswer, text: str, headers: Any, model: str, parameters: dict[str, Any]
    ) -> Exception:
        status = error.status
        said = f"(HTTP {status}: {text})" if text else f"(HTTP {status})"
        if 300 <= status < 400:
            return self._contact.follow(status, headers.get("location", ""))
        meaning = meaning_of(error, parameters, model)
        if "prompt" in parameters and status in (404, *REFUSAL_STATUSES) and meaning in ("model", "parameter", "other"):
            return FormRefused(one_line(text or f"HTTP {status}", 120))
        if (end := end_of_run(meaning, self._url, self._chosen, model, said, has_key=bool(self._key))) is not None:
            return UnreachableError(end)
        match meaning:
            case "filtered":
                return CallFailed(f"the endpoint's content filter withholds this passage {said}")
            case "too_large":
                return CallFailed(f"the request is larger than the account's limit {said}")
            case "context":
                self._reached = True
                return CallFailed(f"passage and reply do not fit the model; lower data_generation.chunk_tokens {said}")
            case "rate" | "busy":
                asked = asked_wait(headers, error.details, time.time())
                probe = asked is None and self._limit.search.was_probe(time.monotonic())
                if not probe and self._hold.limit(asked):
                    wait = f"asks to wait {self._hold.seconds:.0f} s (HTTP {status})"
                    self._warn(f"{self._url} {wait}; the run goes on after that.")
                return TransientFailure(f"HTTP {status}: {text}", asked, rate_limited=True)
            case "server":
                if headers.get("x-should-retry") == "false":
                    return CallFailed(f"HTTP {status}: {text}", transient=True)
                return TransientFailure(f"HTTP {status}: {text}", asked_wait(headers, error.details, time.time()))
        # llama-cpp-python answers 500 to `logprobs` that its model was not loaded for.
        if meaning == "parameter" or status in REFUSAL_STATUSES:
            self._reached = True
            return Refused(text or f"HTTP {status}", parameters)
        return CallFailed(f"HTTP {status}: {text}")

    def adapt(self, capabilities: Capabilities, request: Request, refused: Refused) -> bool:
        """Learn from a refusal, unless another call has; returns whether the next attempt will differ.

        Raises `FormRefused` where only another request will do.
        """
        if capabilities.parameters(request) != refused.parameters:
            return True
        left_out = capabilities.learn(refused.parameters, str(refused))
        if left_out is None:
            return False
        if left_out in ENFORCEMENT_PARAMETERS:
            raise FormRefused(one_line(str(refused), 120)) from None
        self._warn(f"{self._url} does not take {left_out} ({one_line(str(refused), 120)}); going on without it.")
        return True

    def _answered(self) -> None:
        """Take note of an answer: whatever was wrong is over."""
        self._reached = True
        self._failures = self._exhausted = self._trial = 0
        self._hold.answered()
        self._answers += 1
        self._outage.end()

    def _is_away(self, failure: TransientFailure) -> bool:
        """Tell whether a failure is that of the whole endpoint, which has answered before."""
        if failure.rate_limited:
            return False
        if self._others_have_room is not None and self._failures >= (self._trial or _GONE_AFTER_ATTEMPTS):
            return True
        return bool(self._answers or self._reached) and (failure.unreachable or self._outage.lasts)

    async def _sleep(self, seconds: float) -> None:
        """Wait; raises `EndpointAway` as soon as a call is better sent to another endpoint."""
        while self._others_have_room is not None and seconds > _SLICE:
            self._raise_if_away()
            await self._waits.sleep(_SLICE)
            seconds -= _SLICE
        await self._waits.sleep(seconds)

    def _raise_if_away(self) -> None:
        """Raise `EndpointAway` where a call is better sent to another endpoint."""
        if self._others_have_room is not None and self._outage.lasts:
            raise EndpointAway(self._outage.reason)
        if self._hold.seconds > _LEAVES_FROM and self._others_have_room is not None and self._others_have_room():
            raise EndpointAway(f"it asks to wait {self._hold.seconds:.0f} s", busy=True)

    def _raise_exhausted(self, reason: str, tries: int, *, alone: bool) -> None:
        """Raise `CallFailed` for a call that ran out of tries; if nothing else is answered either, begin an outage.

        `alone`: nothing was answered while it tried. A call that is the only one may be at fault itself. Raises
        `EndpointGoneError` for an endpoint that has never answered.
        """
        self._exhausted += 1
        several = self._exhausted >= _GONE_AFTER_CALLS and self._failures >= _GONE_AFTER_ATTEMPTS
        if not several and not (alone and tries > 1 and self._answers and self._active > 1):
            raise CallFailed(f"{reason}, {tries} {'try' if tries == 1 else 'tries'}", transient=True)
        reason = f"{reason}, {self._failures} attempts in a row failed"
        if not self._answers:
            raise EndpointGoneError(self._outage.gone(reason))
        self._outage.begin(reason, unreachable=False)

    def _warn_of_overdue(self, before: int, after: int) -> None:
        if after < before:
            self._warn(
                f"{self._url} gave no answer within {self._chosen.timeout:g} s with {before} requests in flight; from "
                f"now on {after} at most. Raise data_generation.timeout if replies need longer."
            )

    @property
    def is_held(self) -> bool:
        """Whether it asks to wait."""
        return self._hold.seconds > 0

    @property
    def has_answered(self) -> bool:
        """Whether it has answered a call."""
        return self._answers > 0

    async def looks_alive(self) -> bool:
        """Tell whether something answers at its address; if so, the next request may leave: it is on trial."""
        if not self.may_come_back or await self._contact.look() is not None:
            return False
        self._fatal = None
        self._failures, self._trial = 0, 1
        self._outage.end()
        return True

    @property
    def load(self) -> EndpointLoad:
        """How busy the endpoint is."""
        search = self._limit.search
        return EndpointLoad(self._limit.in_flight, search.limit, search.goodput, search.found)

    @property
    def room(self) -> int:
        """Calls that should be under way: those in flight, some to follow at once, some that wait to try again."""
        limit = self._limit.limit
        return limit + max(1, limit // 2) + min(limit, self._waits.sleeping)

    @property
    def shown_url(self) -> str:
        """The address as it may be shown."""
        return self._url

    def holds_key(self, text: str) -> bool:
        """Tell whether a text holds the key, if that could be a secret one."""
        return self._key != "" and not is_placeholder(self._key) and holds_value(text, self._key)

    def _without_key(self, text: str) -> str:
        return redact(text, self._key, "[key]") if self.holds_key(text) else text

    def _redacted_line(self, text: str, most: int = 200) -> str:
        """Return the server's text as it may be shown and stored: one line, redacted before it is cut."""
        return one_line(redact(text[:_LONGEST_MESSAGE], self._key, "[key]"), most)
