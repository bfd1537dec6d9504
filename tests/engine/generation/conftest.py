"""What the tests of generation share: the server, a folder of text, and a run through the engine."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config import Settings, load_settings
from lora_tui.engine.engine import Engine, Outcome
from tests.openai_server import MODEL, OpenAIServer, made_up_text

KEY = "sk-test-0123456789abcdefghijkl"


class Workplace:
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
            "timeout": 5.0,
        }

    def write(self, name: str, text: str) -> None:
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def settings(self, **values: Any) -> Settings:
        """Return settings; dots in keys are written as two underscores."""
        merged = self.values | {key.replace("__", "."): value for key, value in values.items()}
        shown = {key: str(value) if isinstance(value, Path) else value for key, value in merged.items()}
        return load_settings(
            overrides=[f"data_generation.{key}={_toml(value)}" for key, value in shown.items()], environment={}
        ).settings

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

    def value(self, sql: str, *parameters: Any) -> Any:
        return self.rows(sql, *parameters)[0][0]

    def events(self, kind: str) -> list[dict[str, Any]]:
        import json

        return [json.loads(payload) for (payload,) in self.rows("SELECT payload FROM events WHERE kind=? ORDER BY id", kind)]


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(KEY) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    for name in list(os.environ):
        if name.startswith("OPENAI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    made = Workplace(tmp_path, server)
    made.write("one.txt", made_up_text(1, 3))
    made.write("deep/two.md", "# Second things\n\n" + made_up_text(2, 3))
    return made
