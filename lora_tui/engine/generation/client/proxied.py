"""The HTTP client behind a proxy: the one of the official client, which knows every kind of proxy.

Apart, since it takes a second to load and twenty times the processor time a call of `http1`: it is taken only where
the environment names a proxy.
"""

import asyncio
import ssl
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import openai

from lora_tui.engine.generation.client.answers import (
    MOST_BYTES,
    Answer,
    Body,
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
)

_http = import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
"""The HTTP library under the official client, whichever it is: httpx in older versions, httpx2 in newer ones."""


class ProxiedClient:
    """An `HttpClient` through the proxies of the environment. `headers` go out with every request but a look."""

    def __init__(self, base_url: str, headers: Mapping[str, str], seconds: float, connect_seconds: float) -> None:
        self.base_url = base_url
        self._headers = dict(headers)
        self._client = openai.DefaultAsyncHttpxClient(
            timeout=openai.Timeout(seconds, connect=connect_seconds),
            follow_redirects=False,
            limits=_http.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def post(self, path: str, body: bytes) -> Answer:
        """Send JSON to a path under the base address."""
        return await self.send("POST", path, body, "application/json")

    async def send(
        self, method: str, path: str, body: bytes = b"", content_type: str = "", most: int = MOST_BYTES
    ) -> Answer:
        """Send anything to a path under the base address."""
        headers = {**self._headers, "Accept-Encoding": "gzip"} | (
            {"Content-Type": content_type} if content_type else {}
        )
        url = self.base_url.rstrip("/") + path
        request = self._client.build_request(method, url, content=body or None, headers=headers)
        return await self._answer(request, most)

    async def look(self, url: str, seconds: float) -> Answer:
        """Ask for an address itself, without key or text."""
        timeout = openai.Timeout(seconds)
        request = self._client.build_request("GET", url, headers={"Accept-Encoding": "gzip"}, timeout=timeout)
        async with asyncio.timeout(2 * seconds):
            return await self._answer(request)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _answer(self, request: Any, most: int = MOST_BYTES) -> Answer:
        try:
            response = await self._client.send(request, stream=True)
            try:
                headers = {name.lower(): value for name, value in response.headers.items()}
                body = Body(headers, most)
                async for part in response.aiter_raw():  # `Body` unpacks it, to a limit
                    body.add(part)
                return Answer(response.status_code, headers, body.text())
            finally:
                await response.aclose()
        except _http.ConnectTimeout as problem:
            raise ConnectTimeout(str(problem)) from problem
        except _http.TimeoutException as problem:
            raise TimeoutError(str(problem)) from problem
        except (_http.ConnectError, _http.ProxyError) as problem:
            raise ConnectError(str(problem)) from problem
        except (_http.RequestError, ssl.SSLError) as problem:
            raise ConnectionBroken(str(problem)) from problem
