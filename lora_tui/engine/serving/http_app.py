"""The server's HTTP side: OpenAI's paths, who may ask, and answers that end where a client has gone.

Starlette's own request handling, with a response that watches its client: one that hangs up frees its place at once,
one that stops reading is let go after a minute. On the loopback without a key, web pages of other sites are refused.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from transformers import PreTrainedTokenizerBase

from lora_tui.engine.data.template_renderer import ChatTemplateError
from lora_tui.engine.serving.address import is_loopback
from lora_tui.engine.serving.api_requests import ApiError, GenerationRequest, read_request
from lora_tui.engine.serving.choice import Served, ServedModel
from lora_tui.engine.serving.decoding import BusyError, DecodingGroup, DecodingThread, StoppingError, TooManyError
from lora_tui.engine.serving.prompts import PreparedRequest, PromptBuilder
from lora_tui.engine.serving.replies import DONE, Answer, ReplyWriter, encoded, server_event
from lora_tui.engine.serving.text_stream import TextStream

log = logging.getLogger(__name__)

LARGEST_BODY = 8 << 20
"""Bytes of a request: a million tokens are less."""

_BODY_SECONDS = 60.0
_SEND_SECONDS = 60.0
"""A client that takes nothing for so long has gone, whatever its connection says."""

_PIECE = 1 << 16
"""Bytes of a whole reply that are handed over at once: one with log-probabilities may have a hundred million."""

_SIGN_OF_LIFE_SECONDS = 15.0
"""A stream without a token for so long gets a comment, so that nothing between client and server gives it up."""


@dataclass
class Traffic:
    """What a server has done since it began."""

    requests: int = 0
    refused: int = 0
    hung_up: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ignored: set[str] = field(default_factory=set)
    """Fields that clients gave and that are ignored here."""


@dataclass(frozen=True)
class OpenAIServer:
    """The paths of the API over a decoding thread; `key` is what clients must send, None where they need not."""

    served: Served
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptBuilder
    thread: DecodingThread
    key: str | None
    created: int
    traffic: Traffic = field(default_factory=Traffic)

    def app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/health", self.health),
            Route("/v1/models", self._guarded(self.models)),
            Route("/v1/models/{name:path}", self._guarded(self.model)),
            Route("/v1/chat/completions", self._guarded(self.chat), methods=["POST"]),
            Route("/v1/completions", self._guarded(self.completion), methods=["POST"]),
            Route("/v1/embeddings", self._guarded(self.embeddings), methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {ApiError: _error, HTTPException: _http_error, Exception: _unexpected}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def health(self, request: Request) -> Response:
        """Say that the server answers, to anybody."""
        return JSONResponse({"status": "ok", "running": self.thread.running, "active": self.thread.active})

    async def models(self, request: Request) -> Response:
        """List what is served."""
        return JSONResponse({"object": "list", "data": [self._listed(model) for model in self.served.models]})

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        name = request.path_params["name"]
        return JSONResponse({**self._listed(self._find(name)), "id": name})

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._generate(request, chat=True)

    async def completion(self, request: Request) -> Response:
        """Go on with a text."""
        return await self._generate(request, chat=False)

    async def embeddings(self, request: Request) -> Response:
        """Refuse: models that write texts are served here."""
        raise ApiError(
            400,
            "This server has no embeddings: it serves models that write text. Ask a server of an embedding model.",
            param="model",
            code="unsupported_endpoint",
        )

    def _guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            check_caller(request.headers, self.key)
            return await endpoint(request)

        return guarded

    def _find(self, name: str) -> ServedModel:
        model = self.served.find(name)
        if model is None:
            names = ", ".join(one.name for one in self.served.models)
            message = f"The model `{name[:200]}` does not exist. This server has: {names}."
            raise ApiError(404, message, param="model", code="model_not_found")
        return model

    def _listed(self, model: ServedModel) -> dict[str, Any]:
        parent = None if model.source is None else self.served.models[0].name
        return {
            "id": model.name,
            "object": "model",
            "created": self.created,
            "owned_by": "lora-tui",
            "root": self.served.base_name if model.source is None else str(model.source.folder),
            "parent": parent,
            "max_model_len": self.prompts.context,
        }

    async def _generate(self, request: Request, *, chat: bool) -> Response:
        self.traffic.requests += 1
        try:
            return await self._answered(request, chat=chat)
        except ApiError:
            self.traffic.refused += 1
            raise

    async def _answered(self, request: Request, *, chat: bool) -> Response:
        asked = read_request(await _body(request), chat=chat)
        model = self._find(asked.model)
        try:
            prepared = await self.prompts.prepare(asked, model.source, self.served.adapter_name(model))
        except ChatTemplateError as problem:
            raise ApiError(500, str(problem)) from problem
        try:
            group = self.thread.submit(prepared.sequences)
        except TooManyError as problem:
            message = f"At most {problem.most} answers at once can be asked for: this server has no more places."
            raise ApiError(400, message, param="n") from problem
        except BusyError as problem:
            message = f"The server is busy: all its places are taken. Try again in {problem.retry_after} s."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=problem.retry_after) from problem
        except StoppingError as problem:
            raise _stopping() from problem
        self.traffic.prompt_tokens += prepared.prompt_tokens
        self.traffic.ignored.update(asked.ignored)
        exchange = _Exchange(self, asked, prepared, group)
        headers = {"x-ignored-parameters": ", ".join(asked.ignored)} if asked.ignored else {}
        return _WatchedResponse(exchange, headers)


class _Exchange:
    """A request that is being answered, and the answers so far."""

    def __init__(
        self, server: OpenAIServer, asked: GenerationRequest, prepared: PreparedRequest, group: DecodingGroup
    ) -> None:
        self.asked = asked
        self.group = group
        self.traffic = server.traffic
        streams = [TextStream(server.tokenizer, asked.stop, strips=prepared.strips) for _ in prepared.sequences]
        answers = [Answer(stream) for stream in streams]
        self.writer = ReplyWriter(
            server.tokenizer,
            asked.model,
            asked.is_chat,
            prepared.prompt_tokens,
            asked.top_logprobs is not None,
            answers,
        )

    async def whole(self) -> bytes:
        """Return the reply when all its answers have ended; raises `ApiError` where they cannot."""
        try:
            async for _ in self._steps():
                pass
        except StoppingError as problem:
            raise _stopping() from problem
        return encoded(self.writer.whole())

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the chunks of the reply as it comes; what goes wrong is a last chunk with the error."""
        try:
            if self.asked.is_chat:
                for place in range(len(self.writer.answers)):
                    yield server_event(self.writer.opening(place))
            async for step in self._steps():
                if step is None:
                    yield b": waiting\n\n"
                    continue
                place, added = step
                if added or self.writer.answers[place].finish_reason is not None:
                    yield server_event(self.writer.chunk(place, added))
        except StoppingError:
            yield server_event(_stopping().as_json())
            return
        except ApiError as problem:
            yield server_event(problem.as_json())
            return
        if self.asked.include_usage:
            yield server_event(self.writer.usage_chunk())
        yield DONE

    async def _steps(self) -> AsyncGenerator[tuple[int, str] | None, None]:
        """Yield (answer, text that it has gained) token by token; None now and then while there is none."""
        async with aclosing(self.group.tokens(_SIGN_OF_LIFE_SECONDS)) as tokens:
            try:
                async for item in tokens:
                    if item is None:
                        yield None
                        continue
                    place, token = item
                    answer = self.writer.answers[place]
                    self.traffic.completion_tokens += token.token is not None
                    added = answer.take(token)
                    if answer.finish_reason is not None:
                        self.group.cancel(place)
                    yield place, added
            except (StoppingError, ApiError, GeneratorExit):
                raise
            except Exception as problem:  # whatever the decoder fails with, the client is told that it did
                log.warning("a request failed: %s", problem)
                self.traffic.failed += 1
                raise ApiError(500, "The server failed while it was answering; its log says why.") from problem


