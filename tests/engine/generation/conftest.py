"""Fixtures of the generation tests: a running server, and a harness that runs jobs against it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.generation.generation_harness import KEY, GenerationHarness
from tests.openai_server import OpenAIServer, made_up_text


@pytest.fixture(scope="session")
def running_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture
def server(running_server: OpenAIServer) -> OpenAIServer:
    running_server.reset(KEY)
    return running_server


@pytest.fixture
def harness(tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> GenerationHarness:
    for name in list(os.environ):
        if name.startswith("OPENAI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    built = GenerationHarness(tmp_path, server)
    built.write("one.txt", made_up_text(1, 3))
    built.write("deep/two.md", "# Second things\n\n" + made_up_text(2, 3))
    return built
