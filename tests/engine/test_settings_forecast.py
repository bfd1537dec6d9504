"""The whole forecast: what it foretells comes true in a run, it is there in a moment, and it needs no torch."""

import asyncio
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_tui.backend.forecast_text import training_forecast
from lora_tui.config.advice import advise
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.forecast import training
from lora_tui.engine.forecast.forecast import SettingsForecast, forecast_settings, forecast_with_history
from lora_tui.engine.forecast.types import Estimate
from lora_tui.store import training as stored_training
from lora_tui.store.connection import Store
from lora_tui.store.queries.runs import step_columns
from tests.engine.conftest import Trained
from tests.engine.test_hub_info import model
from tests.engine.tiny import training_text

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "gpu_names", lambda: ())
    monkeypatch.setattr(training, "has_apple_gpu", lambda: False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "pairs.txt").write_text(training_text())
    return with_values(
        Settings(),
        {
            "fine_tuning.recipe": "as written",
            "fine_tuning.model_name": str(model(tmp_path / "model")),
            "fine_tuning.train_data_file": "pairs.txt",
        },
    )


def test_what_is_foretold_of_a_run_comes_true(trained: Trained) -> None:
    engine_harness, run_id = trained.engine_harness, trained.run_id
    settings = engine_harness.settings

    async def told(with_store: bool) -> SettingsForecast:
        async with await Store.open(engine_harness.store_path) as store:
            return await forecast_settings(settings, store if with_store else None)

    plan = engine_harness.events(run_id, "plan")[0].payload
    before = asyncio.run(told(False)).training
    assert before.data.examples.value == plan["examples"]
    assert dict(before.data.forms) == plan["forms"]
    assert before.length.steps.value == plan["steps"]
    assert before.model.trainable_parameters.value == plan["trainable_parameters"]
    assert before.model.parameters.value == plan["parameters"] - plan["trainable_parameters"]
    evaluations = engine_harness.ask(stored_training.evaluations, run_id)
    assert before.length.evaluations.value == len([one for one in evaluations if one.model != "base"])
    assert before.device.kind == plan["device"]
    assert before.seconds.value is None
    after = asyncio.run(told(True)).training
    assert (after.data.tokens.value, after.data.tokens.estimated) == (plan["tokens"], False)
    assert after.seconds.value == pytest.approx(sum(engine_harness.ask(step_columns, run_id).seconds), rel=0.02)
    assert plan["tokens"] * 0.3 < (before.data.tokens.value or 0) < plan["tokens"] * 3


def test_advice_knows_the_real_length_and_size(settings: Settings) -> None:
    found = forecast_with_history(settings)
    steps = int(found.training.length.steps.value or 0)
    trained = int(found.training.model.trainable_parameters.value or 0)
    examples = int(found.training.data.examples.value or 0)
    known = {"examples": examples, "hidden_size": 48, "model_type": "llama"}
    assert found.warnings == tuple(
        advise(settings, optimizer_steps=steps, trainable_parameters=trained, **known)  # type: ignore[arg-type]
    )
    assert any("below LoRA's optimum for a model of width 48" in line for line in found.warnings)
    assert any(
        line.startswith("fine_tuning.scheduler.warmup_steps = 200: the run has only 40") for line in found.warnings
    )


def test_adapters_beyond_any_memory_are_told_by_their_size(settings: Settings) -> None:
    vast = with_values(settings, {"fine_tuning.lora.r": 10**6, "fine_tuning.lora.alpha": 10**6})
    assert "GiB for AdamW alone" in only(vast, "fine_tuning.lora.r = 1000000: ")


def only(settings: Settings, beginning: str) -> str:
    (line,) = [line for line in forecast_with_history(settings).warnings if line.startswith(beginning)]
    return line


def test_targets_that_training_will_refuse_are_told(settings: Settings) -> None:
    wrong = with_values(settings, {"fine_tuning.lora.target_modules": ["q_proj", "c_attn"]})
    line = only(wrong, "fine_tuning.lora.target_modules = [")
    assert 'no linear layer "c_attn"' in line
    assert "it has q_proj, k_proj" in line
    assert forecast_with_history(settings).warnings[0] != line


def test_four_bits_without_bitsandbytes_are_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = only(with_values(settings, {"fine_tuning.qlora": True}), "fine_tuning.qlora = true: ")
    assert "training will refuse to begin; pip install 'lora-tui[qlora]'" in line
    assert not [line for line in forecast_with_history(settings).warnings if "qlora" in line]


