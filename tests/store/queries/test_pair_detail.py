"""A pair, opened: its passage, what was measured, who decided what with which weights, and its former wordings."""

from pathlib import Path

from lora_tui.store import feedback, generation, reviews, runs
from lora_tui.store.connection import Store
from lora_tui.store.queries.generation import MetricLine, PairDetail, pair_detail
from lora_tui.store.rows import Decision
from tests.store.store_fixtures import make_chunk, make_pair, with_store


def test_everything_that_is_known_of_a_pair(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[PairDetail | None, int]:
        run_id = await runs.create(store, "generate", {}, {})
        async with store.transaction() as t:
            first = await feedback.record_weights(t, "generation", 0, {"coverage": 1.0})
            second = await feedback.record_weights(t, "generation", 1, {"coverage": 0.5})
        pair_id = await make_pair(
            store, run_id, state="rejected", score=4.0, chunk=await make_chunk(store), weights_version=first
        )
        async with store.transaction() as t:
            override = Decision("accepted", 4.0, None, second, "person", "by a person", "accepted by a person")
            await generation.decide(t, pair_id, override, {}, {})
            await reviews.edit(t, pair_id, "Why?", "So.", "why")
            await reviews.edit(t, pair_id, "Why so?", "So.", "why so")
        return await pair_detail(store, pair_id), await reviews.run_of_pair(store, pair_id)

    detail, run_id = with_store(tmp_path / "store.db", work)
    assert (run_id, detail.pair.question, detail.pair.state) == (1, "Why so?", "accepted")
    assert (detail.heading, detail.passage) == ("Bees", "Bees dance in the dark.")
    assert detail.metrics == (MetricLine("coverage", 0.75, "how"), MetricLine("judge_groundedness", 0.5, None))
    newest, oldest = detail.decisions
    assert (newest.verdict, newest.decided_by, newest.cause, newest.weights, newest.threshold) == (
        "accepted",
        "person",
        "by a person",
        {"coverage": 0.5},
        None,
    )
    assert (oldest.verdict, oldest.cause, oldest.weights, oldest.undone_at) == (
        "rejected",
        "below threshold",
        {"coverage": 1.0},
        None,
    )
    assert [(edit.question, edit.undone_at) for edit in detail.edits] == [("Why?", None), ("Why do bees dance?", None)]


def test_a_pair_without_passage_metrics_or_verdict_is_shown_all_the_same(tmp_path: Path) -> None:
    async def work(store: Store) -> tuple[PairDetail | None, PairDetail | None]:
        pair_id = await make_pair(store, await runs.create(store, "generate", {}, {}))
        return await pair_detail(store, pair_id), await pair_detail(store, 77)

    detail, missing = with_store(tmp_path / "store.db", work)
    assert (detail.passage, detail.metrics, detail.decisions, detail.edits) == ("", (), (), ())
    assert missing is None


def test_a_decision_whose_weights_are_not_stored_has_none(tmp_path: Path) -> None:
    async def work(store: Store) -> PairDetail | None:
        run_id = await runs.create(store, "generate", {}, {})
        return await pair_detail(store, await make_pair(store, run_id, state="rejected", weights_version=9))

    assert with_store(tmp_path / "store.db", work).decisions[0].weights is None
