"""The recipe: values for the keys that nobody has written, chosen from the data, the model and the machine.

`choose_values` is a pure function of the settings (which know what was written), the training file's counts, the base
model's architecture and the device; every choice has its reason in words, which the plan shows. `resolve_recipe` asks
for these facts first. The numbers were decided by trial: `tests/bench/recipe_trials.py`, its table in
``tests/bench/README.md``.
"""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_tui.config.advice import optimal_rate
from lora_tui.config.keys import settings_value
from lora_tui.config.load import with_values
from lora_tui.config.models import FineTuning, Settings
from lora_tui.config.written import left_to_recipe, with_written, written_keys
from lora_tui.engine.data.examples import Example
from lora_tui.engine.data.holdout import MIN_HELD_OUT, draw_holdout
from lora_tui.engine.data.read import TRAINING_TEXT
from lora_tui.engine.data.survey import Survey, estimate_tokens
from lora_tui.engine.evaluation.own_prompts import TEST_PROMPTS, asks_own_questions, own_prompts
from lora_tui.engine.forecast.training import expected_device, free_bytes
from lora_tui.engine.forecast.types import DeviceForecast
from lora_tui.engine.models.architecture import Architecture
from lora_tui.engine.models.builtin import BUILTIN
from lora_tui.engine.models.hub_info import find_architecture, may_be_fetched
from lora_tui.engine.training import schedule
from lora_tui.protocol.choice import Choice, value_text
from lora_tui.text import count, memory_size

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

_QUESTION_FORMS = (TRAINING_TEXT, "question/answer")
_FACTS_BELOW = 500
_FACT_TOKENS = 64
"""Fewer examples than this of at most so many tokens each, most of them questions with answers, are taken for facts."""

_EVALUATIONS = 8
"""Evaluations of a run: enough to draw a curve."""

_BATCHES = ((200, 4), (400, 8), (2000, 16), (sys.maxsize, 32))
_FACT_BATCHES = ((100, 8), (_FACTS_BELOW, 16))
"""The batch for fewer than so many examples: small data learns from many small steps."""

_LEAST_STEPS, _MOST_STEPS = 60, 200
"""Optimizer steps that small data gets; what is read often enough takes more."""

_LEAST_JUDGEMENT_STEPS = 12
"""Optimizer steps that few preferences get. By trial on ten of them (`tests.bench.preference_move secret`): after 12
the answer is the preferred one, and eleven of twelve others are as they were; after 21 seven are, after 60 two."""

_PASSES, _FACT_PASSES = 3, 18
"""Passes over the data. Facts are read more often, since most readings are reworded; from `_MUCH` examples on twice."""

_MUCH = 5000

_MAX_STEPS = "fine_tuning.training.max_steps"
_LENGTH_AND_RATE = (
    "fine_tuning.optimizer.lora_lr",
    "fine_tuning.scheduler.warmup_steps",
    "fine_tuning.training.max_epochs",
    _MAX_STEPS,
)

_LEAST_RATE_STEPS = 0.25
"""Steps at the model's own rate below which nothing is learned."""

_JUDGEMENT_RATE = 0.1
"""Rate of preference training over that of learning answers. The field takes 5e-6 to 5e-5 for 7 to 8 billion
parameters (TRL's and Unsloth's DPO recipes with LoRA), where learning answers takes 2e-4 to 3e-4; by trial on the
built-in model (`tests.bench.preference_move`)."""

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
    model = resolve_model(settings, hub=hub)
    settings = model.settings
    chosen = choose_values(settings, data, _architecture(settings.fine_tuning))
    return Recipe(chosen.settings, (*model.choices, *chosen.choices))


def resolve_model(settings: Settings, *, hub: bool | None = None) -> Recipe:
    """Return the settings with the base model chosen where nobody has; `hub` and blocking as in `resolve_recipe`."""
    if not left_to_recipe(settings, "fine_tuning.model_name"):
        return Recipe(settings)
    device = expected_device(settings.fine_tuning.device)
    reachable = may_be_fetched(settings.fine_tuning.model_name) if hub is None else hub
    choice = choose_model(settings, device, free_bytes(device).value, reachable=reachable)
    return Recipe(with_values(settings, {choice.key: choice.value}), (choice,))


