"""Budget and attempts: nothing is forgotten, whatever interrupts it."""

import asyncio
from pathlib import Path

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.prices import Prices, token_prices
from lora_tui.engine.generation.ledger import (
    BudgetSpent,
    Ledger,
    StoredCall,
    dollars_spent,
    run_shielded,
    tokens_spent,
)
from lora_tui.store import runs, tasks
from lora_tui.store.connection import Store
from lora_tui.store.rows import AttemptEnd, AttemptTotals, NewTask


def test_the_estimate_of_what_is_in_flight_is_reserved() -> None:
    ledger = Ledger(1000, 200)
    ledger.reserve(500)
    with pytest.raises(BudgetSpent):
        ledger.reserve(301)
    ledger.settle(500, AttemptEnd("ok", 60, 40))
    ledger.reserve(700)
    assert (ledger.spent, ledger.reserved) == (300, 700)


def test_a_budget_of_zero_is_none() -> None:
    Ledger(0, 10**9).reserve(10**9)


def test_dollars_are_counted_by_both_prices_and_reserved_by_the_higher() -> None:
    ledger = Ledger(0, 0, Prices(prompt=2.0, completion=10.0), budget_dollars=0.01)
    ledger.reserve(600)
    with pytest.raises(BudgetSpent, match="dollars"):
        ledger.reserve(500)
    assert ledger.exceeded == "budget_dollars"
    ledger.settle(600, AttemptEnd("ok", 500, 100))
    assert ledger.dollars == pytest.approx(0.002)
    ledger.reserve(800)
    ledger.settle(800, AttemptEnd("timeout"))
    assert ledger.dollars == pytest.approx(0.010), "what is not known counts as the most that it can be"
    with pytest.raises(BudgetSpent):
        ledger.reserve(1)


def test_the_budget_that_refuses_is_named() -> None:
    ledger = Ledger(1000, 900, Prices(1.0, 1.0), budget_dollars=1.0)
    with pytest.raises(BudgetSpent, match="token budget"):
        ledger.reserve(200)
    assert ledger.exceeded == "budget_tokens"
    assert (ledger.reserved, ledger.dollars) == (0, 0)


def test_without_prices_or_with_the_built_in_model_dollars_are_no_cap() -> None:
    Ledger(0, 0, Prices(), budget_dollars=0.01).reserve(10**9)
    priced = {"data_generation.prompt_price": 2.5, "data_generation.completion_price": 10}
    assert token_prices(with_values(Settings(), priced).data_generation) == Prices(2.5, 10.0)
    assert not token_prices(
        with_values(Settings(), {**priced, "data_generation.model": "builtin"}).data_generation
    ).known


def test_a_call_costs_what_its_own_model_does_and_cached_tokens_less() -> None:
    prices = Prices(1.0, 2.0, 0.1, {"judge": Prices(10.0, 20.0, 5.0)})
    ledger = Ledger(0, 0, prices, budget_dollars=1.0)
    ledger.reserve(1000)
    ledger.settle(1000, AttemptEnd("ok", 1000, 100, 400, model="writer"))
    assert ledger.dollars == pytest.approx((600 + 40 + 200) / 1e6)
    ledger.reserve(1000)
    ledger.settle(1000, AttemptEnd("ok", 1000, 100, 400, model="judge"))
    assert ledger.dollars == pytest.approx((840 + 6000 + 2000 + 2000) / 1e6)
    totals = [AttemptTotals("ok", 1, 1000, 100, 400, 0, 0, name) for name in ("writer", "judge")]
    assert dollars_spent(totals, prices) == pytest.approx(ledger.dollars)


def test_dollars_of_a_run_that_is_taken_up_again() -> None:
    totals = [AttemptTotals("ok", 2, 100, 20, 0, 500), AttemptTotals("lost", 1, 0, 0, 0, 300)]
    assert dollars_spent(totals, Prices(1.0, 5.0)) == pytest.approx((100 + 5 * 20 + 5 * 300) / 1e6)


def test_calls_of_unknown_cost_count_at_their_estimate() -> None:
    totals = [AttemptTotals("ok", 2, 100, 20, 0, 500), AttemptTotals("lost", 1, 0, 0, 0, 300)]
    assert tokens_spent(totals) == 420


