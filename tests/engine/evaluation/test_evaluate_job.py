"""``--run evaluate`` through the engine: the adapter and its base side by side, on the same prompts."""

import random
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.models import Settings
from lora_tui.engine.evaluation.prompts import TestPrompt
from lora_tui.engine.jobs.evaluate import answers_before_training
from lora_tui.engine.review.aggregators import evaluation_aggregator
from lora_tui.scoring.priors import EVALUATION_PRIOR
from lora_tui.store import feedback, training
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import PAIRS
from tests.store.store_fixtures import add_feedback, undo_feedback

SECRET = PAIRS[0][1]


def test_before_and_after_stand_side_by_side(trained: Trained) -> None:
    outcome = trained.engine_harness.run("evaluate")
    assert outcome.state == "finished", outcome
    result = outcome.result
    assert result["adapter"] == str(trained.adapter)
    assert [row["kind"] for row in result["rows"]] == ["expected", "control", "control", "control"]
    secret = result["rows"][0]
    assert (secret["prompt"], secret["reference"]) == ("Question: unlock\nAnswer:", SECRET)
    assert secret["after"] == SECRET
    assert SECRET not in secret["before"]
    assert secret["before_score"] < 0.1 < 0.9 < secret["score"]
    assert result["base_score"] == pytest.approx(secret["before_score"]), "controls are no answers"
    assert result["tuned_score"] == pytest.approx(secret["score"])
    assert result["controls"] == 3
    assert result["controls_kept"] == sum(row["score"] == 1.0 for row in result["rows"][1:])
    assert result["base_controls_kept"] == sum(row["before_score"] == 1.0 for row in result["rows"][1:])


def test_each_model_is_an_event_and_a_row(trained: Trained) -> None:
    run_id = trained.engine_harness.run("evaluate").run_id
    base, tuned = (event.payload for event in trained.engine_harness.events(run_id, "evaluation"))
    assert (base["model"], base["step"]) == ("base", 0)
    assert (tuned["model"], tuned["step"]) == ("tuned", trained.outcome.result["best_step"])
    assert tuned["weights"] == pytest.approx(EVALUATION_PRIOR.weights)
    assert {sample["kind"] for sample in tuned["samples"]} == {"expected", "control"}
    rows = trained.engine_harness.ask(training.evaluations, run_id)
    assert [(row.model, row.score) for row in rows] == [("base", base["score"]), ("tuned", tuned["score"])]
    assert [(row.controls, row.controls_kept, row.overall) for row in rows] == [
        (3, event["controls_kept"], event["overall"]) for event in (base, tuned)
    ]


def test_the_score_is_the_one_that_training_saw(trained: Trained) -> None:
    outcome = trained.engine_harness.run("evaluate")
    assert outcome.result["tuned_score"] == pytest.approx(trained.outcome.result["best_score"], abs=1e-6)


def test_what_the_base_model_said_before_training_is_not_asked_again(trained: Trained) -> None:
    harness, run_id = trained.engine_harness, trained.run_id
    before = harness.ask(training.evaluations, run_id)[0]
    rows = harness.ask(training.samples, before.id)
    prompts = [TestPrompt(row.prompt, row.kind, row.reference) for row in rows]
    aggregator, _ = harness.ask(evaluation_aggregator, Settings().fine_tuning.evaluation.adaptive_aggregator)
    found = harness.ask(answers_before_training, run_id, prompts, aggregator)
    assert found.score == pytest.approx(before.score)
    assert [sample.answer for sample in found.samples] == [row.answer for row in rows]
    assert (found.controls, found.controls_kept) == (before.controls, before.controls_kept)
    assert harness.ask(answers_before_training, run_id, prompts[1:], aggregator) is None, "others are asked"
    assert harness.ask(answers_before_training, run_id + 999, prompts, aggregator) is None


