"""The recipe: values for the keys that nobody has written, chosen from the data, the model and the machine.

`choose_values` is a pure function of the settings (which know what was written), the training file's counts, the base
model's architecture and the device; every choice has its reason in words, which the plan shows. `resolve_recipe` asks
for these facts first. The numbers were decided by trial: `tests/bench/recipe_trials.py`, its table in
``tests/bench/README.md``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_tui.config.advice import optimal_rate
from lora_tui.config.keys import settings_value
from lora_tui.config.load import with_values
from lora_tui.config.models import FineTuning, Settings
from lora_tui.config.written import left_to_recipe
from lora_tui.engine.data.examples import Example
from lora_tui.engine.data.holdout import MIN_HELD_OUT, draw_holdout
from lora_tui.engine.data.survey import Survey, estimate_tokens
from lora_tui.engine.evaluation.own_prompts import TEST_PROMPTS, asks_own_questions, own_prompts
from lora_tui.engine.forecast.training import expected_device, free_bytes
from lora_tui.engine.forecast.types import DeviceForecast
from lora_tui.engine.models.architecture import Architecture
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.engine.models.hub_info import find_architecture, may_be_fetched
from lora_tui.engine.training import schedule
from lora_tui.protocol.backend import Choice
from lora_tui.text import count

_BUILTIN_SHAPE = (576, "llama")
"""Width and family of the built-in model, which are known before it has been fetched."""

_GPU_BYTES = 8e9
"""Free memory of a card from which the documented model of 1.8 billion parameters is taken: its weights are 3.6 GB in
bfloat16, and a step needs about 2 GB beside them."""

_SMALL_MODEL = 4e9
"""Parameters up to which 5e-4 is tried where no optimum was measured; 2e-4 above (Schulman et al. 2025)."""

_HELD_OUT_FROM = 300
"""Examples from which some can be spared to tell learning from memorising: of fewer, each may be a fact of its own."""

_HELD_OUT_SHARE = 0.05

_EVALUATIONS = 8
"""Evaluations of a run: enough to draw a curve."""

_BATCHES = ((100, 4), (400, 8), (2000, 16))
"""The batch for fewer than so many examples; 32 for more."""

_STEPS = ((20, 60), (50, 100), (500, 160))
"""The optimizer steps that fewer than so many examples get. More examples come three times, from 5,000 on twice."""

_LONGEST_ANSWER = 128
"""Tokens of a test prompt's answer at most: evaluations take time, too."""

_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z])", re.IGNORECASE)
"""A number of parameters in a model's name, such as 0.5B or 360M."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings with nothing left to choose but the test prompts, and what was chosen for them."""

    settings: Settings
    choices: tuple[Choice, ...] = ()


def resolve_recipe(settings: Settings, data: Survey, *, hub: bool | None = None) -> Recipe:
    """Return the settings that a run on this data takes; blocks for a look at the disk and the device.

    `hub` says whether the Hugging Face hub can be reached (None: not tried, so taken for granted unless the environment
    says that it is not to be asked).
    """
    if settings.fine_tuning.recipe != "auto":
        return Recipe(settings)
    device = expected_device(settings.fine_tuning.device)
    model: tuple[Choice, ...] = ()
    if left_to_recipe(settings, "fine_tuning.model_name"):
        reachable = may_be_fetched(settings.fine_tuning.model_name) if hub is None else hub
        choice = choose_model(settings, device, free_bytes(device).value, reachable=reachable)
        settings, model = with_values(settings, {choice.key: choice.value}), (choice,)
    architecture = find_architecture(settings.fine_tuning.model_name)
    chosen = choose_values(settings, data, None if isinstance(architecture, str) else architecture)
    return Recipe(chosen.settings, (*model, *chosen.choices))


