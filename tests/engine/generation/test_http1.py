"""The HTTP client of requests against servers of every kind, with the official client's own as the oracle."""

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from lora_tui.engine.generation.client import http1
from lora_tui.engine.generation.client.answers import Answer, ConnectError, ConnectionBroken, UnreadableReply
from lora_tui.engine.generation.client.http1 import DirectClient
from lora_tui.engine.generation.client.proxied import ProxiedClient
from lora_tui.engine.generation.client.transport import make_http_client, no_answer, uses_proxy
from lora_tui.engine.generation.client.wire import root_cause

KEY = {"Authorization": "Bearer sk-of-the-test"}
BODY = json.dumps({"text": "Größe 東京 " + "x" * 200_000}).encode()

Reply = Callable[[bytes, bytes], bytes]


class Server:
    """Gives to every request, head and body, what `reply` makes of it; an empty reply ends the connection."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                body = await reader.readexactly(length)
                self.heads.append(head)
                self.bodies.append(body)
                answer = self.reply(head, body)
                for start in range(0, len(answer), 50_000):  # in parts, as a network brings it
                    writer.write(answer[start : start + 50_000])
                    await writer.drain()
                if not answer or b"Connection: close" in answer or answer.startswith(b"HTTP/1.0"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def server(reply: Reply) -> AsyncIterator[Server]:
    served = Server(reply)
    listening = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield served
    finally:
        listening.close()


def with_length(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def chunked(body: bytes) -> bytes:
    parts = [body[start : start + 7000] for start in range(0, len(body), 7000)]
    laid_out = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + laid_out + b"0\r\n\r\n"


REPLIES: dict[str, bytes] = {
    "with its length": with_length(BODY, "X-Request-Id: r-1", "Content-Type: application/json"),
    "in chunks": chunked(BODY),
    "to the end of the connection": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "packed": with_length(gzip.compress(BODY), "Content-Encoding: gzip"),
    "after a hint": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + with_length(BODY),
    "a refusal": with_length(b'{"error": "no"}', "Retry-After: 3", status="429 Too Many Requests"),
    "moved": with_length(b"", "Location: /v2/chat/completions", status="307 Temporary Redirect"),
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no UTF-8": with_length(b'{"a": "\xff\xfe"}'),
    "latin-1": with_length('{"a": "Größe"}'.encode("latin-1"), "Content-Type: text/plain; charset=latin-1"),
    "a header twice": with_length(b"{}", "X-A: 1", "X-A: 2"),
}


async def of(reply: bytes, ask: Callable[[DirectClient], Awaitable[Answer]]) -> Answer:
    async with server(lambda head, body: reply) as served:
        client = DirectClient(served.url, KEY, 5.0)
        try:
            return await ask(client)
        finally:
            await client.close()


@pytest.mark.parametrize("name", REPLIES)
def test_every_reply_is_read_as_the_official_clients_library_reads_it(name: str) -> None:
    async def both() -> tuple[Answer, Answer]:
        async with server(lambda head, body: REPLIES[name]) as served:
            direct, oracle = DirectClient(served.url, KEY, 5.0), ProxiedClient(served.url, KEY, 10.0, 5.0)
            answers = await direct.post("/chat/completions", b"{}"), await oracle.post("/chat/completions", b"{}")
            await direct.close()
            await oracle.close()
            return answers

    ours, theirs = asyncio.run(both())
    assert ours == theirs


STREAMS = [
    *(reply if len(reply) < 5000 else reply.replace(b"x" * 199_900, b"") for reply in REPLIES.values()),
    with_length(b"{}", "Connection: keep-alive", "Server: x"),
    with_length(b"{}", "Connection: close"),
    with_length(b"{}", "Content-Length: 3"),
    with_length(b"{}", "Content-Length: 2"),
    with_length(b"{}", "Transfer-Encoding: chunked"),
    with_length(b"{}", "X-Folded: a", " b"),
    with_length(b"{}", "No colon"),
    with_length(b"{}", "X-Latin: Größe"),
    with_length(b"{}") + b"more than was said",
    with_length(b"{}").replace(b": 2", b": -2"),
    with_length(b"{}").replace(b": 2", b": 0x2"),
    with_length(b"{}").replace(b"\r\n", b"\n"),
    with_length(b"{}").replace(b"HTTP/1.1 ", b"HTTP/1.1  "),
    with_length(b"{}" * 300)[:-1],
    b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 120_000,
]


class Written(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.closed = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_a_plain_reply_is_read_without_h11_as_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def outcome(stream: bytes, seed: int) -> tuple[str, bytes, bool]:
        rng, transport, connection = random.Random(seed), Written(), http1._Connection(set())
        connection.connection_made(transport)
        asked = asyncio.ensure_future(connection.ask("POST", "/x", {"Host": "h", "Content-Length": "2"}, b"{}", 5000))
        await asyncio.sleep(0)
        rest = stream
        while rest and not asked.done():
            size = rng.choice((1, 3, 40, 100_000))
            connection.data_received(rest[:size])
            rest = rest[size:]
        if not asked.done():
            connection.eof_received()
        if not asked.done():
            connection.connection_lost(None)
        try:
            return repr(await asked), transport.sent, connection.reusable
        except Exception as problem:  # noqa: BLE001  # whatever it is has to be the same
            return repr(problem), transport.sent, connection.reusable

    async def outcomes() -> list[tuple[str, bytes, bool]]:
        return [await outcome(stream, seed) for stream in STREAMS for seed in range(6)]

    quick = asyncio.run(outcomes())
    monkeypatch.setattr(http1, "_plain_head", lambda head: None)
    assert quick == asyncio.run(outcomes())
    assert sum("status=200" in said for said, *_ in quick) > 30


def test_a_connection_is_used_again_and_a_request_is_whole() -> None:
    async def asked() -> Server:
        async with server(lambda head, body: with_length(b"{}")) as served:
            client = DirectClient(f"{served.url}/", KEY, 5.0)
            for number in range(3):
                assert (await client.post("/chat/completions", b"[%d]" % number)).status == 200
            await client.close()
            return served

    served = asyncio.run(asked())
    assert served.connections == 1
    assert served.bodies == [b"[0]", b"[1]", b"[2]"]
    assert served.heads[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"authorization: bearer sk-of-the-test" in served.heads[0].lower()


def test_as_many_connections_as_requests_in_flight() -> None:
    async def asked() -> int:
        async with server(lambda head, body: with_length(body)) as served:
            client = DirectClient(served.url, KEY, 5.0)
            answers = await asyncio.gather(*(client.post("/x", b"[%d]" % number) for number in range(40)))
            assert [answer.text for answer in answers] == [f"[{number}]" for number in range(40)]
            await client.close()
            return served.connections

    assert asyncio.run(asked()) == 40


def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    async def asked() -> int:
        async with server(lambda head, body: with_length(b"{}", "Connection: close")) as served:
            client = DirectClient(served.url, KEY, 5.0)
            for _ in range(3):
                await client.post("/x", b"{}")
                await asyncio.sleep(0.01)
            await client.close()
            return served.connections

    assert asyncio.run(asked()) == 3


@pytest.mark.parametrize(
    ("reply", "problem", "said"),
    [
        (b"", ConnectionBroken, "closed the connection"),
        (with_length(BODY)[:1000] + b"Connection: close", ConnectionBroken, "closed the connection"),
        (b"\x00\x16\x03 this is no HTTP\r\n\r\nConnection: close", ConnectionBroken, "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 300_000 + b"\r\n\r\nConnection: close", ConnectionBroken, "no HTTP"),
        (with_length(b"x" * 9_000_000), UnreadableReply, "longer than 8 MB"),
        (with_length(gzip.compress(bytes(30_000_000)), "Content-Encoding: gzip"), UnreadableReply, "longer"),
        (with_length(b"{}", "Content-Encoding: br"), UnreadableReply, "packed as br"),
        (with_length(b"{}", "Content-Encoding: gzip"), UnreadableReply, "is not"),
    ],
)
def test_what_is_no_reply_is_named(reply: bytes, problem: type[Exception], said: str) -> None:
    with pytest.raises(problem, match=said):
        asyncio.run(of(reply, lambda client: client.post("/x", b"{}")))


def test_a_connection_that_is_refused_says_so() -> None:
    async def asked() -> str:
        async with server(lambda head, body: b"") as served:
            url = served.url
        client = DirectClient(url.replace("127.0.0.1", "localhost"), KEY, 5.0)
        with pytest.raises(ConnectError) as problem:
            await client.post("/x", b"{}")
        return root_cause(problem.value)

    assert asyncio.run(asked()) == "Connection refused"


def test_a_look_takes_neither_key_nor_text_along() -> None:
    async def asked() -> Server:
        async with server(lambda head, body: with_length(b"{}", status="404 Not Found")) as served:
            client = make_http_client(served.url, "sk-of-the-test", 5.0)
            assert await no_answer(client, served.url, 2.0) is None
            await client.close()
            return served

    served = asyncio.run(asked())
    assert served.bodies == [b""]
    assert b"sk-of-the-test" not in served.heads[0]
    assert b"authorization" not in served.heads[0].lower()


def test_a_user_in_the_address_is_sent_as_one() -> None:
    async def asked() -> bytes:
        async with server(lambda head, body: with_length(b"{}")) as served:
            client = DirectClient(served.url.replace("//", "//ann:s%20t@"), KEY, 5.0)
            await client.post("/x", b"{}")
            await client.close()
            return served.heads[0]

    head = asyncio.run(asked())
    assert b"Authorization: Basic YW5uOnMgdA==\r\n" in head
    assert b"Host: 127.0.0.1:" in head


def test_a_proxy_of_the_environment_is_used_and_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked() -> bytes:
        async with server(lambda head, body: with_length(b"{}")) as served:
            monkeypatch.setenv("http_proxy", served.url)
            monkeypatch.delenv("no_proxy", raising=False)
            client = make_http_client("http://api.example.org/v1", "sk-of-the-test", 5.0)
            await client.post("/chat/completions", b"{}")
            await client.close()
            return served.heads[0]

    assert asyncio.run(asked()).startswith(b"POST http://api.example.org/v1/chat/completions HTTP/1.1\r\n")
    assert not uses_proxy("http://127.0.0.1:8000/v1")
    monkeypatch.setenv("no_proxy", "example.org")
    assert not uses_proxy("http://api.example.org/v1")
