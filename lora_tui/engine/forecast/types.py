"""What a forecast of training says: its data, length, model, device, memory and time, each an `Estimate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_tui.engine.models import activation_memory


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with a note of where it comes from, or None with the reason why it is not known; never a guess.

    `estimated` marks an approximation, good enough to plan with.
    """

    value: float | None
    note: str = ""
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class DataForecast:
    """The training file: its examples by form, records that are skipped, and the tokens of one epoch.

    `examples` and `tokens` are those that are trained on; `held_out` more are not. Everyday examples, which are read
    beside them, add about `everyday_tokens` to an epoch. `refused`: it will refuse the file.
    """

    path: Path
    exists: bool
    problem: str | None
    examples: Estimate
    forms: Mapping[str, int]
    skipped: int
    tokens: Estimate
    held_out: Estimate
    refused: bool = False
    everyday_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LengthForecast:
    """Optimizer steps, and the evaluations and checkpoints among them if nothing ends the run early."""

    steps_per_epoch: Estimate
    steps: Estimate
    warmup_steps: Estimate
    evaluations: Estimate
    checkpoints: Estimate


@dataclass(frozen=True, slots=True)
class ModelForecast:
    """The base model's parameters, and those that LoRA adds to it."""

    name: str
    parameters: Estimate
    trainable_parameters: Estimate
    unknown_targets: tuple[str, ...]
    """Names among the targets that no linear layer of the model has: training refuses them."""


@dataclass(frozen=True, slots=True)
class DeviceForecast:
    """The device of the training, as far as it is known without torch; `present` is False if it is missing."""

    kind: Literal["cpu", "cuda", "mps"]
    index: int
    name: str
    present: bool


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """Bytes on the device: the frozen weights, the adapters with gradients and optimizer state, a step's activations.

    `dtype` is the precision that is assumed, `recomputation` which activations are recomputed (None: not known yet),
    `free` what the device has left now, `at_most` what float32 would take where "auto" only probably takes `dtype`.
    """

    dtype: str
    weights: Estimate
    adapters: Estimate
    activations: Estimate
    total: Estimate
    free: Estimate
    recomputation: activation_memory.Recomputation | None
    at_most: Estimate | None = None


@dataclass(frozen=True, slots=True)
class TrainingForecast:
    """The forecast of a training run. `seconds` is the time of its steps without the evaluations."""

    data: DataForecast
    length: LengthForecast
    model: ModelForecast
    device: DeviceForecast
    memory: MemoryForecast
    seconds: Estimate
