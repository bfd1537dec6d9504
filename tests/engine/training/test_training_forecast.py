"""What training will be, before it begins: what cannot be known is not said, and all else comes true."""

import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.data.holdout import draw_holdout, question_digest
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.data.survey import survey
from lora_tui.engine.forecast import training
from lora_tui.engine.forecast.training import expected_device, forecast_training
from lora_tui.engine.forecast.types import TrainingForecast
from lora_tui.engine.models import activation_memory
from lora_tui.machine import GpuLoad, device_load
from lora_tui.store.rows import PlannedRun
from tests.engine.test_hub_info import CONFIG, model

T = "fine_tuning.training."
L = "fine_tuning.lora."


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "gpu_names", lambda: ())
    monkeypatch.setattr(training, "has_apple_gpu", lambda: False)
    monkeypatch.setattr(training, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(training, "_torch_has_cuda", lambda: True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data.txt").write_text("".join(f"Question: is {n} odd?\nAnswer: no\n\n" for n in range(50)))
    return with_values(
        Settings(),
        {
            "fine_tuning.model_name": str(model(tmp_path / "model")),
            "fine_tuning.train_data_file": "data.txt",
            T + "batch_size": 2,
            T + "gradient_accumulation_steps": 4,
            T + "max_epochs": 6,
            "fine_tuning.scheduler.warmup_steps": 5,
        },
    )


def run_of(settings: Settings, found: TrainingForecast, **changes: Any) -> PlannedRun:
    """An earlier run of these settings, on this machine, at 100 tokens/s."""
    plan = {
        "model": settings.fine_tuning.model_name,
        "device": "cpu",
        "dtype": "bfloat16",
        "examples": 48,
        "dropped": 2,
        "forms": dict(found.data.forms),
        "skipped": found.data.skipped,
        "tokens": 4000,
        "parameters": 1_000_100,
        "trainable_parameters": 100,
    }
    row = PlannedRun(
        id=7,
        state="finished",
        host=socket.gethostname(),
        data="data.txt",
        max_length=settings.fine_tuning.training.max_length,
        planned_at=time.time() + 60,
        plan=plan,
        tokens=5000,
        seconds=50.0,
    )
    plan |= changes.pop("plan", {})
    return replace(row, **changes)


def test_length_follows_from_the_examples(settings: Settings) -> None:
    found = forecast_training(settings).length
    assert (found.steps_per_epoch.value, found.steps.value, found.warmup_steps.value) == (7, 42, 5)
    assert (found.evaluations.value, found.checkpoints.value) == (3, 1)
    short = with_values(settings, {T + "max_steps": 3, T + "save_steps": 2, T + "eval_steps": 1})
    found = forecast_training(short).length
    assert (found.steps.value, found.warmup_steps.value) == (3, 3)
    assert (found.evaluations.value, found.checkpoints.value) == (3, 2)


def test_held_out_examples_are_not_counted_among_those_that_are_trained_on(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text(
        "".join(f"Question: is {n} odd?\nAnswer: no{' no' * n}\n\n" for n in range(50)) * 2
    )
    whole, divided = (
        forecast_training(settings),
        forecast_training(with_values(settings, {T + "validation_share": 0.1})),
    )
    assert (whole.data.examples.value, whole.data.held_out.value) == (100, 0)
    assert (divided.data.examples.value, divided.data.held_out.value) == (90, 10)
    examples = read_examples(tmp_path / "data.txt").examples
    held_out = draw_holdout([question_digest(example) for example in examples], 0.1, 42)
    sizes = survey(tmp_path / "data.txt").tokens
    assert divided.data.tokens.value == sum(sizes) - sum(sizes[index] for index in held_out)
    assert divided.length.steps_per_epoch.value == 12, "90 examples, 8 a step"


def test_what_a_run_with_another_share_has_counted_is_divided_anew(settings: Settings) -> None:
    first = forecast_training(settings)
    plan = {"examples": 42, "held_out": 5, "dropped": 3, "tokens": 3800, "held_out_tokens": 900}
    divided = with_values(settings, {T + "validation_share": 0.1})
    same, other = (forecast_training(of, [run_of(settings, first, plan=plan)]).data for of in (divided, settings))
    assert (same.examples.value, same.held_out.value, same.tokens.value, same.tokens.estimated) == (42, 5, 3800, False)
    assert (other.examples.value, other.held_out.value, other.tokens.value) == (47, 0, 4700)
    assert other.tokens.estimated


def test_without_a_data_file_only_what_does_not_need_it_is_known(settings: Settings) -> None:
    gone = with_values(settings, {"fine_tuning.train_data_file": "gone.txt"})
    found = forecast_training(gone)
    assert (found.data.exists, found.data.examples.value, found.data.tokens.value) == (False, None, None)
    assert "gone.txt does not exist" in (found.data.problem or "")
    assert (found.length.steps.value, found.length.steps_per_epoch.value, found.seconds.value) == (None, None, None)
    assert "does not exist" in found.length.steps.note
    found = forecast_training(with_values(gone, {T + "max_steps": 30}))
    assert (found.length.steps.value, found.length.checkpoints.value, found.length.evaluations.value) == (30, 1, None)
    found = forecast_training(with_values(gone, {T + "max_steps": 30, T + "eval_steps": 10}))
    assert found.length.evaluations.value == 3


def test_data_file_of_the_command_line_and_of_generation(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("Question: a?\nAnswer: b\n")
    assert forecast_training(settings, data_file=tmp_path / "other.txt").data.examples.value == 1
    of_generation = with_values(
        settings, {"fine_tuning.train_data_file": "", "data_generation.output_file": "other.txt"}
    )
    assert forecast_training(of_generation).data.path == Path("other.txt")


def test_tokens_are_an_estimate_until_a_run_has_counted_them(settings: Settings, tmp_path: Path) -> None:
    first = forecast_training(settings)
    assert first.data.tokens.estimated
    assert first.data.tokens.note == "four characters a token"
    counted = forecast_training(settings, [run_of(settings, first)]).data
    assert (counted.tokens.value, counted.tokens.estimated, counted.tokens.note) == (
        4000,
        False,
        "as run 7 counted them",
    )
    assert counted.examples.value == 48
    others = [
        {"data": "elsewhere/data.txt"},
        {"data": ""},
        {"max_length": 7},
        {"planned_at": (tmp_path / "data.txt").stat().st_mtime - 1},
        {"plan": {"model": "another"}},
        {"plan": {"examples": 49}},
        {"plan": {"forms": {"chat": 50}}},
    ]
    for other in others:
        assert forecast_training(settings, [run_of(settings, first, **other)]).data.tokens.estimated, other


def test_time_is_the_median_of_earlier_runs_like_it(settings: Settings) -> None:
    first = forecast_training(settings)
    assert first.seconds.value is None
    assert "no finished run has trained" in first.seconds.note
    past = [run_of(settings, first, id=n, seconds=5000 / speed) for n, speed in ((9, 50), (8, 400), (7, 100))]
    found = forecast_training(settings, past)
    assert found.seconds.value == pytest.approx(4000 * 6 / 100)
    assert found.seconds.estimated
    assert "100 tokens/s, the median of 3 earlier runs" in found.seconds.note
    short = with_values(settings, {T + "max_steps": 3})
    assert forecast_training(short, past).seconds.value == pytest.approx(4000 * 0.5 / 100)


@pytest.mark.parametrize(
    "change",
    [
        {"state": "failed"},
        {"host": "another-machine"},
        {"seconds": 0.0},
        {"plan": {"device": "cuda:0"}},
        {"plan": {"model": "another"}},
    ],
)
def test_runs_unlike_it_tell_nothing_of_its_time(change: dict[str, Any], settings: Settings) -> None:
    assert forecast_training(settings, [run_of(settings, forecast_training(settings), **change)]).seconds.value is None


def test_a_run_of_another_precision_tells_nothing_when_one_is_asked_for(settings: Settings) -> None:
    past = [run_of(settings, forecast_training(settings))]
    assert forecast_training(with_values(settings, {"fine_tuning.dtype": "bfloat16"}), past).seconds.value is not None
    assert forecast_training(with_values(settings, {"fine_tuning.dtype": "float32"}), past).seconds.value is None


def test_model_is_read_off_its_configuration(settings: Settings) -> None:
    found = forecast_training(with_values(settings, {L + "r": 4, L + "target_modules": ["q_proj", "v_proj"]})).model
    assert found.trainable_parameters.value == 3 * 4 * ((48 + 48) + (48 + 16))
    assert found.parameters.value is not None
    assert found.name == settings.fine_tuning.model_name
    wrong = forecast_training(with_values(settings, {L + "target_modules": ["q_proj", "c_attn"]})).model
    assert (wrong.trainable_parameters.value, wrong.unknown_targets) == (None, ("c_attn",))
    assert 'no linear layer "c_attn"' in wrong.trainable_parameters.note


def test_options_of_lora_are_counted(settings: Settings) -> None:
    options = {
        L + "r": 4,
        L + "use_dora": True,
        L + "target_modules": ["q_proj"],
        L + "rank_pattern": {"0..*.q_proj": 2},
    }
    found = forecast_training(with_values(settings, options)).model
    assert found.trainable_parameters.value == (4 + 4 + 2) * (48 + 48) + 3 * 48


def test_four_bits_hold_the_layers_and_leave_the_rest(settings: Settings) -> None:
    plain = with_values(settings, {"fine_tuning.dtype": "bfloat16"})
    parameters = forecast_training(plain).model.parameters.value
    found = forecast_training(with_values(plain, {"fine_tuning.qlora": True})).memory.weights
    layers = 3 * (48 * (48 + 16 + 16 + 48) + 3 * 48 * 88)
    assert parameters is not None
    assert found.value == pytest.approx(0.516 * layers + 2 * (parameters - layers), rel=1e-3)
    assert found.note == "in 4 bits"


def test_model_that_is_not_here_is_known_by_what_an_earlier_run_counted(settings: Settings, tmp_path: Path) -> None:
    absent = with_values(settings, {"fine_tuning.model_name": "model.gguf"})
    first = forecast_training(absent)
    assert (first.model.parameters.value, first.model.trainable_parameters.value) == (None, None)
    assert first.memory.total.value is None
    assert "opened when training begins" in first.memory.total.note
    found = forecast_training(absent, [run_of(absent, first)])
    assert found.model.parameters.value == 1_000_000
    assert found.memory.weights.value == 2_000_000
    assert (found.memory.activations.value, found.memory.total.value) == (None, None)


def test_memory_is_weights_adapters_and_activations(settings: Settings) -> None:
    plain = with_values(settings, {"fine_tuning.dtype": "float32", "fine_tuning.gradient_checkpointing": False})
    found = forecast_training(plain)
    parameters, trained = found.model.parameters.value, found.model.trainable_parameters.value
    assert parameters is not None
    assert trained is not None
    memory = found.memory
    sizes = activation_memory.Sizes(48, 88, 3, 4, by_hand=True)
    assert memory.weights.value == 4 * parameters
    assert memory.adapters.value == 16 * trained
    assert memory.activations.value == 1024 * activation_memory.NONE.bytes_per_token(sizes)
    assert memory.total.value == memory.weights.value + memory.adapters.value + memory.activations.value
    assert memory.recomputation is activation_memory.NONE
    assert "1,024 tokens" in memory.activations.note
    half = forecast_training(with_values(plain, {"fine_tuning.dtype": "bfloat16"})).memory
    assert (half.dtype, half.weights.value, half.adapters.value) == ("bfloat16", 2 * parameters, 16 * trained)
    recomputed = forecast_training(with_values(plain, {"fine_tuning.gradient_checkpointing": True})).memory
    assert recomputed.activations.value == 1024 * activation_memory.ALL.bytes_per_token(sizes)


def test_a_long_example_makes_a_row_of_its_own(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text(f"Question: a?\nAnswer: {'b' * 40_000}\n")
    memory = [
        forecast_training(with_values(settings, {T + "max_length": length})).memory.activations.note
        for length in (512, 4096)
    ]
    assert "1,024 tokens" in memory[0]
    assert "4,096 tokens" in memory[1]


def test_auto_checkpointing_follows_the_free_memory(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    automatic = with_values(settings, {"fine_tuning.gradient_checkpointing": "auto", "fine_tuning.dtype": "float32"})
    plain = forecast_training(with_values(automatic, {"fine_tuning.gradient_checkpointing": False})).memory
    assert plain.weights.value is not None
    assert plain.activations.value is not None
    limit = plain.activations.value / activation_memory.SHARE_TO_USE + plain.weights.value
    for free, kept in ((limit * 1.01, True), (limit * 0.99, False)):
        load = replace(device_load(), memory_total=int(free), memory_used=0)
        monkeypatch.setattr(training, "device_load", lambda load=load: load)
        way = forecast_training(automatic).memory.recomputation
        assert way is not None
        assert (way is activation_memory.NONE) is kept
        assert way is not activation_memory.ALL, "no more than the memory asks for"
    unknown = with_values(automatic, {"fine_tuning.model_name": "x.gguf"})
    assert forecast_training(unknown).memory.recomputation is None


def test_precision_that_auto_takes_is_an_earlier_runs_or_the_larger(settings: Settings) -> None:
    first = forecast_training(settings)
    assert first.memory.dtype == "float32"
    assert first.memory.total.note.startswith("at most: in float32")
    assert forecast_training(settings, [run_of(settings, first)]).memory.dtype == "bfloat16"
    elsewhere = [run_of(settings, first, host="another-machine"), run_of(settings, first, plan={"device": "cuda:0"})]
    assert forecast_training(settings, elsewhere).memory.dtype == "float32"


def cards(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    loads = tuple(GpuLoad(1, 10 * 2**30 * number, 80 * 2**30, 40, 90.0) for number in range(1, len(names) + 1))
    load = replace(device_load(), gpus=loads)
    monkeypatch.setattr(training, "gpu_names", lambda: names)
    monkeypatch.setattr(training, "device_load", lambda: load)


def test_device_is_the_one_that_auto_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(setting: str) -> tuple[str, str, bool]:
        found = expected_device(setting)
        return found.kind, found.name, found.present

    assert kind("auto") == ("cpu", "CPU", True)
    assert kind("cuda") == ("cuda", "no such card", False)
    assert kind("mps") == ("mps", "no Apple GPU", False)
    monkeypatch.setattr(training, "has_apple_gpu", lambda: True)
    assert kind("auto") == ("mps", "Apple GPU", True)
    cards(monkeypatch, "A", "B")
    assert kind("auto") == ("cuda", "A", True)
    assert kind("cuda:1") == ("cuda", "B", True)
    assert kind("cuda:2") == ("cuda", "no such card", False)
    assert kind("cpu") == ("cpu", "CPU", True)
    monkeypatch.setattr(training, "_torch_has_cuda", lambda: False)
    assert kind("auto") == ("mps", "Apple GPU", True)
    assert kind("cuda") == ("cuda", "no such card", False)


def test_cards_are_reckoned_with_by_their_own_memory(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, "A", "B")
    second = forecast_training(with_values(settings, {"fine_tuning.device": "cuda:1"}))
    assert second.memory.free.value == 60 * 2**30
    assert second.memory.dtype == "bfloat16"
    assert forecast_training(with_values(settings, {"fine_tuning.device": "cuda:5"})).memory.free.value is None


def test_build_of_torch_tells_whether_it_can_use_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for version, expected in (("2.13.0+cpu", False), ("2.13.0", True), ("2.13.0+cu130", True)):
        training._torch_has_cuda.cache_clear()
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        assert training._torch_has_cuda() is expected
    training._torch_has_cuda.cache_clear()


def test_a_configuration_without_a_shape_says_why(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "model" / "config.json").write_text(json.dumps({**CONFIG, "model_type": "gpt2"}))
    found = forecast_training(settings)
    assert "type gpt2 is not known" in found.model.parameters.note
    assert "type gpt2 is not known" in found.memory.activations.note
