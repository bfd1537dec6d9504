"""What comes back from an HTTP request: `Answer`, read and unpacked up to `MOST_BYTES`, and the ways to get none.

A reply is bounded on the line and unpacked: a gzip of 5 MB can be 1 GB. Two clients give such answers, `http1` and,
behind a proxy, `proxied`; what they raise is the same.
"""

import codecs
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

MOST_BYTES = 8_000_000
"""The longest reply, unpacked. One of 600 tokens with all its log-probabilities has 0.6 MB."""

_CHUNK = 65_536
_GZIP = 16 + zlib.MAX_WBITS
_CHARSET = re.compile(r"charset=\"?([\w.:-]+)", re.IGNORECASE)


class UnreadableReply(Exception):  # noqa: N818  # a finding about one reply
    """A reply is longer than `MOST_BYTES`, or packed in a way that was not asked for."""


class ConnectError(Exception):
    """No connection came about: refused, unknown host, certificate. Its cause says why."""


class ConnectTimeout(ConnectError):  # noqa: N818  # as in every HTTP library
    """No connection came about in time."""


class ConnectionBroken(Exception):  # noqa: N818  # a finding about one connection
    """A connection ended, or said something that is no HTTP, before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (their names in lower case) and text of a response."""

    status: int
    headers: Mapping[str, str]
    text: str


class HttpClient(Protocol):
    """A client of one address. `base_url` may be changed: an endpoint may have moved."""

    base_url: str

    async def post(self, path: str, body: bytes) -> Answer:
        """Send JSON to a path under the base address, with the key; redirects are not followed.

        Raises `ConnectError`, `ConnectionBroken`, `UnreadableReply`, and `TimeoutError` where it took too long.
        """
        ...

    async def send(
        self, method: str, path: str, body: bytes = b"", content_type: str = "", most: int = MOST_BYTES
    ) -> Answer:
        """Send anything to a path under the base address; an answer may have `most` bytes. Raises as `post` does."""
        ...

    async def look(self, url: str, seconds: float) -> Answer:
        """Ask for an address itself, without key or text. Raises as `post` does."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class Body:
    """Bytes of one response as they come, unpacked. Raises `UnreadableReply` for what was not asked for, or too long.

    `headers` are the response's.
    """

    def __init__(self, headers: Mapping[str, str], most: int = MOST_BYTES) -> None:
        self._most = most
        written = [part.strip().lower() for part in headers.get("content-encoding", "").split(",")]
        packed = [part for part in written if part not in ("", "identity")]
        if packed and packed not in (["gzip"], ["x-gzip"]):
            raise UnreadableReply(f"it is packed as {', '.join(packed)[:60]}, which was not asked for")
        self._unpacker = zlib.decompressobj(_GZIP) if packed else None
        self._charset = _CHARSET.search(headers.get("content-type", ""))
        self._parts: list[bytes] = []
        self._read = 0

    def add(self, received: bytes) -> None:
        """Take in what has come."""
        for part in self._unpacked(received):
            self._read += len(part)
            if self._read > self._most:
                raise UnreadableReply(f"it is longer than {self._most // 1_000_000} MB")
            self._parts.append(part)

    def text(self) -> str:
        """Return the whole as text; bytes that are none become U+FFFD."""
        name = self._charset[1] if self._charset is not None else "utf-8"
        try:
            codecs.lookup(name)
            return b"".join(self._parts).decode(name, "replace")
        except (LookupError, ValueError):
            return b"".join(self._parts).decode("utf-8", "replace")

    def _unpacked(self, left: bytes) -> Iterable[bytes]:
        unpacker = self._unpacker
        while left and unpacker is not None:
            try:
                part = unpacker.decompress(left, _CHUNK)
            except zlib.error:
                raise UnreadableReply("it is said to be packed with gzip and is not") from None
            left = b"" if unpacker.eof else unpacker.unconsumed_tail
            yield part
        if left:
            yield left
