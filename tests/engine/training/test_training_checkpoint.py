"""Stopping and going on, keeping the best, and folders that are whole or not there."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_tui.config.models import FineTuning
from lora_tui.engine.models.adapter_source import best_folder, step_folders
from lora_tui.engine.models.adapters import adapter_weights
from lora_tui.engine.models.checksums import write_checksums
from lora_tui.engine.training import checkpoint
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.hooks import Hooks, StepReport, TrainingResult, Verdict
from lora_tui.engine.training.loop import train_model
from lora_tui.errors import LoraTuiError, UsageError
from tests.engine.tiny import tiny_settings


def fine_tuning(**changes: Any) -> FineTuning:
    return tiny_settings({"lora.dropout": 0.2, "training.max_epochs": 3, **changes}).fine_tuning


def adapter(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in adapter_weights(model).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class Trainer:
    """Trains fresh models in one folder and remembers the losses."""

    def __init__(self, new_model: Callable[..., Any], dataset: TextDataset, folder: Path) -> None:
        self.new_model, self.dataset, self.folder = new_model, dataset, folder
        self.losses: dict[int, float] = {}
        self.checkpoints: list[tuple[str, int]] = []

    def train(
        self, settings: FineTuning, *, resume: bool = False, stop_after: int = 10**9, seed: int = 3, **hooks: Any
    ) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
        model = self.new_model(dropout=settings.lora.dropout, stirred=False)
        torch.manual_seed(seed)  # what happened before in this process must not matter

        def on_step(report: StepReport) -> None:
            self.losses[report.step] = report.loss

        all_hooks = Hooks(
            on_step=on_step,
            should_stop=lambda: max(self.losses, default=0) >= stop_after,
            on_checkpoint=lambda kind, step, path, score: self.checkpoints.append((kind, step)),
            **hooks,
        )
        result = train_model(model, self.dataset, settings, self.folder, all_hooks, resume=resume)
        return result, adapter(model)


@pytest.fixture
def trainer(new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path) -> Callable[[str], Trainer]:
    return lambda name: Trainer(new_model, dataset, tmp_path / name)


def scores(*values: float) -> Callable[[int], float]:
    """An evaluation that gives these scores in turn, and uses random numbers as sampling would."""
    remaining = iter(values)

    def evaluate(step: int) -> float:
        torch.rand(step)
        return next(remaining)

    return evaluate


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_stopped_run_that_goes_on_equals_one_that_was_never_stopped_bit_for_bit(
    trainer: Callable[[str], Trainer], stop_after: int
) -> None:
    settings = fine_tuning(**{"training.seed": 5})
    whole, halves = trainer("whole"), trainer("halves")
    result, wanted = whole.train(settings, evaluate=scores(0.1, 0.2, 0.3))
    assert result.stopped_by == "steps"
    assert len(whole.losses) == 9

    first, half = halves.train(settings, stop_after=stop_after, evaluate=scores(0.1, 0.2, 0.3), seed=99)
    assert (first.stopped_by, first.steps) == ("request", stop_after)
    assert not same(half, wanted)
    rest = scores(*(0.1, 0.2, 0.3)[stop_after // 3 :])
    second, found = halves.train(settings, resume=True, evaluate=rest, seed=1234)
    assert second.stopped_by == "steps"
    assert halves.losses == whole.losses
    assert same(found, wanted)
    assert (second.best_score, second.best_step, second.tokens) == (result.best_score, result.best_step, result.tokens)


def test_a_run_that_is_stopped_twice_still_equals_the_whole(trainer: Callable[[str], Trainer]) -> None:
    whole, parts = trainer("whole"), trainer("parts")
    _, wanted = whole.train(fine_tuning())
    parts.train(fine_tuning(), stop_after=2)
    parts.train(fine_tuning(), resume=True, stop_after=2)  # stopped again before it took a step
    parts.train(fine_tuning(), resume=True, stop_after=7)
    _, found = parts.train(fine_tuning(), resume=True)
    assert same(found, wanted)
    assert parts.losses == whole.losses


def test_dropout_is_on_in_these_runs(trainer: Callable[[str], Trainer]) -> None:
    one, other = trainer("one"), trainer("other")
    one.train(fine_tuning())
    other.train(fine_tuning(**{"lora.dropout": 0.0}))
    assert one.losses != other.losses


def test_the_same_seed_repeats_a_run_and_another_does_not(trainer: Callable[[str], Trainer]) -> None:
    first = trainer("first").train(fine_tuning(), seed=1)[1]
    assert same(trainer("again").train(fine_tuning(), seed=2)[1], first)
    assert not same(trainer("other").train(fine_tuning(**{"training.seed": 43}), seed=1)[1], first)


@pytest.mark.parametrize(("keep", "steps"), [(1, [9]), (3, [6, 8, 9]), (9, [2, 4, 6, 8, 9])])
def test_checkpoints_come_every_save_steps_and_the_newest_stay(
    trainer: Callable[[str], Trainer], keep: int, steps: list[int]
) -> None:
    run = trainer("run")
    run.train(fine_tuning(**{"training.save_steps": 2, "training.keep_checkpoints": keep}))
    assert [step for kind, step in run.checkpoints if kind == "last"] == [2, 4, 6, 8, 9]
    assert [path.name for path in step_folders(run.folder)] == [f"step-{step}" for step in steps]
    assert sorted(path.name for path in run.folder.iterdir()) == ["best", *(f"step-{step}" for step in steps)]


def test_a_run_that_is_over_takes_no_further_step(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    _, wanted = run.train(fine_tuning())
    run.losses.clear()
    result, found = run.train(fine_tuning(), resume=True)
    assert result.stopped_by == "steps"
    assert run.losses == {}
    assert same(found, wanted)


def test_without_a_checkpoint_resuming_begins_at_the_beginning(trainer: Callable[[str], Trainer]) -> None:
    _, wanted = trainer("whole").train(fine_tuning())
    _, found = trainer("fresh").train(fine_tuning(), resume=True)
    assert same(found, wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer.lora_lr": 2e-2},
        {"lora.alpha": 16},
        {"scheduler.type": "linear"},
        {"training.seed": 1},
        {"training.batch_size": 1},
        {"training.max_epochs": 4},
        {"training.reworded_share": 0.5},
        {"sampling.keyword_weight": 3.0},
        {"model_name": "another"},
    ],
)
def test_other_settings_are_refused(trainer: Callable[[str], Trainer], change: dict[str, Any]) -> None:
    run = trainer("run")
    run.train(fine_tuning(), stop_after=2)
    with pytest.raises(UsageError, match=r"other training data or settings") as refused:
        run.train(fine_tuning(**change), resume=True)
    ((key, now),) = change.items()
    then = _value(fine_tuning(), key)
    assert f": fine_tuning.{key} was {json.dumps(then)}, now {json.dumps(now)}.\n" in str(refused.value)
    assert str(refused.value).endswith(f"or add --set {shlex.quote(f'fine_tuning.{key}={json.dumps(then)}')}.")


def test_other_data_are_refused(trainer: Callable[[str], Trainer], dataset: TextDataset) -> None:
    run = trainer("run")
    run.train(fine_tuning(), stop_after=2)
    run.dataset = _without_first(dataset)
    with pytest.raises(UsageError, match=r"other training data or settings.*: the training data are others\."):
        run.train(fine_tuning(), resume=True)


def _value(settings: FineTuning, key: str) -> Any:
    """What the settings have at a dotted key."""
    return reduce(getattr, key.split("."), settings)


def _without_first(dataset: TextDataset) -> TextDataset:
    shorter = object.__new__(TextDataset)
    shorter.__dict__.update(dataset.__dict__, _items=dataset[1:])
    return shorter


def test_when_to_look_and_to_save_may_change(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    run.train(fine_tuning(), stop_after=2)
    changed = fine_tuning(
        **{"training.save_steps": 1, "training.patience": 1, "training.target_score": 0.9, "training.eval_steps": 3}
    )
    assert run.train(changed, resume=True)[0].stopped_by == "steps"


def test_the_best_adapter_is_kept_not_the_last(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    kept: dict[int, dict[str, torch.Tensor]] = {}
    models: list[Any] = []
    new = run.new_model
    run.new_model = lambda **more: models.append(new(**more)) or models[-1]  # type: ignore[func-returns-value]
    given = scores(0.2, 0.6, 0.4)

    def evaluate(step: int) -> float:
        kept[step] = adapter(models[-1])
        return given(step)

    result, last = run.train(fine_tuning(), evaluate=evaluate)
    assert (result.best_score, result.best_step, result.stopped_by) == (0.6, 6, "steps")
    assert result.best_folder == run.folder / "best"
    best = load_file(run.folder / "best" / "adapter_model.safetensors")
    assert same(best, kept[6])
    assert not same(best, last)
    assert [step for kind, step in run.checkpoints if kind == "best"] == [3, 6]


def test_an_equal_score_does_not_replace_the_best(trainer: Callable[[str], Trainer]) -> None:
    result, _ = trainer("run").train(fine_tuning(), evaluate=scores(0.5, 0.5, 0.5))
    assert result.best_step == 3


def test_patience_counts_evaluations_in_a_row_without_a_gain(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    settings = fine_tuning(**{"training.patience": 2, "training.eval_steps": 1})
    result, _ = run.train(settings, evaluate=scores(0.3, 0.2, 0.4, 0.1, 0.4, 0.9))
    assert (result.stopped_by, result.steps, result.best_step) == ("patience", 5, 3)


def test_patience_goes_on_counting_after_a_stop(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    settings = fine_tuning(**{"training.patience": 2, "training.eval_steps": 1})
    run.train(settings, evaluate=scores(0.3, 0.2), stop_after=2)
    result, _ = run.train(settings, resume=True, evaluate=scores(0.1))
    assert (result.stopped_by, result.steps, result.best_step) == ("patience", 3, 1)


def test_reaching_the_target_score_ends_the_run(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    settings = fine_tuning(**{"training.target_score": 0.7, "training.eval_steps": 2})
    result, _ = run.train(settings, evaluate=scores(0.5, 0.7))
    assert (result.stopped_by, result.steps, result.best_score) == ("target_score", 4, 0.7)
    assert [path.name for path in step_folders(run.folder)] == ["step-4"]


def test_the_best_is_ranked_by_more_than_its_score_and_a_target_that_proves_nothing_ends_nothing(
    trainer: Callable[[str], Trainer],
) -> None:
    run = trainer("run")
    settings = fine_tuning(**{"training.target_score": 0.7, "training.eval_steps": 2, "training.max_steps": 8})
    verdicts = iter([Verdict(0.9, 0.6, False), Verdict(0.95, 0.5, False), Verdict(0.8, 0.9, True)])
    result, _ = run.train(settings, evaluate=lambda step: next(verdicts))
    assert (result.stopped_by, result.steps, result.best_score) == ("target_score", 6, 0.8)
    assert [step for kind, step in run.checkpoints if kind == "best"] == [2, 6]


def test_a_resumed_run_remembers_how_its_best_ranked(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    settings = fine_tuning(**{"training.target_score": 0.7, "training.eval_steps": 1, "training.max_steps": 4})
    first = iter([Verdict(0.9, 0.6, False), Verdict(0.1, 0.1, True)])
    run.train(settings, evaluate=lambda step: next(first), stop_after=2)
    rest = iter([Verdict(0.95, 0.5, True), Verdict(0.2, 0.3, True)])
    result, _ = run.train(settings, resume=True, evaluate=lambda step: next(rest))
    assert (result.stopped_by, result.steps, result.best_score, result.best_step) == ("steps", 4, 0.9, 1)


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"training.eval_frequency": 1}, [3, 6, 9]),
        ({"training.eval_frequency": 2}, [6, 9]),  # the end of a run is always looked at
        ({"training.eval_steps": 4}, [4, 8, 9]),
        ({"training.max_steps": 5}, [3, 5]),
    ],
)
def test_evaluations_come_when_the_settings_say_and_at_the_end(
    trainer: Callable[[str], Trainer], change: dict[str, Any], steps: list[int]
) -> None:
    asked: list[int] = []
    trainer("run").train(fine_tuning(**change), evaluate=lambda step: asked.append(step) or 0.5)  # type: ignore[func-returns-value]
    assert asked == steps


def test_evaluation_sees_the_model_without_dropout_and_leaves_training_as_it_was(
    trainer: Callable[[str], Trainer],
) -> None:
    quiet, looked_at = trainer("quiet"), trainer("looked at")
    _, wanted = quiet.train(fine_tuning())
    modes: list[bool] = []
    models: list[Any] = []
    new = looked_at.new_model
    looked_at.new_model = lambda **more: models.append(new(**more)) or models[-1]  # type: ignore[func-returns-value]

    def evaluate(step: int) -> float:
        modes.append(models[-1].training)
        torch.rand(7)
        return float(step)

    _, found = looked_at.train(
        fine_tuning(**{"training.eval_steps": 1, "training.target_score": 100.0}), evaluate=evaluate
    )
    assert modes == [False] * 9
    assert looked_at.losses == quiet.losses
    assert same(found, wanted)


def test_a_crash_between_the_two_renames_still_finds_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(content: str) -> Callable[[Path], None]:
        return lambda folder: (folder / "adapter_model.safetensors").write_text(content) and None

    checkpoint.save_best(tmp_path, fill("first"))
    real = Path.rename

    def crash(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_best(tmp_path, fill("second"))
    monkeypatch.undo()
    found = best_folder(tmp_path)
    assert found is not None
    assert (found / "adapter_model.safetensors").read_text() == "first"
    checkpoint.save_best(tmp_path, fill("third"))
    found = best_folder(tmp_path)
    assert found == tmp_path / "best"
    assert (found / "adapter_model.safetensors").read_text() == "third"


def test_a_crash_while_a_step_is_saved_again_leaves_a_checkpoint_to_go_on_from(
    trainer: Callable[[str], Trainer],
) -> None:
    _, wanted = trainer("whole").train(fine_tuning())
    run = trainer("run")
    run.train(fine_tuning(), stop_after=4)
    (run.folder / "step-4").rename(run.folder / "step-4.old")
    run.losses.clear()
    _, found = run.train(fine_tuning(), resume=True)
    assert sorted(run.losses) == [5, 6, 7, 8, 9]
    assert same(found, wanted)
    assert [path.name for path in step_folders(run.folder)] == ["step-4.old", "step-9"]


def test_a_half_written_checkpoint_has_no_name_and_is_not_gone_on_from(trainer: Callable[[str], Trainer]) -> None:
    _, wanted = trainer("whole").train(fine_tuning())
    run = trainer("run")
    run.train(fine_tuning(), stop_after=2)
    half = run.folder / ".step-5.4711.tmp"
    shutil.copytree(run.folder / "step-2", half)
    (half / "optimizer.safetensors").unlink()
    run.losses.clear()
    _, found = run.train(fine_tuning(), resume=True)
    assert min(run.losses) == 3
    assert same(found, wanted)


@pytest.mark.parametrize(
    "file", ["trainer_state.json", "adapter_model.safetensors", "optimizer.safetensors", "random.safetensors"]
)
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_checkpoint_is_named(trainer: Callable[[str], Trainer], file: str, damage: str) -> None:
    run = trainer("run")
    run.train(fine_tuning(), stop_after=2)
    path = run.folder / "step-2" / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LoraTuiError, match=r"step-2 cannot be read"):
        run.train(fine_tuning(), resume=True)


FILES = ["adapter_model.safetensors", "optimizer.safetensors", "random.safetensors", "trainer_state.json", "SHA256SUMS"]


@dataclass(frozen=True)
class Halfway:
    """A run that was stopped after step 4 in `folder`, and the adapter that a whole one ends with."""

    settings: FineTuning
    folder: Path
    wanted: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def halfway(new_model: Callable[..., Any], dataset: TextDataset, tmp_path_factory: pytest.TempPathFactory) -> Halfway:
    settings = fine_tuning(**{"training.save_steps": 2})
    folder = tmp_path_factory.mktemp("halfway")
    _, wanted = Trainer(new_model, dataset, folder / "whole").train(settings)
    Trainer(new_model, dataset, folder / "half").train(settings, stop_after=4)
    return Halfway(settings, folder / "half", wanted)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_gone_on_with_bit_for_bit(
    trainer: Callable[[str], Trainer], halfway: Halfway, file: str, damage: str
) -> None:
    settings, wanted = halfway.settings, halfway.wanted
    run = trainer("run")
    shutil.copytree(halfway.folder, run.folder)
    path = run.folder / "step-4" / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:  # one bit, in the last tensor or entry: the file can still be read
        path.write_bytes(content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    warnings: list[str] = []
    _, found = run.train(settings, resume=True, warn=warnings.append)
    assert min(run.losses) == 3
    assert same(found, wanted)
    assert [warning for warning in warnings if "step-4 is damaged" in warning and "that of step 2" in warning]


def test_a_damaged_checkpoint_is_kept_until_there_is_a_newer_one(trainer: Callable[[str], Trainer]) -> None:
    settings = fine_tuning(**{"training.save_steps": 2})
    run = trainer("run")
    run.train(settings, stop_after=4)
    (run.folder / "step-4" / "optimizer.safetensors").write_bytes(b"no tensors")
    run.losses.clear()
    run.train(settings, resume=True, stop_after=3)
    assert not (run.folder / "step-4.damaged").exists()
    assert [path.name for path in step_folders(run.folder)] == ["step-2", "step-3"]


def test_where_every_checkpoint_is_damaged_none_is_touched(trainer: Callable[[str], Trainer]) -> None:
    settings = fine_tuning(**{"training.save_steps": 2})
    run = trainer("run")
    run.train(settings, stop_after=4)
    for step in (2, 4):
        (run.folder / f"step-{step}" / "random.safetensors").unlink()
    for _ in range(2):
        with pytest.raises(LoraTuiError, match=r"step-4 cannot be read: random.* The 1 before it are damaged"):
            run.train(settings, resume=True)


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_lost_best_adapter_is_told_and_chosen_anew(trainer: Callable[[str], Trainer], damage: str) -> None:
    settings = fine_tuning(**{"training.eval_steps": 1, "training.save_steps": 1})
    run = trainer("run")
    run.train(settings, stop_after=4, evaluate=scores(0.1, 0.9, 0.3, 0.2))
    weights = run.folder / "best" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    if damage == "gone":
        shutil.rmtree(run.folder / "best")
    warnings: list[str] = []
    rest = scores(0.4, 0.6, 0.5, 0.1, 0.2)
    result, _ = run.train(settings, resume=True, evaluate=rest, warn=warnings.append)
    assert (result.best_score, result.best_step) == (0.6, 6)
    assert result.best_folder == run.folder / "best"
    assert [warning for warning in warnings if "best" in warning and "The next evaluation chooses a new one" in warning]


def test_a_checkpoint_of_a_newer_version_is_not_taken_for_a_damaged_one(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    run.train(fine_tuning(), stop_after=2)
    state = run.folder / "step-2" / "trainer_state.json"
    state.write_text(state.read_text().replace('"format": 2', '"format": 3, "later": true'))
    write_checksums(run.folder / "step-2")
    with pytest.raises(UsageError, match="newer version of lora-tui"):
        run.train(fine_tuning(), resume=True)
    assert (run.folder / "step-2").is_dir()


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    run.folder.write_text("a file where the folder should be")
    with pytest.raises(LoraTuiError, match=r"step-2 cannot be written"):
        run.train(fine_tuning(), stop_after=2)


def test_a_full_disk_is_an_error_that_names_the_checkpoint(
    trainer: Callable[[str], Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer("run")

    def full(tensors: Any, path: Path) -> None:
        from safetensors import SafetensorError

        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(LoraTuiError, match=r"step-2 cannot be written: .*No space left"):
        run.train(fine_tuning(), stop_after=2)
    assert list(run.folder.iterdir()) == []


def test_nothing_in_a_checkpoint_is_pickled(trainer: Callable[[str], Trainer]) -> None:
    run = trainer("run")
    run.train(fine_tuning(), stop_after=2)
    names = {path.name for path in (run.folder / "step-2").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "random.safetensors"} <= names
    assert {Path(name).suffix for name in names} <= {".safetensors", ".json", ".md", ""}
    assert "SHA256SUMS" in names
    assert json.loads((run.folder / "step-2" / "trainer_state.json").read_text())["step"] == 2
