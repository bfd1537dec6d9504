"""The thread that decodes for a server, and the hand-over between it and the loop that serves requests.

Requests go to the thread through a queue, and their tokens come back in one call a step. How many may be there at once
is bounded: what runs, and a queue; whoever comes beyond it is refused with the time after which to try again. A client
that has gone gives its places up at once, and one that reads slowly holds nobody up: its tokens wait for it here.
"""

import asyncio
import contextlib
import logging
import math
import queue
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from lora_tui.engine.inference.sequences import DecodedToken, SequenceDecoder, SequenceRequest

T = TypeVar("T")

log = logging.getLogger(__name__)

_LONGEST_RETRY_SECONDS = 120
_REMEMBERED = 64
"""Answers whose time says how long one takes."""


class BusyError(Exception):
    """No place is free, nor one to wait in; `retry_after` is when one may be, in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"all places are taken; try again in {retry_after} s")
        self.retry_after = retry_after


class TooManyError(Exception):
    """There are more sequences than this server has places: it would never be answered."""

    def __init__(self, most: int) -> None:
        super().__init__(f"at most {most} sequences at once")
        self.most = most


class StoppingError(Exception):
    """The server is being stopped."""


@dataclass(eq=False)
class DecodingGroup:
    """The sequences of one request; iterate over `tokens` on the loop, and `close` it however that ends."""

    thread: "DecodingThread"
    size: int
    began_at: float = field(default_factory=time.monotonic)
    _queue: "asyncio.Queue[tuple[int, DecodedToken] | Exception]" = field(default_factory=asyncio.Queue)
    _open: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._open.update(range(self.size))

    def put(self, item: tuple[int, DecodedToken] | Exception) -> None:
        """Hand over a token, or what ends all."""
        self._queue.put_nowait(item)

    async def tokens(self, patience: float) -> AsyncGenerator[tuple[int, DecodedToken] | None, None]:
        """Yield (place in the group, token) until all have ended; None after each `patience` seconds without any.

        Raises `StoppingError`, or what the decoder failed with.
        """
        while self._open:
            try:
                async with asyncio.timeout(patience):
                    item = await self._queue.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(item, Exception):
                raise item
            place, token = item
            if place not in self._open:
                continue
            if token.ended:
                self._open.discard(place)
            yield item

    def cancel(self, place: int) -> None:
        """End one sequence: a stop string has come, and what follows is not wanted."""
        if place in self._open:
            self._open.discard(place)
            self.thread.cancel(self, place)

    def close(self) -> None:
        """End what still runs, and give the places back."""
        for place in tuple(self._open):
            self.cancel(place)


@dataclass(frozen=True, slots=True)
class _Ticket:
    """A sequence of a group, as the thread knows it."""

    group: DecodingGroup
    place: int


class DecodingThread:
    """One thread for all torch work of a server; everything but `_run` and what it calls belongs to the loop.

    At most `most` sequences are with it at once, those that run and those that wait.
    """

    def __init__(self, most: int, running: int) -> None:
        self._most = most
        self._places = running
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="serving")
        self._inbox: queue.SimpleQueue[tuple[_Ticket, SequenceRequest | None] | None] = queue.SimpleQueue()
        self._active: dict[tuple[int, int], _Ticket] = {}
        self._loop = asyncio.get_running_loop()
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._is_stopping = False
        self._work: Future[None] | None = None
        self.tokens = 0
        """Tokens decoded since it began."""
        self.running = 0
        """Sequences that were decoded in the newest step."""

    @property
    def active(self) -> int:
        """Sequences that run or wait."""
        return len(self._active)

    async def call(self, function: Callable[[], T]) -> T:
        """Run blocking work on the thread, before it decodes."""
        return await self._loop.run_in_executor(self._executor, function)

    def start(self, decoder: SequenceDecoder) -> None:
        """Begin to decode."""
        self._work = self._executor.submit(self._run, decoder)

    async def stop(self) -> None:
        """End everything that is decoded, with `StoppingError`, and the thread."""
        self._is_stopping = True
        self._fail_all(StoppingError())
        self._inbox.put(None)
        if self._work is not None:
            with contextlib.suppress(Exception):  # it is in the log
                await asyncio.wrap_future(self._work)
        self._executor.shutdown(wait=False)

    def submit(self, requests: Sequence[SequenceRequest]) -> DecodingGroup:
        """Queue the sequences of a request; raises `BusyError` where there is no place for all of them now.

        Raises `TooManyError` where there never will be.
        """
        if self._is_stopping:
            raise StoppingError
        if len(requests) > self._most:
            raise TooManyError(self._most)
        if len(self._active) + len(requests) > self._most:
            raise BusyError(self._retry_after())
        group = DecodingGroup(self, len(requests))
        for place, request in enumerate(requests):
            ticket = _Ticket(group, place)
            self._active[id(group), place] = ticket
            self._inbox.put((ticket, request))
        return group

    def cancel(self, group: DecodingGroup, place: int) -> None:
        """End a sequence and free its place."""
        ticket = self._active.pop((id(group), place), None)
        if ticket is not None:
            self._inbox.put((ticket, None))

    def _retry_after(self) -> int:
        """Seconds until a place may be free: the mean answer's time, for as many rounds as wait."""
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else 5.0
        rounds = max(1.0, (len(self._active) - self._places) / self._places)
        return max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(mean * rounds)))

    def _deliver(self, told: Sequence[tuple[_Ticket, DecodedToken]], running: int) -> None:
        self.running = running
        for ticket, token in told:
            key = id(ticket.group), ticket.place
            if self._active.get(key) is not ticket:
                continue  # it was cancelled meanwhile
            self.tokens += token.token is not None
            if token.ended:
                del self._active[key]
                self._seconds.append(time.monotonic() - ticket.group.began_at)
            ticket.group.put((ticket.place, token))

    def _fail_all(self, problem: Exception) -> None:
        groups = {id(ticket.group): ticket.group for ticket in self._active.values()}
        self._active.clear()
        for group in groups.values():
            group.put(problem)

    def _failed(self, tickets: Sequence[_Ticket], problem: Exception) -> None:
        """Tell the requests that what they asked for cannot be decoded."""
        for ticket in tickets:
            if self._active.pop((id(ticket.group), ticket.place), None) is not None:
                ticket.group.put(problem)

    # On the thread

    def _run(self, decoder: SequenceDecoder) -> None:
        """Decode until told to end; what a step fails with ends the sequences that were there, not the server."""
        numbers: dict[_Ticket, int] = {}
        tickets: dict[int, _Ticket] = {}
        while self._take_in(decoder, numbers, tickets):
            try:
                told = decoder.step()
            except Exception as problem:
                log.exception("decoding failed")
                for number in tickets:
                    decoder.cancel(number)
                self._tell(self._failed, list(numbers), problem)
                numbers.clear()
                tickets.clear()
                continue
            batch = [(tickets[one.sequence], one) for one in told if one.sequence in tickets]
            for ticket, token in batch:
                if token.ended:
                    del tickets[numbers.pop(ticket)]
            self._tell(self._deliver, batch, decoder.running)

    def _take_in(self, decoder: SequenceDecoder, numbers: dict[_Ticket, int], tickets: dict[int, _Ticket]) -> bool:
        """Add and cancel what was asked for, waiting where there is nothing to decode; False to end."""
        while not self._inbox.empty() or not (decoder.running or decoder.waiting):
            item = self._inbox.get()
            if item is None:
                return False
            ticket, request = item
            if request is None:
                if (number := numbers.pop(ticket, None)) is not None:
                    del tickets[number]
                    decoder.cancel(number)
                    self._tell(self._deliver, [], decoder.running)
                continue
            try:
                numbers[ticket] = decoder.add(request)
            except Exception as problem:
                log.exception("a sequence cannot be decoded")
                self._tell(self._failed, [ticket], problem)
                continue
            tickets[numbers[ticket]] = ticket
        return True

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)
