"""What a job can refuse without a model is refused before anything that takes seconds is imported."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.load import with_values
from lora_tui.config.models import Settings
from lora_tui.engine.jobs import preflight
from lora_tui.engine.models.adapter_source import require_trained
from lora_tui.engine.models.hub_info import check_source, locate
from lora_tui.engine.runtime.context import RunContext, Stopped
from lora_tui.errors import LoraTuiError, OtherRunError, UnreachableError, UsageError
from lora_tui.store import events, runs
from lora_tui.store.connection import Store
from tests.engine.conftest import EngineHarness
from tests.store.store_fixtures import with_store

MODEL = "fine_tuning.model_name"
WITH_TORCH = ("lora_tui.engine.jobs.train", "lora_tui.engine.jobs.evaluate", "lora_tui.engine.chat.session")


@pytest.fixture(autouse=True)
def nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusal:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name in WITH_TORCH:
                raise AssertionError(f"{name} was imported")

    for name in WITH_TORCH:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusal, *sys.meta_path])


def adapter(folder: Path, **metadata: Any) -> Path:
    folder.mkdir()
    for name, content in (("adapter_config.json", {"peft_type": "LORA"}), ("lora_tui.json", metadata)):
        (folder / name).write_text(json.dumps(content))
    (folder / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")  # no tensors
    return folder


def test_training_tells_of_its_file_and_its_model(engine_harness: EngineHarness) -> None:
    options = {"train_data_file": str(engine_harness.folder / "pairs.jsonl")}
    assert "pairs.jsonl does not exist" in (engine_harness.run("train", options).error or "")
    records = [{"prompt": "a", "completion": "b"}, {"prompt": "", "completion": "b"}]
    (engine_harness.folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    outcome = engine_harness.run("train", options, {MODEL: "./no-model"})
    assert (outcome.exit_status, outcome.error) == (3, f'{MODEL} = "./no-model": there is no such folder.')
    (warning,) = engine_harness.events(outcome.run_id, "warning")
    assert "holds records that cannot be trained on (1)" in warning.payload["message"]


def test_a_run_that_cannot_learn_is_refused_with_what_to_paste(engine_harness: EngineHarness) -> None:
    file = engine_harness.folder / "pairs.txt"
    file.write_text("".join(f"Question: what is number {n}?\nAnswer: it is {n}\n\n" for n in range(20)))
    changes = {"fine_tuning.recipe": "auto", MODEL: "builtin", "fine_tuning.training.max_steps": 20}
    changes |= {"fine_tuning.optimizer.lora_lr": 3e-5, "fine_tuning.scheduler.warmup_steps": 200}
    outcome = engine_harness.run("train", {"train_data_file": str(file)}, changes)
    assert outcome.exit_status == 2
    why, remedy = (outcome.error or "").splitlines()
    assert why.startswith("This run cannot learn (fine_tuning.optimizer.lora_lr, fine_tuning.scheduler.warmup_steps, ")
    assert "20 steps at a rate of at most 3e-6" in why
    assert remedy.startswith("These can: --set fine_tuning.optimizer.lora_lr=1e-3 --set ")
    written = engine_harness.run(
        "train", {"train_data_file": str(file)}, {**changes, "fine_tuning.recipe": "as written"}
    )
    assert "train was imported" in (written.error or ""), "as written it runs, with a warning"


def test_a_run_that_is_refused_when_it_goes_on_keeps_its_settings(
    engine_harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = engine_harness.folder / "pairs.txt"
    file.write_text("".join(f"Question: what is number {n}?\nAnswer: it is {n}\n\n" for n in range(40)))

    async def job(ctx: RunContext, *_: Any) -> dict[str, Any]:
        raise OtherRunError("It is another run.") if ctx.resumed else Stopped({})

    monkeypatch.setattr(preflight, "_train_job", lambda: job)
    given = {"train_data_file": str(file)}, {"fine_tuning.recipe": "auto", MODEL: "builtin"}
    run_id = engine_harness.run("train", *given).run_id
    before = engine_harness.ask(runs.get, run_id)
    refused = engine_harness.run("train", given[0], {**given[1], "fine_tuning.training.max_epochs": 9}, resume=run_id)
    assert (refused.exit_status, refused.error) == (2, "It is another run.")
    after = engine_harness.ask(runs.get, run_id)
    assert (after.settings, after.written) == (before.settings, before.written), "--resume alone goes on as it was"


def test_with_both_there_training_goes_on_to_what_is_imported(engine_harness: EngineHarness) -> None:
    (engine_harness.folder / "pairs.txt").write_text("Question: q\nAnswer: a\n")
    outcome = engine_harness.run("train", {"train_data_file": str(engine_harness.folder / "pairs.txt")})
    assert outcome.error == "Unexpected AssertionError: lora_tui.engine.jobs.train was imported"


def test_evaluation_tells_of_its_adapter_and_its_model(engine_harness: EngineHarness) -> None:
    assert "no finished training run to evaluate" in (engine_harness.run("evaluate").error or "")
    options = {"adapter": str(adapter(engine_harness.folder / "adapter", base_model="./gone"))}
    assert engine_harness.run("evaluate", options, {MODEL: "./gone"}).exit_status == 3
    assert "trained on ./gone" in (engine_harness.run("evaluate", options, {MODEL: "another"}).error or "")


def test_a_conversation_tells_of_its_adapter_and_its_model(engine_harness: EngineHarness) -> None:
    def refusal(options: dict[str, Any], model: str) -> str:
        settings = with_values(engine_harness.settings, {MODEL: model})
        asked = preflight.check_chat(engine_harness.engine.open_store, settings, options)
        with pytest.raises(LoraTuiError) as told:
            engine_harness.engine.call(asked).result()
        return str(told.value)

    named = str(adapter(engine_harness.folder / "adapter", base_model="builtin"))
    assert "there is no such folder" in refusal({"adapter": "./nowhere"}, "builtin")
    assert "was trained on builtin" in refusal({"adapter": named}, "another")
    assert "./no-model" in refusal({}, "./no-model")
    assert "./no-model" in refusal({"base_only": True}, "./no-model")
    engine_harness.engine.call(
        preflight.check_chat(
            engine_harness.engine.open_store, engine_harness.settings, {"adapter": named, "base_only": True}
        )
    ).result()


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("gone.gguf", "there is no such file"),
        ("./gone", "there is no such folder"),
        ("~/no/such/folder", "there is no such folder"),
        ("folder", "the folder holds no config.json"),
    ],
)
def test_a_path_without_a_model_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, missing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for look in (check_source, lambda name: locate(name, lambda *_: None)):
        with pytest.raises(UnreachableError, match=missing):
            look(name)


def test_a_model_is_located_as_transformers_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for file in ("folder/config.json", "folder/small.gguf"):
        Path(file).touch()
    found = [locate(name, lambda *_: None) for name in ("folder", "folder/small.gguf", "owner/name")]
    assert found == [("folder", {}), ("folder", {"gguf_file": "small.gguf"}), ("owner/name", {})]


def test_without_a_finished_training_the_message_leads_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "training_data.db"

    def refusal() -> str:
        with pytest.raises(UsageError) as told:
            asyncio.run(require_trained(path, "chat with", Path("pairs.txt")))
        return str(told.value)

    assert "lora-tui --run train --train-data-file FILE" in refusal()
    assert not path.exists(), "looking makes no store"
    Path("pairs.txt").write_text("Question: q\nAnswer: a\n")
    assert "lora-tui --run train --train-data-file pairs.txt" in refusal()

    async def stopped(store: Store) -> int:
        run_id = await runs.create(store, "train", Settings().model_dump(mode="json"), {})
        saved = {"step": 3, "kind": "last", "path": "x", "score": None}
        await events.append(store, run_id, [(1.0, "checkpoint", saved)])
        await runs.end(store, run_id, "stopped", {}, None)
        return run_id

    run_id = with_store(path, stopped)
    assert refusal().endswith(f"Go on with it: lora-tui --resume {run_id}")

    async def finished(store: Store) -> None:
        await runs.set_folder(store, run_id, tmp_path)
        await runs.end(store, run_id, "finished", {}, None)

    with_store(path, finished)
    asyncio.run(require_trained(path, "chat with", Path("pairs.txt")))
