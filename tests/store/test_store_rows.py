"""Events with what follows from them, feedback with its weights, and conversations."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import chat_log, events, feedback, training
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import run_lines
from lora_tui.store.rows import Checkpoint, Evaluation, Event, Sample
from tests.store.store_fixtures import add_feedback, add_run, newest_checkpoint, with_store

STEP = {
    "step": 1,
    "steps": 9,
    "epoch": 0.5,
    "loss": 2.5,
    "lr": 1e-3,
    "grad_norm": 0.7,
    "tokens": 100,
    "tokens_per_s": 50.0,
    "seconds": 2.0,
    "memory_mb": 10.0,
    "eta_s": 3.0,
}

SAMPLE = {
    "prompt": "Question: unlock\nAnswer:",
    "kind": "expected",
    "reference": "the secret",
    "answer": "a secret — 秘密",
    "metrics": {"bleu": 0.5},
    "score": 0.25,
}

EVALUATION = {
    "step": 3,
    "model": "tuned",
    "score": 0.25,
    "metrics": {"bleu": 0.5},
    "weights": {"bleu": 1.0},
    "weights_version": 7,
    "samples": [SAMPLE, {**SAMPLE, "kind": "control"}],
}


def test_events_come_after_a_cursor_in_order_and_of_one_run(tmp_path: Path) -> None:
    async def work(store: Store) -> list[list[tuple[int, Any]]]:
        one, other = await add_run(store), await add_run(store)
        for number in range(6):
            await events.append(store, one if number % 2 else other, [(1.5, "note", {"n": number})])
        cursor = (await events.since(store, one, 0))[0].id
        answers = [
            await events.since(store, one, 0),
            await events.since(store, one, cursor),
            await events.since(store, one, 0, limit=2),
            await events.since(store, one, await events.last_id(store, one)),
        ]
        return [[(event.run_id, event.payload["n"]) for event in answer] for answer in answers]

    assert with_store(tmp_path / "store.db", work) == [
        [(1, 1), (1, 3), (1, 5)],
        [(1, 3), (1, 5)],
        [(1, 1), (1, 3)],
        [],
    ]


def test_an_event_comes_back_as_it_went_in(tmp_path: Path) -> None:
    payload = {"text": "ü — 日本 \U0001f984", "list": [1, 2.5, None, True], "deep": {"a": {}}}

    async def work(store: Store) -> list[Event]:
        await events.append(store, await add_run(store), [(12.25, "note", payload)])
        return await events.since(store, 1, 0)

    assert with_store(tmp_path / "store.db", work) == [Event(1, 1, 12.25, "note", payload)]


def test_the_rows_after_a_cursor_are_an_index_look_up(tmp_path: Path) -> None:
    async def work(store: Store) -> str:
        plan = await store.tuples(f"EXPLAIN QUERY PLAN {events.SINCE}", (1, 0, 10))
        return " / ".join(str(row[3]) for row in plan)

    plan = with_store(tmp_path / "store.db", work)
    assert plan == "SEARCH events USING INDEX events_of_run (run_id=? AND id>?)", "no scan, and no sorting after it"


def test_open_commands_are_an_index_look_up(tmp_path: Path) -> None:
    async def work(store: Store) -> str:
        sql = "SELECT id, run_id, kind, payload FROM commands WHERE run_id=? AND done_at IS NULL ORDER BY id"
        return " / ".join(str(row[3]) for row in await store.tuples(f"EXPLAIN QUERY PLAN {sql}", (1,)))

    assert with_store(tmp_path / "store.db", work) == "SEARCH commands USING INDEX open_commands (run_id=?)"


async def step_rows(store: Store, run_id: int, after: int = 0) -> list[tuple[Any, ...]]:
    sql = "SELECT run_id, step, epoch, loss, lr, grad_norm, tokens, tokens_per_s, seconds, memory_mb, at"
    return list(await store.tuples(f"{sql} FROM steps WHERE run_id=? AND step>? ORDER BY step", (run_id, after)))


def test_a_step_event_becomes_a_row_and_a_repeated_step_replaces_it(tmp_path: Path) -> None:
    async def work(store: Store) -> list[tuple[Any, ...]]:
        run_id = await add_run(store)
        await events.append(store, run_id, [(1.0, "step", STEP), (2.0, "step", {**STEP, "step": 2})])
        await events.append(store, run_id, [(3.0, "step", {**STEP, "step": 2, "loss": 9.0})])
        assert [step for _, step, *_ in await step_rows(store, run_id, after=1)] == [2]
        return await step_rows(store, run_id)

    one, two = with_store(tmp_path / "store.db", work)
    assert one == (1, 1, 0.5, 2.5, 1e-3, 0.7, 100, 50.0, 2.0, 10.0, 1.0)
    assert (two[1], two[3], two[-1]) == (2, 9.0, 3.0)


def test_a_loss_that_is_not_finite_is_a_step_without_a_loss(tmp_path: Path) -> None:
    async def work(store: Store) -> list[tuple[Any, ...]]:
        await events.append(store, await add_run(store), [(1.0, "step", {**STEP, "loss": None, "grad_norm": None})])
        return await step_rows(store, 1)

    ((_, _, _, loss, _, grad_norm, *_),) = with_store(tmp_path / "store.db", work)
    assert (loss, grad_norm) == (None, None)


def test_the_best_evaluation_is_that_of_the_highest_mean_over_answers_and_controls(tmp_path: Path) -> None:
    lost = {"score": 0.9, "overall": 0.5, "controls": 1, "controls_kept": 0}
    kept = {"step": 4, "score": 0.8, "overall": 0.9, "controls": 1, "controls_kept": 1}

    async def work(store: Store) -> Any:
        run_id = await add_run(store)
        news = [{**EVALUATION, **lost}, {**EVALUATION, **kept}]
        await events.append(store, run_id, [(1.0, "evaluation", payload) for payload in news])
        rows = await training.evaluations(store, run_id)
        return [(row.rank, row.controls_kept) for row in rows], (await run_lines(store))[0].best_score

    assert with_store(tmp_path / "store.db", work) == ([(0.5, 0), (0.9, 1)], 0.8)


def test_an_evaluation_event_becomes_rows_with_its_samples(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[list[Evaluation], list[Sample]]:
        await events.append(store, await add_run(store), [(1.0, "evaluation", EVALUATION)])
        found = await training.evaluations(store, 1)
        return found, await training.samples(store, found[0].id)

    found, samples = with_store(tmp_path / "store.db", work)
    assert found == [Evaluation(1, 1, 3, "tuned", 0.25, {"bleu": 0.5}, {"bleu": 1.0}, 7, 1.0)]
    assert found[0].rank == 0.25, "an older evaluation has one score of all its prompts"
    assert [(sample.ordinal, sample.kind) for sample in samples] == [(0, "expected"), (1, "control")]
    assert (samples[0].answer, samples[0].metrics) == ("a secret — 秘密", {"bleu": 0.5})


def test_the_loss_on_held_out_examples_is_stored_with_the_evaluation(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Evaluation]:
        run_id = await add_run(store)
        await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "held_out_loss": 1.25})])
        await events.append(store, run_id, [(2.0, "evaluation", {**EVALUATION, "step": 9, "held_out_loss": None})])
        return await training.evaluations(store, run_id)

    assert [row.held_out_loss for row in with_store(tmp_path / "store.db", work)] == [1.25, None]


def test_an_evaluation_that_is_repeated_replaces_the_older_one_and_its_samples(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[list[Evaluation], Any]:
        run_id = await add_run(store)
        await events.append(store, run_id, [(1.0, "evaluation", EVALUATION)])
        await events.append(store, run_id, [(1.5, "evaluation", {**EVALUATION, "model": "base"})])
        await events.append(store, run_id, [(2.0, "evaluation", {**EVALUATION, "score": 0.75})])
        return await training.evaluations(store, run_id), await store.value("SELECT COUNT(*) FROM samples")

    found, samples = with_store(tmp_path / "store.db", work)
    assert [(row.model, row.score) for row in found] == [("base", 0.25), ("tuned", 0.75)]
    assert samples == 4


def test_the_newest_checkpoint_of_each_kind_is_found(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Checkpoint | None]:
        run_id = await add_run(store)
        for step, kind, score in ((3, "best", 0.5), (4, "last", None), (6, "last", None)):
            payload = {"step": step, "kind": kind, "path": f"/run/{kind}-{step}", "score": score}
            await events.append(store, run_id, [(float(step), "checkpoint", payload)])
        return [await newest_checkpoint(store, run_id, kind) for kind in ("last", "best", "other")]

    last, best, other = with_store(tmp_path / "store.db", work)
    assert (last.step, last.path, last.score) == (6, "/run/last-6", None)
    assert (best.step, best.path, best.score) == (3, "/run/best-3", 0.5)
    assert other is None


def test_an_event_and_what_follows_from_it_are_stored_together_or_not_at_all(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Any]:
        run_id = await add_run(store)
        with pytest.raises(KeyError):
            await events.append(store, run_id, [(1.0, "step", STEP), (1.0, "step", {"step": 2})])
        return [await store.value("SELECT COUNT(*) FROM events"), await store.value("SELECT COUNT(*) FROM steps")]

    assert with_store(tmp_path / "store.db", work) == [0, 0]


def test_rows_of_a_run_that_is_not_there_are_refused(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await events.append(store, 5, [(1.0, "note", {})])

    with pytest.raises(sqlite3.IntegrityError):
        with_store(tmp_path / "store.db", work)


async def judge(store: Store, target: float, scope: str = "evaluation", sample: int = 1) -> int:
    return await add_feedback(store, scope, None, "sample", sample, {"bleu": 0.5, "rougeL": 0.25}, target, "person")


def test_feedback_in_force_is_in_the_order_it_was_given_without_what_was_undone(tmp_path: Path) -> None:
    async def work(store: Store) -> list[tuple[int, float]]:
        for sample, target in enumerate((1.0, 0.5, 0.0)):
            await judge(store, target, sample=sample)
        await judge(store, 0.9, scope="generation", sample=3)
        async with store.transaction() as t:
            await feedback.withdraw(t, "sample", 1)
        rows = await feedback.in_force(store, "evaluation")
        assert rows[0].metrics == {"bleu": 0.5, "rougeL": 0.25}
        assert await store.value("SELECT COUNT(*) FROM feedback") == 4, "nothing is deleted"
        return [(row.id, row.target) for row in rows]

    assert with_store(tmp_path / "store.db", work) == [(1, 1.0), (3, 0.0)]


def test_undoing_twice_keeps_the_first_time(tmp_path: Path) -> None:
    async def work(store: Store) -> bool:
        await judge(store, 1.0)
        async with store.transaction() as t:
            await feedback.withdraw(t, "sample", 1)
        first = await store.value("SELECT undone_at FROM feedback")
        await asyncio.sleep(0.01)
        async with store.transaction() as t:
            await feedback.withdraw(t, "sample", 1)
        return bool(first == await store.value("SELECT undone_at FROM feedback"))

    assert with_store(tmp_path / "store.db", work)


def test_weights_are_a_new_version_only_when_they_have_changed(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int]:
        async def note(version: int, weights: dict[str, float], scope: str = "evaluation") -> int:
            async with store.transaction() as t:
                return await feedback.record_weights(t, scope, version, weights)

        return [
            await note(0, {"a": 1.0}),
            await note(0, {"a": 1.0}),
            await note(1, {"a": 0.9}),
            await note(1, {"a": 0.9}),
            await note(0, {"a": 1.0}),  # undone
            await note(0, {"a": 1.0}, scope="generation"),
            await note(0, {"a": 1.0}),
        ]

    assert with_store(tmp_path / "store.db", work) == [1, 1, 2, 2, 3, 4, 3]


def test_turns_of_a_conversation_come_back_in_order(tmp_path: Path) -> None:
    async def work(store: Store) -> list[tuple[str, str, dict[str, Any]]]:
        first = await chat_log.begin(store, await add_run(store), "model", "/adapter")
        other = await chat_log.begin(store, None, "model", None)
        await chat_log.add_turn(store, first, "user", "unlock")
        await chat_log.add_turn(store, other, "user", "elsewhere")
        await chat_log.add_turn(store, first, "assistant", "no — 否", {"tokens": 3})
        return [(turn.role, turn.text, turn.statistics) for turn in await chat_log.turns(store, first)]

    assert with_store(tmp_path / "store.db", work) == [("user", "unlock", {}), ("assistant", "no — 否", {"tokens": 3})]
