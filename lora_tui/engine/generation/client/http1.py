"""The HTTP/1.1 client that requests go through: connections that are kept, over h11 and nothing else.

Hundreds of requests are in flight at once, and each comes to an end a hundred times a second. The official client
takes 4.4 ms of processor time for a call at 256 connections, its own aiohttp transport 1.6 ms, this one 0.2 ms
(`tests/bench/README.md`); it also saves the second that importing the official client takes. What h11 reads is held to
the standard: a server that says anything else has its connection closed.

An answer as nearly all servers give it (200, a Content-Length, nothing unusual in its headers) is read without h11 in a
fraction of its time: `_plain_head` says which these are. All others h11 reads from their first byte.

There is no limit of connections here: whoever sends has one. Nothing is sent twice: a request whose connection breaks
may have been paid for.
"""

import asyncio
import base64
import os
import re
import ssl
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

import h11

from lora_tui.engine.generation.client.answers import (
    MOST_BYTES,
    Answer,
    Body,
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
)

_IDLE_SECONDS = 4.0
"""How long a connection is kept without a request; servers close theirs after five seconds."""

_MOST_HEADER_BYTES = 100_000
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_LENGTH = "Content-Length"
_MOST_HEADS = 32
_IS_NUMBER = re.compile(r"[\d.]+|[0-9a-f:]*:[0-9a-f:.]*")
"""A host that is an address has no second one to try."""
_PLAIN_HEAD = re.compile(rb"HTTP/1\.1 200 [ -~]*\r\n((?:[A-Za-z0-9-]+:[\t -~]*\r\n)*)\r\n")
_NOT_PLAIN = ("transfer-encoding", "upgrade", "trailer")


