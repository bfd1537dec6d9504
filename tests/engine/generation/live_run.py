"""A generation run under way, watched and steered from another connection, as the app does it."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lora_tui.engine.runtime.engine import Engine, Outcome
from lora_tui.store import events
from lora_tui.store.connection import Store
from tests.engine.generation.generation_harness import GenerationHarness


@dataclass(frozen=True)
class LiveRun:
    """A run that has not ended."""

    harness: GenerationHarness
    engine: Engine
    run_id: int
    future: "Future[Outcome]"

    def do(self, work: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Run a coroutine function on a store of its own."""
        return on_store(self.harness, work, *args, **more)

    def ask(self, command: str) -> str:
        """Ask the run for something; returns the outcome once there is one."""
        number = self.do(events.send_command, self.run_id, command)
        answered = "SELECT outcome FROM commands WHERE id=? AND done_at IS NOT NULL"
        return str(wait_for(lambda: self.harness.rows(answered, number))[0][0])

    def sent(self) -> int:
        """How many requests have left."""
        return len(self.harness.server.received)

    def wait_until_still(self) -> int:
        """Wait until no call is open and none has left for a third of a second; returns how many requests have left.

        What had begun when a pause came may still leave, on a busy machine a while after the pause is obeyed.
        """

        def is_still() -> bool:
            before = self.sent()
            time.sleep(0.3)
            return (
                self.harness.value("SELECT COUNT(*) FROM attempts WHERE status='sent'") == 0 and self.sent() == before
            )

        wait_for(is_still)
        return self.sent()

    def end(self, seconds: float = 60.0) -> Outcome:
        """Wait for the run to end by itself."""
        return self.future.result(timeout=seconds)


@contextmanager
def live_run(harness: GenerationHarness, resume: int | None = None, **values: Any) -> Iterator[LiveRun]:
    """Start a run that is stopped, if it has not ended, when the block ends."""
    engine = Engine(harness.store)
    engine.start()
    try:
        run_id, future = engine.submit("generate", harness.settings(**values), resume=resume)
        try:
            yield LiveRun(harness, engine, run_id, future)
        finally:
            engine.stop(run_id)
            future.result(timeout=300)
    finally:
        engine.close()


def on_store(harness: GenerationHarness, work: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """Run a coroutine function on a store of its own, as another process would."""

    async def opened() -> Any:
        async with await Store.open(harness.store) as store:
            return await work(store, *args, **more)

    return asyncio.run(opened())


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until a condition holds; returns what it found."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found
