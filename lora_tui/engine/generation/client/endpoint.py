"""An OpenAI-compatible endpoint, through the official client: the one module that imports it.

`Endpoint.chat` sends one request and returns what came back, having dealt with everything that is not an answer: it
retries what may pass (408, 409, 429, 5xx, time-outs, lost connections), waits as long as the server asks, learns the
server's dialect from its refusals, and stops the whole run where further requests are pointless (a refused key, an
unknown model, an endpoint that is gone). A place among the requests in flight is taken for a single attempt and given
back before any sleep.

Every attempt is told to the `CallRecord` before it leaves. The key lives in this object alone: texts from the server
are redacted before they become part of an error, an event or a row.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai

from lora_tui.engine.data.survey import estimate_tokens
from lora_tui.engine.generation.client.rate_limit import AdaptiveLimit, backoff, retry_after
from lora_tui.engine.generation.client.wire import (
    OPENAI_URL,
    Ask,
    Capabilities,
    NotAnAnswer,
    Reply,
    exceeds_context,
    innermost,
    is_loopback,
    message_of,
    never_connected,
    read_reply,
    shown_url,
)
from lora_tui.engine.generation.generation_model import CallFailed, CallRecord, CallStopped, EndpointGoneError
from lora_tui.errors import UnreachableError
from lora_tui.secrets import redact
from lora_tui.text import one_line

_REFUSALS = (400, 405, 413, 415, 422, 501)
_UNKNOWN_MODEL = ("model_not_found", "invalid_model", "unknown_model")
_GONE_AFTER_CALLS = 2
_GONE_AFTER_ATTEMPTS = 4
_MOST_REFUSALS = 12
_TELL_WAITS_ABOVE = 20.0


@dataclass(frozen=True, slots=True)
class Access:
    """Where the endpoint is and how it is used. `key` never leaves this module's requests."""

    base_url: str
    key: str
    key_name: str
    timeout: float
    concurrency: int
    max_retries: int
    initial_delay: float

    def __repr__(self) -> str:
        return f"Access({shown_url(self.base_url)}, key from {self.key_name})"


class _Passing(Exception):  # noqa: N818  # never leaves this module
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, wait: float | None = None, *, too_many: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.too_many = too_many


class _Refused(Exception):  # noqa: N818  # never leaves this module
    """The server did not understand a request; trying the same again is pointless."""

    def __init__(self, reason: str, parameters: dict[str, Any]) -> None:
        super().__init__(reason)
        self.parameters = parameters


