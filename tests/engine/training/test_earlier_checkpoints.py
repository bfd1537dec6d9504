"""Samples of every form that checkpoints have had, opened by the newest program.

``earlier_forms/N-name`` was written by the version that introduced what its name says, from the tiny model with the
settings below, stopped after step 3. A form that is new gets a sample, and the old ones stay as they are.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.hooks import Hooks
from lora_tui.engine.training.loop import train_model
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.errors import UsageError
from tests.engine.tiny import make_model, tiny_settings

SAMPLES = Path(__file__).with_name("earlier_forms")
CHANGES = {"lora.r": 1, "lora.target_modules": ["q_proj"], "lora.dropout": 0.2, "training.save_steps": 3}


def resume(folder: Path, tokenizer: Any, dataset: TextDataset, **changes: Any) -> tuple[list[int], list[str], str]:
    settings = tiny_settings(CHANGES | changes).fine_tuning
    steps: list[int] = []
    warnings: list[str] = []
    hooks = Hooks(on_step=lambda r: steps.append(r.step), evaluate=lambda step: step / 10, warn=warnings.append)
    model = create_lora_model(make_model(tokenizer), settings.lora, seed=7)
    result = train_model(model, dataset, settings, folder, hooks, resume=True)
    return steps, warnings, result.stopped_by


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(SAMPLES / name, tmp_path / name))


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.iterdir()))
def test_a_run_goes_on_from_the_checkpoint_of_an_earlier_version(
    copied: Callable[[str], Path], tokenizer: Any, dataset: TextDataset, name: str
) -> None:
    folder = copied(name)
    steps, warnings, stopped_by = resume(folder, tokenizer, dataset)
    assert (steps, stopped_by) == ([4, 5, 6], "steps")
    is_old = name.startswith(("1", "2"))
    assert [warning for warning in warnings if "earlier version" in warning] == warnings
    assert bool(warnings) == is_old
    assert (folder / "step-6" / "SHA256SUMS").is_file()


def test_an_earlier_checkpoint_of_other_settings_is_refused_all_the_same(
    copied: Callable[[str], Path], tokenizer: Any, dataset: TextDataset
) -> None:
    for change in ({"lora.use_rslora": True}, {"training.seed": 1}, {"optimizer.loraplus_lr_ratio": 2.0}):
        folder = copied("1-counters")
        with pytest.raises(UsageError, match="other training data or settings"):
            resume(folder, tokenizer, dataset, **change)
        shutil.rmtree(folder)