def choose_model(settings: Settings, device: DeviceForecast, free: float | None, *, reachable: bool) -> Choice:
    """Return the base model that this machine can train: the documented one on a card that holds it, else the small.

    `free` is the card's free memory in bytes, `reachable` whether the documented model is here or can be fetched.
    """
    key, documented = "fine_tuning.model_name", settings.fine_tuning.model_name
    if device.kind != "cuda" or not device.present:
        return Choice(key, BUILTIN, "135 M parameters: trains in minutes without a GPU")
    if free is None or free < _GPU_BYTES:
        left = "does not tell its memory" if free is None else f"has {memory_size(free)} free"
        return Choice(key, BUILTIN, f"the card {left}, {documented} needs {_GPU_BYTES / 1e9:.0f}")
    if not reachable:
        return Choice(key, BUILTIN, f"{documented} is not on this machine and cannot be fetched now")
    return Choice(key, documented, f"the card has {memory_size(free)} free; the larger model answers better")


def choose_values(settings: Settings, data: Survey, architecture: Architecture | None) -> Recipe:
    """Return the settings with each key that was left alone chosen, and the choices in the order of the plan.

    Nothing is chosen from a file that cannot be read (`data.problem`): such a run is refused anyway.
    """
    chooser = _Chooser(settings)
    if data.problem is None:
        _choose_rate(chooser, architecture)
        if chooser.judges:
            chooser.choose("fine_tuning.lora.dropout", 0.0, "an answer's probability is compared with an exact one")
        else:
            _choose_for_facts(chooser, data)
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


@dataclass(frozen=True, slots=True)
class CannotLearn:
    """Why a run would end as it began, the keys that make it so, and values that can: what ``--set`` would be given."""

    why: str
    keys: tuple[str, ...]
    values: Mapping[str, Any]

    @property
    def remedy(self) -> str:
        """The options to paste behind the command."""
        return " ".join(f"--set {key}={value_text(value)}" for key, value in self.values.items())


def cannot_learn(settings: Settings, recipe: Recipe, data: Survey) -> CannotLearn | None:
    """Return why a run surely learns nothing, where values that a user wrote in `settings` make it so.

    `recipe` is what these settings came to. The rates of all steps are added up and measured by the rate that suits the
    model: below `_LEAST_RATE_STEPS` such steps the loss does not move. Nothing is said of a run with other trained
    parameters, of one "as written" (which runs, with a warning), or of a file that cannot be read.
    """
    tuning = recipe.settings.fine_tuning
    written = [key for key in _LENGTH_AND_RATE if key in written_keys(settings)]
    if tuning.recipe != "auto" or not written or data.problem is not None or tuning.lora.modules_to_save:
        return None
    model = with_values(settings, {"fine_tuning.model_name": tuning.model_name})
    left_alone = with_written(model, written_keys(model) - set(written))
    fitting = choose_values(left_alone, data, _architecture(tuning)).settings
    optimum = fitting.fine_tuning.optimizer.lora_lr
    rate, warmup = tuning.optimizer.lora_lr * tuning.optimizer.loraplus_lr_ratio, tuning.scheduler.warmup_steps
    steps, summed = _steps(tuning, data), 0.0
    for step in range(1, steps + 1):
        summed += rate * schedule.lr_factor(tuning.scheduler.type, step, steps, warmup)
        if summed >= _LEAST_RATE_STEPS * optimum:
            return None
    highest = float(f"{rate * min(1.0, steps / max(1, warmup)):.1g}")
    values = {key: settings_value(fitting, key) for key in written}
    if _MAX_STEPS in values:
        values[_MAX_STEPS] = max(tuning.training.max_steps, _LEAST_STEPS)
    why = f"{count(steps, 'step')} at a rate of at most {value_text(highest)} leave the model as it is; "
    return CannotLearn(f"{why}one that suits it is {value_text(optimum)}", tuple(written), values)


def _architecture(tuning: FineTuning) -> Architecture | None:
    found = find_architecture(tuning.model_name)
    return None if isinstance(found, str) else found


def _steps(tuning: FineTuning, data: Survey) -> int:
    training = tuning.training
    beside = training.everyday_examples if tuning.method == "sft" else 0
    examples = data.examples - len(draw_holdout(data.questions, training.validation_share, training.seed))
    size = training.batch_size * training.gradient_accumulation_steps
    return schedule.total_steps(examples + beside, size, training.max_epochs, training.max_steps)


