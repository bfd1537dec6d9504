"""What a forecast of training says: its data, length, model, device, memory and time, each an `Estimate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_tui.engine.models import activation_memory


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and where it comes from, or None and why it is not known: never a number that was made up.

    `estimated` marks what is near enough to plan with and will turn out a little different.
    """

    value: float | None
    note: str = ""
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class DataForecast:
    """The training file: its examples by form, records that are skipped, and the tokens of one epoch.

    `examples` and `tokens` are those that are trained on; `held_out` more are not.
    """

    path: Path
    exists: bool
    problem: str | None
    examples: Estimate
    forms: Mapping[str, int]
    skipped: int
    tokens: Estimate
    held_out: Estimate


@dataclass(frozen=True, slots=True)
class LengthForecast:
    """Optimizer steps, and what comes on the way if nothing ends the run early."""

    steps_per_epoch: Estimate
    steps: Estimate
    warmup_steps: Estimate
    evaluations: Estimate
    checkpoints: Estimate


@dataclass(frozen=True, slots=True)
class ModelForecast:
    """The base model's parameters, and those that LoRA adds to it."""

    name: str
    config: Path | None
    parameters: Estimate
    trainable_parameters: Estimate
    unknown_targets: tuple[str, ...]
    """Names among the targets that no linear layer of the model has: training refuses them."""


@dataclass(frozen=True, slots=True)
class DeviceForecast:
    """Where training will run, as far as that can be told without torch; `present` is False where there is none."""

    kind: Literal["cpu", "cuda", "mps"]
    index: int
    name: str
    present: bool


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """Bytes on the device: the frozen weights, the adapters with all that trains them, a step's activations.

    `dtype` is the precision that is reckoned with, `recomputation` which activations are computed again (None:
    not known yet), `free` what the device has left now.
    """

    dtype: str
    weights: Estimate
    adapters: Estimate
    activations: Estimate
    total: Estimate
    free: Estimate
    recomputation: activation_memory.Recomputation | None


@dataclass(frozen=True, slots=True)
class TrainingForecast:
    """What training will be. `seconds` is the time of its steps, evaluations left out."""

    data: DataForecast
    length: LengthForecast
    model: ModelForecast
    device: DeviceForecast
    memory: MemoryForecast
    seconds: Estimate
