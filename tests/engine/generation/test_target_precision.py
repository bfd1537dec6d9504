"""A named precision instead of a threshold: the lowest that ratings promise it at, or why there is none."""

import asyncio

import pytest

from lora_tui.store import feedback
from lora_tui.store.connection import Store
from tests.engine.generation.generation_harness import GenerationHarness


def _rate(harness: GenerationHarness, count: int) -> None:
    """Store ratings at random, as the queue would: pairs that score high are good, others are not."""

    async def rate() -> None:
        async with await Store.open(harness.store) as store, store.transaction() as t:
            for number in range(count):
                value = 0.98 if number % 2 else 0.02
                metrics = {"judge_groundedness": value, "judge_correctness": value, "coverage": value}
                judgement = ("pair", 1000 + number, metrics, float(number % 2), feedback.PERSON, None, feedback.AUDIT)
                await feedback.add(t, "generation", None, *judgement)

    asyncio.run(rate())


def test_a_named_precision_sets_the_threshold_that_ratings_promise_it_at(harness: GenerationHarness) -> None:
    _rate(harness, 80)
    outcome = harness.run(total_examples=1, target_precision=0.9)
    used = "SELECT json_extract(settings, '$.data_generation.evaluation_threshold') FROM runs WHERE id=?"
    threshold = harness.value(used, outcome.run_id)
    assert 0 < threshold < 10
    assert threshold != 7.0
    said = " ".join(note["message"] for note in harness.events("note"))
    assert f"The threshold is {threshold:g}: from there on at least 90 % of pairs are good (40 of 40 ratings" in said
    assert dict(outcome.result["agreement"]["thresholds"])[0.9] == threshold
    own = {"threshold": threshold, "precision": 0.0, "good": 0, "ratings": 0}
    assert outcome.result["agreement"]["guarantee"] == own, "none of its own pairs is rated yet"


@pytest.mark.parametrize(
    ("ratings", "why"),
    [
        (8, "not enough ratings yet: 6 good, 6 bad are missing"),
        (40, "it takes at least 59 ratings at random, all good, and there are 40"),
    ],
)
def test_a_precision_that_cannot_be_promised_leaves_the_threshold(
    harness: GenerationHarness, ratings: int, why: str
) -> None:
    _rate(harness, ratings)
    outcome = harness.run(total_examples=1, target_precision=0.95)
    used = "SELECT json_extract(settings, '$.data_generation.evaluation_threshold') FROM runs WHERE id=?"
    assert harness.value(used, outcome.run_id) == 7.0
    assert any(why in warning["message"] for warning in harness.events("warning"))
