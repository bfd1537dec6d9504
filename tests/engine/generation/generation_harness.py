"""Test harness of generation: a folder of text, a store and a server, on which the real engine runs jobs."""

import json
import sqlite3
from pathlib import Path
from typing import Any

from lora_tui.config import Settings, load_settings
from lora_tui.engine.runtime.engine import Engine, Outcome
from tests.openai_server import MODEL, OpenAIServer

KEY = "sk-test-0123456789abcdefghijkl"


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
        }

    def write(self, name: str, text: str) -> None:
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def overrides(self, **values: Any) -> list[str]:
        """Return ``--set`` arguments; dots in keys are written as two underscores."""
        merged = self.values | {key.replace("__", "."): value for key, value in values.items()}
        shown = {key: str(value) if isinstance(value, Path) else value for key, value in merged.items()}
        return [f"data_generation.{key}={json.dumps(value, ensure_ascii=False)}" for key, value in shown.items()]

    def settings(self, **values: Any) -> Settings:
        return load_settings(overrides=self.overrides(**values), environment={}).settings

    def run(self, resume: int | None = None, **values: Any) -> Outcome:
        engine = Engine(self.store)
        engine.start()
        try:
            _, future = engine.submit("generate", self.settings(**values), resume=resume)
            return future.result(timeout=60)
        finally:
            engine.close()

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
