"""The adapter that a training run goes on from, where it does: which one, and the settings that its shape asks for.

``--adapter`` names a folder or a run (run-3); ``--adapter base`` says that a new one is trained. Nobody is asked where
a run learns from what people have said in the store: that was of answers of the newest tuned model, which goes on.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.config.written import written_keys
from lora_tui.engine.data.examples import Example, PromptCompletion
from lora_tui.engine.data.read import TRAINING_TEXT
from lora_tui.engine.data.training_text import QUESTION
from lora_tui.engine.models.adapter_source import AdapterSource, find_adapter, open_adapter
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import ConfigError, LoraTuiError, UsageError
from lora_tui.store import runs
from lora_tui.text import count

BEGINS_WITH = "begins_with"
"""The run's option with the folder of that adapter; empty where a new one is trained."""

_NEW = "base"
_RUN = re.compile(r"run-(\d+)")

_QUESTION_FORMS = (TRAINING_TEXT, "question/", "alpaca", "ranked alpaca")
"""How the names of those forms begin whose examples are trained as "Question: … Answer: …", with few exceptions (a
system prompt makes a conversation of an Alpaca record): for adapters that were written before these were counted."""


async def starting_adapter(ctx: RunContext, *, said: bool) -> AdapterSource | None:
    """Return the adapter that the run begins with, and keep it in the run's options; None for a new one.

    `said`: the run learns from what people have said in the store. A run that goes on begins as it did, and where that
    adapter is gone by now its own checkpoints have what is needed.
    """
    if BEGINS_WITH in ctx.options:
        kept = ctx.options[BEGINS_WITH]
        try:
            return open_adapter(Path(kept), None) if kept else None
        except LoraTuiError:
            if not ctx.resumed:
                raise
            return None
    source = await _named(ctx) if _is_named(ctx) else await _newest(ctx) if said else None
    kept = "" if source is None else str(source.folder.absolute())
    run = await runs.get(ctx.store, ctx.run_id)  # its options may have been added to since it began
    await runs.set_options(ctx.store, ctx.run_id, {**(ctx.options if run is None else run.options), BEGINS_WITH: kept})
    return source


def _is_named(ctx: RunContext) -> bool:
    return ctx.options.get("adapter") is not None or ctx.options.get("adapter_run") is not None


async def _named(ctx: RunContext) -> AdapterSource | None:
    name = str(ctx.options.get("adapter") or "")
    if name == _NEW and not Path(name).is_dir():  # noqa: ASYNC240  # one look at the disk
        return None
    options = {**ctx.options}
    if (run := _RUN.fullmatch(name)) and not Path(name).is_dir():  # noqa: ASYNC240  # one look at the disk
        options = {"adapter_run": int(run[1])}
    return await find_adapter(ctx.store, options)


async def _newest(ctx: RunContext) -> AdapterSource | None:
    """The adapter of the newest finished run, unless the configuration names another base model than it has."""
    source = await find_adapter(ctx.store, {})
    if source is None:
        return None
    if "fine_tuning.model_name" not in written_keys(ctx.settings):
        return source
    try:
        source.base_model(ctx.settings)
    except UsageError:
        return None
    return source


def with_shape_of(settings: Settings, source: AdapterSource) -> Settings:
    """Return the settings with the base model and LoRA's shape of an adapter; raises `UsageError` for one unlike ours.

    What somebody has written of them is not obeyed: another shape cannot begin with these values.
    """
    file = source.folder / "adapter_config.json"
    entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if entries.get("peft_type") != "LORA" or entries.get("bias", "none") != "none":
        raise UsageError(f"{file}: only LoRA without biases can be trained on.")
    targets = entries.get("target_modules")
    if isinstance(targets, str) and targets != "all-linear":
        raise UsageError(f"{file}: target_modules is a pattern; training goes on from adapters that list their layers.")
    values = {
        "r": entries.get("r"),
        "alpha": round(entries.get("lora_alpha") or 0),
        "target_modules": sorted(targets) if isinstance(targets, list) else targets,
        "use_rslora": bool(entries.get("use_rslora")),
        "use_dora": bool(entries.get("use_dora")),
        "init_lora_weights": True,
        "modules_to_save": entries.get("modules_to_save") or [],
        "rank_pattern": entries.get("rank_pattern") or {},
        "alpha_pattern": entries.get("alpha_pattern") or {},
    }
    changes = {f"fine_tuning.lora.{name}": value for name, value in values.items()}
    if source.trained_on is not None:
        changes["fine_tuning.model_name"] = source.base_model(settings) if _names_it(settings) else source.trained_on
    try:
        return with_values(settings, changes)
    except ConfigError as problem:
        raise UsageError(f"{file} has a form that cannot be trained on: {problem}") from problem


def form_warning(source: AdapterSource, asked: Sequence[Example]) -> str | None:
    """Return what to say of judgements that ask otherwise than the adapter was taught, as `asked`; None: nothing.

    A bare prompt goes to the model as it stands, while a chat with such an adapter asks "Question: … Answer:": what is
    preferred behind the one hardly moves the other.
    """
    forms = source.metadata.get("forms")
    if not isinstance(forms, dict) or not all(isinstance(number, int) for number in forms.values()):
        return None  # not written by us
    taught = source.metadata.get("questions")
    if not isinstance(taught, int):
        taught = sum(number for form, number in forms.items() if form.startswith(_QUESTION_FORMS))
    if source.metadata.get("chat_template") or 2 * taught <= sum(forms.values()):
        return None
    prompts = [one for one in asked if isinstance(one, PromptCompletion)]
    bare = [one for one in prompts if not one.prompt.lstrip().startswith(QUESTION)]
    if not bare:
        return None
    which = f"{bare[0].source}: {count(len(bare), 'record')} of {len(asked)} with a bare prompt"
    return (
        f"{which}, which goes to the model as it stands. The adapter in {source.folder} has learned questions and "
        f'answers, and is asked "{QUESTION} … Answer:". Write question in place of prompt, and it is put that way.'
    )


def _names_it(settings: Settings) -> bool:
    return "fine_tuning.model_name" in written_keys(settings)
