"""What is chosen where nobody has written a value, from data, model and machine alone."""

from array import array
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.keys import plain_value, settings_value
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.written import left_to_recipe
from lora_tui.engine.data.holdout import draw_holdout
from lora_tui.engine.data.survey import Survey
from lora_tui.engine.forecast.recipe import (
    CannotLearn,
    Recipe,
    cannot_learn,
    choose_model,
    choose_values,
    resolve_recipe,
)
from lora_tui.engine.forecast.types import DeviceForecast
from lora_tui.engine.models.architecture import Architecture, architecture_of
from lora_tui.engine.training import schedule
from tests.engine.test_hub_info import CONFIG

T = "fine_tuning.training."
MODEL = "fine_tuning.model_name"
RATE = "fine_tuning.optimizer.lora_lr"
WARMUP = "fine_tuning.scheduler.warmup_steps"
CPU = DeviceForecast("cpu", 0, "CPU", present=True)
CARD = DeviceForecast("cuda", 0, "H200", present=True)


def data(examples: int) -> Survey:
    return Survey(Path("mine.txt"), True, None, {"training text": examples}, 0, array("l", [25] * examples),
                  array("Q", range(examples)))  # fmt: skip


def chosen(examples: int, changes: dict[str, Any] | None = None, architecture: Architecture | None = None) -> Recipe:
    settings = with_values(Settings(), {MODEL: "builtin", **(changes or {})})
    return choose_values(settings, data(examples), architecture)


def steps_of(recipe: Recipe, examples: int) -> int:
    training = recipe.settings.fine_tuning.training
    size = training.batch_size * training.gradient_accumulation_steps
    examples += training.everyday_examples
    return schedule.total_steps(examples, size, training.max_epochs, training.max_steps)


@pytest.mark.parametrize("examples", [1, 2, 10, 27, 60, 100, 300])
def test_small_data_gets_its_60_to_200_steps(examples: int) -> None:
    recipe = chosen(examples)
    training = recipe.settings.fine_tuning.training
    trained = examples - round(examples * training.validation_share)
    steps = steps_of(recipe, trained)
    assert 60 <= steps <= 200
    assert 1 <= recipe.settings.fine_tuning.scheduler.warmup_steps <= steps * 0.06
    assert 6 <= schedule.evaluation_count(steps, 1, training.eval_steps, 1) <= 10


def test_few_short_questions_are_read_in_other_words_by_all_layers_beside_everyday_ones() -> None:
    training = chosen(27).settings.fine_tuning.training
    assert (training.reworded_share, training.everyday_examples) == (0.75, 24)
    assert chosen(27).settings.fine_tuning.lora.target_modules == "all-linear"
    long = Survey(Path("mine.txt"), True, None, {"training text": 90}, 0, array("l", [200] * 90), array("Q", range(90)))
    other = Survey(Path("mine.json"), True, None, {"alpaca": 90}, 0, array("l", [25] * 90), array("Q", range(90)))
    for counts in (long, other, data(1000)):
        tuning = choose_values(Settings(), counts, None).settings.fine_tuning
        assert (tuning.training.reworded_share, tuning.training.everyday_examples) == (0.0, 0)
        assert tuning.lora.target_modules == Settings().fine_tuning.lora.target_modules


@pytest.mark.parametrize(("examples", "passes"), [(1000, 3), (4000, 3), (50_000, 2)])
def test_more_data_is_read_two_or_three_times(examples: int, passes: int) -> None:
    assert chosen(examples).settings.fine_tuning.training.max_epochs == passes


@pytest.mark.parametrize("method", ["dpo", "kto"])
@pytest.mark.parametrize(("judged", "steps"), [(10, 12), (100, 75), (1000, 180)])
def test_few_preferences_take_a_dozen_steps_and_many_three_passes(method: str, judged: int, steps: int) -> None:
    settings = chosen(judged, {"fine_tuning.method": method}).settings
    training = settings.fine_tuning.training
    kept = judged - len(draw_holdout(data(judged).questions, training.validation_share, training.seed))
    size = training.batch_size * training.gradient_accumulation_steps
    assert schedule.total_steps(kept, size, training.max_epochs, training.max_steps) == steps


def test_what_is_written_is_obeyed_and_the_rest_follows_it() -> None:
    written = {RATE: 3e-5, T + "max_steps": 20, T + "batch_size": 2, WARMUP: 0, T + "eval_frequency": 2}
    recipe = chosen(27, written)
    assert [settings_value(recipe.settings, name) for name in written] == list(written.values())
    assert not written.keys() & {choice.key for choice in recipe.choices}
    training = recipe.settings.fine_tuning.training
    assert (training.max_epochs, training.eval_steps) == (40, 0)  # decided by max_steps and eval_frequency
    assert training.batch_size * training.gradient_accumulation_steps == 8
    assert not any(left_to_recipe(recipe.settings, choice.key) for choice in recipe.choices)


