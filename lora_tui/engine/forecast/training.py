"""The forecast of a training run, before it begins and without torch: its data, steps, memory and time.

Three sources are joined: the training file (`survey`), the base model's architecture (`find_architecture`), and earlier
runs of the same store. Each estimate says where it comes from; what none of the three tells stays unknown, with the
reason.
"""

import importlib.metadata
import socket
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from lora_tui.config.models import FineTuning, Settings
from lora_tui.engine.data.holdout import draw_holdout
from lora_tui.engine.data.survey import Survey, survey_of_run
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
from lora_tui.engine.models.hub_info import find_architecture
from lora_tui.engine.training import schedule
from lora_tui.machine import (
    device_load,
    free_memory,
    gpu_names,
    has_apple_gpu,
    multiplies_bfloat16,
    usable_cores,
)
from lora_tui.store.rows import PlannedRun
from lora_tui.text import count

_EVERYDAY_TOKENS = 22
"""About what an everyday question with its answer holds."""


def forecast_training(
    settings: Settings,
    history: Sequence[PlannedRun] = (),
    data_file: Path | None = None,
    counts: Survey | None = None,
) -> TrainingForecast:
    """Forecast training with these settings; blocks while the data file is read. Never raises.

    `data_file` is what ``--train-data-file`` names, `history` the store's earlier training runs, newest first; `counts`
    what is trained on, where it has been counted.
    """
    tuning = settings.fine_tuning
    file = survey_of_run(settings, data_file) if counts is None else counts
    architecture = find_architecture(tuning.model_name)
    device = expected_device(tuning.device)
    model_runs = [run for run in history if run.plan.get("model") == tuning.model_name]
    here = [run for run in model_runs if run.host == socket.gethostname()]
    machine_runs = [run for run in here if run.plan.get("device", "").partition(":")[0] == device.kind]
    data = _data(file, model_runs, tuning)
    length = _length(data, tuning)
    model = _model(architecture, tuning, model_runs)
    return TrainingForecast(
        data=data,
        length=length,
        model=model,
        device=device,
        memory=_memory(architecture, model, file, tuning, device, machine_runs),
        seconds=_seconds(data, length, tuning, device, machine_runs),
    )


def expected_device(setting: str) -> DeviceForecast:
    """Return the device that ``fine_tuning.device`` will select: for "auto" a card, else Apple's GPU, else the CPU."""
    kind, _, number = setting.partition(":")
    cards = gpu_names() if _torch_has_cuda() else ()
    if kind == "auto":
        kind = "cuda" if cards else "mps" if has_apple_gpu() else "cpu"
    index = int(number or 0)
    if kind == "cuda":
        present = index < len(cards)
        return DeviceForecast("cuda", index, cards[index] if present else "no such card", present)
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


def _data(file: Survey, model_runs: Sequence[PlannedRun], tuning: FineTuning) -> DataForecast:
    training = tuning.training
    if file.problem is not None:
        unknown = Estimate(None, file.problem)
        return DataForecast(file.path, file.exists, file.problem, unknown, {}, 0, unknown, unknown, file.refused)
    held_out = set(draw_holdout(file.questions, training.validation_share, training.seed))
    same_run = next((run for run in model_runs if _same_data(run, file, training.max_length)), None)
    if same_run is not None:
        note = f"as run {same_run.id} counted them"
        planned, held_out_then = same_run.plan["examples"], same_run.plan.get("held_out", 0)
        tokens = Estimate(same_run.plan["tokens"], note)
        if held_out_then != len(held_out):  # it split the same examples otherwise
            all_tokens = same_run.plan["tokens"] + same_run.plan.get("held_out_tokens", 0)
            kept = planned + held_out_then - len(held_out)
            tokens = Estimate(round(all_tokens * kept / (planned + held_out_then)), note, estimated=True)
        examples = Estimate(planned + held_out_then - len(held_out), note)
    else:
        examples = Estimate(file.examples - len(held_out))
        trained = file.tokens_up_to(training.max_length, without=held_out)
        tokens = Estimate(trained, "four characters a token", estimated=True)
    beside = _EVERYDAY_TOKENS * _everyday_examples(tuning)
    parts = examples, file.forms, file.skipped, tokens, Estimate(len(held_out))
    return DataForecast(file.path, True, None, *parts, everyday_tokens=beside)


def _everyday_examples(tuning: FineTuning) -> int:
    """Return how many everyday examples an epoch has: none stand beside preferences."""
    return tuning.training.everyday_examples if tuning.method == "sft" else 0


