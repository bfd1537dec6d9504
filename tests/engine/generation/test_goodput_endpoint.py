"""The endpoint of the goodput benchmark shares its processor as it says, or its figures mean nothing."""

import asyncio
import time

import pytest

from tests.bench.generation_goodput import Processor


async def seconds_for(requests: int, knee: int, tokens: int) -> tuple[float, float]:
    """Return how long that many requests take together, and the tokens that the endpoint says it wrote."""
    processor, ended = Processor(knee), asyncio.Semaphore(0)
    began = time.monotonic()
    for _ in range(requests):
        processor.begin(tokens, ended.release)
    for _ in range(requests):
        await ended.acquire()
    processor.advance()
    return time.monotonic() - began, sum(processor.tokens.values())


@pytest.mark.parametrize(("requests", "seconds"), [(1, 0.2), (4, 0.2), (8, 0.4)])
def test_a_request_takes_longer_only_beyond_the_knee(requests: int, seconds: float) -> None:
    runs = [asyncio.run(seconds_for(requests, knee=4, tokens=8)) for _ in range(3)]
    took, written = min(runs)  # the least disturbed one
    assert seconds - 0.01 <= took < seconds + 0.15
    assert written >= 8 * requests - 0.01


def test_what_was_for_a_client_that_gave_up_does_not_count() -> None:
    async def story() -> float:
        processor = Processor(2)
        number = processor.begin(1000, lambda: None)
        await asyncio.sleep(0.1)
        processor.give_up(number)
        return sum(processor.tokens.values())

    assert asyncio.run(story()) == pytest.approx(0, abs=0.01)
