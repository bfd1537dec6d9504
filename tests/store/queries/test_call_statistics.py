"""The calls of a run in figures: how they ended, what they cost, how fast they are."""

from pathlib import Path

import pytest

from lora_tui.store import runs, tasks
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import CallFailures, CallStatistics, call_statistics
from lora_tui.store.rows import AttemptTotals, NewTask
from tests.store.store_fixtures import make_call, plans, with_store

NOW = 1_000_000.0


async def planned(store: Store, tasks_wanted: int = 3) -> int:
    run_id = await runs.create(store, "generate", {}, {})
    async with store.transaction() as t:
        await tasks.add_tasks(t, run_id, [NewTask("generate", f"{run_id}/{n}") for n in range(tasks_wanted)])
    return run_id


async def answered(store: Store, run_id: int, ended_at: float, seconds: float = 2.0, tokens: int = 100) -> None:
    times = {"sent_at": ended_at - seconds, "ended_at": ended_at}
    cost = {"prompt_tokens": tokens, "completion_tokens": tokens // 2, "cached_tokens": tokens // 4}
    await make_call(store, run_id, 1, "ok", http_status=200, **times, **cost)


def test_a_run_that_has_called_nobody_has_zeros(tmp_path: Path) -> None:
    async def work(store: Store) -> CallStatistics:
        return await call_statistics(store, await planned(store), NOW)

    figures = with_store(tmp_path / "store.db", work)
    assert figures == CallStatistics(0, 0, 0, 0, (), 0.0, None, None)
    assert (figures.calls, figures.failed, figures.retried) == (0, 0, 0)


def test_calls_are_counted_by_how_they_ended_and_failures_by_their_kind(tmp_path: Path) -> None:
    async def work(store: Store) -> CallStatistics:
        run_id = await planned(store)
        other = await planned(store)
        await make_call(store, other, 4, "ok", sent_at=NOW, ended_at=NOW)
        for task_id, status, http_status in (
            (1, "http_error", 429),
            (1, "http_error", 429),
            (1, "http_error", 500),
            (1, "malformed", 200),
            (1, "ok", 200),
            (2, "timeout", None),
            (2, "sent", None),
            (3, "http_error", 429),
        ):
            ended = None if status == "sent" else NOW - 60
            await make_call(store, run_id, task_id, status, http_status=http_status, sent_at=NOW - 61, ended_at=ended)
        return await call_statistics(store, run_id, NOW)

    figures = with_store(tmp_path / "store.db", work)
    assert (figures.calls, figures.in_flight, figures.failed, figures.retried) == (8, 1, 6, 5)
    assert set(figures.failures) == {
        CallFailures("http_error", 429, 3, 2),  # the third one was given up
        CallFailures("http_error", 500, 1, 1),
        CallFailures("malformed", 200, 1, 1),
        CallFailures("timeout", None, 1, 1),
    }
    assert figures.failures[0].calls == 3, "the most frequent first"


def test_tokens_are_of_all_calls_and_speeds_of_the_last_half_minute(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[CallStatistics, list[AttemptTotals]]:
        run_id = await planned(store)
        for ended_at in (NOW - 31, NOW - 9, NOW - 1, NOW, NOW + 1):
            await answered(store, run_id, ended_at)
        return await call_statistics(store, run_id, NOW), await tasks.attempt_totals(store, run_id)

    figures, totals = with_store(tmp_path / "store.db", work)
    assert (figures.prompt_tokens, figures.completion_tokens) == (500, 250)
    assert [total.cached_tokens for total in totals] == [125]
    assert figures.tokens_per_s == pytest.approx(450 / 30)


def test_at_the_beginning_speeds_are_over_the_time_there_was(tmp_path: Path) -> None:
    async def work(store: Store) -> CallStatistics:
        run_id = await planned(store)
        await answered(store, run_id, NOW - 8, seconds=2.0)
        await answered(store, run_id, NOW, seconds=1.0)
        return await call_statistics(store, run_id, NOW)

    assert with_store(tmp_path / "store.db", work).tokens_per_s == pytest.approx(300 / 10)


def test_latencies_are_those_of_the_last_200_answered_calls(tmp_path: Path) -> None:
    async def work(store: Store) -> CallStatistics:
        run_id = await planned(store)
        for n in range(50):
            await answered(store, run_id, NOW - 9000 + n, seconds=500.0)  # too long ago
        for n in range(200):
            await answered(store, run_id, NOW - 1000 + n, seconds=float(n))
        await make_call(store, run_id, 1, "timeout", sent_at=NOW - 999, ended_at=NOW)
        await make_call(store, run_id, 1, "sent", sent_at=NOW - 999)
        return await call_statistics(store, run_id, NOW)

    figures = with_store(tmp_path / "store.db", work)
    assert (figures.median_latency, figures.p95_latency) == (100.0, 190.0)


def test_figures_never_read_the_replies_of_all_calls(tmp_path: Path) -> None:
    async def work(store: Store) -> list[str]:
        run_id = await planned(store)
        await make_call(store, run_id, 1, "timeout", sent_at=NOW, ended_at=NOW)
        first = await plans(store, call_statistics(store, run_id, NOW))
        return [*first, *await plans(store, tasks.attempt_totals(store, run_id))]

    assert with_store(tmp_path / "store.db", work) == [
        "SEARCH attempts USING COVERING INDEX attempts_of_run (run_id=?)",
        "SEARCH one USING INDEX attempts_of_run (run_id=? AND status=? AND http_status=?)",
        "CORRELATED SCALAR SUBQUERY 1",
        "SEARCH later USING COVERING INDEX attempts_of_task (task_id=? AND rowid>?)",
        "SEARCH attempts USING INDEX attempts_by_end (run_id=? AND ended_at>? AND ended_at<?)",
        "SEARCH attempts USING COVERING INDEX attempts_by_end (run_id=? AND ended_at<?)",
        "SEARCH attempts USING INDEX attempts_by_end (run_id=? AND ended_at>?)",
        "SEARCH attempts USING COVERING INDEX attempts_of_run (run_id=?)",
        "USE TEMP B-TREE FOR GROUP BY",
    ]
