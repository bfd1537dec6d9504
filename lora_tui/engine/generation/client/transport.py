"""The HTTP client that requests go through, and looks at an address that send nothing of the user's.

Three things differ from the official client's own: a reply is read and unpacked up to `MOST_BYTES` and no further (a
gzip of 5 MB on the line can be 1 GB), redirects are not followed (the passages would go where nobody sent them, outside
the accounts), and an address can be looked at: does anything answer there, does it speak TLS.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import openai

from lora_tui.engine.generation.client.wire import is_loopback, root_cause

MOST_BYTES = 8_000_000
"""The longest reply, unpacked. One of 600 tokens with all its log-probabilities has 0.6 MB."""

_CHUNK = 65_536
_GZIP = 16 + zlib.MAX_WBITS

_http = import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
"""The HTTP library under the official client, whichever it is: httpx in older versions, httpx2 in newer ones."""


class UnreadableReply(Exception):  # noqa: N818  # a finding about one reply
    """A reply is longer than `MOST_BYTES`, or packed in a way that was not asked for."""


def make_http_client(base_url: str, timeout: float) -> openai.DefaultAsyncHttpxClient:
    """Return the client: bounded, without redirects; a proxy from the environment is not used for this machine."""
    return openai.DefaultAsyncHttpxClient(
        base_url=base_url,
        timeout=openai.Timeout(timeout, connect=min(10.0, 0.8 * timeout)),  # found before the call is overdue
        follow_redirects=False,
        trust_env=not is_loopback(base_url),
        headers={"Accept-Encoding": "gzip"},
        event_hooks={"response": [_bound]},
    )


async def _bound(response: Any) -> None:
    """Have a response read through `_BoundedStream`, which also unpacks it."""
    written = [part.strip().lower() for part in response.headers.get("content-encoding", "").split(",")]
    packed = [part for part in written if part not in ("", "identity")]
    if packed and packed not in (["gzip"], ["x-gzip"]):
        raise UnreadableReply(f"it is packed as {', '.join(packed)[:60]}, which was not asked for")
    response.headers.pop("content-encoding", None)
    response.stream = _BoundedStream(response.stream, packed=bool(packed))


class _BoundedStream(_http.AsyncByteStream):  # type: ignore[misc,name-defined]  # the library is known at run time alone
    """The bytes of a response, unpacked, `MOST_BYTES` at most; iterating raises `UnreadableReply` beyond."""

    def __init__(self, stream: Any, *, packed: bool) -> None:
        self._stream = stream
        self._packed = packed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        unpacker = zlib.decompressobj(_GZIP) if self._packed else None
        read = 0
        async for chunk in self._stream:
            left = chunk
            while left:
                part, left = self._unpacked(unpacker, left) if unpacker is not None else (left, b"")
                read += len(part)
                if read > MOST_BYTES:
                    raise UnreadableReply(f"it is longer than {MOST_BYTES // 1_000_000} MB")
                yield part

    @staticmethod
    def _unpacked(unpacker: Any, packed: bytes) -> tuple[bytes, bytes]:
        try:
            part = unpacker.decompress(packed, _CHUNK)
        except zlib.error:
            raise UnreadableReply("it is said to be packed with gzip and is not") from None
        return part, b"" if unpacker.eof else unpacker.unconsumed_tail

    async def aclose(self) -> None:
        """Close the connection's side of it."""
        await self._stream.aclose()


async def no_answer(
    http: openai.DefaultAsyncHttpxClient, url: str, seconds: float, *, silence_alone: bool = False
) -> str | None:
    """Ask an address for itself, without key or text; returns why nothing answers there, or None where something does.

    Any answer is one, a refusal too. A server that is at work on a long reply answers this beside it. With
    `silence_alone`, that no connection comes about does not count.
    """
    try:
        async with asyncio.timeout(2 * seconds):
            await http.get(url, timeout=openai.Timeout(seconds))
    except (TimeoutError, _http.ReadTimeout):
        return f"it takes connections and answers nothing within {seconds:g} s"
    except _http.TimeoutException:
        return None if silence_alone else f"no connection comes about within {seconds:g} s"
    except _http.ConnectError as problem:
        return None if silence_alone else root_cause(problem)
    except (_http.RequestError, ssl.SSLError, UnreadableReply):
        return None  # something is there; what it is, a request will tell
    return None


async def may_speak_no_tls(url: str, reason: str, seconds: float = 3.0) -> bool:
    """Tell whether an https address that failed for a `reason` may be an http one: its port takes connections.

    A certificate that is refused, or an alert, shows that it does speak TLS.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or any(word in reason.lower() for word in ("certificate", "alert")):
        return False
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443)
    except (OSError, ValueError, TimeoutError):
        return False
    writer.close()
    return True


async def speaks_tls(url: str, seconds: float = 4.0) -> bool:
    """Tell whether the port of an address takes a TLS handshake; its certificate does not matter."""
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=context)
    except (OSError, ValueError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