def test_accumulation_that_is_written_is_part_of_the_batch() -> None:
    training = chosen(27, {T + "gradient_accumulation_steps": 2}).settings.fine_tuning.training
    assert (training.batch_size, training.gradient_accumulation_steps) == (4, 2)


def test_every_choice_has_its_value_and_a_reason() -> None:
    recipe = chosen(27)
    assert len(recipe.choices) >= 9
    for choice in recipe.choices:
        assert plain_value(settings_value(recipe.settings, choice.key)) == choice.value
        assert 5 < len(choice.reason) < 100


def test_rate_follows_the_width_then_the_size() -> None:
    def rate(name: str, architecture: Architecture | None = None) -> float:
        found: float = chosen(27, {MODEL: name}, architecture).settings.fine_tuning.optimizer.lora_lr
        return found

    wide = architecture_of({**CONFIG, "model_type": "qwen2", "hidden_size": 1536})
    assert rate("builtin") == 1e-3
    assert rate("some/where", wide) == 5e-4
    assert rate("Qwen/Qwen2.5-0.5B") == 5e-4
    assert rate("owner/gemma-2-9b-it") == 2e-4
    assert rate("owner/model") == 2e-4


def test_rate_is_lowered_where_the_second_matrices_learn_faster() -> None:
    optimizer = chosen(27, {"fine_tuning.optimizer.loraplus_lr_ratio": 16.0}).settings.fine_tuning.optimizer
    assert optimizer.lora_lr * 16 <= 4e-3


def test_questions_are_held_out_only_where_there_are_enough() -> None:
    assert chosen(60).settings.fine_tuning.training.validation_share == 0
    assert chosen(1000).settings.fine_tuning.training.validation_share == 0.05
    assert chosen(1000, {T + "validation_share": 0.0}).settings.fine_tuning.training.validation_share == 0


@pytest.mark.parametrize(
    ("device", "free", "reachable", "name"),
    [
        (CPU, 60e9, True, "builtin"),
        (CARD, 100e9, True, Settings().fine_tuning.model_name),
        (CARD, 100e9, False, "builtin"),
        (CARD, 4e9, True, "builtin"),
        (CARD, None, True, "builtin"),
    ],
)
def test_base_model_is_one_that_the_machine_can_train(
    device: DeviceForecast, free: float | None, reachable: bool, name: str
) -> None:
    choice = choose_model(Settings(), device, free, reachable=reachable)
    assert choice.value == name
    assert choice.reason


def test_as_written_chooses_nothing() -> None:
    settings = with_values(Settings(), {"fine_tuning.recipe": "as written"})
    assert resolve_recipe(settings, data(27)) == Recipe(settings)


def test_a_file_that_cannot_be_read_decides_nothing() -> None:
    missing = Survey(Path("mine.txt"), exists=False, problem="it does not exist")
    recipe = choose_values(Settings(), missing, None)
    assert recipe.settings.fine_tuning.training == Settings().fine_tuning.training


def refusal(changes: dict[str, Any], examples: int = 27) -> CannotLearn | None:
    settings = with_values(Settings(), {MODEL: "builtin", **changes})
    recipe = resolve_recipe(settings, data(examples))
    return cannot_learn(settings, recipe, data(examples))


def test_a_run_that_surely_learns_nothing_is_refused_with_values_that_can() -> None:
    found = refusal({RATE: 3e-5, WARMUP: 200, T + "max_steps": 20})
    assert found is not None
    assert set(found.keys) == {RATE, WARMUP, T + "max_steps"}
    assert "20 steps at a rate of at most 3e-6" in found.why
    assert f"--set {RATE}=1e-3 --set {WARMUP}=" in found.remedy
    values = dict(found.values)
    assert values[T + "max_steps"] >= 60
    assert refusal(values) is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {T + "max_steps": 1},
        {WARMUP: 200},  # longer than the run, but at the model's own rate: it learns, with a warning
        {RATE: 3e-5},
        {RATE: 3e-5, WARMUP: 200, T + "max_steps": 20, "fine_tuning.recipe": "as written"},
    ],
)
def test_what_may_learn_something_runs(changes: dict[str, Any]) -> None:
    assert refusal(changes) is None
