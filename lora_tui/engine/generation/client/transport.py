"""The client for an address, and looks at an address that send nothing of the user's.

Requests go out by `http1`, or where the environment names a proxy by `proxied`. Redirects are not followed (the
passages would go where nobody sent them, outside the accounts), and an address can be looked at: does anything answer
there, does it speak TLS.
"""

import asyncio
import os
import ssl
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from lora_tui.engine.generation.client.answers import (
    ConnectError,
    ConnectionBroken,
    ConnectTimeout,
    HttpClient,
    UnreadableReply,
)
from lora_tui.engine.generation.client.http1 import DirectClient
from lora_tui.engine.generation.client.wire import is_loopback, root_cause


def make_http_client(base_url: str, key: str, seconds: float) -> HttpClient:
    """Return the client of an address; a proxy from the environment is not used for this machine.

    `seconds` are what a request may take; a missing connection is found before its call is overdue. Organisation and
    project of an OpenAI account come from where its own client takes them, and go to OpenAI alone.
    """
    connect = min(10.0, 0.8 * seconds)
    headers = {"Authorization": f"Bearer {key or 'none'}", "User-Agent": "lora-tui"}
    if (urlsplit(base_url).hostname or "").endswith("openai.com"):
        named = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
        headers |= {name: os.environ[variable] for name, variable in named.items() if os.environ.get(variable)}
    if uses_proxy(base_url):
        from lora_tui.engine.generation.client.proxied import ProxiedClient

        return ProxiedClient(base_url, headers, seconds, connect)
    return DirectClient(base_url, headers, connect)


def uses_proxy(url: str) -> bool:
    """Tell whether the environment names a proxy for an address."""
    parts, proxies = urlsplit(url), getproxies()
    if is_loopback(url) or not (proxies.get(parts.scheme) or proxies.get("all")):
        return False
    return not proxy_bypass(parts.hostname or "")


async def no_answer(http: HttpClient, url: str, seconds: float, *, silence_alone: bool = False) -> str | None:
    """Ask an address for itself, without key or text; returns why nothing answers there, or None where something does.

    Any answer is one, a refusal too. A server that is at work on a long reply answers this beside it. With
    `silence_alone`, that no connection comes about does not count.
    """
    try:
        async with asyncio.timeout(2 * seconds):
            await http.look(url, seconds)
    except ConnectTimeout:
        return None if silence_alone else f"no connection comes about within {seconds:g} s"
    except TimeoutError:
        return f"it takes connections and answers nothing within {seconds:g} s"
    except ConnectError as problem:
        return None if silence_alone else root_cause(problem)
    except (ConnectionBroken, UnreadableReply):
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
