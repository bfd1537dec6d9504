"""What people ask of a generation run while it works: to pause, to go on, and to count its pairs anew.

A pause holds back every request that has not left yet, further tries of a call that failed included; what is in flight
is answered and stored. It lives in memory alone: a run that is resumed goes on.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from lora_tui.engine.generation.generation_model import CallStopped
from lora_tui.engine.runtime.commands import DONE, Commands
from lora_tui.engine.runtime.progress import Emit


class RunControl:
    """Whether calls may leave, and whether the coordinator has something to look at (`changed`)."""

    def __init__(self, stop: asyncio.Event, emit: Emit) -> None:
        self._stop = stop
        self._emit = emit
        self._going = asyncio.Event()
        self._going.set()
        self.changed = asyncio.Event()
        self.recount_wanted = False

    @property
    def paused(self) -> bool:
        """Whether nothing may begin."""
        return not self._going.is_set()

    @contextmanager
    def steers(self, commands: Commands) -> Iterator[None]:
        """Honour the commands while the block lasts; a pause ends with it."""
        handlers = {"pause": self.pause, "continue": self.go_on, "recount": self.recount}
        try:
            with commands.honoured(handlers):
                yield
        finally:
            if self.paused:
                self._emit("paused", paused=False)

    async def pause(self) -> str:
        """Let nothing begin any more."""
        if self.paused:
            return "it is paused already"
        self._going.clear()
        self._emit("paused", paused=True)
        self.changed.set()
        return DONE

    async def go_on(self) -> str:
        """End the pause."""
        if not self.paused:
            return "it is not paused"
        self._going.set()
        self._emit("paused", paused=False)
        self.changed.set()
        return DONE

    async def recount(self) -> str:
        """Have the pairs counted anew: a person has changed a verdict."""
        self.recount_wanted = True
        self.changed.set()
        return DONE

    async def may_call(self) -> None:
        """Return when a request may leave; raises `CallStopped` when the run is to stop before it may."""
        while self.paused:
            if self._stop.is_set():
                raise CallStopped
            waiting = [asyncio.ensure_future(event.wait()) for event in (self._going, self._stop)]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waiting:
                    one.cancel()