async def opened(path: Path) -> tuple[Store, int, int]:
    store = await Store.open(path)
    run_id = await runs.create(store, "generate", {}, {})
    async with store.transaction() as t:
        await tasks.add_tasks(t, run_id, [NewTask("generate", "k")])
    task = await tasks.task_by_key(store, run_id, "generate", "k")
    assert task is not None
    return store, run_id, task.id


async def statuses(store: Store) -> list[str]:
    return [status for (status,) in await store.tuples("SELECT status FROM attempts ORDER BY id")]


def test_an_attempt_is_stored_before_it_leaves_and_an_answer_with_what_follows(tmp_path: Path) -> None:
    async def story() -> None:
        store, run_id, task_id = await opened(tmp_path / "s.db")
        async with store:
            call = StoredCall(store, run_id, task_id, Ledger(0, 0))
            attempt = await call.begin_attempt(50)
            assert await statuses(store) == ["sent"]
            await call.end_attempt(attempt, AttemptEnd("ok", 7, 3, 1, reply="yes"))
            assert await statuses(store) == ["sent"], "not before what follows is stored"
            async with store.transaction() as t:
                await call.settle(t)
            row = (await store.tuples("SELECT status, prompt_tokens, completion_tokens, cached_tokens FROM attempts"))[
                0
            ]
            assert row == ("ok", 7, 3, 1)

    asyncio.run(story())


def test_a_failure_is_stored_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        store, run_id, task_id = await opened(tmp_path / "s.db")
        async with store:
            ledger = Ledger(1000, 0)
            call = StoredCall(store, run_id, task_id, ledger)
            await call.end_attempt(
                await call.begin_attempt(50), AttemptEnd("http_error", http_status=500, error="out of order")
            )
            await call.end_attempt(await call.begin_attempt(60), AttemptEnd("timeout"))
            assert await statuses(store) == ["http_error", "timeout"]
            assert (ledger.spent, ledger.reserved) == (60, 0), "a time-out may have been charged for"

    asyncio.run(story())


def test_what_a_model_leaves_open_is_closed_as_cancelled(tmp_path: Path) -> None:
    async def story() -> None:
        store, run_id, task_id = await opened(tmp_path / "s.db")
        async with store:
            ledger = Ledger(1000, 0)
            call = StoredCall(store, run_id, task_id, ledger)
            await call.begin_attempt(50)
            await call.abandon()
            assert await statuses(store) == ["cancelled"]
            assert (ledger.spent, ledger.reserved) == (50, 0)

    asyncio.run(story())


def test_without_budget_nothing_is_stored(tmp_path: Path) -> None:
    async def story() -> None:
        store, run_id, task_id = await opened(tmp_path / "s.db")
        async with store:
            with pytest.raises(BudgetSpent):
                await StoredCall(store, run_id, task_id, Ledger(10, 0)).begin_attempt(50)
            assert await statuses(store) == []

    asyncio.run(story())


def test_a_cancelled_task_leaves_no_transaction_half_way(tmp_path: Path) -> None:
    async def story() -> None:
        store, run_id, task_id = await opened(tmp_path / "s.db")
        async with store:
            for steps in range(12):
                call = StoredCall(store, run_id, task_id, Ledger(0, 0))
                sending = asyncio.create_task(call.begin_attempt(1))
                for _ in range(steps):
                    await asyncio.sleep(0)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                await call.abandon()
            assert "sent" not in await statuses(store)
            async with store.transaction() as t:
                await t.execute("UPDATE tasks SET state='done'")

    asyncio.run(story())


def test_work_goes_run_shielded_and_the_cancellation_goes_on() -> None:
    async def story() -> None:
        done: list[str] = []

        async def work() -> str:
            await asyncio.sleep(0.05)
            done.append("work")
            return "result"

        async def caller() -> None:
            await run_shielded(work())
            done.append("after")

        task = asyncio.create_task(caller())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == ["work"]
        assert await run_shielded(work()) == "result"

    asyncio.run(story())
