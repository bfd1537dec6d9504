"""Training on preferences and verdicts, by the job itself: what it learns, resumes, reports and refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.models.adapter_source import WEIGHTS
from tests.engine.conftest import EngineHarness
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
    assert (Path(outcome.result["adapter"]) / WEIGHTS).is_file()