class _WatchedResponse(Response):
    """The reply to a request, sent while its client is there; its sequences are ended with it, however that comes."""

    def __init__(self, exchange: _Exchange, headers: Mapping[str, str]) -> None:
        self.exchange = exchange
        self.status_code = 200
        self.background = None
        is_stream = exchange.asked.stream
        self.media_type = "text/event-stream" if is_stream else "application/json"
        kept = {"cache-control": "no-cache", "x-accel-buffering": "no"} if is_stream else {}
        self.body = b""
        self.init_headers({**headers, **kept})
        if "content-length" in self.headers:
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply; ends early, and frees its places, when the client hangs up or stops reading."""
        work = self._stream(send) if self.exchange.asked.stream else self._whole(send)
        sending, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self.exchange.traffic.hung_up += 1
                return
            await sending
        except (TimeoutError, OSError):
            self.exchange.traffic.hung_up += 1
        finally:
            self.exchange.group.close()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})

    async def _whole(self, send: Send) -> None:
        body = await self.exchange.whole()
        self.headers["content-length"] = str(len(body))
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for start in range(0, len(body), _PIECE):
            async with asyncio.timeout(_SEND_SECONDS):
                piece = body[start : start + _PIECE]
                await send({"type": "http.response.body", "body": piece, "more_body": start + _PIECE < len(body)})

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self.exchange.events()) as events:
            async for event in events:
                async with asyncio.timeout(_SEND_SECONDS):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        async with asyncio.timeout(_SEND_SECONDS):
            await send({"type": "http.response.body", "body": b""})


def check_caller(headers: Mapping[str, str], key: str | None) -> None:
    """Raise `ApiError` for a caller without the key; without a key, for web pages of other sites.

    A page in a browser on this machine reaches the loopback, too, under another site's name (DNS rebinding) or from
    one: no name but a local one is answered then.
    """
    if key is not None:
        said = headers.get("authorization", "").strip()
        given = said[7:].strip() if said[:7].lower() == "bearer " else said
        if not hmac.compare_digest(given.encode(), key.encode()):
            fault = "Incorrect API key provided." if given else "You didn't provide an API key."
            raise ApiError(401, f"{fault} Send it as Authorization: Bearer KEY.", code="invalid_api_key")
        return
    for name, value in (("host", f"//{headers.get('host', 'localhost')}"), ("origin", headers.get("origin"))):
        if value is not None and not _is_local(value):
            raise ApiError(
                403,
                f"This server answers programs of this machine alone, and the {name} of this request is another. "
                "Start it with a key (serving.api_key_env) to have others ask.",
                code="forbidden",
            )


def _is_local(address: str) -> bool:
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    """Read the body; raises `ApiError` for one that is too large, or does not come."""
    too_large = ApiError(413, f"The request is larger than {LARGEST_BODY >> 20} MiB.", code="request_too_large")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > LARGEST_BODY:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > LARGEST_BODY:
                    raise too_large
    except TimeoutError as problem:
        raise ApiError(408, "The body of the request did not come in time.") from problem
    except ClientDisconnect as problem:
        raise ApiError(400, "The client has gone before its request was there.") from problem
    return bytes(body)


def _stopping() -> ApiError:
    return ApiError(503, "The server is being stopped.", code="stopping", retry_after=30)


async def _error(request: Request, problem: ApiError) -> Response:
    headers = {"retry-after": str(problem.retry_after)} if problem.retry_after else {}
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(problem.as_json(), problem.status, headers)


async def _http_error(request: Request, problem: HTTPException) -> Response:
    path = request.url.path[:200]
    if problem.status_code == 405:
        error = ApiError(405, f"{request.method} is not allowed for {path}.", code="method_not_allowed")
    else:
        known = "/v1/models, /v1/chat/completions, /v1/completions, /health"
        error = ApiError(problem.status_code, f"There is nothing at {path}. This server has {known}.", code="not_found")
    return JSONResponse(error.as_json(), problem.status_code, problem.headers)


async def _unexpected(request: Request, problem: Exception) -> Response:
    log.error("a request failed", exc_info=problem)
    return JSONResponse(ApiError(500, "The server failed; its log says why.").as_json(), 500)
