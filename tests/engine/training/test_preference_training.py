"""Training on preferences and verdicts, by the job itself: what it learns, resumes, reports and refuses."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_tui.engine.models.adapter_source import WEIGHTS, step_folders
from lora_tui.engine.review.ratings import rate_turn
from lora_tui.engine.training.judgement_data import REFERENCE_FILE
from lora_tui.store import chat_log
from lora_tui.store.connection import Store
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import PAIRS, tiny_settings


def rows() -> list[dict[str, Any]]:
    answers = [answer for _, answer in PAIRS]
    return [
        {"question": question, "chosen": answer, "rejected": other}
        for (question, answer), other in zip(PAIRS, answers[3:] + answers[:3], strict=True)
    ]


def preferences_file(folder: Path, records: list[dict[str, Any]] | None = None) -> Path:
    path = folder / "preferences.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in (rows() if records is None else records)))
    return path


@pytest.fixture
def place(tmp_path: Path, base_folder: Path, new_engine_harness: Any) -> EngineHarness:
    changes = {
        "model_name": str(base_folder),
        "method": "dpo",
        "lora.target_modules": "all-linear",
        "optimizer.lora_lr": 3e-3,
        "training.save_dir": str(tmp_path / "checkpoints"),
        "training.save_steps": 2,
        "training.max_epochs": 3,
    }
    harness: EngineHarness = new_engine_harness(tmp_path, tiny_settings(changes))
    preferences_file(tmp_path)
    return harness


def options(place: EngineHarness) -> dict[str, str]:
    return {"train_data_file": str(place.folder / "preferences.jsonl")}


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_preferences_are_learned_and_reported(place: EngineHarness, method: str) -> None:
    run_id, future = place.start("train", options(place), {"fine_tuning.method": method})
    outcome = future.result(timeout=120)
    assert outcome.state == "finished", outcome.error
    plan = place.events(run_id, "plan")[0].payload
    assert plan["method"] == method
    assert plan["examples"] == {"dpo": 10, "kto": 20}[method], "for KTO a preference is two verdicts"
    steps = [event.payload for event in place.events(run_id, "step")]
    first, last = steps[0], steps[-1]
    assert first["loss"] == pytest.approx({"dpo": 0.6931, "kto": 0.5}[method], abs=1e-3), "nothing has moved yet"
    assert last["loss"] < first["loss"] - 0.02
    assert last["reward_margin"] > 0.1
    assert last["reward_accuracy"] > 0.7
    assert last["chosen_reward"] > last["rejected_reward"]
    assert place.events(run_id, "evaluation")[-1].payload["model"] == "tuned"
    assert outcome.result["best_step"] == last["step"], "not the first, though no answer to a test prompt is better"
    assert outcome.result["reward_accuracy"] == last["reward_accuracy"]
    assert (Path(outcome.result["adapter"]) / WEIGHTS).is_file()


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_stopped_run_goes_on_bit_for_bit(place: EngineHarness, method: str) -> None:
    changes = {"fine_tuning.method": method, "fine_tuning.lora.dropout": 0.2}
    whole, future = place.start("train", options(place), changes)
    wanted = future.result(timeout=120)
    run_id, future = place.start("train", options(place), changes)
    while not place.events(run_id, "step"):
        time.sleep(0.01)
    place.engine.stop(run_id)
    assert future.result(timeout=120).state == "stopped"
    folder = place.folder / "checkpoints" / f"run-{run_id}"
    taken = int(step_folders(folder)[-1].name.removeprefix("step-"))
    total = len(place.events(whole, "step"))
    assert 0 < taken < total
    before = load_file(folder / REFERENCE_FILE)
    (folder / REFERENCE_FILE).unlink()  # lost: it is computed anew from the model as it was
    outcome = place.run("train", options(place), changes, resume=run_id)
    assert outcome.state == "finished", outcome.error
    assert torch.equal(load_file(folder / REFERENCE_FILE)["log_probs"], before["log_probs"])
    steps = {event.payload["step"]: event.payload for event in place.events(run_id, "step")}
    for event in place.events(whole, "step"):
        other = steps[event.payload["step"]]
        for name in ("loss", "grad_norm", "reward_accuracy", "chosen_reward", "rejected_reward", "kl"):
            assert other.get(name) == event.payload.get(name), (name, event.payload["step"])
    last = [step_folders(place.folder / "checkpoints" / f"run-{run}")[-1] / WEIGHTS for run in (whole, run_id)]
    assert last[0].read_bytes() == last[1].read_bytes()
    assert wanted.state == "finished"


def test_a_run_on_what_people_said_keeps_it_whatever_they_say_later(place: EngineHarness) -> None:
    async def talk(store: Store, *ratings: tuple[str, str, int]) -> None:
        for question, answer, rating in ratings:
            conversation = await chat_log.begin(store, None, "model", None)
            await chat_log.add_turn(store, conversation, "user", question, {"by_template": False})
            turn = await chat_log.add_turn(store, conversation, "assistant", answer)
            await rate_turn(store, turn, rating, place.settings)

    place.ask(talk, *((q, a, 5) for q, a in PAIRS[1:5]), *((q, "I do not know.", 1) for q, _ in PAIRS[1:6]))
    run_id, future = place.start("train", None, {"fine_tuning.training.max_steps": 2})
    outcome = future.result(timeout=120)
    assert outcome.state == "finished", outcome.error
    plan = place.events(run_id, "plan")[0].payload
    assert (plan["examples"], plan["forms"]) == (4, {"ratings of replies": 4})
    assert list(plan["reasons"]["skipped"].values()) == [1], "one question has a bad answer alone"
    assert plan["data"] == str(place.store_path)
    place.ask(talk, *((q, "Another one.", 1) for q, _ in PAIRS[1:5]))
    again = place.run("train", None, {"fine_tuning.training.max_steps": 3}, resume=run_id)
    assert again.state == "failed"
    assert "other training data or settings" in again.error, "the steps are the run's, as ever"
    same = place.run("train", None, {"fine_tuning.training.max_steps": 2}, resume=run_id)
    assert same.state == "finished", same.error


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"prompt": "a", "chosen": "b"}], "line 1: the keys (prompt, chosen) are those of a preference without"),
        ([{"question": "a", "answer": "b"}], "those of an example, which prefers nothing"),
        ([{"prompt": "a", "chosen": "b", "rejected": "b"}], "line 1: chosen and rejected are the same"),
        ([{"prompt": " ", "chosen": "b", "rejected": "c"}], "line 1: the prompt is empty"),
        ([{"prompt": "a", "chosen": "b", "rejected": ""}], "line 1: the rejected answer is empty"),
        ([{"prompt": "a", "completion": "b", "label": "perhaps"}], "'label' must be true or false"),
        ([{"prompt": "a", "completion": "b", "label": True}], "--method kto learns from single verdicts"),
        ([{"question": "what " * 400, "chosen": "b", "rejected": "c"}], "no answer token within 128 tokens"),
        (None, "Nobody has said yet in store.db which answers are good"),
    ],
)  # fmt: skip
def test_what_prefers_nothing_is_named_with_its_place(
    place: EngineHarness, records: list[dict[str, Any]] | None, message: str
) -> None:
    if records is not None:
        preferences_file(place.folder, records)
    outcome = place.run("train", None if records is None else options(place))
    assert outcome.state == "failed"
    assert message in outcome.error


def test_long_answers_are_cut_and_those_that_are_then_the_same_left_out(place: EngineHarness) -> None:
    long = "and so on " * 60
    records = [
        *rows()[:4],
        {"question": "long?", "chosen": f"{long} to the end", "rejected": "no"},
        {"question": "same?", "chosen": f"{long} to the end", "rejected": f"{long} to the other end"},
    ]
    preferences_file(place.folder, records)
    run_id, future = place.start("train", options(place), {"fine_tuning.training.max_steps": 1})
    assert future.result(timeout=120).state == "finished"
    plan = place.events(run_id, "plan")[0].payload
    assert (plan["examples"], plan["dropped"], plan["truncated"]) == (5, 1, 3)
    assert plan["reasons"]["dropped"] == {"both answers are the same within 128 tokens": 1}


def test_examples_are_not_learned_from_a_file_of_preferences(place: EngineHarness) -> None:
    outcome = place.run("train", options(place), {"fine_tuning.method": "sft"})
    assert "are those of preferences; train on them with --method dpo" in outcome.error


def test_preferences_are_held_out_by_question_and_their_loss_is_told(place: EngineHarness) -> None:
    changes = {"fine_tuning.training.validation_share": 0.4}
    run_id, future = place.start("train", options(place), changes)
    assert future.result(timeout=120).state == "finished"
    plan = place.events(run_id, "plan")[0].payload
    assert (plan["examples"], plan["held_out"]) == (6, 4)
    losses = [event.payload["held_out_loss"] for event in place.events(run_id, "evaluation")]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3), "before training nothing has moved"
    assert losses[-1] != losses[0]


def test_a_run_on_what_people_said_goes_on_from_the_newest_adapter(
    place: EngineHarness, trained: Trained, tmp_path: Path
) -> None:
    async def talk(store: Store) -> None:
        conversation = await chat_log.begin(store, None, "model", None)
        for answer, rating in (("paris", 1), ("the city of paris", 5)):
            await chat_log.add_turn(store, conversation, "user", PAIRS[1][0], {"by_template": False})
            turn = await chat_log.add_turn(store, conversation, "assistant", answer)
            await rate_turn(store, turn, rating, place.settings)

    place.ask(talk)
    changes = {"fine_tuning.training.max_steps": 2, "fine_tuning.optimizer.lora_lr": 1e-4}
    named = {"adapter": str(trained.adapter)}
    run_id, future = place.start("train", named, changes)
    outcome = future.result(timeout=120)
    assert outcome.state == "finished", outcome.error
    plan = place.events(run_id, "plan")[0].payload
    assert plan["begins_with"] == str(trained.adapter)
    first = place.events(run_id, "step")[0].payload
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3), "the reference is the adapter, not the base model"
    begun, found = (load_file(folder / WEIGHTS) for folder in (trained.adapter, Path(outcome.result["adapter"])))
    assert begun.keys() == found.keys()
    moved = max(float((found[name] - begun[name]).abs().max()) for name in begun)
    assert 0 < moved < 1e-3
    assert json.loads((Path(outcome.result["adapter"]) / "adapter_config.json").read_text())["r"] == 16
    again, future = place.start("train", None, changes)
    assert future.result(timeout=120).state == "finished"
    assert place.events(again, "plan")[0].payload["begins_with"] == outcome.result["adapter"], "the newest of the store"
    fresh, future = place.start("train", {"adapter": "base"}, changes)
    assert future.result(timeout=120).state == "finished"
    assert place.events(fresh, "plan")[0].payload["begins_with"] is None


@pytest.mark.parametrize("form", ["prompt", "question", "Question: "])
def test_bare_prompts_are_warned_of_where_the_adapter_has_learned_questions_and_answers(
    place: EngineHarness, trained: Trained, form: str
) -> None:
    if form == "Question: ":
        records = [{**row, "prompt": f"Question: {row['question']}\nAnswer:"} for row in rows()]
        records = [{key: value for key, value in row.items() if key != "question"} for row in records]
    else:
        records = [{form: row["question"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows()]
    file = preferences_file(place.folder, records)
    assert json.loads((trained.adapter / "lora_tui.json").read_text())["forms"] == {"training text": len(PAIRS)}
    named = {"adapter": str(trained.adapter), "train_data_file": str(file)}
    run_id, future = place.start("train", named, {"fine_tuning.training.max_steps": 1})
    assert future.result(timeout=120).state == "finished"
    said = [event.payload["message"] for event in place.events(run_id, "warning")]
    warned = [line for line in said if "bare prompt" in line]
    assert len(warned) == (form == "prompt"), said
    if warned:
        assert "10 records of 10" in warned[0]
        assert "question in place of prompt" in warned[0]


def test_conversations_are_not_counted_as_questions_whatever_form_their_records_had(
    place: EngineHarness, base_folder: Path
) -> None:
    alpaca = [{"instruction": question, "output": answer} for question, answer in PAIRS]
    records = [
        *({**one, "system": "Be kind."} for one in alpaca[:4]),
        *({"prompt": one["instruction"], "completion": f" {one['output']}"} for one in alpaca[4:7]),
        *alpaca[7:],
    ]
    file = preferences_file(place.folder, records)
    trained = place.run("train", {"train_data_file": str(file)}, {"fine_tuning.method": "sft"})
    adapter = Path(trained.result["adapter"])
    metadata = json.loads((adapter / "lora_tui.json").read_text())
    assert metadata["forms"] == {"alpaca": 7, "prompt/completion": 3}
    assert (metadata["questions"], metadata["chat_template"]) == (3, False)
    bare = [{"prompt": row["question"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows()]
    named = {"adapter": str(adapter), "train_data_file": str(preferences_file(place.folder, bare))}
    run_id, future = place.start("train", named, {"fine_tuning.training.max_steps": 1})
    assert future.result(timeout=120).state == "finished"
    assert not [one for one in place.events(run_id, "warning") if "bare prompt" in one.payload["message"]]
