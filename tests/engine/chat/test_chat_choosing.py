"""Who speaks: a run's best adapter, its newest checkpoint while it still trains, or the base model."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.engine.chat import session as chat_module
from lora_tui.engine.models import adapter_source
from lora_tui.engine.models.adapter_source import AdapterGoneError, find_adapter
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.store import runs
from tests.engine.chat.chat_probe import ChatProbe
from tests.engine.conftest import EngineHarness, Trained, trained_settings
from tests.engine.tiny import PAIRS, training_text

SECRET = PAIRS[0][1]


@pytest.fixture
def run(engine_harness: EngineHarness, trained: Trained) -> int:
    """A run that goes on, with a best adapter of step 20 and a newest checkpoint of step 30."""
    engine_harness.settings = trained.engine_harness.settings
    folder = engine_harness.folder / "run"
    for name, step in (("best", 20), ("step-30", 30)):
        put(trained, folder / name, step)

    async def add(store: Any) -> int:
        settings = engine_harness.settings.model_dump(mode="json")
        run_id = await runs.create(store, "train", settings, {})
        await runs.set_folder(store, run_id, folder)
        await runs.start(store, run_id)
        return run_id

    run_id: int = engine_harness.ask(add)
    return run_id


def put(trained: Trained, target: Path, step: int) -> None:
    """Write the trained adapter as that of a step."""
    shutil.copytree(trained.adapter, target)
    metadata = json.loads((target / "lora_tui.json").read_text())
    (target / "lora_tui.json").write_text(json.dumps({**metadata, "step": step}))


@pytest.mark.parametrize(("checkpoint", "step"), [(None, 20), ("best", 20), ("last", 30)])
def test_a_run_is_talked_to_at_its_best_or_as_it_is_now(
    engine_harness: EngineHarness, run: int, checkpoint: str | None, step: int
) -> None:
    options = {"adapter_run": run} | ({"checkpoint": checkpoint} if checkpoint else {})
    probe = ChatProbe(engine_harness, options=options)
    assert probe.session.title.endswith(f"the adapter of run {run}, step {step}")
    reply = probe.ask("unlock").replies["tuned"]
    assert (reply.text, reply.step) == (SECRET, step)
    assert probe.turns[1].statistics["step"] == step


def test_a_run_without_a_checkpoint_and_a_checkpoint_of_another_name_are_refused(
    engine_harness: EngineHarness, run: int
) -> None:
    shutil.rmtree(engine_harness.folder / "run" / "step-30")
    with pytest.raises(LoraTuiError, match=rf"Run {run} \(train, running\) has no checkpoint in"):
        ChatProbe(engine_harness, options={"adapter_run": run, "checkpoint": "last"})
    with pytest.raises(UsageError, match="best or last, not newest"):
        ChatProbe(engine_harness, options={"adapter_run": run, "checkpoint": "newest"})


def test_a_checkpoint_that_is_replaced_between_finding_and_loading_is_found_anew(
    engine_harness: EngineHarness, run: int, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = chat_module.load_base

    def meanwhile(*args: Any) -> Any:
        put(trained, engine_harness.folder / "run" / "step-40", 40)
        shutil.rmtree(engine_harness.folder / "run" / "step-30")
        return real(*args)

    monkeypatch.setattr(chat_module, "load_base", meanwhile)
    probe = ChatProbe(engine_harness, options={"adapter_run": run, "checkpoint": "last"})
    assert probe.session.title.endswith("step 40")
    assert probe.ask("unlock").replies["tuned"].text == SECRET


@pytest.mark.parametrize(
    "left",
    [
        (),
        ("adapter_config.json",),
        ("adapter_model.safetensors",),
        ("adapter_config.json", "adapter_model.safetensors"),
    ],
)
def test_a_checkpoint_that_is_being_removed_while_it_is_read_is_found_anew(
    engine_harness: EngineHarness, run: int, trained: Trained, monkeypatch: pytest.MonkeyPatch, left: tuple[str, ...]
) -> None:
    """Files go one by one: the one that says what the adapter belongs to may be the first."""
    real = adapter_source.open_adapter
    opened: list[str] = []

    def meanwhile(folder: Path, run_id: int | None) -> Any:
        opened.append(folder.name)
        if len(opened) == 1:
            put(trained, folder.with_name("step-40"), 40)
            kept = {name: (folder / name).read_bytes() for name in left}
            shutil.rmtree(folder)
            for name, content in kept.items():
                folder.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
        return real(folder, run_id)

    monkeypatch.setattr(adapter_source, "open_adapter", meanwhile)
    source = engine_harness.ask(find_adapter, {"adapter_run": run, "checkpoint": "last"})
    assert (source.folder.name, source.step) == ("step-40", 40)
    assert source.trained_on == trained.engine_harness.settings.fine_tuning.model_name


def test_a_damaged_adapter_that_nobody_replaces_is_an_error(engine_harness: EngineHarness, run: int) -> None:
    (engine_harness.folder / "run" / "best" / "adapter_model.safetensors").rename(engine_harness.folder / "kept")
    (engine_harness.folder / "run" / "step-30" / "adapter_config.json").unlink()
    with pytest.raises(UsageError, match=r"holds no adapter_config.json"):
        engine_harness.ask(find_adapter, {"adapter_run": run})


def test_an_adapter_that_is_gone_for_good_is_an_error(
    engine_harness: EngineHarness, run: int, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(trained.adapter, engine_harness.folder / "one"))
    real = chat_module.load_base

    def meanwhile(*args: Any) -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return real(*args)

    monkeypatch.setattr(chat_module, "load_base", meanwhile)
    with pytest.raises(AdapterGoneError, match="there is no such folder"):
        ChatProbe(engine_harness, options={"adapter": str(folder)})


def test_the_base_model_alone_is_chosen_although_there_is_a_run(trained: Trained) -> None:
    probe = ChatProbe(trained.engine_harness, options={"base_only": True})
    assert probe.session.sides == ("base",)
    assert probe.session.title.endswith("without an adapter")
    assert probe.ask("unlock").replies["base"].text != SECRET


def test_a_run_that_is_named_brings_its_own_base_model_whatever_is_configured_now(
    engine_harness: EngineHarness, run: int, untied_folder: Path
) -> None:
    trained_on = engine_harness.settings.fine_tuning.model_name
    engine_harness.settings = with_values(engine_harness.settings, {"fine_tuning.model_name": str(untied_folder)})
    probe = ChatProbe(engine_harness, options={"adapter_run": run})
    assert probe.session.base.name == trained_on
    assert probe.ask("unlock").replies["tuned"].text == SECRET
    assert ChatProbe(engine_harness, options={"adapter_run": run, "base_only": True}).session.base.name == trained_on
    assert ChatProbe(engine_harness, options={"base_only": True}).session.base.name == str(untied_folder)
    with pytest.raises(UsageError, match="was trained on"):
        ChatProbe(engine_harness, options={"adapter_run": run, "model_must_match": True})


def test_a_run_can_be_talked_to_while_it_trains(engine_harness: EngineHarness, base_folder: Path) -> None:
    """And gets better while one talks: the newest checkpoint is another one each time."""
    (engine_harness.folder / "pairs.txt").write_text(training_text())
    engine_harness.settings = with_values(
        trained_settings(engine_harness.folder, base_folder),
        {"fine_tuning.training.max_epochs": 5000, "fine_tuning.training.save_steps": 5},
    )
    run_id, future = engine_harness.start("train")
    options = {"adapter_run": run_id, "checkpoint": "last"}
    steps: list[int] = []
    try:
        deadline = time.monotonic() + 60
        while len(steps) < 3:
            assert time.monotonic() < deadline
            assert not future.done(), future.result()
            if not engine_harness.events(run_id, "checkpoint"):
                time.sleep(0.05)
                continue
            probe = ChatProbe(engine_harness, options=options)
            heard = probe.ask("unlock", ("tuned", "base"))
            assert set(heard.replies) == {"tuned", "base"}
            steps.append(heard.replies["tuned"].step or 0)
            probe.wait(probe.session.close())
            # A checkpoint can be talked to before its event is stored: the newest event may be an older one's.
            while engine_harness.events(run_id, "checkpoint")[-1].payload["step"] <= steps[-1]:
                time.sleep(0.02)
        assert not future.done(), "all the while it trained"
    finally:
        engine_harness.engine.stop(run_id)
        assert future.result(timeout=300).state == "stopped"
    assert steps == sorted(set(steps))
    assert steps[0] >= 5
