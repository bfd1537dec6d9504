"""Conversations as lines, and the ratings of replies."""

from pathlib import Path
from typing import Any

from lora_tui.store import chat_log, feedback
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import conversations
from tests.store.store_fixtures import add_feedback, add_run, turn_ratings, with_store


def test_a_conversation_is_a_line_with_how_it_began(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Any]:
        run_id = await add_run(store)
        first = await chat_log.begin(store, run_id, "model", "/adapter")
        second = await chat_log.begin(store, None, "model", None)
        await chat_log.add_turn(store, first, "assistant", "welcome")
        await chat_log.add_turn(store, first, "user", "\n  unlock\nthe door")
        for role in ("assistant", "user"):
            await chat_log.add_turn(store, first, role, "more")
        await chat_log.begin(store, None, "nothing was said", None)
        await chat_log.add_turn(store, second, "user", "x" * 500)
        newest = await store.value("SELECT MAX(at) FROM turns WHERE conversation_id=?", (first,))
        return [newest, *await conversations(store, 3)]

    newest, second, first = with_store(tmp_path / "store.db", work)
    assert (first.id, first.run_id, first.model, first.adapter) == (1, 1, "model", "/adapter")
    assert (first.first_line, first.user_turns, first.assistant_turns) == ("unlock", 2, 2)
    assert first.last_at == newest > first.created_at
    assert (second.first_line, second.assistant_turns) == ("x" * 200, 0)


def test_no_more_conversations_than_asked_for(tmp_path: Path) -> None:
    async def work(store: Store) -> list[int]:
        for _ in range(5):
            await chat_log.add_turn(store, await chat_log.begin(store, None, "model", None), "user", "hi")
        return [line.id for line in await conversations(store, 2)]

    assert with_store(tmp_path / "store.db", work) == [5, 4]


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
