"""Several judges: two are asked, a third where they disagree; no answer is lost or paid for twice."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.generation.generation_model import Judgement
from lora_tui.engine.generation.panel import APART, Opinion, agreeing, combine
from lora_tui.scoring.judge import DIMENSIONS
from lora_tui.scoring.priors import JUDGE_DISAGREEMENT
from lora_tui.store.connection import Store
from tests.engine.generation.generation_harness import GenerationHarness
from tests.engine.generation.test_doubts import MORE, asking_about_passengers
from tests.engine.review.one_pair import override_pair
from tests.openai_server import http

PANEL = ["one", "two", "three"]


def opinion(judge: str, *levels: float, accepted: bool = True) -> Opinion:
    metrics = {f"judge_{name}": (level - 1) / 4 for name, level in zip(DIMENSIONS, levels, strict=True)}
    return Opinion(judge, Judgement(metrics, "", "single"), accepted)


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        (opinion("a", 5, 5, 5), opinion("b", 4, 4, 4), True),
        (opinion("a", 5, 5, 5), opinion("b", 3.1, 5, 5), True),
        (opinion("a", 5, 5, 5), opinion("b", 3, 5, 5), False),
        (opinion("a", 5, 5, 5), opinion("b", 5, 2, 5), False),
        (opinion("a", 5, 5, 5), opinion("b", 5, 5, 1), True),  # usefulness is mostly taste
        (opinion("a", 4, 4, 4), opinion("b", 4, 4, 4, accepted=False), False),
    ],
)
def test_judges_disagree_across_the_threshold_or_two_levels_apart(one: Opinion, other: Opinion, agree: bool) -> None:
    assert one.agrees_with(other) is other.agrees_with(one) is agree


def levels(metrics: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(1 + 4 * metrics[f"judge_{name}"] for name in DIMENSIONS)


def test_the_joint_level_is_the_mean_of_the_two_that_agree_best() -> None:
    asked = [opinion("a", 5, 5, 5), opinion("b", 1, 1, 1, accepted=False), opinion("c", 4, 5, 4)]
    found = combine(asked, {})
    assert levels(found.judgement.metrics) == (4.5, 5, 4.5)
    assert "a and c agree" in found.judgement.note
    assert found.metrics[JUDGE_DISAGREEMENT] == pytest.approx((1 + 1 + 1) / 3)
    assert levels({f"judge_{n}": found.metrics[f"judge_{n}@b"] for n in DIMENSIONS}) == (1, 1, 1)


def test_where_none_agree_it_is_the_median_and_of_one_its_own() -> None:
    asked = [opinion("a", 5, 5, 5), opinion("b", 3, 3, 3), opinion("c", 1, 1, 1, accepted=False)]
    assert agreeing(asked) is None
    assert levels(combine(asked, {}).judgement.metrics) == (3, 3, 3)
    alone = combine(asked[:1], {"b": "no answer"})
    assert levels(alone.judgement.metrics) == (5, 5, 5)
    assert JUDGE_DISAGREEMENT not in alone.metrics
    assert "b gave no judgement: no answer" in alone.judgement.note
    assert 0 < APART < 0.5


@pytest.fixture
def panel(harness: GenerationHarness) -> GenerationHarness:
    harness.server.models |= set(PANEL)
    harness.values["judge_models"] = PANEL
    return harness


def asked(harness: GenerationHarness) -> Counter[str]:
    return Counter(one.body["model"] for one in harness.server.received if one.kind == "judge")


def answered(harness: GenerationHarness) -> int:
    return int(
        harness.value(
            "SELECT COUNT(*) FROM attempts JOIN tasks ON tasks.id = task_id"
            " WHERE kind='judge' AND status='ok' AND attempts.prompt_tokens > 0"
        )
    )


def metrics(harness: GenerationHarness) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for pair, name, value in harness.rows("SELECT pair_id, name, value FROM pair_metrics"):
        found.setdefault(pair, {})[name] = value
    return found


def test_two_judges_that_agree_are_enough(panel: GenerationHarness) -> None:
    outcome = panel.run()
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 6)
    assert asked(panel) == {"one": 6, "two": 6}
    assert outcome.result["judge_answers"] == {"one": 6, "two": 6}
    assert outcome.result["calls"] == len(panel.server.received), "each answer is in the account"
    assert answered(panel) == 12, "with its tokens"
    for measured in metrics(panel).values():
        assert measured[JUDGE_DISAGREEMENT] == 0
        assert measured["judge_correctness"] == measured["judge_correctness@one"] == measured["judge_correctness@two"]
    details = {detail for (detail,) in panel.rows("SELECT detail FROM pair_metrics WHERE name='judge_correctness@two'")}
    assert details == {"two, logprob: groundedness 5, correctness 5, usefulness 4"}


def test_a_third_is_asked_where_they_disagree_and_decides(panel: GenerationHarness) -> None:
    panel.server.digits_of["two"] = lambda prompt: "1 1 1"
    outcome = panel.run(total_examples=4)
    assert outcome.result["accepted"] == 4, "one and three outvote two"
    assert asked(panel) == {"one": 4, "two": 4, "three": 4}
    for measured in metrics(panel).values():
        assert measured[JUDGE_DISAGREEMENT] > 0.8
        assert measured["judge_groundedness"] == pytest.approx(measured["judge_groundedness@one"])
    panel.server.digits_of["three"] = lambda prompt: "1 1 1"
    panel.write("three.txt", "Herons wait for fish in shallow water at dawn. Otters sleep in dens below the bank.")
    again = panel.run(total_examples=2)
    assert (again.state, again.result["accepted"]) == ("failed", 0), "two and three outvote one"


def test_every_judges_metrics_are_what_a_rating_teaches_from(panel: GenerationHarness) -> None:
    async def reject() -> None:
        async with await Store.open(panel.store) as store:
            await override_pair(store, 1, "rejected")

    panel.run(total_examples=2)
    asyncio.run(reject())
    (given,) = [json.loads(row) for (row,) in panel.rows("SELECT metrics FROM feedback")]
    assert {JUDGE_DISAGREEMENT, "judge_usefulness", "judge_usefulness@one", "judge_usefulness@two"} <= given.keys()


def test_a_judge_that_fails_costs_its_opinion_and_not_the_pair(panel: GenerationHarness) -> None:
    panel.server.model_faults["one"] = http(418, "not today")
    outcome = panel.run(total_examples=3, max_concurrency=1)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 3)
    assert asked(panel)["three"] >= 3, "the next one is asked in its place"
    note = panel.value("SELECT detail FROM pair_metrics WHERE name='judge_correctness' ORDER BY pair_id LIMIT 1")
    assert "one gave no judgement" in note
    assert "judge failed" not in outcome.result["reasons"]


def test_one_judge_left_decides_alone(panel: GenerationHarness) -> None:
    panel.server.model_faults |= {"one": http(418, "no"), "three": http(418, "no")}
    outcome = panel.run(total_examples=2)
    assert (outcome.state, outcome.result["accepted"]) == ("finished", 2)
    assert "only two judged it" in panel.value("SELECT detail FROM pair_metrics WHERE name='judge_correctness' LIMIT 1")


def test_an_answer_of_one_judge_outlives_the_process(panel: GenerationHarness) -> None:
    panel.server.delay = 0.02
    panel.server.digits_of["two"] = lambda prompt: "5 5 4"
    # The second judge's endpoint is gone: the first one's answers stay.
    panel.server.model_faults["two"] = http(401, "who are you?")
    first = panel.run(total_examples=4, max_concurrency=1)
    assert (first.state, first.exit_status) == ("failed", 3)
    kept = panel.rows("SELECT task_id, judge FROM judgements")
    assert kept
    assert {judge for _, judge in kept} == {"one"}
    paid = asked(panel)["one"]
    assert paid == len(kept)
    panel.server.model_faults.clear()
    second = panel.run(resume=first.run_id, total_examples=4)
    assert (second.state, second.result["accepted"]) == ("finished", 4)
    assert asked(panel)["one"] == len(panel.rows("SELECT 1 FROM judgements WHERE judge='one'"))
    assert answered(panel) == len(panel.rows("SELECT 1 FROM judgements"))


def test_an_answer_that_was_not_about_the_doubt_is_not_taken_for_one(
    panel: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in filter(Path.is_file, panel.input.rglob("*")):
        other.unlink()
    asking_about_passengers(panel)
    panel.server.model_faults["two"] = http(401, "who are you?")
    with monkeypatch.context() as older:
        older.setattr("lora_tui.engine.generation.workers.doubts_about", lambda pair, passage: ())
        first = panel.run(total_examples=4, max_concurrency=1)
    doubted = panel.rows(
        "SELECT tasks.id FROM judgements JOIN tasks ON tasks.id=judgements.task_id JOIN pairs ON pairs.id=tasks.pair_id"
        " WHERE question=?",
        MORE,
    )
    assert len(doubted) == 1
    panel.server.model_faults.clear()
    panel.run(resume=first.run_id, total_examples=8)
    told = [str(one.body["model"]) for one in panel.server.received if "«486» stands" in str(one.body["messages"])]
    assert sorted(told) == ["one", "two"]


def test_each_judge_of_a_panel_is_checked(panel: GenerationHarness) -> None:
    outcome = panel.run(check_judge=True, total_examples=2)
    checked: list[dict[str, Any]] = outcome.result["judges"]
    assert [(check["judge"], check["told"]) for check in checked] == [(judge, 0) for judge in PANEL]


def test_a_judge_that_does_not_exist_is_named_before_pairs_are_paid_for(
    panel: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.jobs.generate.is_own_network", lambda url: False)
    outcome = panel.run(check_judge=True, judge_models=["one", "nobody"])
    assert (outcome.state, outcome.exit_status) == ("failed", 3)
    assert "no model 'nobody'" in str(outcome.error)
    assert panel.server.count("generate") == 0
