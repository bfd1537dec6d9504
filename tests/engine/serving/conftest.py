"""A server of the tiny model, the adapter that knows the pairs, and a random one."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from lora_tui.engine.runtime.engine import Outcome
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.loaded_models import base, tuned  # noqa: F401  # fixtures
from tests.engine.tiny import save_random_adapter


@dataclass
class RunningServer:
    """A run of mode serve, and what its ``serving`` event said."""

    harness: EngineHarness
    run_id: int
    ending: "Future[Outcome]"
    announced: Mapping[str, Any]

    @property
    def url(self) -> str:
        return str(self.announced["url"])

    def client(self, key: str = "none", **options: Any) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=60, **options)

    def health(self) -> dict[str, Any]:
        import json
        from urllib.request import urlopen

        with urlopen(f"{self.url.removesuffix('/v1')}/health", timeout=30) as reply:
            return dict(json.load(reply))

    def wait_until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.health()
            time.sleep(0.02)


@contextmanager
def serving(
    harness: EngineHarness, options: Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> Iterator[RunningServer]:
    run_id, ending = harness.start("serve", options, {"serving.port": 0, **(changes or {})})
    deadline = time.monotonic() + 60
    while not (announced := harness.events(run_id, "serving")):
        assert not ending.done(), ending.result()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    try:
        yield RunningServer(harness, run_id, ending, announced[0].payload)
    finally:
        harness.engine.stop(run_id)
        ending.result(timeout=60)


@pytest.fixture(scope="session")
def random_adapter(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_adapter(tmp_path_factory.mktemp("served") / "odd", base_folder, seed=5)


@pytest.fixture(scope="session")
def server(trained: Trained, random_adapter: Path) -> Iterator[RunningServer]:
    """One server for all tests that do not stop it: base, the trained adapter, and a random one called odd."""
    options = {"adapters": [f"run-{trained.run_id}", f"odd={random_adapter}"]}
    with serving(trained.engine_harness, options, {"serving.max_tokens": 24}) as running:
        yield running
