"""Forecasts as lines for people: every figure with where it comes from, unknown ones with the reason."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lora_tui.config.models import Settings
from lora_tui.engine.data.survey import NOTHING_SAID
from lora_tui.engine.forecast.forecast import SettingsForecast
from lora_tui.engine.forecast.generation import charge_text, price_text
from lora_tui.engine.forecast.types import Estimate
from lora_tui.engine.generation.canaries import KNOWN_PAIRS, JudgeCheck
from lora_tui.engine.generation.texts.text_plan import wanted_texts
from lora_tui.files import is_file, is_folder
from lora_tui.protocol.backend import Blocker, ForecastText
from lora_tui.protocol.choice import value_text
from lora_tui.text import count, dollars, duration, memory_size, one_line

_GENERATION = "data_generation"


def training_forecast(forecast: SettingsForecast) -> ForecastText:
    """Return the forecast of a training run as lines."""
    training = forecast.training
    data, length, model, memory = training.data, training.length, training.model, training.memory
    lines = [("data", _data(forecast))]
    if data.tokens.value is not None and data.everyday_tokens:
        whole = Estimate(data.tokens.value + data.everyday_tokens, estimated=True)
        lines.append(("tokens", f"{_amount(whole)} an epoch, everyday examples among them"))
    elif data.tokens.value is not None:
        lines.append(("tokens", f"{_amount(data.tokens)} an epoch"))
    stated = [data.problem or ""]  # a reason that stands in one line is not repeated in those below
    lines.append(("model", f"{one_line(model.name, 60)}, {_parameters(model.parameters, stated)}"))
    stated.append(model.parameters.note)
    lines.append(("trains", _parameters(model.trainable_parameters, stated)))
    stated.append(model.trainable_parameters.note)
    steps = _amount(length.steps) if length.steps.value is not None else _unknown(length.steps.note, stated)
    if length.steps_per_epoch.value is not None:
        steps += f", {_amount(length.steps_per_epoch)} an epoch, {_amount(length.warmup_steps)} of warm-up"
    lines.append(("steps", steps))
    if length.evaluations.value is not None:
        evaluations = count(round(length.evaluations.value), "evaluation")
        lines.append(("tests", f"{evaluations}, {count(round(length.checkpoints.value or 0), 'checkpoint')}"))
    lines.append(
        ("device", f"{training.device.name}, {'probably ' if memory.at_most is not None else ''}{memory.dtype}")
    )
    total = memory.total
    if total.value is None:
        lines.append(("memory", _unknown(total.note, stated)))
    else:
        way = memory.recomputation
        how = f", activations {way.name}" if way is not None and way.extra else ""
        free = "" if memory.free.value is None else f" of {memory_size(memory.free.value)} free"
        most = memory.at_most.value if memory.at_most is not None else None
        larger = "" if most is None else f"; {memory_size(most)} in float32"
        lines.append(("memory", f"about {memory_size(total.value)}{free}{how}{larger}"))
    seconds = training.seconds
    if seconds.value is None:
        lines.append(("time", _unknown(seconds.note, stated)))
    else:
        lines.append(("time", f"about {duration(seconds.value)} ({seconds.note})"))
    warnings = tuple(_warnings_of(forecast.warnings, generation=False))
    return ForecastText(tuple(lines), warnings, _no_data(forecast) or _learns_nothing(forecast), forecast.choices)


def _no_data(forecast: SettingsForecast) -> Blocker | None:
    """The blocker where the training file does not exist or is refused, or nobody has said what is to be learned."""
    data = forecast.training.data
    if data.exists and data.problem is not None and data.problem.startswith(NOTHING_SAID):
        why, _, remedy = data.problem.partition("\n")
        return Blocker(
            "There is nothing to prefer yet.", why, remedy or "w on Train rates answers; a chat rates replies."
        )
    if data.exists and data.refused:
        return Blocker(
            f"Training cannot use {one_line(str(data.path), 100)}",
            one_line(data.problem or "", 300),
            "Mend the file, or name another.",
            "data",
        )
    if data.exists:
        return None
    return Blocker(
        f"Training has no file to learn from: {one_line(str(data.path), 100)}",
        "It does not exist.",
        "1 makes one from your text (Generate), 6 names another (Config): fine_tuning.train_data_file.",
        "data",
    )


def _learns_nothing(forecast: SettingsForecast) -> Blocker | None:
    """The blocker where what was written leaves the model as it is."""
    refusal = forecast.refusal
    if refusal is None:
        return None
    values = ", ".join(f"{key} = {value_text(value)}" for key, value in refusal.values.items())
    return Blocker(
        f"This run cannot learn: {', '.join(refusal.keys)}",
        f"{refusal.why[0].upper()}{refusal.why[1:]}.",
        f"On 6 (Config) r leaves a key alone, so that it is chosen; or set {values}.",
    )


def _data(forecast: SettingsForecast) -> str:
    data = forecast.training.data
    if not data.exists:
        return f"{one_line(str(data.path), 60)} does not exist yet: 1 makes one of your text"
    if data.problem is not None:
        return one_line(data.problem, 200)
    forms = ", ".join(f"{number:,} {form}" for form, number in data.forms.items())
    skipped = f", {data.skipped:,} skipped" if data.skipped else ""
    held_out = f", {_amount(data.held_out)} more held out" if data.held_out.value else ""
    return f"{one_line(str(data.path), 60)}: {_amount(data.examples)} examples ({forms}{skipped}){held_out}"


def generation_forecast(forecast: SettingsForecast, settings: Settings) -> ForecastText:
    """Return the forecast of a generation run as lines."""
    generation = forecast.generation
    blocker = _no_folder(forecast) or _no_key(forecast)
    if _no_folder(forecast) is not None:
        lines = [("folder", f"{one_line(str(generation.folder), 60)} does not exist yet")]
    elif generation.problem is not None and generation.files.value is None:
        lines = [("folder", one_line(generation.problem, 200))]
    else:
        size = "" if generation.bytes.value is None else f", {generation.bytes.value / 1000:,.0f} kB"
        skipped = f", {generation.skipped:,} others left out" if generation.skipped else ""
        lines = [
            ("folder", f"{one_line(str(generation.folder), 60)}: {_amount(generation.files)} files{size}{skipped}")
        ]
    chosen = settings.data_generation
    where = "this machine" if generation.address is None else generation.address
    several = len(generation.endpoints) > 1
    where = f"{len(generation.endpoints)} endpoints" if several else where
    lines.append(("model", f"{one_line(chosen.model, 60)}, {one_line(where, 80)}"))
    lines += [("endpoint", one_line(endpoint, 120)) for endpoint in generation.endpoints if several]
    lines += [("judge", _judge(judge, check)) for judge, check in generation.checks.items()]
    lines.append(("price", price_text(generation)))
    if generation.is_paid and (chosen.budget_dollars or chosen.budget_tokens):
        limits = [dollars(chosen.budget_dollars)] if chosen.budget_dollars else []
        limits += [f"{chosen.budget_tokens:,} tokens"] if chosen.budget_tokens else []
        lines.append(("budget", f"it stops at {' or '.join(limits)}"))
    if generation.is_paid and (generation.key_needed or generation.key_set):
        lines.append(("key", f"{generation.key_name} is {'set' if generation.key_set else 'not set'}"))
    lines.append(("pairs", f"{chosen.total_examples:,}, or as many as the text holds"))
    if wanted := wanted_texts(chosen, chosen.total_examples):
        lines.append(("texts", ", ".join(f"{number:,} {TEXT_NAMES[form]}" for form, number in wanted.items())))
    lines.append(("file", _output(Path(chosen.output_file))))
    of_pairs = (generation.check_calls, generation.write_calls, generation.judge_calls, generation.analysis_calls)
    kinds = (*of_pairs, generation.text_calls)
    calls = sum(estimate.value or 0 for estimate in kinds)
    if generation.address is not None:
        lines.append(("calls", f"at least {calls:,.0f}, {generation.write_calls.note}"))
    if generation.address is not None and generation.prompt_tokens.value is not None:
        out = "" if generation.completion_tokens.value is None else f", {_amount(generation.completion_tokens)} back"
        lines.append(("tokens", f"{_amount(generation.prompt_tokens)} sent{out}"))
    warnings = tuple(_warnings_of(forecast.warnings, generation=True))
    return ForecastText(tuple(lines), warnings, blocker, charge=charge_text(chosen, generation))


TEXT_NAMES = {"rewrite": "documents", "summary": "summaries", "dialogue": "dialogues", "phrasing": "wordings"}
"""What the forms of text beside pairs are called."""


def _judge(judge: str, check: JudgeCheck | None) -> str:
    """What is known of a judge, or that it is asked about known pairs."""
    if check is not None:
        return check.text()
    return f"{one_line(judge, 60)}, asked about {len(KNOWN_PAIRS)} known pairs: does it tell right from wrong?"


def _output(path: Path) -> str:
    """The file that the accepted pairs go to, and what becomes of one that is there."""
    there = is_file(path) and path.stat().st_size > 0
    return one_line(str(path), 80) + (" (the pairs in it now are kept under another name)" if there else "")


def _no_folder(forecast: SettingsForecast) -> Blocker | None:
    """The blocker where the folder with the text does not exist."""
    generation = forecast.generation
    if generation.problem is None or is_folder(generation.folder):  # one look at the disk
        return None
    return Blocker(
        f"Generation has no folder to read: {one_line(str(generation.folder), 100)}",
        "It does not exist.",
        "Create it and put .txt or .md files into it, or 6 names another (Config): data_generation.input_folder.",
        "files",
    )


def _no_key(forecast: SettingsForecast) -> Blocker | None:
    """The blocker where the endpoint wants a key and none is set."""
    generation = forecast.generation
    if generation.key_set or not generation.key_needed:
        return None
    return Blocker(
        f"Generation needs a key: {generation.key_name} is not set.",
        "The model that writes the pairs is asked at OpenAI, which wants one.",
        "Leave with q, export it and come back. Or set data_generation.model to builtin, or data_generation.base_url "
        "to an endpoint of your own, on 6 (Config).",
    )


def _warnings_of(warnings: Iterable[str], *, generation: bool) -> Iterable[str]:
    """Those about generation, or about everything else but the app; each begins with its key."""
    return [words for words in warnings if words.startswith(_GENERATION) == generation and not words.startswith("app")]


def _amount(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"unknown ({estimate.note})" if estimate.note else "unknown"
    return f"{'about ' if estimate.estimated else ''}{estimate.value:,.0f}"


def _parameters(estimate: Estimate, stated: Sequence[str]) -> str:
    if estimate.value is None:
        return _unknown(estimate.note, stated)
    value = estimate.value / 1e6
    millions = f"{value:,.2f} M" if value < 100 else f"{value:,.0f} M" if value < 10_000 else f"{value / 1000:,.1f} G"
    return f"{millions} parameters"


def _unknown(reason: str, stated: Sequence[str]) -> str:
    """Return that a figure is not known, and why, unless that reason has been `stated`."""
    known = not reason or any(earlier and earlier in reason for earlier in stated)
    return "unknown" if known else f"unknown: {one_line(reason, 200)}"
