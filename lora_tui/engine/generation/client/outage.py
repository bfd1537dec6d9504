"""Outages: what happens while an endpoint that has answered before does not answer any more.

No call is given up then. Requests are held back, one of the waiting calls looks now and then whether something answers
at the address, and its own request is the first to leave again: if that is answered, all the others follow. Looking
sends neither key nor text and costs nothing. Only after ``data_generation.give_up_after`` seconds does the run end, and
even then everything is stored. How long a machine slept does not count.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from lora_tui.engine.generation.generation_model import CallStopped, EndpointGoneError
from lora_tui.engine.runtime.context import Emit
from lora_tui.text import duration

_FIRST_LOOK = 1.0
_LONGEST_BETWEEN_LOOKS = 15.0
"""Seconds."""


class Outage:
    """Whether an endpoint is away, since when and why, and whose turn it is to find out if it is back.

    `look` returns why nothing answers at the address, or None. `who` names endpoint, model and key for messages.
    """

    def __init__(
        self,
        url: str,
        who: str,
        give_up_after: float,
        stop: asyncio.Event,
        look: Callable[[], Awaitable[str | None]],
        emit: Emit,
    ) -> None:
        self._url = url
        self._who = who
        self._give_up_after = give_up_after
        self._stop = stop
        self._look = look
        self._emit = emit
        self._since: float | None = None
        self._reason = ""
        self._unreachable = False
        self._looks = 0
        self._turns = asyncio.Lock()  # the one who waits longest looks next: a request that always fails blocks nobody

    @property
    def lasts(self) -> bool:
        """Whether the endpoint is away."""
        return self._since is not None

    @property
    def reason(self) -> str:
        """Why it is away, or was last."""
        return self._reason

    @property
    def is_silent(self) -> bool:
        """Whether it is away, and nothing answers at its address at all."""
        return self.lasts and self._unreachable

    def begin(self, reason: str, *, unreachable: bool) -> None:
        """Hold every request back from now on; of an outage that lasts, `reason` is the newest finding.

        `unreachable`: nothing answers at the address. Else something does, and it fails.
        """
        self._reason, self._unreachable = reason, unreachable
        if self.lasts or self._give_up_after == 0:
            self.raise_if_over()
            return
        self._since, self._looks = time.monotonic(), 0
        patience = duration(self._give_up_after)
        self._tell(
            waiting=True,
            message=f"{self._url} does not answer ({reason}). The run waits, looks every few seconds whether it is"
            f" back, and goes on by itself; it gives up after {patience} (data_generation.give_up_after).",
        )

    def end(self) -> None:
        """The endpoint has answered."""
        if self._since is None:
            return
        away = duration(time.monotonic() - self._since)
        self._since = None
        self._tell(waiting=False, message=f"{self._url} answers again after {away}; the run goes on.")

    async def turn(self) -> bool:
        """Return when a request may leave: at once, unless the endpoint is away.

        True for the one whose request finds out whether it is back; it must call `looked` whatever comes of it. Raises
        `EndpointGoneError` when it was waited for long enough, `CallStopped` when the run is stopping.
        """
        if not self.lasts:
            return False
        turn = asyncio.ensure_future(self._turns.acquire())
        try:
            await self._wait(turn)
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.looked()
            raise
        try:
            await self._until_something_answers()
        except BaseException:
            self.looked()
            raise
        if self.lasts:
            return True
        self.looked()
        return False

    def looked(self) -> None:
        """Let the next call look."""
        self._turns.release()

    def raise_if_over(self) -> None:
        """Raise `EndpointGoneError` when the endpoint was waited for long enough."""
        waited = 0.0 if self._since is None else time.monotonic() - self._since
        if waited >= self._give_up_after:
            raise EndpointGoneError(self.gone(self._reason, waited))

    def gone(self, reason: str, waited: float = 0.0) -> str:
        """Return the message of a run that ends because its endpoint is away; `waited` are seconds."""
        patience = f", after {duration(waited)} (data_generation.give_up_after)" if waited >= 1 else ""
        return (
            f"{self._who} does not answer any more: {reason}{patience}.\n"
            "What was done is stored; go on with --resume when it is back."
        )

    async def _until_something_answers(self) -> None:
        while self.lasts:
            left = self._give_up_after - (time.monotonic() - (self._since or 0.0))
            pause = min(_LONGEST_BETWEEN_LOOKS, _FIRST_LOOK * 1.5**self._looks)
            self._looks += 1
            await self._wait(asyncio.sleep(max(0.0, min(pause, left))))
            self.raise_if_over()
            if not self._unreachable:
                return  # something answers and fails: only a request can tell
            reason = await self._look()
            if reason is None:
                return
            self._reason = reason

    async def _wait(self, for_what: Awaitable[object]) -> None:
        """Wait, or raise `CallStopped` as soon as the run is to stop."""
        tasks = [asyncio.ensure_future(for_what), asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if self._stop.is_set():
            raise CallStopped

    def _tell(self, *, waiting: bool, message: str) -> None:
        self._emit("waiting", waiting=waiting, reason=self._reason, message=message)