def choose_model(settings: Settings, device: DeviceForecast, free: float | None, *, reachable: bool) -> Choice:
    """Return the base model that this machine can train: the documented one on a card that holds it, else the small.

    `free` is the card's free memory in bytes, `reachable` whether the documented model is here or can be fetched.
    """
    key, documented = "fine_tuning.model_name", settings.fine_tuning.model_name
    if device.kind != "cuda" or not device.present:
        return Choice(key, BUILTIN, "135 million parameters: a machine without an NVIDIA card trains it in minutes")
    if free is None or free < _GPU_BYTES:
        left = "does not tell its memory" if free is None else f"has {free / 1e9:.1f} GB free"
        return Choice(key, BUILTIN, f"the card {left}, {documented} needs {_GPU_BYTES / 1e9:.0f}")
    if not reachable:
        return Choice(key, BUILTIN, f"{documented} is not on this machine and cannot be fetched now")
    return Choice(key, documented, f"the card has {free / 1e9:.0f} GB free; the larger model answers better")


def choose_values(settings: Settings, data: Survey, architecture: Architecture | None) -> Recipe:
    """Return the settings with each key that was left alone chosen, and the choices in the order of the plan.

    Nothing is chosen from a file that cannot be read (`data.problem`): such a run is refused anyway.
    """
    chooser = _Chooser(settings)
    if data.problem is None:
        _choose_rate(chooser, architecture)
        _choose_held_out(chooser, data)
        _choose_length(chooser, data)
        _choose_evaluation(chooser)
    chooser.choose("fine_tuning.gradient_checkpointing", "auto", "layers are computed again only where memory is short")
    chooser.choose("fine_tuning.chat.num_beams", 1, "replies appear word by word")
    return Recipe(with_values(settings, chooser.changes), tuple(chooser.choices))


def choose_prompts(settings: Settings, examples: Sequence[Example]) -> Recipe:
    """Return the settings with the length of the evaluations' answers chosen, and what is asked in them.

    The prompts themselves are made when the tokenizer is known (`own_prompts`); the key stays as it is.
    """
    if not asks_own_questions(settings, examples):
        return Recipe(settings)
    prompts = own_prompts(examples, lambda messages: str(messages[-1]["content"]))
    if not prompts:
        return Recipe(settings)
    asked = [prompt for prompt in prompts if prompt.kind == "expected"]
    control = ", and one about something else" if len(prompts) > len(asked) else ""
    choice = Choice(TEST_PROMPTS, [prompt.prompt for prompt in prompts], f"{len(asked)} of your own{control}")
    chooser = _Chooser(settings)
    longest = max(estimate_tokens(prompt.reference) for prompt in asked)
    room = min(_LONGEST_ANSWER, max(settings.fine_tuning.evaluation.max_new_tokens, round(longest * 1.25) + 8))
    if room > settings.fine_tuning.evaluation.max_new_tokens:
        chooser.choose("fine_tuning.evaluation.max_new_tokens", room, f"the longest answer has about {longest} tokens")
    return Recipe(with_values(settings, chooser.changes), (*chooser.choices, choice))