class Endpoint:
    """One endpoint: its client, its places, and what has been learned about it."""

    def __init__(self, access: Access, warn: Callable[[str], None], stop: asyncio.Event | None = None) -> None:
        self._access = access
        self._url = shown_url(access.base_url)
        self._warn = warn
        self._stop = stop or asyncio.Event()
        self._places = AdaptiveLimit(access.concurrency)
        self._one_at_a_time = asyncio.Lock()
        self._contacted = False
        self._hopeless: str | None = None  # why no request will be answered
        self._not_before = 0.0
        self._failures = 0  # attempts that failed since the last answer
        self._exhausted = 0  # calls that ran out of tries since the last answer
        self._answers = 0
        self._random = random.Random()  # noqa: S311  # jitter
        self._dialects: dict[str, Capabilities] = {}
        # A proxy from the environment can never be the way to this machine itself.
        own_http = openai.DefaultAsyncHttpxClient(trust_env=False) if is_loopback(access.base_url) else None
        self._client = openai.AsyncOpenAI(
            api_key=access.key or "none",
            base_url=access.base_url,
            max_retries=0,
            timeout=openai.Timeout(access.timeout, connect=min(10.0, access.timeout)),
            http_client=own_http,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def chat(self, ask: Ask, call: CallRecord) -> Reply:
        """Return the answer to one request.

        Raises `CallFailed` where this request got none, `UnreachableError` where no request will, `CallStopped`
        where the run stops before there is one.
        """
        dialect = self._dialects.setdefault(ask.model, self._new_dialect())
        failed = refusals = 0
        answers = self._answers
        while True:
            await self._sleep(self._closed_for)
            try:
                async with self._turn(dialect, ask), self._places:
                    if self._closed_for > 0:  # told to wait while this call waited for its place
                        continue
                    reply = await self._attempt(ask, dialect, call)
            except _Refused as refused:
                refusals += 1
                if refusals > _MOST_REFUSALS or not self._adapted(dialect, ask, refused):
                    raise CallFailed(self._refusal_reason(str(refused))) from None
            except _Passing as passing:
                self._failures += 1
                if passing.too_many and self._answers > answers:
                    failed = 0  # others were answered meanwhile: this is a queue, and its turn will come
                answers = self._answers
                failed += 1
                if failed > self._access.max_retries:
                    self._give_up(ask.model, str(passing), failed)
                await self._pause(failed - 1, passing.wait)
            else:
                self._failures = self._exhausted = 0
                self._answers += 1
                self._places.answered()
                return reply

    def _new_dialect(self) -> Capabilities:
        # OpenAI's newer models refuse `max_tokens`; most other servers know nothing else.
        return Capabilities("max_completion_tokens" if self._access.base_url == OPENAI_URL else "max_tokens")

    @asynccontextmanager
    async def _turn(self, dialect: Capabilities, ask: Ask) -> AsyncIterator[None]:
        """Let requests of a kind that was never answered out one at a time.

        A wrong key then costs one request and not eight, and a dialect is learned by one call for all of them.
        """
        if not dialect.understood(ask):
            async with self._one_at_a_time:
                if not dialect.understood(ask):
                    yield
                    return
        yield

    async def _attempt(self, ask: Ask, dialect: Capabilities, call: CallRecord) -> Reply:
        if self._stop.is_set():
            raise CallStopped
        if self._hopeless is not None:  # learned by another call while this one waited
            raise UnreachableError(self._hopeless)
        prompt = sum(estimate_tokens(message["content"]) for message in ask.messages)
        parameters = dialect.parameters(ask)
        attempt = await call.sent(prompt + ask.max_tokens)
        try:
            async with asyncio.timeout(self._access.timeout):
                raw = await self._client.chat.completions.with_raw_response.create(**parameters)
            self._contacted = True
            reply = read_reply(attempt, raw.text, raw.headers, prompt, self._without_key)
        except (openai.APITimeoutError, TimeoutError):
            reason = f"no answer within {self._access.timeout:g} s"
            await call.ended(attempt, "timeout", error=reason)
            raise _Passing(reason) from None
        except openai.APIConnectionError as problem:
            reason = self._safe(innermost(problem))
            unreached = never_connected(problem)
            await call.ended(attempt, "unreached" if unreached else "connection", error=reason)
            if unreached and not self._contacted:
                self._hopeless = self._unreachable(ask.model, reason)
                raise UnreachableError(self._hopeless) from None
            raise _Passing(f"the connection failed ({reason})") from None
        except openai.APIStatusError as problem:
            text = self._safe(message_of(problem.body, problem.code, problem.response.text))
            await call.ended(
                attempt, "http_error", error=text, http_status=problem.status_code, request_id=problem.request_id
            )
            meaning = self._meaning(problem, text, ask.model, parameters)
            if isinstance(meaning, UnreachableError):
                self._hopeless = str(meaning)
            raise meaning from None
        except NotAnAnswer as problem:  # a proxy's page, half a body
            reason = f"the answer is not JSON: {self._safe(str(problem))}"
            await call.ended(attempt, "malformed", error=reason, http_status=200)
            raise _Passing(reason) from None
        except asyncio.CancelledError:
            await call.ended(attempt, "cancelled", error="given up while it was in flight")
            raise
        dialect.answered(parameters)
        return reply

    def _meaning(self, problem: openai.APIStatusError, text: str, model: str, parameters: dict[str, Any]) -> Exception:
        """Return what an error status means for this request or for all of them."""
        status, code = problem.status_code, str(problem.code or problem.type or "")
        if status in (401, 403):
            return UnreachableError(self._key_refused(status, text))
        if code == "insufficient_quota" or "insufficient_quota" in text:
            return UnreachableError(
                f"The account behind {self._access.key_name} has no quota left at {self._url} "
                f"(HTTP {status}: {text}).\n"
                f"Add credit, or set another key or data_generation.base_url; {model} was to be asked."
            )
        if status == 404 or code in _UNKNOWN_MODEL:
            return UnreachableError(
                f"{self._url} has no model {model!r} or no such address (HTTP {status}: {text}).\n"
                "Check data_generation.model and data_generation.base_url, which usually ends in /v1 "
                f"(the key comes from {self._access.key_name})."
            )
        names_format = status >= 500 and "response_format" in text
        if status in _REFUSALS or names_format:
            self._contacted = True
            return _Refused(text or f"HTTP {status}", parameters)
        if status in (408, 409, 429) or status >= 500:
            if problem.response.headers.get("x-should-retry") == "false" and status != 429:
                return CallFailed(f"HTTP {status}: {text}", transient=True)
            wait = retry_after(problem.response.headers, time.time())
            too_many = status in (429, 503)
            if too_many:
                self._places.too_many()
                self._close_for(wait or 0.0, status)
            return _Passing(f"HTTP {status}: {text}", wait, too_many=too_many)
        return CallFailed(f"HTTP {status}: {text}")

    def _adapted(self, dialect: Capabilities, ask: Ask, refused: _Refused) -> bool:
        """Tell whether a refused request will be another one next time, learning from the refusal if need be."""
        if dialect.parameters(ask) != refused.parameters:  # another call has learned it meanwhile
            return True
        left_out = dialect.refused(refused.parameters, str(refused))
        if left_out is None:
            return False
        self._warn(f"{self._url} does not take {left_out} ({one_line(str(refused), 120)}); going on without it.")
        return True

    def _refusal_reason(self, text: str) -> str:
        if exceeds_context(text):
            return f"passage and reply do not fit the model; lower data_generation.chunk_tokens ({text})"
        return f"the endpoint refuses the request ({text})"

    def _give_up(self, model: str, reason: str, tries: int) -> None:
        """End a call that ran out of tries: for itself, or with the run when nothing was answered in the meantime."""
        self._exhausted += 1
        if self._exhausted >= _GONE_AFTER_CALLS and self._failures >= _GONE_AFTER_ATTEMPTS:
            raise EndpointGoneError(
                f"{self._url} (model {model}, key from {self._access.key_name}) does not answer any more: {reason}, "
                f"{self._failures} attempts in a row failed.\n"
                "What was done is stored; go on with --resume when it is back."
            )
        raise CallFailed(f"{reason}, {tries} {'try' if tries == 1 else 'tries'}", transient=True)

    async def _pause(self, attempt: int, wait: float | None) -> None:
        jitter = backoff(attempt, self._access.initial_delay, self._random)
        await self._sleep(jitter if wait is None else wait + min(jitter, 1.0))

    def _close_for(self, wait: float, status: int) -> None:
        """Hold every request back, not only the one that was told to wait: a rate limit is the account's."""
        until = time.monotonic() + wait
        if until > self._not_before:
            if wait > _TELL_WAITS_ABOVE and until - self._not_before > _TELL_WAITS_ABOVE:
                self._warn(f"{self._url} asks to wait {wait:.0f} s (HTTP {status}); the run goes on after that.")
            self._not_before = until

    @property
    def _closed_for(self) -> float:
        """Seconds for which the server does not want any request."""
        return self._not_before - time.monotonic()

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or raise `CallStopped` as soon as the run is to stop."""
        if self._stop.is_set():
            raise CallStopped
        if seconds <= 0:
            return
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return
        raise CallStopped

    def _without_key(self, text: str) -> str:
        return text.replace(self._access.key, "[key]") if self._access.key else text

    def _safe(self, text: str) -> str:
        """Return text of the server's as it may be shown and stored: one line, short, without anything like a key."""
        return one_line(redact(text, self._access.key, "[key]"), 200)

    def _unreachable(self, model: str, reason: str) -> str:
        return (
            f"Cannot connect to {self._url} ({reason}).\nStart the server that answers for {model}, or set "
            f"data_generation.base_url (the key comes from {self._access.key_name})."
        )

    def _key_refused(self, status: int, text: str) -> str:
        name = self._access.key_name
        what = f"refuses the key in {name}" if self._access.key else f"wants a key and {name} is not set"
        return f"{self._url} {what} (HTTP {status}: {text}).\nExport the right key as {name}, or set another base_url."
