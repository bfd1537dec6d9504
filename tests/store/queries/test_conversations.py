"""Conversations, and the ratings of replies."""

from pathlib import Path
from typing import Any

from lora_tui.store import chat_log, feedback
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import newest_conversation
from lora_tui.store.rows import Turn
from tests.store.store_fixtures import add_feedback, add_run, turn_ratings, with_store


def test_the_newest_conversation_is_the_last_one_begun_in_which_something_was_said(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int | None]:
        found = [await newest_conversation(store)]
        first = await chat_log.begin(store, await add_run(store), "model", "/adapter")
        second = await chat_log.begin(store, None, "model", None)
        await chat_log.begin(store, None, "nothing was said", None)
        found.append(await newest_conversation(store))
        await chat_log.add_turn(store, first, "assistant", "welcome")
        found.append(await newest_conversation(store))
        await chat_log.add_turn(store, second, "user", "x" * 500)
        await chat_log.add_turn(store, first, "user", "more")
        return [*found, await newest_conversation(store)]

    assert with_store(tmp_path / "store.db", work) == [None, None, 1, 2]


def test_a_conversation_is_stored_as_it_was_begun_and_its_messages_as_they_were_said(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[Any, Any, list[Turn]]:
        first = await chat_log.begin(store, await add_run(store), "model", "/adapter")
        await chat_log.add_turn(store, first, "assistant", "welcome")
        await chat_log.add_turn(store, first, "user", "\n  unlock\nthe door")
        rows = await store.tuples("SELECT id, run_id, model, adapter FROM conversations")
        created = await store.value("SELECT created_at FROM conversations")
        return rows, created, await chat_log.turns(store, first)

    rows, created, turns = with_store(tmp_path / "store.db", work)
    assert rows == [(1, 1, "model", "/adapter")]
    assert [(turn.role, turn.text) for turn in turns] == [("assistant", "welcome"), ("user", "\n  unlock\nthe door")]
    assert turns[-1].at >= turns[0].at > created


def test_ratings_in_force_are_those_of_people_for_the_subject(tmp_path: Path) -> None:
    async def work(store: Store) -> list[dict[int, int]]:
        run_id, other = await add_run(store), await add_run(store)
        talk, elsewhere = (
            await chat_log.begin(store, None, "m", None),
            await chat_log.begin(store, None, "m", None),
        )
        turns = [await chat_log.add_turn(store, place, "assistant", "hi") for place in (talk, elsewhere)]

        async def rate(run: int | None, subject: str, number: int, target: float, by: str = "person") -> None:
            await add_feedback(store, "evaluation", run, subject, number, {}, target, by)

        for target in (0.0, 0.75):
            async with store.transaction() as t:
                await feedback.withdraw(t, "sample", 7)
            await rate(run_id, "sample", 7, target)
        await rate(run_id, "sample", 8, 0.25, by="judge")
        await rate(other, "sample", 9, 1.0)
        await rate(run_id, "pair", 10, 1.0)
        await rate(None, "turn", turns[0], 0.5)
        await rate(None, "turn", turns[1], 1.0)
        return [
            await feedback.ratings(store, run_id),
            await feedback.ratings(store, other),
            await turn_ratings(store, talk),
        ]

    assert with_store(tmp_path / "store.db", work) == [{7: 4}, {9: 5}, {1: 3}]


def test_withdrawing_says_how_much_was_in_force_and_reinstating_puts_it_back_in_its_place(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[list[int], list[int]]:
        numbers = [await add_feedback(store, "generation", None, "pair", n, {}, 1.0, "person") for n in (1, 2, 1)]
        async with store.transaction() as t:
            counts = [await feedback.withdraw(t, "pair", 1), await feedback.withdraw(t, "pair", 1)]
            await feedback.reinstate(t, numbers[0])
        return counts, [row.id for row in await feedback.in_force(store, "generation")]

    assert with_store(tmp_path / "store.db", work) == ([2, 0], [1, 2])
