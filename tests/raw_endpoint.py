"""An OpenAI-compatible endpoint over bare sockets, for what an HTTP server never does: it breaks the line itself.

`OpenAIServer` misbehaves in what it says; this one in how it says it: connections that break, are never answered or
are no HTTP, bodies that are packed, endless or half, an address that goes away and comes back. Every request is kept
in `received`, with the fault that it met, so that the program's accounts can be held against it.
"""

import asyncio
import gzip
import json
import random
import ssl
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self

from tests.openai_server import between, kind_of, pair_of_sentence

HTML = b"<html><body><h1>Bad gateway</h1>\x1b]0;EVIL\x07\x1b[31m</body></html>"
ESCAPES = "\x1b]52;c;RVZJTA==\x07\x1b[2J\x1b[31mEVIL\x9b31m\u202eEVIL\u202c[@click=app.quit]x[/][/nope]"

Answer = Callable[["RawEndpoint", asyncio.StreamWriter, dict[str, Any]], Coroutine[Any, Any, bool]]
"""Writes an answer; returns whether the connection stays."""


def bomb(megabytes: int) -> bytes:
    """Return a gzip of so many megabytes of blanks: about 5 kB each."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b" " * (1 << 20)) for _ in range(megabytes)) + packer.flush()


class RawEndpoint:
    """The endpoint, in a thread of its own; a context manager. `faults` are drawn for a `share` of the requests."""

    def __init__(self, seed: int = 0, faults: tuple[str, ...] = (), share: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.faults, self.share = faults, share
        self.script: deque[str | None] = deque()  # faults of the coming requests
        self.delay = 0.0
        self.received: list[tuple[str, str | None]] = []  # kind and fault
        self.looks = 0  # requests that ask for the address itself
        self.keys: Counter[str] = Counter()  # what came as the key
        self.redirect_to = ""
        self.frozen = False
        self.tls: ssl.SSLContext | None = None
        self._asked: Counter[str] = Counter()
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *exception: object) -> None:
        self.go_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def listen(self) -> None:
        """Listen (again, on the same port)."""

        async def start() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
            self.port = self._server.sockets[0].getsockname()[1]

        self._call(start()).result(10)

    def go_away(self) -> None:
        """Stop listening, and break every connection."""

        async def stop() -> None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()

        self._call(stop()).result(10)

    def count(self, kind: str) -> int:
        """How many requests of a kind were received."""
        return sum(kind == one for one, _ in self.received)

    def _call(self, work: Coroutine[Any, Any, None]) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        while self.frozen:  # noqa: ASYNC110  # set from another thread
            await asyncio.sleep(0.02)
        if head[0].startswith("GET"):
            self.looks += 1
            assert "authorization" not in headers
            return await self.send(writer, "404 Not Found", b"{}")
        request = json.loads(body)
        fault = self._fault()
        self.keys[headers.get("authorization", "")] += 1
        self.received.append((kind_of(request), fault))
        if self.delay:
            await asyncio.sleep(self.delay)
        return await self._answer(writer, request, fault)

    def _fault(self) -> str | None:
        if self.script:
            return self.script.popleft()
        drawn = bool(self.faults) and self.random.random() < self.share
        return self.random.choice(self.faults) if drawn else None

    async def send(
        self, writer: asyncio.StreamWriter, status: str, body: bytes, *headers: str, length: int | None = None
    ) -> bool:
        lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers)
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin1") + body)
        await writer.drain()
        return True

    async def _answer(self, writer: asyncio.StreamWriter, request: dict[str, Any], fault: str | None) -> bool:
        answer = self._completion(request, fault)
        body = json.dumps(answer).encode()
        name, _, detail = (fault or "").partition(":")
        match name:
            case "status":
                said = {"error": {"message": f"scripted {ESCAPES}", "code": None}}
                return await self.send(writer, f"{detail} X", json.dumps(said).encode())
            case "page":
                return await self.send(writer, f"{detail} X", HTML, "Content-Type: text/html")
            case "limit":
                return await self.send(writer, "429 X", b"{}", f"Retry-After: {detail}")
            case "reset":
                writer.transport.abort()
                return False
            case "closed":
                return False
            case "half":
                await self.send(writer, "200 OK", body[: len(body) // 2], length=len(body))
                return False
            case "cut_json":
                return await self.send(writer, "200 OK", body[: len(body) // 2])
            case "garbage":
                writer.write(b"\x00\x16\x03\x01 this is not HTTP\r\n\r\n")
                return False
            case "bad_header":
                return await self.send(writer, "200 OK", body, "X-Request-Id: \x1b]0;EVIL\x07\x1b[31m")
            case "long_header":
                return await self.send(writer, "200 OK", body, "X-A: " + "a" * 2_000_000)
            case "chunks":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n" + body)
                return False
            case "bomb":
                return await self.send(writer, "200 OK", bomb(64), "Content-Encoding: gzip")
            case "bomb_error":
                return await self.send(writer, "500 X", bomb(64), "Content-Encoding: gzip")
            case "no_gzip":
                return await self.send(writer, "200 OK", body, "Content-Encoding: gzip")
            case "gzip":
                return await self.send(writer, "200 OK", gzip.compress(body), "Content-Encoding: gzip")
            case "brotli":
                return await self.send(writer, "200 OK", body, "Content-Encoding: br")
            case "endless":
                return await self.send(writer, "200 OK", b" " * 20_000_000)
            case "deep":
                return await self.send(writer, "200 OK", b"[" * 200_000 + b"]" * 200_000)
            case "bytes":
                return await self.send(writer, "200 OK", b'{"choices":[{"message":{"content":"\xff\xfe\x80"}}]}')
            case "empty":
                return await self.send(writer, "204 No Content", b"")
            case "redirect":
                return await self.send(writer, f"{detail or 307} X", b"", f"Location: {self.redirect_to}")
            case "event_stream":
                return await self.send(writer, "200 OK", b"data: " + body + b"\n\ndata: [DONE]\n\n")
            case "drip":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                for _ in range(200):
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.1)
                return False
        return await self.send(writer, "200 OK", body)

    def _completion(self, request: dict[str, Any], fault: str | None) -> Any:
        """Return the answer, well-formed on the outside, with what a fault puts into it."""
        text = self._text(request, fault)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": message}
        usage: Any = {"prompt_tokens": 50, "completion_tokens": 20}
        answer: dict[str, Any] = {"choices": [choice], "usage": usage}
        match fault:
            case "huge_usage":
                answer["usage"] = {"prompt_tokens": 10**30, "completion_tokens": 10**30}
            case "wrong_usage":
                answer["usage"] = self.random.choice(
                    ["lots", {"prompt_tokens": -(10**9)}, {"prompt_tokens": 1.5}, {"prompt_tokens": "9"}, [1], True]
                )
            case "huge_logprobs":
                top = [{"token": "5", "logprob": 10**400}, {"token": "4", "logprob": -1e308}]
                choice["logprobs"] = {"content": [{"token": "5", "top_logprobs": top}]}
            case "no_choices":
                del answer["choices"]
            case "odd_choices":
                answer["choices"] = self.random.choice([[], "abc", [None], {"0": 1}, [{"message": None}], [[]]])
            case "null":
                message["content"] = None
            case "error_in_200":
                return {"error": {"message": f"overloaded {ESCAPES}", "code": 503}}
            case "cut_off":
                choice["finish_reason"], message["content"] = "length", text[: len(text) // 2]
            case "filtered":
                choice["finish_reason"], message["content"] = "content_filter", ""
            case "prose":
                message["content"] = f"I am sorry. {ESCAPES}"
            case "large":
                message["content"] = "x" * 3_000_000
            case "parts":
                message["content"] = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": text}]
            case "reasoning":
                message["reasoning_content"], message["content"] = text, None
            case "scalar":
                return 42
        return answer

    def _text(self, request: dict[str, Any], fault: str | None) -> str:
        kind = kind_of(request)
        if kind == "judge":
            return "5 5 4"
        if kind != "generate":
            return "A varied set."
        passage = between("\n".join(message["content"] for message in request["messages"]), "PASSAGE")
        first = self._asked[passage]
        self._asked[passage] += 2
        return json.dumps({"pairs": [pair_of_sentence(passage, first + number) for number in range(2)]})
