"""Fixtures of the engine's tests. torch is imported by those that need it, so that the other tests start fast."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.runtime.engine import Engine, Outcome
from lora_tui.store import events
from lora_tui.store.connection import Store
from lora_tui.store.rows import Event
from tests.engine.tiny import make_tokenizer, save_base, tiny_settings, training_text


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved base model whose head is tied to its embedding, as SmolLM2's is."""
    return save_base(tmp_path_factory.mktemp("models") / "tied")


@pytest.fixture(scope="session")
def untied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved base model with a head of its own, and other weights."""
    return save_base(tmp_path_factory.mktemp("models") / "untied", tied=False, seed=1)


@dataclass
class EngineHarness:
    """A folder with a store, and an engine on it that runs jobs to their end."""

    engine: Engine
    folder: Path
    settings: Settings

    @property
    def store_path(self) -> Path:
        return self.folder / "store.db"

    def start(
        self,
        mode: str,
        options: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        resume: int | None = None,
    ) -> tuple[int, Any]:
        """Begin a run; returns its id and the future of its outcome."""
        return self.engine.submit(mode, with_values(self.settings, dict(changes or {})), options, resume)

    def run(self, mode: str, *args: Any, **kwargs: Any) -> Outcome:
        """Run a job to its end."""
        outcome: Outcome = self.start(mode, *args, **kwargs)[1].result(timeout=120)
        return outcome

    def ask(self, query: Callable[..., Any], *args: Any) -> Any:
        """Ask the store something, on a connection of its own as another program would."""

        async def answer() -> Any:
            async with await Store.open(self.store_path) as store:
                return await query(store, *args)

        return asyncio.run(answer())

    def events(self, run_id: int, kind: str | None = None) -> list[Event]:
        """The events of a run, or those of one kind."""
        found: list[Event] = self.ask(events.since, run_id, 0, 100_000)
        return [event for event in found if kind in (None, event.kind)]


@pytest.fixture
def new_engine_harness() -> Iterator[Callable[[Path, Settings], EngineHarness]]:
    """Open engines on folders; they are closed at the end of the test."""
    opened: list[Engine] = []

    def new(folder: Path, settings: Settings) -> EngineHarness:
        engine_harness = open_engine_harness(folder, settings)
        opened.append(engine_harness.engine)
        return engine_harness

    yield new
    for engine in opened:
        engine.close()


def open_engine_harness(folder: Path, settings: Settings) -> EngineHarness:
    folder.mkdir(parents=True, exist_ok=True)
    engine_harness = EngineHarness(Engine(folder / "store.db"), folder, settings)
    engine_harness.engine.start()
    return engine_harness


@pytest.fixture
def engine_harness(tmp_path: Path, new_engine_harness: Callable[[Path, Settings], EngineHarness]) -> EngineHarness:
    """An engine on an empty store, with settings that need no model."""
    return new_engine_harness(tmp_path, tiny_settings())


@dataclass(frozen=True)
class Trained:
    """What a finished training run left behind."""

    engine_harness: EngineHarness
    run_id: int
    adapter: Path
    outcome: Outcome


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Trained]:
    """The tiny model, trained by the train job itself until it knows the pairs by heart."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "pairs.txt").write_text(training_text())
    engine_harness = open_engine_harness(folder, trained_settings(folder, base_folder))
    run_id, future = engine_harness.start("train")
    outcome = future.result(timeout=120)
    assert outcome.state == "finished", outcome
    yield Trained(engine_harness, run_id, Path(outcome.result["adapter"]), outcome)
    engine_harness.engine.close()


def trained_settings(folder: Path, base: Path) -> Settings:
    return tiny_settings(
        {
            "model_name": str(base),
            "train_data_file": str(folder / "pairs.txt"),
            "lora.r": 16,
            "lora.alpha": 32,
            "lora.target_modules": "all-linear",
            "training.save_dir": str(folder / "checkpoints"),
            "training.batch_size": 10,
            "training.gradient_accumulation_steps": 1,
            "training.tokens_per_micro_batch": 256,
            "training.max_epochs": 40,
            "training.eval_frequency": 20,
            "evaluation.max_new_tokens": 24,
            "chat.num_beams": 1,
            "chat.max_new_tokens": 24,
        }
    )