class DirectClient:
    """An `HttpClient` that connects to the address itself. `headers` go out with every request but a look.

    `connect_seconds` bound how long a connection may take to come about.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str], connect_seconds: float) -> None:
        self.base_url = base_url
        self._headers = dict(headers)
        self._connect_seconds = connect_seconds
        self._idle: dict[tuple[str, str, int], deque[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._heads: dict[tuple[str, ...], bytes] = {}
        self._tls: ssl.SSLContext | None = None
        self._closed = False

    async def post(self, path: str, body: bytes) -> Answer:
        """Send JSON to a path under the base address."""
        return await self.send("POST", path, body, "application/json")

    async def send(
        self, method: str, path: str, body: bytes = b"", content_type: str = "", most: int = MOST_BYTES
    ) -> Answer:
        """Send anything to a path under the base address."""
        parts = urlsplit(self.base_url)
        target = f"{parts.path.rstrip('/')}{path}" + (f"?{parts.query}" if parts.query else "")
        own = {**self._headers}
        if content_type:
            own |= {"Content-Type": content_type, "Content-Length": str(len(body))}
        return await self._exchange(parts, method, target, own, body, self._connect_seconds, most=most)

    async def look(self, url: str, seconds: float) -> Answer:
        """Ask for an address itself, on a connection of its own, without key or text."""
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return await self._exchange(parts, "GET", target, {}, b"", seconds, look_seconds=seconds)

    async def close(self) -> None:
        """Close the connections, also those that are waited on."""
        self._closed = True
        for connection in list(self._open):
            connection.close()
        self._idle.clear()

    async def _exchange(
        self,
        parts: SplitResult,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        connect_seconds: float,
        look_seconds: float | None = None,
        most: int = MOST_BYTES,
    ) -> Answer:
        host = _ascii(parts.hostname or "")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        place = (parts.scheme, host, port)
        connection = self._idle_one(place) if look_seconds is None else None
        if connection is None:
            connection = await self._connect(parts.scheme == "https", host, port, connect_seconds)
        shown = f"[{host}]" if ":" in host else host
        sent = {"Host": shown + (f":{parts.port}" if parts.port else ""), "Accept-Encoding": "gzip", **headers}
        if parts.username is not None and headers:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            sent["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        try:
            async with asyncio.timeout(look_seconds):
                answer = await connection.ask(method, target, sent, body, most)
        except BaseException:
            connection.close()
            raise
        if connection.reusable and not self._closed:
            connection.idle_since = time.monotonic()
            self._idle.setdefault(place, deque()).append(connection)
        else:
            connection.close()
        return answer

    def _idle_one(self, place: tuple[str, str, int]) -> "_Connection | None":
        """Return the connection that was used last; what is closed or older than `_IDLE_SECONDS` is thrown away."""
        waiting = self._idle.get(place)
        while waiting:
            connection = waiting.pop()
            if connection.reusable and time.monotonic() - connection.idle_since < _IDLE_SECONDS:
                while waiting and time.monotonic() - waiting[0].idle_since >= _IDLE_SECONDS:
                    waiting.popleft().close()
                return connection
            connection.close()
        return None

    async def _connect(self, tls: bool, host: str, port: int, seconds: float) -> "_Connection":
        loop = asyncio.get_running_loop()
        if tls and self._tls is None:
            self._tls = await asyncio.to_thread(_tls_context)
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._open, self._heads),
                    host,
                    port,
                    ssl=self._tls if tls else None,
                    happy_eyeballs_delay=None if _IS_NUMBER.fullmatch(host) else 0.25,
                )
        except TimeoutError as problem:
            raise ConnectTimeout(f"no connection within {seconds:g} s") from problem
        except (OSError, ValueError) as problem:  # a ValueError is a host that no name can be
            raise ConnectError(str(problem)) from _first_of(problem)
        return connection


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request as it was sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, and the request that is under way on it. `heads` are requests without their length, as bytes."""

    def __init__(self, opened: "set[_Connection]", heads: "dict[tuple[str, ...], bytes] | None" = None) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEADER_BYTES)
        self._opened = opened
        self._heads = {} if heads is None else heads
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._sent: _Sent | None = None  # the request of which h11 knows nothing: its answer may be a plain one
        self._received = bytearray()  # of that answer
        self._whole = 0  # its length, once its head has been read
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: Body | None = None
        self._most = MOST_BYTES
        self.idle_since = 0.0

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent on it."""
        return self._transport is not None and not self._transport.is_closing() and self._http.our_state is h11.IDLE

    def close(self) -> None:
        """Close it; the request under way gets no answer."""
        if self._transport is not None:
            self._transport.close()
        self._fail(ConnectionBroken("the connection was closed"))

    async def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes, most: int) -> Answer:
        """Send a request and return its answer, of `most` bytes."""
        self._most = most
        assert self._transport is not None, "it is connected"
        self._waiting = asyncio.get_running_loop().create_future()
        self._body = None
        try:
            head = self._head_of(method, target, headers)
        except h11.LocalProtocolError as problem:
            self._waiting.cancel()
            raise ConnectionBroken(f"the request cannot be sent: {problem}") from problem
        self._sent, self._whole = _Sent(method, target, headers, body), 0
        self._received.clear()
        self._transport.write(head + body)
        return await self._waiting

    def _head_of(self, method: str, target: str, headers: Mapping[str, str]) -> bytes:
        """Return the head of a request as h11 writes it; but for the length of its body it is always the same."""
        key = (method, target, *(text for header in headers.items() if header[0] != _LENGTH for text in header))
        if key not in self._heads:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            bare = [header for header in headers.items() if header[0] != _LENGTH]
            written = h11.Connection(h11.CLIENT).send(h11.Request(method=method, target=target, headers=bare))
            assert written is not None, "a request is bytes"
            self._heads[key] = written.removesuffix(b"\r\n")
        length = f"{_LENGTH}: {headers[_LENGTH]}\r\n".encode() if _LENGTH in headers else b""
        return self._heads[key] + length + b"\r\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._opened.add(self)

    def data_received(self, data: bytes) -> None:
        """Read what has come, as far as it is whole."""
        self._receive(data)

    def eof_received(self) -> bool:
        """Read the end: some responses are as long as the connection lasts."""
        self._receive(b"")
        return False

    def connection_lost(self, problem: Exception | None) -> None:
        """Give up what is under way."""
        self._opened.discard(self)
        reason = ConnectionBroken(str(problem) or "the server closed the connection")
        reason.__cause__ = problem
        self._fail(reason)

    def _receive(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():  # nobody has asked
            if self._transport is not None:
                self._transport.close()
            return
        try:
            if self._sent is not None:
                if data and self._read_plain(data):
                    return
                data = self._give_to_h11(data)
            self._http.receive_data(data)
            self._read()
        except h11.RemoteProtocolError as problem:
            said = (
                f"what came is no HTTP: {problem}"
                if data
                else "the server closed the connection before it had answered"
            )
            self._fail(ConnectionBroken(said))
        except Exception as problem:  # noqa: BLE001  # whatever it is, the request that waits must learn of it
            self._fail(problem)

    def _read_plain(self, data: bytes) -> bool:
        """Take in what has come of a plain answer; False where it is none."""
        self._received += data
        if not self._whole:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return len(self._received) < _MOST_HEADER_BYTES
            headers = _plain_head(bytes(self._received[: end + 4]))
            if headers is None or int(headers["content-length"]) > self._most:
                return False
            self._headers, self._whole = headers, end + 4 + int(headers["content-length"])
            self._body = Body(headers, self._most)
        if len(self._received) > self._whole:
            return False
        if len(self._received) == self._whole:
            assert self._body is not None, "a response comes before its end"
            self._body.add(bytes(self._received[self._whole - int(self._headers["content-length"]) :]))
            self._sent = None
            self._answer(Answer(200, self._headers, self._body.text()))
        return True

    def _give_to_h11(self, data: bytes) -> bytes:
        """Have h11 read the answer that is under way from its beginning; returns what it has to be given."""
        sent, before = self._sent, bytes(self._received)
        assert sent is not None, "a request is under way"
        self._sent = None
        self._http.send(h11.Request(method=sent.method, target=sent.target, headers=list(sent.headers.items())))
        if sent.body:
            self._http.send(h11.Data(data=sent.body))
        self._http.send(h11.EndOfMessage())
        if data:
            return before  # it holds what has come just now
        if before:
            self._http.receive_data(before)
            self._read()
        return data

    def _read(self) -> None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                self._status = event.status_code
                self._headers = {}
                for name, value in event.headers:
                    written = value.decode("latin-1")
                    key = name.decode("latin-1").lower()
                    self._headers[key] = f"{self._headers[key]}, {written}" if key in self._headers else written
                self._body = Body(self._headers, self._most)
            elif isinstance(event, h11.Data):
                assert self._body is not None, "a response comes before its data"
                self._body.add(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert self._body is not None, "a response comes before its end"
                answer = Answer(self._status, self._headers, self._body.text())
                if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                    self._http.start_next_cycle()
                self._answer(answer)
                return
            elif event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return

    def _answer(self, answer: Answer) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def _fail(self, problem: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(problem)
        if self._transport is not None:
            self._transport.close()


def _plain_head(head: bytes) -> dict[str, str] | None:
    """Return the headers of an answer that has nothing but a body of known length on a connection that stays."""
    found = _PLAIN_HEAD.fullmatch(head)
    if found is None:
        return None
    headers: dict[str, str] = {}
    for line in found[1].decode("ascii").splitlines():
        name, _, value = line.partition(":")
        name = name.lower()
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    length = headers.get("content-length", "")
    is_plain = length.isdigit() and len(length) < 12 and headers.get("connection", "keep-alive").lower() == "keep-alive"
    return headers if is_plain and not any(name in headers for name in _NOT_PLAIN) else None


def _ascii(host: str) -> str:
    """Return a host as it goes over the line; one that no name can be stays as it is, and will not be found."""
    with suppress(UnicodeError):
        return host if host.isascii() else host.encode("idna").decode()
    return host


def _first_of(problem: Exception) -> Exception:
    """Return the reason of the first of several addresses that were tried: asyncio only lists them in its text."""
    if isinstance(problem, OSError) and problem.errno is None and str(problem).startswith("Multiple exceptions"):
        found = _ERRNO.search(str(problem))
        if found is not None:
            return OSError(int(found[1]), os.strerror(int(found[1])))
    return problem


def _tls_context() -> ssl.SSLContext:
    """Return what certificates are checked with: the system's own, or what ``SSL_CERT_FILE`` and ``_DIR`` name."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    context = ssl.create_default_context(cafile=file or None, capath=folder or None)
    if not context.cert_store_stats()["x509_ca"] and not file and not folder:
        with suppress(ImportError):  # Python of python.org has no certificates of its own on macOS
            import truststore

            context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    return context
