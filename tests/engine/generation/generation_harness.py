"""Test harness of generation: a folder of text, a store and a server, on which the real engine runs jobs."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_tui.config.load import load_settings
from lora_tui.config.models import Settings
from lora_tui.engine.runtime.engine import Engine, Outcome
from tests.openai_server import MODEL, OpenAIServer

KEY = "sk-test-0123456789abcdefghijkl"

_ROOT = Path(__file__).parents[3]
_RUN = """
import sys
from pathlib import Path
from lora_tui.config.load import load_settings
from lora_tui.engine.runtime.engine import Engine

engine = Engine(Path(sys.argv[1]))
engine.start()
engine.submit("generate", load_settings(overrides=sys.argv[2:], environment={}).settings)[1].result()
"""


class GenerationHarness:
    """A folder with input, a store and an output file; runs jobs of the real engine on it."""

    def __init__(self, folder: Path, server: OpenAIServer) -> None:
        self.folder = folder
        self.server = server
        self.input = folder / "input"
        self.output = folder / "accepted.txt"
        self.store = folder / "store.db"
        self.input.mkdir()
        self.values: dict[str, Any] = {
            "input_folder": self.input,
            "output_file": self.output,
            "base_url": server.url,
            "model": MODEL,
            "total_examples": 6,
            "num_examples_per_file": 2,
            "generation.initial_delay": 0.01,
            "generation.max_tokens": 400,
            "timeout": 5.0,
            "check_judge": False,
            "give_up_after": 1.0,
        }

    def write(self, name: str, text: str) -> None:
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def overrides(self, **values: Any) -> list[str]:
        """Return ``--set`` arguments; dots in keys are written as two underscores."""
        merged = self.values | {key.replace("__", "."): value for key, value in values.items()}
        shown = {key: str(value) if isinstance(value, Path) else value for key, value in merged.items()}
        return [f"data_generation.{key}={_toml(value)}" for key, value in shown.items()]

    def settings(self, **values: Any) -> Settings:
        return load_settings(overrides=self.overrides(**values), environment={}).settings

    def run(self, resume: int | None = None, **values: Any) -> Outcome:
        engine = Engine(self.store)
        engine.start()
        try:
            _, future = engine.submit("generate", self.settings(**values), resume=resume)
            return future.result(timeout=300)
        finally:
            engine.close()

    @contextmanager
    def killed_process(self, **values: Any) -> Iterator[None]:
        """Run the job in a process of its own, which is killed when the block ends."""
        command = [sys.executable, "-c", _RUN, str(self.store), *self.overrides(**values)]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(_ROOT)}, cwd=self.folder)
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.store) as connection:
            found = connection.execute(sql, parameters).fetchall()
        connection.close()
        return found

    def change(self, sql: str) -> None:
        with sqlite3.connect(self.store) as connection:
            connection.execute(sql)
        connection.close()

    def value(self, sql: str, *parameters: Any) -> Any:
        return self.rows(sql, *parameters)[0][0]

    def events(self, kind: str) -> list[dict[str, Any]]:
        rows = self.rows("SELECT payload FROM events WHERE kind=? ORDER BY id", kind)
        return [json.loads(payload) for (payload,) in rows]


def _toml(value: Any) -> str:
    """Return a value as ``--set`` takes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
