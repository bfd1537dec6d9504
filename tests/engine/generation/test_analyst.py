"""Batch analyses keep to their share of a run: one at a time, little time, few tokens."""

import asyncio
import itertools

from lora_tui.engine.generation.analyst import Analyst
from lora_tui.engine.generation.corpus import Corpus
from lora_tui.engine.generation.ledger import Ledger
from tests.engine.generation.generation_harness import GenerationHarness
from tests.openai_server import made_up_text


def test_analyses_do_not_come_in_bursts_and_are_about_the_newest_pairs(harness: GenerationHarness) -> None:
    for number in range(6):
        harness.write(f"more-{number}.txt", made_up_text(50 + number, 3))
    harness.server.kind_delays["analyse"] = 0.4
    harness.server.kind_delays["judge"] = 0.0
    outcome = harness.run(total_examples=60, num_examples_per_file=2, batch_analysis_interval=1, max_concurrency=32)
    assert outcome.state == "finished"
    asked = [one for one in harness.server.received if one.kind == "analyse"]
    starts = sorted(one.at for one in asked)
    assert all(later - earlier > 0.35 for earlier, later in itertools.pairwise(starts)), "one at a time"
    numbers = [at for (at,) in harness.rows("SELECT at_accepted FROM analyses ORDER BY version")]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 60, "the last one is about all pairs"
    assert len(numbers) < 30


def test_a_model_is_asked_for_words_only_within_its_share_of_tokens(harness: GenerationHarness) -> None:
    for number in range(6):
        harness.write(f"more-{number}.txt", made_up_text(70 + number, 3))
    harness.server.analysis = lambda: "A varied set. " * 250
    outcome = harness.run(total_examples=40, num_examples_per_file=2, batch_analysis_interval=1, max_concurrency=2)
    assert outcome.state == "finished"
    by_kind = dict(
        harness.rows(
            "SELECT kind, SUM(prompt_tokens + completion_tokens) FROM attempts JOIN tasks ON tasks.id = task_id"
            " GROUP BY kind"
        )
    )
    largest = harness.value(
        "SELECT MAX(prompt_tokens + completion_tokens) FROM attempts JOIN tasks ON tasks.id = task_id"
        " WHERE kind='analyse'"
    )
    assert 0 < by_kind["analyse"] <= 2_000 + 0.05 * sum(by_kind.values()) + largest
    texts = [text for (text,) in harness.rows("SELECT text FROM analyses ORDER BY version")]
    assert texts[0].startswith("A varied set.")
    assert sum(text.startswith("A varied set.") for text in texts) < len(texts) / 2
    assert "pairs accepted" in texts[-1] or texts[-1].startswith("A varied set.")


def test_statistics_that_take_long_are_made_less_often(harness: GenerationHarness) -> None:
    now = [0.0]
    planned: list[int] = []

    class FakeContext:
        settings = harness.settings(batch_analysis_interval=5)

    class PlanningAnalyst(Analyst):
        async def _plan(self, number: int) -> None:
            planned.append(number)
            self._under_way = False  # it is over at once

    analyst = PlanningAnalyst(FakeContext(), object(), Ledger(0, 0), Corpus(""), clock=lambda: now[0])  # type: ignore[arg-type]

    async def story() -> None:
        await analyst.plan_due(5)
        await analyst.plan_due(9)
        assert planned == [5]
        analyst._seconds, now[0] = 3.0, 60.0
        await analyst.plan_due(10)
        assert planned == [5], "3 s of statistics are more than 2 % of a minute and half a second"
        await analyst.plan_due(10, last=True)
        now[0] = 200.0
        await analyst.plan_due(15)
        assert planned == [5, 10, 15]

    asyncio.run(story())