def _same_data(run: PlannedRun, file: Survey, max_length: int) -> bool:
    """Tell whether a run of the same model has tokenised this very file, truncated at the same length."""
    plan = run.plan
    examples = plan.get("examples", 0) + plan.get("held_out", 0) + plan.get("dropped", 0)
    planned = (examples, plan.get("skipped"), plan.get("forms"))
    return (
        run.data != ""
        and run.max_length == max_length
        and run.planned_at >= file.changed_at
        and planned == (file.examples, file.skipped, dict(file.forms))
        and Path(run.data).expanduser().absolute() == file.path.absolute()
    )


def _length(data: DataForecast, tuning: FineTuning) -> LengthForecast:
    training = tuning.training
    examples_per_step = training.batch_size * training.gradient_accumulation_steps
    if data.examples.value is None:
        per_epoch = None
        steps = training.max_steps or None
    else:
        examples = int(data.examples.value) + _everyday_examples(tuning)
        per_epoch = schedule.steps_per_epoch(examples, examples_per_step)
        steps = schedule.total_steps(examples, examples_per_step, training.max_epochs, training.max_steps)
    if steps is None:
        return LengthForecast(*[Estimate(None, data.examples.note)] * 5)
    note = "at most: target_score or patience may end the run before"
    if per_epoch is None and not training.eval_steps:
        evaluations = Estimate(None, data.examples.note)
    else:
        times = schedule.evaluation_count(steps, per_epoch or 1, training.eval_steps, training.eval_frequency)
        evaluations = Estimate(times, note)
    return LengthForecast(
        steps_per_epoch=Estimate(None, data.examples.note) if per_epoch is None else Estimate(per_epoch),
        steps=Estimate(steps, note),
        warmup_steps=Estimate(min(tuning.scheduler.warmup_steps, steps)),
        evaluations=evaluations,
        checkpoints=Estimate(
            schedule.checkpoint_count(steps, training.save_steps), "more where steps are slow: one a minute"
        ),
    )


def _model(architecture: Architecture | str, tuning: FineTuning, model_runs: Sequence[PlannedRun]) -> ModelForecast:
    if isinstance(architecture, str):
        planned = next((run for run in model_runs if "parameters" in run.plan), None)
        unknown = parameters = Estimate(None, architecture)
        if planned is not None:
            base = planned.plan["parameters"] - planned.plan.get("trainable_parameters", 0)
            parameters = Estimate(base, f"as run {planned.id} counted them")
        return ModelForecast(tuning.model_name, parameters, unknown, ())
    if missing := unknown_targets(architecture, tuning.lora.target_modules):
        trained = Estimate(None, f'this model has no linear layer "{missing[0]}"')
    else:
        trained = Estimate(lora_parameters(architecture, tuning.lora))
    return ModelForecast(tuning.model_name, Estimate(architecture.parameters), trained, tuple(missing))


def _memory(
    architecture: Architecture | str,
    model: ModelForecast,
    file: Survey,
    tuning: FineTuning,
    device: DeviceForecast,
    machine_runs: Sequence[PlannedRun],
) -> MemoryForecast:
    dtype, note, certain = _precision(tuning.dtype, device, machine_runs)
    found = _memory_in(dtype, note, architecture, model, file, tuning, device)
    if certain:
        return found
    at_most = _memory_in("float32", "in float32", architecture, model, file, tuning, device).total
    return replace(found, at_most=at_most)


def _memory_in(
    dtype: str,
    note: str,
    architecture: Architecture | str,
    model: ModelForecast,
    file: Survey,
    tuning: FineTuning,
    device: DeviceForecast,
) -> MemoryForecast:
    """Return the memory with the frozen weights in that precision."""
    width = activation_memory.WIDTHS[dtype]
    weights = _scaled(model.parameters, width, note)
    if tuning.qlora:
        weights = _quantized_weights(architecture, width)
    adapters = _scaled(model.trainable_parameters, activation_memory.BYTES_PER_TRAINED_PARAMETER, "AdamW in float32")
    free = free_bytes(device)
    recomputation, activations = _activations(architecture, file, tuning, device, dtype, free, weights)
    parts = (weights, adapters, activations)
    unknown = next((part for part in parts if part.value is None), None)
    total = unknown or Estimate(sum(part.value or 0 for part in parts), note, estimated=True)
    return MemoryForecast(dtype, weights, adapters, activations, total, free, recomputation)


