"""The endpoint of the goodput benchmark shares its processor as it says, or its figures mean nothing."""

import asyncio
import selectors
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bench import generation_goodput
from tests.bench.generation_goodput import Processor


class LeapingLoop(asyncio.SelectorEventLoop):
    """A loop that waits for nothing: where it would, its clock goes on to the next timer."""

    def __init__(self) -> None:
        super().__init__(_LeapingSelector(self))
        self.now = 1000.0

    def time(self) -> float:
        return self.now


class _LeapingSelector(selectors.SelectSelector):
    def __init__(self, loop: LeapingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout:
            self._loop.now += timeout
        return found


def run(story: Coroutine[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a story on a clock of its own, which the endpoint reads, too."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        monkeypatch.setattr(generation_goodput, "time", SimpleNamespace(time=runner.get_loop().time))
        return runner.run(story)


async def seconds_for(requests: int, knee: int, tokens: int) -> tuple[float, float]:
    """Return how long that many requests take together, and the tokens that the endpoint says it wrote."""
    processor, ended = Processor(knee), asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(requests):
        processor.begin(tokens, ended.release)
    for _ in range(requests):
        await ended.acquire()
    processor.advance()
    return loop.time() - began, sum(processor.tokens.values())


@pytest.mark.parametrize(("requests", "seconds"), [(1, 0.2), (4, 0.2), (8, 0.4)])
def test_a_request_takes_longer_only_beyond_the_knee(
    requests: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    took, written = run(seconds_for(requests, knee=4, tokens=8), monkeypatch)
    assert took == pytest.approx(seconds, abs=1e-3)
    assert written == pytest.approx(8 * requests, abs=0.01)


def test_what_was_for_a_client_that_gave_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> float:
        processor = Processor(2)
        number = processor.begin(1000, lambda: None)
        await asyncio.sleep(0.1)
        processor.give_up(number)
        return sum(processor.tokens.values())

    assert run(story(), monkeypatch) == pytest.approx(0, abs=0.01)
