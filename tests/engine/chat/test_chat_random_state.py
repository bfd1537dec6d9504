"""A conversation beside a trainer: torch's global random state, which a trainer draws from, is not touched by it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.models.base_model import load_base
from lora_tui.engine.training.schedule import lr_factor
from lora_tui.store.queries.runs import step_columns
from tests.engine.chat.chat_probe import ChatProbe
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.loaded_models import quiet
from tests.engine.tiny import tiny_settings, training_text

BOTH = ("tuned", "base")


@pytest.fixture
def untouched() -> Any:
    """The random state, which must be the same at the end of the test."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_a_model_and_an_adapter_draws_nothing(trained: Trained, dtype: str) -> None:
    before = torch.get_rng_state()
    load_base(with_values(trained.engine_harness.settings, {"fine_tuning.dtype": dtype}), quiet)
    assert torch.equal(torch.get_rng_state(), before)
    probe = ChatProbe(trained.engine_harness, {"fine_tuning.dtype": dtype})
    assert probe.session.sides == BOTH


@pytest.mark.usefixtures("untouched")
def test_replies_of_every_kind_draw_nothing_from_it(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness)
    for options in ({"temperature": 1.2}, {"top_p": 0.8}, {"temperature": 0.0}, {"num_beams": 3}):
        probe.set(**options)
        before = torch.get_rng_state()
        probe.ask("unlock", BOTH)
        assert torch.equal(torch.get_rng_state(), before), options
    probe.set(num_beams=1, temperature=1.2)
    probe.regenerate()
    probe.wait(probe.session.clear())
    probe.wait(probe.session.close())


def test_a_run_is_bit_for_bit_the_same_with_a_conversation_beside_it(
    trained: Trained,
    base_folder: Path,
    tmp_path: Path,
    new_engine_harness: Callable[[Path, Settings], EngineHarness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run draws its dropout from the global state at every step; conversations load and sample beside it."""
    talked = [threading.Event() for _ in range(5)]
    """Set when so many conversations have ended."""

    def train(name: str, beside: Callable[[EngineHarness], object] = lambda engine_harness: time.sleep(0.02)) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "pairs.txt").write_text(training_text())
        settings = tiny_settings(
            {
                "model_name": str(base_folder),
                "train_data_file": str(folder / "pairs.txt"),
                "training.save_dir": str(folder / "checkpoints"),
                "training.max_epochs": 20,
                "training.eval_frequency": 10,
                "training.patience": 1000,
                "lora.dropout": 0.3,
                "chat.num_beams": 1,
            }
        )
        engine_harness = new_engine_harness(folder, settings)
        run_id, future = engine_harness.start("train")
        while not future.done():
            beside(engine_harness)
        outcome = future.result()
        assert outcome.state == "finished", outcome
        losses = list(engine_harness.ask(step_columns, run_id).loss)
        return losses, load_file(Path(outcome.result["adapter"]) / "adapter_model.safetensors")

    talks = 0

    def in_time(kind: str, step: int, *more: Any) -> float:
        """The learning rate of a step, which is taken once every twenty steps before it have heard a conversation."""
        assert talked[step // 20].wait(120)
        return lr_factor(kind, step, *more)

    def talk(engine_harness: EngineHarness) -> None:
        nonlocal talks
        if talks == 4:  # what one of them draws changes every step after it
            time.sleep(0.02)
            return
        engine_harness.settings = with_values(
            engine_harness.settings, {"fine_tuning.dtype": ("bfloat16", "float32")[talks % 2]}
        )
        probe = ChatProbe(engine_harness, options={"adapter": str(trained.adapter)})
        probe.set(temperature=1.0)
        probe.ask("unlock", BOTH)
        probe.regenerate(["tuned"])
        probe.wait(probe.session.close())
        talks += 1
        talked[talks].set()

    losses, weights = train("alone")
    assert len(losses) == 60
    assert train("again")[0] == losses, "a run repeats itself"
    talked[0].set()
    monkeypatch.setattr("lora_tui.engine.training.loop.lr_factor", in_time)
    beside, found = train("beside", talk)
    assert talks >= 3
    assert beside == losses
    assert weights.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in weights.items())