class _Chooser:
    """The changes to some settings so far; only keys that nobody has written can be chosen."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.changes: dict[str, Any] = {}
        self.choices: list[Choice] = []
        self.examples = 0
        """Examples that are trained on."""
        self.steps = 0
        """Optimizer steps of the run."""

    @property
    def tuning(self) -> FineTuning:
        """The section as the user has it."""
        return self._settings.fine_tuning

    def is_free(self, key: str) -> bool:
        return left_to_recipe(self._settings, key)

    def value(self, key: str) -> Any:
        return self.changes.get(key, settings_value(self._settings, key))

    def choose(self, key: str, value: Any, reason: str) -> None:
        """Choose a value, unless the key was written."""
        if self.is_free(key):
            self.changes[key] = value
            self.choices.append(Choice(key, value, reason))


def _choose_rate(chooser: _Chooser, architecture: Architecture | None) -> None:
    tuning = chooser.tuning
    shape = _BUILTIN_SHAPE if tuning.model_name == BUILTIN else (None, None)
    if architecture is not None:
        shape = (architecture.hidden, architecture.model_type)
    rate, reason = optimal_rate(*shape), f"LoRA's optimum for a model of width {shape[0]}"
    if rate is None:
        size = architecture.parameters if architecture is not None else _size_by_name(tuning.model_name)
        rate = 5e-4 if size is not None and size <= _SMALL_MODEL else 2e-4
        reason = "for a model whose size is not known" if size is None else "for up to" if rate > 2e-4 else "for above"
        reason += "" if size is None else " 4 billion parameters"
    if tuning.optimizer.loraplus_lr_ratio > 1 and rate * tuning.optimizer.loraplus_lr_ratio > 2.5 * rate:
        rate = float(f"{2.5 * rate / tuning.optimizer.loraplus_lr_ratio:.0e}")
        reason += f", lowered for loraplus_lr_ratio = {tuning.optimizer.loraplus_lr_ratio:g}"
    chooser.choose("fine_tuning.optimizer.lora_lr", rate, reason)


def _size_by_name(name: str) -> float | None:
    found = _SIZE.findall(name.replace("-", " ").replace("_", " ").replace("/", " "))
    return float(found[-1][0]) * (1e9 if found[-1][1].lower() == "b" else 1e6) if found else None


def _choose_held_out(chooser: _Chooser, data: Survey) -> None:
    key, seed = "fine_tuning.training.validation_share", chooser.tuning.training.seed
    share = _HELD_OUT_SHARE if data.examples >= _HELD_OUT_FROM else 0.0
    held_out = len(draw_holdout(data.questions, share, seed))
    if held_out >= MIN_HELD_OUT:
        chooser.choose(key, share, f"{held_out} questions are kept back: their loss rises when the rest is memorised")
    else:
        chooser.choose(key, 0.0, f"{count(data.examples, 'example')}: all are needed for training")
    chooser.examples = data.examples - len(draw_holdout(data.questions, chooser.value(key), seed))


def _choose_length(chooser: _Chooser, data: Survey) -> None:
    """Choose the batch, the epochs and the warm-up."""
    training, examples = "fine_tuning.training.", chooser.examples
    batch = next((size for fewer, size in _BATCHES if examples < fewer), 32)
    if chooser.is_free(f"{training}batch_size"):
        if not chooser.is_free(f"{training}gradient_accumulation_steps"):
            batch = max(1, batch // chooser.tuning.training.gradient_accumulation_steps)
        chooser.choose(
            f"{training}batch_size", batch, f"{count(examples, 'example')}: small data learns from many steps"
        )
        chooser.choose(f"{training}gradient_accumulation_steps", 1, "batch_size is the whole batch")
    else:
        times = max(1, batch // chooser.tuning.training.batch_size)
        together = times * chooser.tuning.training.batch_size
        chooser.choose(f"{training}gradient_accumulation_steps", times, f"makes batches of {together}")
    size = chooser.value(f"{training}batch_size") * chooser.value(f"{training}gradient_accumulation_steps")
    per_epoch = schedule.steps_per_epoch(examples, size)
    max_steps = chooser.tuning.training.max_steps
    if not max_steps:
        wanted = next((steps for fewer, steps in _STEPS if examples < fewer), None)
        epochs = max(1, round(wanted / per_epoch)) if wanted else 3 if examples < 5000 else 2
        times_each = f"{epochs * per_epoch} steps, each example {count(epochs, 'time')}"
        chooser.choose(f"{training}max_epochs", epochs, times_each)
    chooser.steps = schedule.total_steps(examples, size, chooser.value(f"{training}max_epochs"), max_steps)
    warmup = min(100, max(1, round(chooser.steps * 0.05))) if chooser.steps > 1 else 0
    chooser.choose("fine_tuning.scheduler.warmup_steps", warmup, f"a twentieth of {count(chooser.steps, 'step')}")


def _choose_evaluation(chooser: _Chooser) -> None:
    training = "fine_tuning.training."
    if chooser.is_free(f"{training}eval_steps") and chooser.is_free(f"{training}eval_frequency"):
        every = max(1, round(chooser.steps / _EVALUATIONS))
        times = schedule.evaluation_count(chooser.steps, 1, every, 1)
        chooser.choose(f"{training}eval_steps", every, f"{count(times, 'evaluation')} draw the curve of the score")
    chooser.choose(f"{training}target_score", 1.0, "every step is taken, the best of the evaluations is kept")
