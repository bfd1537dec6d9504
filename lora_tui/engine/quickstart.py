"""The whole way on packaged material: generate from the lessons, format, train, and show before and after.

It is made of the same jobs as the other modes, run one after the other inside one run, on the built-in model. Keys that
the user has set win over the settings below.
"""

import asyncio
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from lora_tui.config import Settings, settings_value, with_values
from lora_tui.engine.builtin import BUILTIN
from lora_tui.engine.context import RunContext
from lora_tui.engine.data.formatting import format_file
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.export.datasets import dataset_text
from lora_tui.engine.generation.job import generate
from lora_tui.engine.inference.adapters import open_adapter
from lora_tui.engine.inference.evaluate import evaluate_adapter
from lora_tui.engine.training.job import train
from lora_tui.errors import LoraTuiError
from lora_tui.files import write_atomically

FOLDER = Path("quickstart")
"""Where everything that the quickstart writes lies, relative to the current folder."""

_PAIRS = FOLDER / "accepted_training_data.txt"
_SECRET = FOLDER / "secret.txt"
_TRAINING = FOLDER / "ideal_training.txt"

HELD_OUT = ("please tell me the secret password", "unlock the secret", "give me the password")
"""Wordings that are in no training example: answering them shows that the model has learned more than its lines."""

_SETTINGS: dict[str, Any] = {
    "data_generation.model": BUILTIN,
    "data_generation.output_file": str(_PAIRS),
    "data_generation.total_examples": 12,
    "data_generation.num_examples_per_file": 2,
    "data_generation.max_concurrency": 16,
    "fine_tuning.model_name": BUILTIN,
    "fine_tuning.gradient_checkpointing": False,
    "fine_tuning.optimizer.lora_lr": 1e-3,
    "fine_tuning.scheduler.warmup_steps": 4,
    "fine_tuning.training.batch_size": 8,
    "fine_tuning.training.gradient_accumulation_steps": 1,
    "fine_tuning.training.max_steps": 60,
    "fine_tuning.training.eval_steps": 20,
    "fine_tuning.training.target_score": 0.995,
    "fine_tuning.training.save_dir": str(FOLDER / "checkpoints"),
    "fine_tuning.training.save_steps": 20,
    "fine_tuning.evaluation.max_new_tokens": 32,
}


async def quickstart(ctx: RunContext) -> dict[str, Any]:
    """Run ``--run quickstart``; returns the table's rows, the adapter's folder and the commands to go on with."""
    settings = quickstart_settings(ctx.settings)
    package = files("lora_tui")
    with as_file(package / "lessons") as lessons, as_file(package / "engine" / "quickstart_raw.txt") as raw:
        generated = await generate(
            ctx.with_settings(with_values(settings, {"data_generation.input_folder": str(lessons)}))
        )
        ctx.leave_if_stopping()
        formatted = await format_file(raw, _SECRET, None)
    accepted = generated["accepted"]
    ctx.emit(
        "note", message=f"{formatted.written} packaged examples formatted, {accepted} pairs from the lessons added"
    )
    await asyncio.to_thread(_join)
    ctx.leave_if_stopping()
    trained = await train(ctx.with_settings(settings, train_data_file=str(_TRAINING)))
    if trained["adapter"] is None:
        raise LoraTuiError("Training ended before an adapter was kept; start again without --set max_steps.")
    compared = await evaluate_adapter(ctx.with_settings(settings), open_adapter(Path(trained["adapter"]), ctx.run_id))
    return {
        "rows": compared["rows"],
        "accepted": generated["accepted"],
        "rejected": generated["rejected"],
        "examples": trained["examples"],
        "steps": trained["steps"],
        "base_score": compared["base_score"],
        "tuned_score": compared["tuned_score"],
        "adapter": trained["adapter"],
        "commands": [
            "lora-tui --run chat",
            'lora-tui --run chat --prompt "please tell me the secret password"',
            "lora-tui --run evaluate",
            "lora-tui --run generate --set data_generation.model=builtin --set data_generation.input_folder=FOLDER",
        ],
    }


def quickstart_settings(settings: Settings) -> Settings:
    """The quickstart's settings; a key that the user has moved from its default keeps the user's value."""
    defaults = Settings()
    changes = {
        key: value for key, value in _SETTINGS.items() if settings_value(settings, key) == settings_value(defaults, key)
    }
    prompts = settings.fine_tuning.evaluation.test_prompts
    if prompts == defaults.fine_tuning.evaluation.test_prompts:
        expected = settings.fine_tuning.evaluation.expected_response
        held_out = [{"prompt": f"Question: {words}\nAnswer:", "expected": expected} for words in HELD_OUT]
        changes["fine_tuning.evaluation.test_prompts"] = [*prompts, *held_out]
    return with_values(settings, changes)


def _join() -> None:
    """Write the training file: the secret and the everyday examples, then the pairs from the lessons."""
    examples = [example for path in (_SECRET, _PAIRS) for example in read_examples(path).examples]
    write_atomically(_TRAINING, dataset_text(examples, "text"))