def _activations(
    architecture: Architecture | str,
    file: Survey,
    tuning: FineTuning,
    device: DeviceForecast,
    dtype: str,
    free: Estimate,
    weights: Estimate,
) -> tuple[activation_memory.Recomputation | None, Estimate]:
    """Return which activations will be recomputed (None: not known), and the bytes of those of the longest row."""
    if isinstance(architecture, str):
        return None, Estimate(None, architecture)
    by_hand = device.kind == "cpu" and architecture.model_type in activation_memory.BY_HAND
    sizes = activation_memory.Sizes(
        architecture.hidden, architecture.intermediate, architecture.layers, activation_memory.WIDTHS[dtype], by_hand
    )
    longest, budget = file.longest_up_to(tuning.training.max_length), tuning.training.tokens_per_micro_batch
    row = max(longest, budget)
    recomputation = None
    if tuning.gradient_checkpointing != "auto":
        recomputation = activation_memory.ALL if tuning.gradient_checkpointing else activation_memory.NONE
    elif free.value is not None and weights.value is not None:  # as training will: by what the weights leave
        left = free.value - weights.value
        recomputation = activation_memory.cheapest(sizes, row, left, offload=device.kind == "cuda")
    assumed = recomputation or activation_memory.NONE
    note = f"for a row of {count(row, 'token')}, {assumed.name}"
    if by_hand and usable_cores() > 1 and longest > budget // 2:
        note += "; others beside it where half of the free memory holds them"
    return recomputation, Estimate(assumed.bytes_per_token(sizes) * row, note, estimated=True)


def _precision(setting: str, device: DeviceForecast, machine_runs: Sequence[PlannedRun]) -> tuple[str, str, bool]:
    """Return the precision to assume, a note of how it was found, and whether no run will need more than it says."""
    if setting != "auto":
        return setting, f"in {setting}", True
    for run in machine_runs:
        if run.plan.get("dtype") in activation_memory.WIDTHS:
            return run.plan["dtype"], f'in {run.plan["dtype"]}, which "auto" took in run {run.id}', True
    if device.kind == "cuda":
        return "bfloat16", 'in bfloat16, which "auto" takes on a card', True
    if device.kind == "mps":
        return "float32", 'in float32, which "auto" takes on Apple\'s GPU', True
    if multiplies_bfloat16():
        return "bfloat16", 'probably in bfloat16: "auto" takes it where this processor is faster with it', False
    return "float32", 'at most: in float32; "auto" may take bfloat16, which needs half', True


def _quantized_weights(architecture: Architecture | str, width: int) -> Estimate:
    """Return the bytes of the frozen weights with ``qlora``: the blocks' layers in 4 bits, the rest as they are."""
    if isinstance(architecture, str):
        return Estimate(None, f"4-bit weights: {architecture}")
    packed = sum(layer.inputs * layer.outputs for layer in linear_layers(architecture) if layer.name != "lm_head")
    rest = architecture.parameters - packed
    return Estimate(round(packed * activation_memory.FOUR_BIT_BYTES) + rest * width, "in 4 bits", estimated=True)


def _scaled(estimate: Estimate, bytes_each: int, note: str) -> Estimate:
    if estimate.value is None:
        return Estimate(None, estimate.note)
    return Estimate(estimate.value * bytes_each, note, estimated=True)


def free_bytes(device: DeviceForecast) -> Estimate:
    """Return the bytes that are free on the device now."""
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
    machine_runs: Sequence[PlannedRun],
) -> Estimate:
    """Return the seconds of all steps: the run's tokens over the median speed of earlier runs like it."""
    if data.tokens.value is None or run.steps.value is None or not run.steps_per_epoch.value:
        return Estimate(None, data.tokens.note or data.examples.note)
    speeds = [
        earlier.tokens / earlier.seconds
        for earlier in machine_runs
        if earlier.state == "finished" and earlier.seconds > 0 and tuning.dtype in ("auto", earlier.plan.get("dtype"))
    ]
    if not speeds:
        return Estimate(None, f"no finished run has trained {tuning.model_name} on a {device.kind} here yet")
    speed = statistics.median(speeds)
    epochs = run.steps.value / run.steps_per_epoch.value
    note = f"at {speed:,.0f} tokens/s, the median of {count(len(speeds), 'earlier run')}; evaluations come on top"
    tokens = data.tokens.value + data.everyday_tokens
    return Estimate(tokens * epochs / speed, note, estimated=True)
