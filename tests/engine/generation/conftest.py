"""Fixtures of the generation tests: a running server and a place to work in."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.generation.generation_harness import KEY, Workplace
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
