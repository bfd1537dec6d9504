"""What a training run will be, seen before it begins and without torch: its length, its memory, its time.

Three sources are joined: the training file (`survey`), the base model's shape (`model_info`), and earlier runs of the
same store. Each figure says where it comes from; what none of the three tells stays unknown, with the reason.
"""

import importlib.metadata
import socket
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from lora_tui.config import Settings
from lora_tui.config.models import FineTuning, Training
from lora_tui.engine.data.holdout import draw_holdout
from lora_tui.engine.data.read import training_file
from lora_tui.engine.data.survey import Survey, survey
from lora_tui.engine.forecast.types import (
    DataForecast,
    DeviceForecast,
    Estimate,
    LengthForecast,
    MemoryForecast,
    ModelForecast,
    TrainingForecast,
)
from lora_tui.engine.models import activation_memory
from lora_tui.engine.models.architecture import Architecture, linear_layers, lora_parameters, unknown_targets
from lora_tui.engine.models.hub_info import ModelInfo, model_info
from lora_tui.engine.training import schedule
from lora_tui.machine import device_load, free_memory, gpus, has_apple_gpu, usable_cores
from lora_tui.store.rows import PlannedRun
from lora_tui.text import count


def forecast_training(
    settings: Settings, history: Sequence[PlannedRun] = (), data_file: Path | None = None
) -> TrainingForecast:
    """Return what training with these settings will be; blocks while the data file is read. Never raises.

    `data_file` is what ``--train-data-file`` names, `history` the store's earlier training runs, newest first.
    """
    tuning = settings.fine_tuning
    found = survey(training_file(settings, data_file))
    info = model_info(tuning.model_name)
    device = expected_device(tuning.device)
    of_model = [run for run in history if run.plan.get("model") == tuning.model_name]
    of_machine = [run for run in of_model if run.host == socket.gethostname() and _kind(run) == device.kind]
    data = _data(found, of_model, tuning.training)
    run_length = _length(data, tuning)
    model = _model(info, tuning, of_model)
    return TrainingForecast(
        data=data,
        length=run_length,
        model=model,
        device=device,
        memory=_memory(info, model, found, tuning, device, of_machine),
        seconds=_seconds(data, run_length, tuning, device, of_machine),
    )


def expected_device(setting: str) -> DeviceForecast:
    """Return the device that ``fine_tuning.device`` will mean: for "auto" a card, else Apple's, else the processor."""
    kind, _, number = setting.partition(":")
    cards = gpus() if _torch_has_cuda() else ()
    if kind == "auto":
        kind = "cuda" if cards else "mps" if has_apple_gpu() else "cpu"
    index = int(number or 0)
    if kind == "cuda":
        present = index < len(cards)
        return DeviceForecast("cuda", index, cards[index].name if present else "no such card", present)
    if kind == "mps":
        return DeviceForecast("mps", 0, "Apple GPU" if has_apple_gpu() else "no Apple GPU", has_apple_gpu())
    return DeviceForecast("cpu", 0, "CPU", present=True)


@cache
def _torch_has_cuda() -> bool:
    """Tell whether the installed torch was built for NVIDIA's cards; the CPU's build says so in its version."""
    try:
        return not importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _kind(run: PlannedRun) -> str:
    return str(run.plan.get("device", "")).partition(":")[0]


def _data(found: Survey, of_model: Sequence[PlannedRun], training: Training) -> DataForecast:
    if found.problem is not None:
        unknown = Estimate(None, found.problem)
        return DataForecast(found.path, found.exists, found.problem, unknown, {}, 0, unknown, unknown)
    held_out = set(draw_holdout(found.questions, training.validation_share, training.seed))
    same = next((run for run in of_model if _same_data(run, found, training.max_length)), None)
    if same is not None:
        note = f"as run {same.id} counted them"
        counted, of_them = same.plan["examples"], same.plan.get("held_out", 0)
        tokens = Estimate(same.plan["tokens"], note)
        if of_them != len(held_out):  # it divided the same examples in another way
            everything = same.plan["tokens"] + same.plan.get("held_out_tokens", 0)
            kept = counted + of_them - len(held_out)
            tokens = Estimate(round(everything * kept / (counted + of_them)), note, estimated=True)
        examples = Estimate(counted + of_them - len(held_out), note)
    else:
        examples = Estimate(found.examples - len(held_out))
        trained = found.tokens_up_to(training.max_length, without=held_out)
        tokens = Estimate(trained, "four characters a token", estimated=True)
    return DataForecast(found.path, True, None, examples, found.forms, found.skipped, tokens, Estimate(len(held_out)))


