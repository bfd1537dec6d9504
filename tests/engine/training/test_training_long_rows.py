"""Examples too long for their share of a row, computed side by side: noted, saved, given up where memory runs out."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_tui.engine.models import activation_memory
from lora_tui.engine.models.activation_memory import Sizes
from lora_tui.engine.training import checkpoint
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.memory import plan_memory
from lora_tui.engine.training.step import GradientStep
from tests.engine.training.test_training_checkpoint import Trainer, fine_tuning, same
from tests.engine.training.test_training_failures import OUT_OF_MEMORY

TOGETHER = "Long rows are computed 2 at a time: there is memory for it."
SETTINGS = fine_tuning(**{"training.tokens_per_micro_batch": 32, "training.max_steps": 5})
OF_ROW = activation_memory.NONE.bytes_per_token(Sizes(64, 128, 2, 4, by_hand=True)) * 32
"""Bytes that a row is reckoned with, whatever is recomputed."""


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("lora_tui.engine.training.packing._LEAST_TOKENS_PER_WORKER", 16)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set how many rows' activations are free."""

    def set_free(rows: float) -> None:
        monkeypatch.setattr("lora_tui.engine.training.memory.free_bytes", lambda device: int(rows * OF_ROW))

    set_free(100)
    return set_free


class ReportingTrainer(Trainer):
    """A trainer that keeps its notes and warnings."""

    def train(self, *arguments: Any, **more: Any) -> Any:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        return super().train(SETTINGS, *arguments, note=self.notes.append, warn=self.warnings.append, **more)

    @property
    def state(self) -> checkpoint.TrainerState:
        state = checkpoint.newest_state(self.folder)
        assert state is not None
        return state


@pytest.fixture
def trainer(new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path) -> Callable[[str], ReportingTrainer]:
    return lambda name: ReportingTrainer(new_model, dataset, tmp_path / name)


@pytest.mark.usefixtures("free")
def test_a_stopped_run_goes_on_with_them_bit_for_bit(trainer: Callable[[str], ReportingTrainer]) -> None:
    whole, halves = trainer("whole"), trainer("halves")
    _, wanted = whole.train()
    assert TOGETHER in whole.notes
    halves.train(stop_after=2)
    _, found = halves.train(resume=True)
    assert TOGETHER in halves.notes
    assert halves.losses == whole.losses
    assert same(found, wanted)


def test_a_run_begun_without_the_memory_computes_each_alone_for_good(
    trainer: Callable[[str], ReportingTrainer], free: Callable[[float], None]
) -> None:
    """How many cores a product has shows in its last bits."""
    run = trainer("run")
    free(3)
    run.train(stop_after=1)
    free(100)
    run.train(resume=True, stop_after=2)
    assert TOGETHER not in run.notes
    assert run.state.long_rows_that_fit == 1


def test_a_run_that_goes_on_with_less_memory_says_when_it_must_do_otherwise(
    trainer: Callable[[str], ReportingTrainer], free: Callable[[float], None]
) -> None:
    run = trainer("run")
    free(5)
    run.train(stop_after=1)
    free(3)  # not enough to begin with, and enough to go on
    run.train(resume=True, stop_after=2)
    assert (TOGETHER in run.notes, run.warnings) == (True, [])
    free(2)
    run.train(resume=True, stop_after=3)
    assert TOGETHER not in run.notes
    (warning,) = run.warnings
    assert warning.startswith("Less memory is free than when the run began: long rows go 1 at a time")
    assert run.state.long_rows_that_fit == 1


@pytest.mark.usefixtures("free")
def test_where_two_do_not_fit_the_step_is_taken_again_and_that_is_said_and_saved(
    trainer: Callable[[str], ReportingTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = trainer("undisturbed")
    undisturbed.train(stop_after=3)
    real = GradientStep.summed_loss

    def summed_loss(self: GradientStep, row: Any) -> torch.Tensor:
        """Memory holds one long row, and none beside it."""
        if len(row.input_ids) > 16 and threading.current_thread() is not threading.main_thread():
            raise RuntimeError(OUT_OF_MEMORY)
        return real(self, row)

    monkeypatch.setattr(GradientStep, "summed_loss", summed_loss)
    run = trainer("run")
    run.train(stop_after=3)
    (warning,) = run.warnings
    assert warning == "Memory ran out at step 1; it goes on with long rows one at a time."
    assert (run.state.long_rows_that_fit, run.state.tokens_per_row) == (1, None)
    assert list(run.losses.values()) == pytest.approx(list(undisturbed.losses.values()), rel=1e-4)
    run.train(resume=True, stop_after=4)
    assert TOGETHER not in run.notes


@pytest.mark.parametrize("setting", [True, False])
def test_rows_are_reckoned_with_all_their_activations_also_where_they_are_recomputed(
    new_model: Callable[..., Any], dataset: TextDataset, free: Callable[[float], None], setting: bool
) -> None:
    """A layer that is computed again has workspaces of its own: as much as is saved."""
    gradient_step = GradientStep.of(new_model().train(), 32)
    for rows, fitting in ((0.5, 1), (2, 1), (4.1, 2), (6.1, 3)):
        free(rows)
        assert plan_memory(setting, gradient_step, list(dataset)).rows_that_fit() == fitting


def test_rows_that_were_measured_are_reckoned_with_that(
    new_model: Callable[..., Any],
    dataset: TextDataset,
    free: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gradient_step = GradientStep.of(new_model().train(), 32)
    per_token = activation_memory.NONE.bytes_per_token(Sizes(64, 128, 2, 4, by_hand=True))
    monkeypatch.setattr(
        "lora_tui.engine.training.memory.kept_bytes",
        lambda gradient_step, items, examples: per_token / 2 * sum(len(examples[item].input_ids) for item in items),
    )
    free(3.1)
    plan = plan_memory("auto", gradient_step, list(dataset))
    assert (plan.measured, plan.rows_that_fit()) == (True, 3)


def test_where_not_even_one_row_fitted_none_goes_beside_it(
    new_model: Callable[..., Any],
    dataset: TextDataset,
    free: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gradient_step = GradientStep.of(new_model().train(), 32)
    free(3)
    monkeypatch.setattr("lora_tui.engine.training.memory.kept_bytes", lambda *_: float("inf"))
    assert plan_memory("auto", gradient_step, list(dataset)).rows_that_fit(100) == 1
