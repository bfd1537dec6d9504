"""Ratings with what they are about, and the pairs that a run's judge accepted, whatever people made of them."""

from pathlib import Path
from typing import Any

import pytest

from lora_tui.store import events, feedback, runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.ratings import accepted_scores, rating_rows, ratings_state
from tests.engine.review.one_pair import override_pair
from tests.store.store_fixtures import METRICS, SETTINGS, make_chunk, make_pair, with_store
from tests.store.test_store_rows import EVALUATION, SAMPLE


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict writes the run's file again, which is relative to the current folder."""
    monkeypatch.chdir(tmp_path)


async def rate(store: Store, scope: str, *about: Any, asked: str = feedback.AUDIT, by: str = feedback.PERSON) -> None:
    async with store.transaction() as t:
        await feedback.add(t, scope, None, *about, METRICS, 1.0, by, None, asked)


def test_a_rating_is_about_a_passage_or_a_prompt(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        run_id = await runs.create(store, "generate", SETTINGS, {})
        chunk = await make_chunk(store, "a passage")
        pairs = [await make_pair(store, run_id, f"{number}?", "accepted", 8.0, chunk=chunk) for number in range(2)]
        pairs.append(await make_pair(store, run_id, "3?", "accepted", 8.0))
        await events.append(store, run_id, [(1.0, "evaluation", {**EVALUATION, "samples": [SAMPLE]})])
        for pair_id in pairs:
            await rate(store, "generation", "pair", pair_id)
        await rate(store, "generation", "pair", 99, asked=feedback.ACTIVE, by="judge")
        await rate(store, "evaluation", "sample", 1)
        return await rating_rows(store, "generation"), await rating_rows(store, "evaluation")

    of_pairs, (answer,) = with_store(tmp_path / "store.db", work)
    assert [row.about for row in of_pairs] == ["a passage", "a passage", "pair 3", "pair 99"]
    assert [(row.by_person, row.at_random) for row in of_pairs] == [(1, 1), (1, 1), (1, 1), (0, 0)]
    assert (answer.about, answer.metrics) == (SAMPLE["prompt"], METRICS)


def test_the_state_of_ratings_changes_with_every_rating_and_every_undo(tmp_path: Path) -> None:
    async def work(store: Store) -> list[Any]:
        seen = [await ratings_state(store, "generation")]
        await rate(store, "generation", "pair", 1)
        seen.append(await ratings_state(store, "generation"))
        await rate(store, "evaluation", "sample", 1)
        assert await ratings_state(store, "generation") == seen[-1], "another scope"
        async with store.transaction() as t:
            await feedback.withdraw(t, "pair", 1)
        seen.append(await ratings_state(store, "generation"))
        await rate(store, "generation", "pair", 1)
        seen.append(await ratings_state(store, "generation"))
        return seen

    empty, one, undone, again = with_store(tmp_path / "store.db", work)
    assert empty == undone
    assert len({empty, one, again}) == 3
    assert (empty[0], one[0]) == (0, 1)


def test_what_the_judge_accepted_stays_accepted_when_a_person_rejects_it(tmp_path: Path) -> None:
    async def work(store: Store) -> Any:
        run_id = await runs.create(store, "generate", SETTINGS, {})
        kept, dropped, drawn = [await make_pair(store, run_id, f"{n}?", "accepted", 7.0 + n) for n in range(3)]
        raised = await make_pair(store, run_id, "4?", "rejected", 3.0)
        await runs.end(store, run_id, "finished", {}, None)
        await override_pair(store, dropped, "rejected")
        await override_pair(store, raised, "accepted")
        await rate(store, "generation", "pair", drawn)
        assert kept
        return await accepted_scores(store, run_id)

    assert with_store(tmp_path / "store.db", work) == [(7.0, None), (8.0, None), (9.0, 1.0)]
