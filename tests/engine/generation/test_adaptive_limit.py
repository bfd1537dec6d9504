"""Requests in flight are bounded, and the bound gives way to rate limits."""

import asyncio

from lora_tui.engine.generation.client.rate_limit import AdaptiveLimit


async def most_at_once(limit: AdaptiveLimit, workers: int = 20, rate_limited: int = 0) -> int:
    """Return how many of `workers` held it at once; the first `rate_limited` of them report a rate limit."""
    inside = most = reported = 0

    async def work() -> None:
        nonlocal inside, most, reported
        async with limit:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            if reported < rate_limited:
                reported += 1
                limit.decrease()
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(workers)))
    return most


def test_no_more_than_allowed() -> None:
    async def story() -> None:
        assert await most_at_once(AdaptiveLimit(3)) == 3

    asyncio.run(story())


def test_a_burst_of_rate_limits_takes_a_quarter_away_once() -> None:
    async def story() -> None:
        limit = AdaptiveLimit(8)
        await most_at_once(limit, workers=8, rate_limited=8)
        assert limit.limit == 6
        assert await most_at_once(limit) == 6

    asyncio.run(story())


def test_further_bursts_go_down_to_one_and_no_further() -> None:
    async def story() -> None:
        limit = AdaptiveLimit(8)
        for _ in range(12):
            await most_at_once(limit, workers=8, rate_limited=8)
        assert limit.limit == 1
        assert await most_at_once(limit) == 1

    asyncio.run(story())


def test_answers_raise_the_limit_one_by_one_and_never_above_the_allowed() -> None:
    async def story() -> None:
        limit = AdaptiveLimit(4)
        await most_at_once(limit, workers=4, rate_limited=1)
        assert limit.limit == 3
        for _ in range(20):
            limit.record_success()
        assert limit.limit == 4
        for _ in range(100):
            limit.record_success()
        assert limit.limit == 4
        assert await most_at_once(limit) == 4

    asyncio.run(story())


def test_a_cancelled_wait_does_not_lower_the_limit() -> None:
    async def story() -> None:
        limit = AdaptiveLimit(1)
        async with limit:
            waiting = asyncio.create_task(most_at_once(limit, workers=1))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert await most_at_once(limit) == 1

    asyncio.run(story())