def _same_data(run: PlannedRun, found: Survey, max_length: int) -> bool:
    """Tell whether a run of the same model has tokenised this very file, and cut it at the same length."""
    plan = run.plan
    examples = plan.get("examples", 0) + plan.get("held_out", 0) + plan.get("dropped", 0)
    counted = (examples, plan.get("skipped"), plan.get("forms"))
    return (
        run.data != ""
        and run.max_length == max_length
        and run.planned_at >= found.changed_at
        and counted == (found.examples, found.skipped, dict(found.forms))
        and Path(run.data).expanduser().absolute() == found.path.absolute()
    )


def _length(data: DataForecast, tuning: FineTuning) -> LengthForecast:
    training = tuning.training
    together = training.batch_size * training.gradient_accumulation_steps
    if data.examples.value is None:
        per_epoch = None
        steps = training.max_steps or None
    else:
        examples = int(data.examples.value)
        per_epoch = schedule.steps_per_epoch(examples, together)
        steps = schedule.total_steps(examples, together, training.max_epochs, training.max_steps)
    if steps is None:
        unknown = Estimate(None, data.examples.note)
        return LengthForecast(unknown, unknown, unknown, unknown, unknown)
    early = "at most: target_score or patience may end the run before"
    if per_epoch is None and not training.eval_steps:
        evaluations = Estimate(None, data.examples.note)
    else:
        times = schedule.evaluations(steps, per_epoch or 1, training.eval_steps, training.eval_frequency)
        evaluations = Estimate(times, early)
    return LengthForecast(
        steps_per_epoch=Estimate(None, data.examples.note) if per_epoch is None else Estimate(per_epoch),
        steps=Estimate(steps, early),
        warmup_steps=Estimate(min(tuning.scheduler.warmup_steps, steps)),
        evaluations=evaluations,
        checkpoints=Estimate(
            schedule.checkpoints(steps, training.save_steps), "more where steps are slow: one a minute"
        ),
    )


def _model(info: ModelInfo, tuning: FineTuning, of_model: Sequence[PlannedRun]) -> ModelForecast:
    if info.architecture is None:
        why = info.problem or "its shape is not known"
        counted = next((run for run in of_model if "parameters" in run.plan), None)
        parameters = Estimate(None, why)
        if counted is not None:
            base = counted.plan["parameters"] - counted.plan.get("trainable_parameters", 0)
            parameters = Estimate(base, f"as run {counted.id} counted them")
        return ModelForecast(info.name, info.config, parameters, Estimate(None, why), ())
    parameters = Estimate(info.architecture.parameters)
    if unknown := unknown_targets(info.architecture, tuning.lora.target_modules):
        trained = Estimate(None, f'this model has no linear layer "{unknown[0]}"')
    else:
        trained = Estimate(lora_parameters(info.architecture, tuning.lora))
    return ModelForecast(info.name, info.config, parameters, trained, tuple(unknown))


def _memory(
    info: ModelInfo,
    model: ModelForecast,
    found: Survey,
    tuning: FineTuning,
    device: DeviceForecast,
    of_machine: Sequence[PlannedRun],
) -> MemoryForecast:
    dtype, note = _precision(tuning.dtype, device, of_machine)
    width = activation_memory.WIDTHS[dtype]
    weights = _times(model.parameters, width, note)
    if tuning.qlora:
        why = "4-bit weights: " + (info.problem or "its shape is not known")
        weights = Estimate(None, why) if info.architecture is None else _quantized_weights(info.architecture, width)
    adapters = _times(model.trainable_parameters, activation_memory.BYTES_PER_TRAINED_PARAMETER, "AdamW in float32")
    free = _free_bytes(device)
    activations, way = Estimate(None, info.problem or "its shape is not known"), None
    if info.architecture is not None:
        by_hand = device.kind == "cpu" and info.architecture.model_type in activation_memory.BY_HAND
        sizes = activation_memory.Sizes(
            info.architecture.hidden, info.architecture.intermediate, info.architecture.layers, width, by_hand
        )
        longest, budget = found.longest_up_to(tuning.training.max_length), tuning.training.tokens_per_micro_batch
        row = max(longest, budget)
        way = _recomputation(tuning.gradient_checkpointing, sizes, row, free, weights, device)
        reckoned = way or activation_memory.NONE
        of_row = f"for a row of {count(row, 'token')}, {reckoned.name}"
        if by_hand and usable_cores() > 1 and longest > budget // 2:
            of_row += "; others beside it where half of the free memory holds them"
        activations = Estimate(reckoned.bytes_per_token(sizes) * row, of_row, estimated=True)
    parts = [part.value for part in (weights, adapters, activations)]
    known = [part for part in parts if part is not None]
    missing = next((part.note for part in (weights, adapters, activations) if part.value is None), "")
    total = Estimate(sum(known), note, estimated=True) if len(known) == len(parts) else Estimate(None, missing)
    return MemoryForecast(dtype, weights, adapters, activations, total, free, way)


