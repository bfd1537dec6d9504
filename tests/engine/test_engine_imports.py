"""What importing a part of the program brings with it: seconds of start-up, and libraries that it must not know."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = ("torch", "transformers", "peft", "openai", "nltk")
SCREEN = ("textual", "rich", "click")


def brought_by(*modules: str) -> set[str]:
    """The top-level packages that are loaded once the modules are."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "lora_tui.engine.runtime.engine, lora_tui.engine.jobs.preflight, lora_tui.engine.jobs.export",
        "lora_tui.cli.chat",
        "lora_tui.config.load, lora_tui.config.advice, lora_tui.config.save",
        "lora_tui.store.connection, lora_tui.store.events, lora_tui.store.runs, lora_tui.store.training",
    ],
)
def test_neither_models_nor_screens_come_with_it(module: str) -> None:
    assert brought_by(module) & {*HEAVY, *SCREEN} == set()


def test_the_store_does_not_know_the_configuration() -> None:
    assert "pydantic" not in brought_by("lora_tui.store.connection", "lora_tui.store.runs", "lora_tui.store.chat_log")
