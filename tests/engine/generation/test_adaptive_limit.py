"""Requests in flight are bounded, judging goes ahead, and the bound gives way to rate limits."""

import asyncio

import pytest

from lora_tui.engine.generation.client.rate_limit import AdaptiveLimit, TransientFailure


async def most_at_once(limit: AdaptiveLimit, workers: int = 20, rate_limited: int = 0) -> int:
    """Return how many of `workers` held it at once; the last `rate_limited` of them meet a rate limit."""
    inside = most = 0

    async def work(number: int) -> None:
        nonlocal inside, most
        async with limit.place() as place:
            limit.leaves_now(place)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            inside -= 1
            if number >= workers - rate_limited:
                raise TransientFailure("HTTP 429", rate_limited=True)

    await asyncio.gather(*(work(number) for number in range(workers)), return_exceptions=True)
    return most


def test_no_more_than_allowed() -> None:
    async def story() -> None:
        assert await most_at_once(AdaptiveLimit(3)) == 3

    asyncio.run(story())


def test_a_burst_of_rate_limits_halves_it_once_and_answers_bring_back_what_was_served() -> None:
    async def story() -> None:
        limit = AdaptiveLimit(8)
        await most_at_once(limit, workers=8, rate_limited=2)
        assert limit.limit == 3, "six were served"
        assert await most_at_once(limit) == 3
        for _ in range(20):
            async with limit.place() as place:
                limit.leaves_now(place)
                limit.answered(place, 10)
        assert limit.limit == 6, "and no more than that, for now"

    asyncio.run(story())


def test_further_bursts_go_down_to_one_and_no_further() -> None:
    async def story() -> None:
        limit = AdaptiveLimit(8)
        for _ in range(12):
            await most_at_once(limit, workers=8, rate_limited=8)
        assert limit.limit == 1
        assert await most_at_once(limit) == 1

    asyncio.run(story())


def test_those_who_go_ahead_get_the_next_place() -> None:
    async def story() -> list[str]:
        limit, order = AdaptiveLimit(1), []

        async def work(name: str, *, ahead: bool) -> None:
            async with limit.place(ahead=ahead):
                order.append(name)
                await asyncio.sleep(0)

        async with limit.place():
            started = []
            for name in ("write 1", "write 2", "judge 1", "judge 2"):
                started.append(asyncio.create_task(work(name, ahead=name.startswith("judge"))))
                await asyncio.sleep(0)
        await asyncio.gather(*started)
        return order

    assert asyncio.run(story()) == ["judge 1", "judge 2", "write 1", "write 2"]


@pytest.mark.parametrize("moment", ["waiting", "admitted"])
def test_a_cancelled_wait_leaves_its_place_to_others(moment: str) -> None:
    async def story() -> None:
        limit = AdaptiveLimit(1)
        async with limit.place():
            waiting = asyncio.create_task(most_at_once(limit, workers=1))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if moment == "waiting":
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert limit.in_flight == 0
        assert await most_at_once(limit) == 1

    asyncio.run(story())


def test_overdue_calls_lower_it_and_are_told_of_once() -> None:
    async def story() -> None:
        told: list[tuple[int, int]] = []
        limit = AdaptiveLimit(8, timeout=1.0, on_overdue=lambda *limits: told.append(limits))

        async def work() -> None:
            async with limit.place():
                await asyncio.sleep(0)
                raise TransientFailure("no answer within 1 s", overdue=True)

        await asyncio.gather(*(work() for _ in range(8)), return_exceptions=True)
        assert told == [(8, 4)]
        assert await most_at_once(limit) == 4

    asyncio.run(story())
