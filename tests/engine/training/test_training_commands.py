"""A checkpoint that somebody asks for, while the run trains."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.models import Settings
from lora_tui.engine.training import loop as loop_module
from lora_tui.store import events
from tests.engine.conftest import EngineHarness
from tests.engine.test_engine_commands import outcome_of
from tests.engine.test_engine_life import wait_for
from tests.engine.tiny import tiny_settings, training_text
from tests.store.store_fixtures import newest_checkpoint


@pytest.fixture
def place(
    tmp_path: Path, base_folder: Path, new_engine_harness: Callable[[Path, Settings], EngineHarness]
) -> EngineHarness:
    """A folder with the pairs, and settings under which no checkpoint comes by itself before the end."""
    (tmp_path / "pairs.txt").write_text(training_text())
    settings = tiny_settings(
        {
            "model_name": str(base_folder),
            "train_data_file": str(tmp_path / "pairs.txt"),
            "training.save_dir": str(tmp_path / "checkpoints"),
            "training.max_epochs": 10_000,
            "training.eval_frequency": 10_000,
            "training.save_steps": 1_000_000,
        }
    )
    return new_engine_harness(tmp_path, settings)


def saved(place: EngineHarness, run_id: int) -> list[int]:
    """The steps of the checkpoints that were reported."""
    return [event.payload["step"] for event in place.events(run_id, "checkpoint")]


def test_a_checkpoint_that_is_asked_for_is_saved_after_the_step_and_the_run_goes_on(
    place: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop_module._Trainer._take_step

    def slowly(self: Any, plan: Any) -> None:
        real(self, plan)
        time.sleep(0.05)

    monkeypatch.setattr(loop_module._Trainer, "_take_step", slowly)
    run_id, future = place.start("train")
    wait_for(lambda: place.events(run_id, "step"))
    assert saved(place, run_id) == []
    asked_at = time.monotonic()
    assert outcome_of(place, place.ask(events.send_command, run_id, "checkpoint")) == "done"
    wait_for(lambda: saved(place, run_id))
    assert time.monotonic() - asked_at < 10.0
    (step,) = saved(place, run_id)
    row = place.ask(newest_checkpoint, run_id, "last")
    assert (row.step, Path(row.path).name) == (step, f"step-{step}")
    assert (Path(row.path) / "trainer_state.json").is_file()
    wait_for(lambda: place.events(run_id, "step")[-1].payload["step"] > step + 3)
    assert saved(place, run_id) == [step], "one wish, one checkpoint"
    place.engine.stop(run_id)
    assert future.result(timeout=300).state == "stopped"


def test_the_run_goes_on_from_it_when_it_is_killed(place: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = iter([False, True] + [False] * 100)
    monkeypatch.setattr("lora_tui.engine.jobs.train._TrainingRun.should_save", lambda self: next(wanted))
    real = loop_module._Trainer._report

    def killed(self: Any, plan: Any, *args: Any) -> None:
        if plan.step == 5:
            raise RuntimeError("the power is gone")
        real(self, plan, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module._Trainer, "_report", killed)
        broken = place.run("train", None, {"fine_tuning.training.max_epochs": 3})
    assert broken.state == "failed"
    assert saved(place, broken.run_id) == [2]
    rest = place.run("train", None, {"fine_tuning.training.max_epochs": 3}, resume=broken.run_id)
    assert rest.result["steps"] == 9
    assert [event.payload["step"] for event in place.events(broken.run_id, "step")] == [1, 2, 3, 4, *range(3, 10)]
