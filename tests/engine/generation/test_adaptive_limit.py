"""Requests in flight are bounded, and the bound gives way to rate limits."""

import asyncio

from lora_tui.engine.generation.client.rate_limit import AdaptiveLimit


async def most_at_once(places: AdaptiveLimit, workers: int = 20, complain: int = 0) -> int:
    """Return how many of `workers` held a place at the same time; the first `complain` of them are told off."""
    inside = most = told = 0

    async def work() -> None:
        nonlocal inside, most, told
        async with places:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            if told < complain:
                told += 1
                places.decrease()
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
        places = AdaptiveLimit(8)
        await most_at_once(places, workers=8, complain=8)
        assert places.limit == 6
        assert await most_at_once(places) == 6

    asyncio.run(story())


def test_further_bursts_go_down_to_one_and_no_further() -> None:
    async def story() -> None:
        places = AdaptiveLimit(8)
        for _ in range(12):
            await most_at_once(places, workers=8, complain=8)
        assert places.limit == 1
        assert await most_at_once(places) == 1

    asyncio.run(story())


def test_answers_bring_places_back_one_by_one_and_never_more_than_allowed() -> None:
    async def story() -> None:
        places = AdaptiveLimit(4)
        await most_at_once(places, workers=4, complain=1)
        assert places.limit == 3
        for _ in range(20):
            places.record_success()
        assert places.limit == 4
        for _ in range(100):
            places.record_success()
        assert places.limit == 4
        assert await most_at_once(places) == 4

    asyncio.run(story())


def test_a_place_that_is_waited_for_in_vain_is_not_lost() -> None:
    async def story() -> None:
        places = AdaptiveLimit(1)
        async with places:
            waiting = asyncio.create_task(most_at_once(places, workers=1))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert await most_at_once(places) == 1

    asyncio.run(story())