class _Chooser:
    """The changes to some settings so far; only keys that nobody has written can be chosen."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.changes: dict[str, Any] = {}
        self.choices: list[Choice] = []
        self.examples = 0
        """Examples of the file that are trained on."""
        self.judges = settings.fine_tuning.method != "sft"
        """Whether the examples are preferences or verdicts."""
        self.beside = 0 if self.judges else settings.fine_tuning.training.everyday_examples
        """Everyday examples beside them."""
        self.are_facts = False
        """Whether the examples are few short questions with their answers."""
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
    if chooser.judges:
        rate, reason = float(f"{rate * _JUDGEMENT_RATE:.0e}"), f"a tenth of {reason}"
    chooser.choose("fine_tuning.optimizer.lora_lr", rate, reason)


def _size_by_name(name: str) -> float | None:
    found = _SIZE.findall(name.replace("-", " ").replace("_", " ").replace("/", " "))
    return float(found[-1][0]) * (1e9 if found[-1][1].lower() == "b" else 1e6) if found else None


def _choose_held_out(chooser: _Chooser, data: Survey) -> None:
    key, seed = "fine_tuning.training.validation_share", chooser.tuning.training.seed
    share = _HELD_OUT_SHARE if data.examples >= _HELD_OUT_FROM and not chooser.are_facts else 0.0
    held_out = len(draw_holdout(data.questions, share, seed))
    if held_out >= MIN_HELD_OUT:
        chooser.choose(key, share, f"{held_out} questions are kept back: their loss rises when the rest is memorised")
    else:
        chooser.choose(key, 0.0, f"{count(data.examples, 'example')} read: all are needed for training")
    chooser.examples = data.examples - len(draw_holdout(data.questions, chooser.value(key), seed))


def _choose_for_facts(chooser: _Chooser, data: Survey) -> None:
    """Have few short questions and answers learned in other words too, by all layers, with the rest kept."""
    asked = sum(number for form, number in data.forms.items() if form in _QUESTION_FORMS)
    short = data.examples and sum(data.tokens) / data.examples <= _FACT_TOKENS
    if data.examples >= _FACTS_BELOW or 2 * asked < data.examples or not short:
        return
    training, chooser.are_facts = "fine_tuning.training.", True
    chooser.choose("fine_tuning.lora.target_modules", "all-linear", "facts are kept by the layers between, too")
    chooser.choose(f"{training}reworded_share", 0.75, "so that a question is answered in other words too")
    chooser.choose(f"{training}everyday_examples", 24, "so that not every question gets a taught answer")
    chooser.beside = chooser.value(f"{training}everyday_examples")


def _choose_length(chooser: _Chooser, data: Survey) -> None:
    """Choose the batch, the epochs and the warm-up."""
    training, examples = "fine_tuning.training.", chooser.examples
    batch = next(size for fewer, size in (_FACT_BATCHES if chooser.are_facts else _BATCHES) if examples < fewer)
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
    per_epoch = schedule.steps_per_epoch(examples + chooser.beside, size)
    max_steps = chooser.tuning.training.max_steps
    if not max_steps:
        passes = _FACT_PASSES if chooser.are_facts else _PASSES if examples < _MUCH else 1 if chooser.judges else 2
        most = max(1, _MOST_STEPS // per_epoch) if chooser.are_facts else passes
        least = _LEAST_JUDGEMENT_STEPS if chooser.judges else _LEAST_STEPS
        epochs = max(min(passes, most), math.ceil(least / per_epoch))
        times_each = f"{epochs * per_epoch} steps, each example {count(epochs, 'time')}"
        chooser.choose(f"{training}max_epochs", epochs, times_each)
    chooser.steps = schedule.total_steps(
        examples + chooser.beside, size, chooser.value(f"{training}max_epochs"), max_steps
    )
    warmup = min(100, max(1, round(chooser.steps * 0.05))) if chooser.steps > 1 else 0
    chooser.choose("fine_tuning.scheduler.warmup_steps", warmup, f"a twentieth of {count(chooser.steps, 'step')}")


def _choose_evaluation(chooser: _Chooser) -> None:
    training = "fine_tuning.training."
    if chooser.is_free(f"{training}eval_steps") and chooser.is_free(f"{training}eval_frequency"):
        every = max(1, round(chooser.steps / _EVALUATIONS))
        times = schedule.evaluation_count(chooser.steps, 1, every, 1)
        chooser.choose(f"{training}eval_steps", every, f"{count(times, 'evaluation')} draw the curve of the score")
    chooser.choose(f"{training}target_score", 1.0, "every step is taken, the best of the evaluations is kept")
