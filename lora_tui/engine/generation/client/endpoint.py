"""An OpenAI-compatible endpoint, through the official client: the one module that imports it (which takes a second).

`Endpoint.chat` sends one request and returns its answer, having dealt with everything that is none: it retries
transient failures (408, 409, 429, 5xx, time-outs, lost connections), waits as long as the server asks, learns from
refusals which parameters the server knows, and ends the whole run where further requests are pointless (a refused key,
an unknown model, an endpoint that is gone). The limit of requests in flight counts single attempts, not the sleeps
between them.

Every attempt is reported to the `CallRecord` before it leaves. The key lives in this object alone: texts from the
server are redacted before they become part of an error, an event or a row.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import openai

from lora_tui.config.generation import DataGeneration
from lora_tui.engine.data.survey import estimate_tokens
from lora_tui.engine.generation.client.enforcement import ENFORCEMENT_PARAMETERS
from lora_tui.engine.generation.client.rate_limit import AdaptiveLimit, backoff, retry_after
from lora_tui.engine.generation.client.wire import (
    OPENAI_URL,
    Capabilities,
    ChatReply,
    CompletionRequest,
    NotJson,
    Request,
    error_message,
    exceeds_context,
    is_loopback,
    names_a_parameter,
    never_connected,
    read_reply,
    root_cause,
    shown_url,
)
from lora_tui.engine.generation.generation_model import CallFailed, CallRecord, CallStopped, EndpointGoneError
from lora_tui.errors import UnreachableError
from lora_tui.secrets import is_placeholder, redact
from lora_tui.store.rows import AttemptEnd
from lora_tui.text import one_line

_REFUSAL_STATUSES = (400, 405, 413, 415, 422, 501)
_UNKNOWN_MODEL_CODES = ("model_not_found", "invalid_model", "unknown_model")
_GONE_AFTER_CALLS, _GONE_AFTER_ATTEMPTS = 2, 4
"""The endpoint is gone when this many calls and attempts in a row have failed."""

_MAX_REFUSALS = 12
_LONGEST_MESSAGE = 4000
"""Characters of an error body that are looked at."""

_WARN_OF_WAITS_ABOVE = 20.0
"""Seconds."""


class _TransientFailure(Exception):  # noqa: N818  # never leaves this module
    """An attempt failed in a way that may pass; `wait` are the seconds that the server asks for."""

    def __init__(self, reason: str, wait: float | None = None, *, rate_limited: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.rate_limited = rate_limited


class _Refused(Exception):  # noqa: N818  # never leaves this module
    """The server did not understand a request; sending the same again is pointless."""

    def __init__(self, reason: str, parameters: dict[str, Any]) -> None:
        super().__init__(reason)
        self.parameters = parameters


class FormRefused(Exception):  # noqa: N818  # the caller asks in another form
    """The server does not take the parameter that was to enforce the reply's form, or completes no texts.

    The text is its reason.
    """


class Endpoint:
    """One endpoint: its client, the limit of requests in flight, and what has been learned about it."""

    def __init__(self, chosen: DataGeneration, key: str, warn: Callable[[str], None], stop: asyncio.Event) -> None:
        base_url = chosen.base_url or OPENAI_URL
        # OpenAI's newer models refuse `max_tokens`; most other servers know nothing else.
        self._tokens_key = "max_completion_tokens" if base_url == OPENAI_URL else "max_tokens"
        self._chosen = chosen
        self._key = key
        self._key_name = chosen.api_key_env
        self._url = shown_url(base_url)
        self._warn = warn
        self._stop = stop
        self._limit = AdaptiveLimit(chosen.max_concurrency)
        self._unproven_lock = asyncio.Lock()
        self._reached = False
        self._fatal: str | None = None  # why no request will be answered
        self._hold_until = 0.0
        self._failures = 0  # attempts that failed since the last answer
        self._exhausted = 0  # calls that ran out of tries since the last answer
        self._answers = 0
        self._random = random.Random()  # noqa: S311  # jitter
        self._capabilities: dict[str, Capabilities] = {}
        # A proxy from the environment can never be the way to this machine itself.
        own_http = openai.DefaultAsyncHttpxClient(trust_env=False) if is_loopback(base_url) else None
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=base_url,
            max_retries=0,
            timeout=openai.Timeout(chosen.timeout, connect=min(10.0, chosen.timeout)),
            http_client=own_http,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def chat(self, request: Request, call: CallRecord) -> ChatReply:
        """Return the answer to one request, which goes to ``/chat/completions`` or ``/completions``.

        Raises `CallFailed` where this request got none, `FormRefused` where it must ask for another form,
        `UnreachableError` where no request will be answered, `CallStopped` where the run stops before there is one.
        """
        capabilities = self._capabilities.setdefault(request.model, Capabilities(self._tokens_key))
        failed = refusals = 0
        answers = self._answers
        while True:
            await self._sleep(self._hold_seconds)
            try:
                async with self._alone_until_proven(capabilities, request), self._limit:
                    if self._hold_seconds > 0:  # held back while this call waited for its turn
                        continue
                    reply = await self._attempt(request, capabilities, call)
            except _Refused as refused:
                refusals += 1
                if refusals > _MAX_REFUSALS or not self._adapt(capabilities, request, refused):
                    fault = "the endpoint refuses the request"
                    if exceeds_context(str(refused)):
                        fault = "passage and reply do not fit the model; lower data_generation.chunk_tokens"
                    raise CallFailed(f"{fault} ({refused})") from None
            except _TransientFailure as failure:
                self._failures += 1
                if failure.rate_limited and self._answers > answers:
                    failed = 0  # others were answered meanwhile: this is a queue, and its turn will come
                answers = self._answers
                failed += 1
                if failed > self._chosen.generation.max_retries:
                    self._raise_exhausted(request.model, str(failure), failed)
                jitter = backoff(failed - 1, self._chosen.generation.initial_delay, self._random)
                await self._sleep(jitter if failure.wait is None else failure.wait + min(jitter, 1.0))
            else:
                self._failures = self._exhausted = 0
                self._answers += 1
                self._limit.record_success()
                return reply

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

    async def _attempt(self, request: Request, capabilities: Capabilities, call: CallRecord) -> ChatReply:
        if self._stop.is_set():
            raise CallStopped
        if self._fatal is not None:  # learned by another call while this one waited
            raise UnreachableError(self._fatal)
        texts = [request.prompt] if isinstance(request, CompletionRequest) else [m["content"] for m in request.messages]
        prompt = sum(estimate_tokens(text) for text in texts)
        parameters = capabilities.parameters(request)
        attempt = await call.begin_attempt(prompt + request.max_tokens)
        try:
            async with asyncio.timeout(self._chosen.timeout):
                client = self._client if isinstance(request, CompletionRequest) else self._client.chat
                raw = await client.completions.with_raw_response.create(**parameters)
            self._reached = True
            reply = read_reply(attempt, raw.text, raw.headers, prompt, self._without_key)
        except (openai.APITimeoutError, TimeoutError):
            reason = f"no answer within {self._chosen.timeout:g} s"
            await call.end_attempt(attempt, AttemptEnd("timeout", error=reason))
            raise _TransientFailure(reason) from None
        except openai.APIConnectionError as problem:
            reason = self._redacted_line(root_cause(problem))
            unreached = never_connected(problem)
            await call.end_attempt(attempt, AttemptEnd("unreached" if unreached else "connection", error=reason))
            if unreached and not self._reached:
                self._fatal = (
                    f"Cannot connect to {self._url} ({reason}).\nStart the server that answers for {request.model}, "
                    f"or set data_generation.base_url (the key comes from {self._key_name})."
                )
                raise UnreachableError(self._fatal) from None
            raise _TransientFailure(f"the connection failed ({reason})") from None
        except openai.APIStatusError as problem:
            text = self._redacted_line(error_message(problem.body, problem.code, problem.response.text))
            end = AttemptEnd("http_error", error=text, http_status=problem.status_code, request_id=problem.request_id)
            await call.end_attempt(attempt, end)
            error = self._exception_for(problem, text, request.model, parameters)
            if isinstance(error, UnreachableError):
                self._fatal = str(error)
            raise error from None
        except NotJson as problem:
            reason = f"the answer is not JSON: {self._redacted_line(str(problem), 80)}"
            await call.end_attempt(attempt, AttemptEnd("malformed", error=reason, http_status=200))
            raise _TransientFailure(reason) from None
        except asyncio.CancelledError:
            await call.end_attempt(attempt, AttemptEnd("cancelled", error="given up while it was in flight"))
            raise
        capabilities.prove(parameters)
        return reply

    def _exception_for(
        self, problem: openai.APIStatusError, text: str, model: str, parameters: dict[str, Any]
    ) -> Exception:
        """Return the exception for an error status: it concerns this attempt, this request, or all of them."""
        status, code, name = problem.status_code, str(problem.code or problem.type or ""), self._key_name
        if status in (401, 403):
            what = f"refuses the key in {name}" if self._key else f"wants a key and {name} is not set"
            return UnreachableError(
                f"{self._url} {what} (HTTP {status}: {text}).\nExport the right key as {name}, or set another base_url."
            )
        if code == "insufficient_quota" or "insufficient_quota" in text:
            return UnreachableError(
                f"The account behind {name} has no quota left at {self._url} (HTTP {status}: {text}).\n"
                f"Add credit, or set another key or data_generation.base_url; {model} was to be asked."
            )
        if "prompt" in parameters and status in (404, *_REFUSAL_STATUSES) and not exceeds_context(text):
            return FormRefused(one_line(text or f"HTTP {status}", 120))
        if status == 404 or code in _UNKNOWN_MODEL_CODES:
            return UnreachableError(
                f"{self._url} has no model {model!r} or no such address (HTTP {status}: {text}).\n"
                "Check data_generation.model and data_generation.base_url, which usually ends in /v1 "
                f"(the key comes from {name})."
            )
        # llama-cpp-python answers 500 to `logprobs` that its model was not loaded for.
        if status in _REFUSAL_STATUSES or (status >= 500 and names_a_parameter(text, parameters)):
            self._reached = True
            return _Refused(text or f"HTTP {status}", parameters)
        if status in (408, 409, 429) or status >= 500:
            if problem.response.headers.get("x-should-retry") == "false" and status != 429:
                return CallFailed(f"HTTP {status}: {text}", transient=True)
            wait = retry_after(problem.response.headers, time.time())
            rate_limited = status in (429, 503)
            if rate_limited:
                self._limit.decrease()
                self._hold_requests(wait or 0.0, status)
            return _TransientFailure(f"HTTP {status}: {text}", wait, rate_limited=rate_limited)
        return CallFailed(f"HTTP {status}: {text}")

    def _adapt(self, capabilities: Capabilities, request: Request, refused: _Refused) -> bool:
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

    def _raise_exhausted(self, model: str, reason: str, tries: int) -> None:
        """Raise `CallFailed` for a call that ran out of tries, `EndpointGoneError` if nothing else was answered."""
        self._exhausted += 1
        if self._exhausted >= _GONE_AFTER_CALLS and self._failures >= _GONE_AFTER_ATTEMPTS:
            raise EndpointGoneError(
                f"{self._url} (model {model}, key from {self._key_name}) does not answer any more: {reason}, "
                f"{self._failures} attempts in a row failed.\n"
                "What was done is stored; go on with --resume when it is back."
            )
        raise CallFailed(f"{reason}, {tries} {'try' if tries == 1 else 'tries'}", transient=True)

    def _hold_requests(self, wait: float, status: int) -> None:
        """Hold back every request for `wait` seconds, not only the refused one: a rate limit is the account's."""
        until = time.monotonic() + wait
        if min(wait, until - self._hold_until) > _WARN_OF_WAITS_ABOVE:
            self._warn(f"{self._url} asks to wait {wait:.0f} s (HTTP {status}); the run goes on after that.")
        self._hold_until = max(self._hold_until, until)

    @property
    def shown_url(self) -> str:
        """The address as it may be shown."""
        return self._url

    @property
    def _hold_seconds(self) -> float:
        """Seconds for which the server still wants no request."""
        return self._hold_until - time.monotonic()

    async def _sleep(self, seconds: float) -> None:
        """Sleep; raises `CallStopped` as soon as the run is to stop."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), seconds)
        if self._stop.is_set():
            raise CallStopped

    def holds_key(self, text: str) -> bool:
        """Tell whether a text holds the key, if that could be a secret one."""
        return self._without_key(text) != text

    def _without_key(self, text: str) -> str:
        return text if not self._key or is_placeholder(self._key) else text.replace(self._key, "[key]")

    def _redacted_line(self, text: str, most: int = 200) -> str:
        """Return the server's text as it may be shown and stored: one short line, without anything like a key.

        Redacted before it is cut: half a token no longer looks like one.
        """
        return one_line(redact(text[:_LONGEST_MESSAGE], self._key, "[key]"), most)
