"""Signs of life of an address: before the first request, and while requests are out that nothing answers.

A connection that is taken and never answered would else be found when the slowest reply is overdue, minutes later. A
slow reply is not that: beside it, the address itself answers within seconds. Looking sends neither key nor text.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from lora_tui.config.addresses import address_advice
from lora_tui.engine.generation.client.answers import HttpClient
from lora_tui.engine.generation.client.outage import Outage
from lora_tui.engine.generation.client.rate_limit import TransientFailure
from lora_tui.engine.generation.client.transport import may_speak_no_tls, no_answer, speaks_tls
from lora_tui.engine.generation.client.wire import redirected_base, shown_url
from lora_tui.engine.generation.generation_model import CallStopped, EndpointGoneError
from lora_tui.errors import UnreachableError

T = TypeVar("T")

_FIRST_LOOKS = (6.0, 12.0)
"""Seconds that an address gets to answer anything at all, before the first request."""

_SILENCE = 10.0
"""Seconds without an answer to any request, after which the address is looked at beside them."""

_MAX_REDIRECTS = 3

_LOOK = 5.0
_LONGEST_PATIENCE = 60.0


class Contact:
    """Looks at one `address`, which the configuration has at `key`; `shown` makes one line of what a library says."""

    def __init__(
        self,
        address: str,
        key: str,
        http: HttpClient,
        shown: Callable[[str], str],
        warn: Callable[[str], None],
        stop: asyncio.Event,
    ) -> None:
        self.address = address
        self._key = key
        self._http = http
        self._shown = shown
        self._warn = warn
        self._stop = stop
        self._lock = asyncio.Lock()
        self._redirects = 0
        self._made = False
        self._one_at_a_time = False  # while it works on a reply it answers nothing else, and the reply comes
        self._in_flight: dict[object, float] = {}  # requests that are not answered, and when they left
        self._heard = 0.0  # when an answer, or a sign of life, came last
        self._watch: asyncio.Task[None] | None = None

    def close(self) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.cancel()

    async def look(self) -> str | None:
        """Return why nothing answers at the address, or None."""
        reason = await no_answer(self._http, self.address, _LOOK)
        return None if reason is None else self._shown(reason)

    def follow(self, status: int, location: str) -> Exception:
        """Follow a redirect within the same host, by the address of all further requests; refuse any other."""
        base, own = redirected_base(self.address, location), shown_url(self.address)
        shown = self._shown(shown_url(location))
        if base == self.address.rstrip("/"):
            return TransientFailure(f"HTTP {status}: it redirects to itself")
        if base is None or self._redirects == _MAX_REDIRECTS:
            return UnreachableError(
                f"{own} redirects to {shown or 'nowhere'} (HTTP {status}); neither key nor passages are sent "
                f"there.\nIf that is the address you mean, {address_advice(self._key, 'it')}."
            )
        self._redirects += 1
        self.address = self._http.base_url = base
        self._warn(f"{own} has moved to {shown_url(base)} (HTTP {status}); requests go there from now on.")
        return TransientFailure(f"HTTP {status}: moved to {shown}", 0.0)

    async def advice(self, url: str, reason: str, *, unreached: bool) -> str:
        """Return what a connection that failed says of the address, shown as `url`: that the other scheme is meant."""
        if self.address.startswith("http://") and not unreached and await speaks_tls(self.address):
            return f"The port speaks TLS: {address_advice(self._key, f'https{url[4:]}')}."
        if unreached and await may_speak_no_tls(self.address, reason):
            return f"The port takes connections, but no TLS: perhaps http{url[5:]} is meant ({self._key})."
        return ""

    async def first(self) -> str | None:
        """Return why no request should leave: connections are taken, and nothing is said. None where something is.

        What cannot be connected to at all, the request will tell.
        """
        if self._made:
            return None
        async with self._lock:
            for seconds in () if self._made else _FIRST_LOOKS:
                reason = await self._silence(seconds)
                if reason is None:
                    self._made = True
                    return None
                if seconds != _FIRST_LOOKS[-1]:
                    self._warn(f"{shown_url(self.address)}: {self._shown(reason)}. It gets a little longer.")
            if self._made:
                return None
        return (
            f"{shown_url(self.address)} takes connections and answers nothing ({sum(_FIRST_LOOKS):g} s).\n"
            f"Check {self._key}; if the server is still starting, go on with --resume when it is ready."
        )

    async def _silence(self, seconds: float) -> str | None:
        looking = asyncio.ensure_future(no_answer(self._http, self.address, seconds, silence_alone=True))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((looking, stopping), return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                raise CallStopped
            return looking.result()
        finally:
            looking.cancel()
            stopping.cancel()

    async def watch(self, sending: Awaitable[T], outage: Outage | None) -> T:
        """Return the answer to a request; while it is out, silence of the address becomes an `outage`."""
        request = object()
        self._in_flight[request] = time.monotonic()
        if outage is not None and (self._watch is None or self._watch.done()):
            self._watch = asyncio.create_task(self._watch_silence(outage))
        try:
            answer = await sending
        finally:
            del self._in_flight[request]
        self._heard = time.monotonic()
        self._one_at_a_time |= outage is not None and outage.is_silent
        return answer

    async def _takes_connections(self) -> bool:
        """Tell whether connections are taken at the address, though nothing is answered on them."""
        return await no_answer(self._http, self.address, _LOOK, silence_alone=True) is not None

    async def _watch_silence(self, outage: Outage) -> None:
        """Look at the address whenever nothing was heard of it for a while. Requests in flight stay in flight."""
        patience = _SILENCE
        while self._in_flight:
            await asyncio.sleep(min(1.0, patience))
            now = time.monotonic()
            silent = now - max(self._heard, min(self._in_flight.values(), default=now))
            if silent < patience:
                continue
            reason = await self.look()
            if reason is None or (self._one_at_a_time and await self._takes_connections()):
                patience = _SILENCE if outage.is_silent else min(_LONGEST_PATIENCE, 2 * patience)
                self._heard = time.monotonic()
                if outage.is_silent:
                    outage.end()
            elif self._in_flight:
                with suppress(EndpointGoneError):  # the calls raise it
                    outage.begin(reason, unreachable=True)
                self._heard = time.monotonic()
                patience = _LOOK
