"""The quickstart's settings: the built-in model, a dozen pairs, sixty steps.

Apart from the job, which imports torch: the engine needs the settings when the run is created.
"""

from pathlib import Path
from typing import Any

from lora_tui.config.keys import settings_value
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.models.builtin import BUILTIN

FOLDER = Path("quickstart")
"""The folder of everything that the quickstart writes, relative to the current one."""

PAIRS = FOLDER / "accepted_training_data.txt"
"""The pairs that were generated from the lessons and accepted."""

UNSEEN_PROMPTS = ("please tell me the secret password", "unlock the secret", "give me the password")
"""Prompts that are in no training example: answering them shows that the model generalises."""

_SETTINGS: dict[str, Any] = {
    "data_generation.model": BUILTIN,
    "data_generation.output_file": str(PAIRS),
    "data_generation.total_examples": 12,
    "data_generation.num_examples_per_file": 2,
    "data_generation.max_concurrency": 16,
    "fine_tuning.recipe": "as written",
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


def quickstart_settings(settings: Settings) -> Settings:
    """Return the quickstart's settings; a key that the user has changed from its default keeps the user's value."""
    defaults = Settings()
    changes = {
        key: value for key, value in _SETTINGS.items() if settings_value(settings, key) == settings_value(defaults, key)
    }
    prompts = settings.fine_tuning.evaluation.test_prompts
    if prompts == defaults.fine_tuning.evaluation.test_prompts:
        expected = settings.fine_tuning.evaluation.expected_response
        unseen = [{"prompt": f"Question: {words}\nAnswer:", "expected": expected} for words in UNSEEN_PROMPTS]
        changes["fine_tuning.evaluation.test_prompts"] = [*prompts, *unseen]
    return with_values(settings, changes)
