"""The forecast of a configuration while it is edited: no torch, no network, a few milliseconds.

It joins the forecasts of `training` and `generation` with warnings: the configuration's advice, given the run's real
length and size, and what this machine lacks.
"""

import asyncio
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_tui.config.advice import advise
from lora_tui.config.models import Settings
from lora_tui.config.reference import toml_value
from lora_tui.config.written import left_to_recipe
from lora_tui.engine.data.survey import Survey, survey_of_run
from lora_tui.engine.forecast.generation import GenerationForecast, forecast_generation
from lora_tui.engine.forecast.recipe import CannotLearn, cannot_learn, resolve_recipe
from lora_tui.engine.forecast.training import forecast_training
from lora_tui.engine.forecast.types import Estimate, TrainingForecast
from lora_tui.engine.models.architecture import Architecture, layer_names
from lora_tui.engine.models.hub_info import find_architecture
from lora_tui.protocol.choice import Choice
from lora_tui.store.connection import Store
from lora_tui.store.rows import PlannedRun
from lora_tui.store.training import planned_runs
from lora_tui.text import memory_size, one_line


@dataclass(frozen=True, slots=True)
class SettingsForecast:
    """The forecasts of training and generation; each line of `warnings` begins with a key and its value.

    `choices` are the values that training will choose for what nobody has written; the forecast counts with them.
    `refusal` says why training would refuse to begin.
    """

    training: TrainingForecast
    generation: GenerationForecast
    warnings: tuple[str, ...]
    choices: tuple[Choice, ...] = ()
    refusal: CannotLearn | None = None


async def forecast_settings(
    settings: Settings, store: Store | None = None, data_file: Path | None = None, counts: Survey | None = None
) -> SettingsForecast:
    """Forecast what these settings will do; the runs in `store` give speed and token counts.

    `data_file` is what ``--train-data-file`` names, `counts` what is trained on, where it is no file.
    Files are read in a thread; the first time that takes a while.
    """
    history = await planned_runs(store) if store is not None else []
    return await asyncio.to_thread(forecast_with_history, settings, history, data_file, counts)


def forecast_with_history(
    settings: Settings,
    history: Sequence[PlannedRun] = (),
    data_file: Path | None = None,
    counts: Survey | None = None,
) -> SettingsForecast:
    """Forecast what these settings will do; blocks while files are read. `history` is newest first."""
    counts = survey_of_run(settings, data_file) if counts is None else counts
    recipe = resolve_recipe(settings, counts)
    refusal, settings = cannot_learn(settings, recipe, counts), recipe.settings
    training = forecast_training(settings, history, data_file, counts)
    found = find_architecture(settings.fine_tuning.model_name)
    architecture = None if isinstance(found, str) else found
    advice = advise(
        settings,
        optimizer_steps=_as_int(training.length.steps),
        trainable_parameters=_as_int(training.model.trainable_parameters),
        examples=_as_int(training.data.examples),
        hidden_size=None if architecture is None else architecture.hidden,
        model_type=None if architecture is None else architecture.model_type,
    )
    if counts.problem is not None:  # what the recipe will choose once there is data has no value yet
        advice = [line for line in advice if not left_to_recipe(settings, line.partition(" = ")[0])]
    warnings = (*_warnings(settings, training, architecture), *advice)
    return SettingsForecast(training, forecast_generation(settings), warnings, recipe.choices, refusal)


def _as_int(estimate: Estimate) -> int | None:
    return None if estimate.value is None else int(estimate.value)


def _warnings(settings: Settings, training: TrainingForecast, architecture: Architecture | None) -> Iterator[str]:
    """Yield what will keep training from starting or finishing on this machine."""
    tuning = settings.fine_tuning
    if not training.device.present:
        missing = (
            "an NVIDIA card that the installed torch can use" if training.device.kind == "cuda" else "an Apple GPU"
        )
        yield f'fine_tuning.device = "{tuning.device}": this machine lacks {missing}; set "auto", or "cpu"'
    if tuning.qlora and importlib.util.find_spec("bitsandbytes") is None:
        yield (
            "fine_tuning.qlora = true: bitsandbytes is not installed, so training will refuse to begin; "
            "pip install 'lora-tui[qlora]', or set false"
        )
    if training.model.unknown_targets and architecture is not None:
        targets = one_line(toml_value(tuning.lora.target_modules), 60)
        what = f'this model has no linear layer "{one_line(training.model.unknown_targets[0], 40)}"'
        yield (
            f"fine_tuning.lora.target_modules = {targets}: {what}, so training will refuse to begin; "
            f'it has {", ".join(layer_names(architecture))}, or set "all-linear"'
        )
    memory = training.memory
    total, free = (memory.at_most or memory.total).value, memory.free.value
    if total is not None and free is not None and total > free:
        recomputation = memory.recomputation
        frugal = recomputation is not None and recomputation.every == 1
        needs = "needs" if memory.at_most is None else "may need, in float32,"
        instead = "a smaller model" if frugal else "fine_tuning.gradient_checkpointing = true"
        yield (
            f'fine_tuning.model_name = "{one_line(tuning.model_name, 60)}": training {needs} '
            f"about {memory_size(total)} where {memory_size(max(0, free))} are free; set {instead}"
        )