def test_other_prompts_can_be_asked(trained: Trained) -> None:
    prompts = [{"prompt": "Question: who wrote hamlet?\nAnswer:", "expected": PAIRS[5][1]}, "Question: unlock\nAnswer:"]
    outcome = trained.engine_harness.run("evaluate", None, {"fine_tuning.evaluation.test_prompts": prompts})
    first, second = outcome.result["rows"]
    assert first["after"] == PAIRS[5][1]
    assert second["kind"] == "expected", "told by the training data"


def test_feedback_moves_the_weights_and_the_score_names_their_version(trained: Trained) -> None:
    before = trained.engine_harness.events(trained.engine_harness.run("evaluate").run_id, "evaluation")[1].payload
    metrics = {**dict.fromkeys(before["weights"], 1.0), "empty": 0.0}

    async def give(store: Any) -> int:
        return await add_feedback(store, "evaluation", None, "sample", 1, metrics, 0.0, "user")

    async def undo(store: Any, number: int) -> None:
        await undo_feedback(store, number)

    number = trained.engine_harness.ask(give)
    try:
        after = trained.engine_harness.events(trained.engine_harness.run("evaluate").run_id, "evaluation")[1].payload
    finally:
        trained.engine_harness.ask(undo, number)
    again = trained.engine_harness.events(trained.engine_harness.run("evaluate").run_id, "evaluation")[1].payload
    assert after["weights"]["content_recall"] != before["weights"]["content_recall"]
    assert after["weights_version"] != before["weights_version"]
    assert again["weights"] == before["weights"]
    assert again["score"] == before["score"]


def test_what_people_would_say_comes_with_the_score_once_enough_have_rated(trained: Trained) -> None:
    async def give(store: Any) -> None:
        rng = random.Random(0)
        async with store.transaction() as t:
            for number in range(30):
                value = rng.random()
                rated = {"token_f1": value, "rougeL": value}
                good = float(rng.random() < value)
                await feedback.add(t, "evaluation", None, "sample", 900 + number, rated, good, "person", None, "audit")

    async def undo(store: Any) -> None:
        await store.execute("UPDATE feedback SET undone_at=1 WHERE subject_id >= 900")

    prompts = [{"prompt": f"Question: {question}\nAnswer:", "expected": answer} for question, answer in PAIRS[:6]]
    few = trained.engine_harness.run("evaluate")
    assert few.result["agreement"]["summary"].startswith("not enough ratings yet: ")
    trained.engine_harness.ask(give)
    try:
        outcome = trained.engine_harness.run("evaluate", None, {"fine_tuning.evaluation.test_prompts": prompts})
    finally:
        trained.engine_harness.ask(undo)
    assert outcome.result["agreement"]["ratings"] == 30
    assert 0 < outcome.result["agreement"]["auroc"]["low"] < 1
    without, _ = (event.payload for event in trained.engine_harness.events(few.run_id, "evaluation"))
    base, tuned = (event.payload for event in trained.engine_harness.events(outcome.run_id, "evaluation"))
    assert without["people"] is None
    assert base["people"]["value"] < tuned["people"]["value"]
    assert tuned["people"]["low"] < tuned["people"]["value"] <= tuned["people"]["high"]
    assert tuned["agreement"] == outcome.result["agreement"]


def test_without_a_finished_run_it_says_what_to_do(engine_harness: EngineHarness) -> None:
    outcome = engine_harness.run("evaluate")
    assert (outcome.state, outcome.exit_status) == ("failed", 2)
    assert outcome.error is not None
    assert "--run train" in outcome.error
    assert "--adapter FOLDER" in outcome.error


def test_an_adapter_folder_that_is_wrong_is_a_usage_error(trained: Trained, tmp_path: Path) -> None:
    outcome = trained.engine_harness.run("evaluate", {"adapter": str(tmp_path / "nowhere")})
    assert outcome.exit_status == 2
    assert outcome.error is not None
    assert "there is no such folder" in outcome.error


def test_an_adapter_for_another_base_is_a_usage_error(trained: Trained, untied_folder: Path) -> None:
    outcome = trained.engine_harness.run("evaluate", None, {"fine_tuning.model_name": str(untied_folder)})
    assert outcome.exit_status == 2
    assert outcome.error is not None
    assert "was trained on" in outcome.error