@pytest.mark.parametrize(
    ("device", "lacks"), [("cuda", "an NVIDIA card"), ("cuda:1", "an NVIDIA card"), ("mps", "Apple")]
)
def test_a_device_that_is_not_there_is_told(device: str, lacks: str, settings: Settings) -> None:
    line = only(with_values(settings, {"fine_tuning.device": device}), f'fine_tuning.device = "{device}": ')
    assert lacks in line


def test_more_memory_than_is_free_is_told(settings: Settings, tmp_path: Path) -> None:
    model(tmp_path / "model", hidden_size=48_000, num_hidden_layers=2000)
    beginning = "fine_tuning.model_name = "
    assert "set a smaller model" in only(settings, beginning)
    plain = with_values(settings, {"fine_tuning.gradient_checkpointing": False})
    assert "GiB are free; set fine_tuning.gradient_checkpointing = true" in only(plain, beginning)


def test_a_first_run_is_foretold_in_the_precision_of_a_processor_that_has_bfloat16(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {}
    for has_it in (False, True):
        monkeypatch.setattr(training, "multiplies_bfloat16", lambda has_it=has_it: has_it)
        told[has_it] = forecast_with_history(settings).training.memory
    assert (told[False].dtype, told[True].dtype) == ("float32", "bfloat16")
    assert told[True].weights.value == (told[False].weights.value or 0) / 2
    monkeypatch.setattr(training, "multiplies_bfloat16", lambda: True)
    written = with_values(settings, {"fine_tuning.dtype": "float32"})
    assert forecast_with_history(written).training.memory.dtype == "float32"


def test_memory_is_compared_in_float32_until_a_run_has_told_the_precision(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(tmp_path / "model", hidden_size=480, num_hidden_layers=20)
    monkeypatch.setattr(training, "multiplies_bfloat16", lambda: True)
    memory = forecast_with_history(settings).training.memory
    assert memory.at_most is not None
    assert memory.total.value is not None
    assert memory.at_most.value is not None
    assert memory.total.note.startswith("probably in bfloat16")
    written = with_values(settings, {"fine_tuning.dtype": "float32"})
    assert memory.at_most.value == forecast_with_history(written).training.memory.total.value
    free = Estimate((memory.total.value + memory.at_most.value) / 2)
    monkeypatch.setattr(training, "free_bytes", lambda device: free)
    assert "training may need, in float32, about" in only(settings, "fine_tuning.model_name = ")
    certain = forecast_with_history(with_values(settings, {"fine_tuning.dtype": "bfloat16"}))
    assert certain.training.memory.at_most is None
    assert not [line for line in certain.warnings if line.startswith("fine_tuning.model_name = ")]
    lines = dict(training_forecast(forecast_with_history(settings)).lines)
    assert lines["device"] == "CPU, probably bfloat16"
    assert lines["memory"].endswith(" in float32")


def test_looking_again_takes_a_moment(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_text("".join(f"Question: is {n} odd?\nAnswer: {n % 2} is what is left.\n\n" for n in range(20_000)))
    large = with_values(settings, {"fine_tuning.train_data_file": str(path)})
    forecast_with_history(large)
    took = []
    for r in range(1, 8):
        changed = with_values(large, {"fine_tuning.lora.r": r})
        began = time.process_time()
        assert forecast_with_history(changed).training.data.examples.value == 20_000
        took.append(time.process_time() - began)
    assert min(took) < 0.05


def test_neither_torch_nor_a_client_nor_a_screen_comes_with_it(settings: Settings, tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.forecast.forecast import forecast_settings
from lora_tui.store.connection import Store
settings = with_values(Settings(), {{"fine_tuning.model_name": {settings.fine_tuning.model_name!r},
                                    "fine_tuning.train_data_file": {str(tmp_path / "pairs.txt")!r}}})
async def main():
    async with await Store.open(Path({str(tmp_path / "s.db")!r})) as store:
        found = await forecast_settings(settings, store)
        await forecast_settings(with_values(settings, {{"fine_tuning.model_name": "owner/model"}}), store)
    assert found.training.model.trainable_parameters.value, found
asyncio.run(main())
print(*{{name.partition(".")[0] for name in sys.modules}})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {
        "torch",
        "transformers",
        "peft",
        "openai",
        "textual",
        "rich",
        "click",
        "nltk",
        "numpy",
        "tomlkit",
    }
    assert set(run.stdout.split()) & heavy == set()