def _precision(setting: str, device: DeviceForecast, of_machine: Sequence[PlannedRun]) -> tuple[str, str]:
    """Return the precision that is reckoned with, and how it was found."""
    if setting != "auto":
        return setting, f"in {setting}"
    for run in of_machine:
        if run.plan.get("dtype") in activation_memory.WIDTHS:
            return run.plan["dtype"], f'in {run.plan["dtype"]}, which "auto" took in run {run.id}'
    if device.kind == "cuda":
        return "bfloat16", 'in bfloat16, which "auto" takes on a card'
    if device.kind == "mps":
        return "float32", 'in float32, which "auto" takes on Apple\'s GPU'
    return "float32", 'at most: in float32; "auto" may take bfloat16, which needs half'


def _quantized_weights(architecture: Architecture, width: int) -> Estimate:
    """The frozen weights with ``qlora``: layers of the blocks in 4 bits, the rest as it is."""
    packed = sum(layer.inputs * layer.outputs for layer in linear_layers(architecture) if layer.name != "lm_head")
    rest = architecture.parameters - packed
    return Estimate(round(packed * activation_memory.FOUR_BIT_BYTES) + rest * width, "in 4 bits", estimated=True)


def _times(figure: Estimate, bytes_each: int, note: str) -> Estimate:
    if figure.value is None:
        return Estimate(None, figure.note)
    return Estimate(figure.value * bytes_each, note, estimated=True)


def _recomputation(
    setting: bool | Literal["auto"],
    sizes: activation_memory.Sizes,
    tokens: int,
    free: Estimate,
    weights: Estimate,
    device: DeviceForecast,
) -> activation_memory.Recomputation | None:
    """Decide as training will; for "auto" by the memory that the loaded weights will have left."""
    if setting != "auto":
        return activation_memory.ALL if setting else activation_memory.NONE
    if free.value is None or weights.value is None:
        return None
    return activation_memory.cheapest(sizes, tokens, free.value - weights.value, offload=device.kind == "cuda")


def _free_bytes(device: DeviceForecast) -> Estimate:
    load = device_load()
    if device.kind != "cuda":
        return Estimate(min(load.memory_total - load.memory_used, free_memory()))
    card = load.gpus[device.index] if device.index < len(load.gpus) else None
    if card is None or card.memory_total is None or card.memory_used is None:
        return Estimate(None, "the card does not tell" if card else "there is no such card")
    return Estimate(card.memory_total - card.memory_used)


def _seconds(
    data: DataForecast,
    run: LengthForecast,
    tuning: FineTuning,
    device: DeviceForecast,
    of_machine: Sequence[PlannedRun],
) -> Estimate:
    """Return the time of all steps: the tokens of the run by the median speed of earlier runs like it."""
    if data.tokens.value is None or run.steps.value is None or not run.steps_per_epoch.value:
        return Estimate(None, data.tokens.note or data.examples.note)
    speeds = [
        past.tokens / past.seconds
        for past in of_machine
        if past.state == "finished" and past.seconds > 0 and tuning.dtype in ("auto", past.plan.get("dtype"))
    ]
    if not speeds:
        return Estimate(None, f"no finished run has trained {tuning.model_name} on this machine's {device.kind} yet")
    speed = statistics.median(speeds)
    epochs = run.steps.value / run.steps_per_epoch.value
    note = f"at {speed:,.0f} tokens/s, the median of {count(len(speeds), 'earlier run')}; evaluations come on top"
    return Estimate(data.tokens.value * epochs / speed, note, estimated=True)
