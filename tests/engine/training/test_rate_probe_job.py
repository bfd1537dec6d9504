"""--run probe on the tiny model: a rate is proposed, nothing is kept, and the model is as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_tui.config.models import Settings
from lora_tui.protocol.rate_probe import STEPS
from lora_tui.store.queries.runs import checkpoints, step_columns
from lora_tui.text import power_text
from tests.engine.conftest import EngineHarness
from tests.engine.tiny import tiny_settings, training_text


@pytest.fixture
def harness(
    tmp_path: Path, base_folder: Path, new_engine_harness: Callable[[Path, Settings], EngineHarness]
) -> EngineHarness:
    (tmp_path / "pairs.txt").write_text(training_text())
    changes = {
        "model_name": str(base_folder),
        "train_data_file": str(tmp_path / "pairs.txt"),
        "training.save_dir": str(tmp_path / "checkpoints"),
        "training.batch_size": 5,
        "training.gradient_accumulation_steps": 1,
        "lora.r": 16,
        "lora.alpha": 32,
        "lora.target_modules": "all-linear",
    }
    return new_engine_harness(tmp_path, tiny_settings(changes))


def test_a_probe_proposes_a_rate_and_keeps_nothing(harness: EngineHarness) -> None:
    outcome = harness.run("probe")
    assert outcome.state == "finished", outcome
    found = outcome.result
    assert 5e-4 <= found["rate"] <= 3e-2, found
    rate = power_text(found["rate"])
    assert f"lora-tui --run train --set fine_tuning.optimizer.lora_lr={rate} --store " in found["commands"][0]
    events = harness.events(outcome.run_id, "probe")
    assert 20 < len(events) <= STEPS
    assert [event.payload["rate"] for event in events] == pytest.approx([point[0] for point in found["points"]])
    assert abs(events[0].payload["change"]) < 1e-3, "the adapter changes nothing before the first step"
    assert not (harness.folder / "checkpoints").exists()
    assert harness.ask(checkpoints, outcome.run_id) == []
    assert len(harness.ask(step_columns, outcome.run_id)) == 0


def test_other_methods_have_no_probe(harness: EngineHarness) -> None:
    outcome = harness.run("probe", None, {"fine_tuning.method": "dpo"})
    assert outcome.state == "failed"
    assert 'fine_tuning.method = "sft"' in (outcome.error or "")
