"""``--run export``: adapters and merged weights that say what the run's model says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_tui.config.load import with_values
from lora_tui.config.models import Lora
from lora_tui.engine.inference.decode import answers
from lora_tui.engine.models.adapter_source import open_adapter
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import load_base
from lora_tui.engine.training.checkpoint import save_adapter
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.protocol.reply import Decoding
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import PAIRS, training_text

torch.set_num_threads(1)


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    encoded = tokenizer([f"Question: {q}\nAnswer: {a}" for q, a in PAIRS[:1]], return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model(**encoded).logits
    return found


def loaded(trained: Trained, adapter: Path) -> Any:
    return load_adapter(load_base(trained.engine_harness.settings, lambda *_: None), open_adapter(adapter, None))


def test_merged_weights_give_the_adapters_logits_to_anyone_who_loads_them(trained: Trained, tmp_path: Path) -> None:
    outcome = trained.engine_harness.run("export", {"format": "merged", "output": str(tmp_path / "merged")})
    assert outcome.state == "finished", outcome.error
    assert outcome.result["path"] == str(tmp_path / "merged")
    assert outcome.result["largest_logit_difference"] < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.float32
    torch.testing.assert_close(
        logits(merged, tokenizer), logits(loaded(trained, trained.adapter), tokenizer), rtol=0, atol=1e-4
    )
    assert answers(merged, tokenizer, ["Question: unlock\nAnswer:"], Decoding(40)) == [PAIRS[0][1]]
    assert tokenizer.chat_template
    assert not list(tmp_path.glob(".*.tmp"))


def test_weights_are_merged_in_float32_whatever_precision_is_configured(trained: Trained, tmp_path: Path) -> None:
    outcome = trained.engine_harness.run(
        "export", {"format": "merged", "output": str(tmp_path / "merged")}, {"fine_tuning.dtype": "bfloat16"}
    )
    assert outcome.result["largest_logit_difference"] < 1e-4


@pytest.mark.parametrize(
    "option",
    [
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora", "use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["norm", "embed_tokens"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_kind_of_adapter_is_merged(
    engine_harness: EngineHarness,
    base_folder: Path,
    untied_folder: Path,
    tmp_path: Path,
    option: dict[str, Any],
    tied: bool,
) -> None:
    changes = {"fine_tuning.model_name": str(base_folder if tied else untied_folder)}
    base = load_base(with_values(engine_harness.settings, changes), lambda *_: None)
    made = create_lora_model(base.model, Lora(r=4, target_modules="all-linear", **option))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    save_adapter(made, tmp_path / "adapter")
    options = {"format": "merged", "output": str(tmp_path / "merged"), "adapter": str(tmp_path / "adapter")}
    outcome = engine_harness.run("export", options, changes)
    assert outcome.state == "finished", outcome.error
    assert outcome.result["largest_logit_difference"] < 1e-4
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    found, wanted = logits(merged, base.tokenizer), logits(made.eval(), base.tokenizer)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == tied


def test_weights_that_would_say_something_else_once_loaded_are_not_written(
    trained: Trained, base_folder: Path, tmp_path: Path
) -> None:
    base = load_base(trained.engine_harness.settings, lambda *_: None)
    head = create_lora_model(base.model, Lora(r=4, target_modules=["lm_head"]))  # tied to the embedding
    for name, parameter in head.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    save_adapter(head, tmp_path / "head")
    options = {"format": "merged", "output": str(tmp_path / "merged"), "adapter": str(tmp_path / "head")}
    outcome = trained.engine_harness.run("export", options)
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    assert outcome.error is not None
    assert "nothing was written" in outcome.error
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_adapter_is_copied_whole(trained: Trained, tmp_path: Path) -> None:
    outcome = trained.engine_harness.run("export", {"output": str(tmp_path / "mine")})
    assert outcome.result == {"format": "adapter", "path": str(tmp_path / "mine"), "adapter_run": trained.run_id}
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {path.name for path in trained.adapter.iterdir()}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "mine")
    assert torch.equal(
        logits(loaded(trained, tmp_path / "mine"), tokenizer), logits(loaded(trained, trained.adapter), tokenizer)
    )


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_a_folder_that_exists_is_not_overwritten(trained: Trained, tmp_path: Path, form: str) -> None:
    (tmp_path / "mine").mkdir()
    outcome = trained.engine_harness.run("export", {"format": form, "output": str(tmp_path / "mine")})
    assert outcome.exit_status == 2
    assert outcome.error is not None
    assert "exists already" in outcome.error
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_a_full_disk_leaves_nothing_behind(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        if form == "adapter":
            raise OSError(28, "No space left on device")
        from safetensors import SafetensorError

        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shutil, "copytree", full)
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    outcome = trained.engine_harness.run("export", {"format": form, "output": str(tmp_path / "mine")})
    assert outcome.exit_status == 1
    assert outcome.error is not None
    assert "cannot be written" in outcome.error
    assert "No space left" in outcome.error
    assert not list(tmp_path.iterdir())


def test_an_unknown_form_is_refused_with_those_there_are(engine_harness: EngineHarness) -> None:
    outcome = engine_harness.run("export", {"format": "onnx"})
    assert outcome.exit_status == 2
    assert outcome.error is not None
    assert "adapter, merged, gguf, gguf-lora, messages, prompt-completion, alpaca, sharegpt, text" in outcome.error


def test_number_forms_are_ggufs(engine_harness: EngineHarness) -> None:
    outcome = engine_harness.run("export", {"format": "merged", "quantize": "q8_0"})
    assert outcome.exit_status == 2
    assert outcome.error is not None
    assert "--format gguf" in outcome.error


def test_without_a_finished_run_there_is_nothing_to_export(engine_harness: EngineHarness) -> None:
    outcome = engine_harness.run("export", {"format": "merged"})
    assert outcome.exit_status == 2
    assert outcome.error is not None
    assert "no finished training run" in outcome.error


@pytest.fixture
def data(engine_harness: EngineHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Export the pairs as a dataset, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.txt").write_text(training_text())

    def export(form: str, file: str = "pairs.txt", **options: Any) -> Any:
        return engine_harness.run("export", {"format": form, "train_data_file": file, **options})

    return export


def test_a_dataset_is_named_after_its_file_and_form(data: Callable[..., Any], tmp_path: Path) -> None:
    outcome = data("alpaca")
    assert outcome.result == {"format": "alpaca", "path": str(tmp_path / "pairs-alpaca.jsonl"), "examples": len(PAIRS)}
    rows = [json.loads(line) for line in (tmp_path / "pairs-alpaca.jsonl").read_text().splitlines()]
    assert rows[0] == {"instruction": "unlock", "input": "", "output": PAIRS[0][1]}
    assert data("text").result["path"].endswith("pairs-text.txt")


def test_the_file_itself_is_not_overwritten(data: Callable[..., Any], tmp_path: Path) -> None:
    outcome = data("text", output=str(tmp_path / "pairs.txt"))
    assert outcome.exit_status == 2
    assert (tmp_path / "pairs.txt").read_text() == training_text()


def test_records_that_are_left_out_are_named(
    data: Callable[..., Any], engine_harness: EngineHarness, tmp_path: Path
) -> None:
    (tmp_path / "some.jsonl").write_text('{"question": "q", "answer": "a"}\n{"question": "q", "answer": ""}\n')
    outcome = data("alpaca", "some.jsonl")
    assert outcome.result["examples"] == 1
    (warning,) = engine_harness.events(outcome.run_id, "warning")
    assert "1 record of some.jsonl left out: line 2: the answer is empty" in warning.payload["message"]


def conversation(*contents: str) -> str:
    roles = ("user", "assistant") * len(contents)
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}) + "\n"


@pytest.mark.parametrize("form", ["alpaca", "prompt-completion"])
def test_conversations_are_left_out_of_a_form_of_pairs_with_a_way_out(
    data: Callable[..., Any], engine_harness: EngineHarness, tmp_path: Path, form: str
) -> None:
    long = conversation("hi", "hello", "bye", "so long")
    (tmp_path / "some.jsonl").write_text(conversation("q", "a") + long + long)
    for options in ({}, {"split": 0.0, "output": "folder"}):
        outcome = data(form, "some.jsonl", **options)
        assert outcome.state == "finished", outcome.error
        assert (outcome.result["examples"], outcome.result["left_out"]) == (1, 2)
        (warning,) = engine_harness.events(outcome.run_id, "warning")
        said = warning.payload["message"]
        assert said.startswith(f"2 records of some.jsonl left out, as {form} holds one question with one answer: ")
        assert "some.jsonl:2, …. --format" in said
        assert "--format messages or --format sharegpt holds conversations" in said
    for file in (tmp_path / f"some-{form}.jsonl", tmp_path / "folder" / "train.jsonl"):
        assert len(file.read_text().splitlines()) == 1
    for all_of_them in ("messages", "sharegpt"):
        assert data(all_of_them, "some.jsonl").result["examples"] == 3


def test_plain_texts_are_left_out_of_one_file_and_have_their_own_in_a_folder(
    data: Callable[..., Any], engine_harness: EngineHarness, tmp_path: Path
) -> None:
    (tmp_path / "some.jsonl").write_text('{"question": "q", "answer": "a"}\n{"text": "plain"}\n')
    outcome = data("messages", "some.jsonl")
    assert (outcome.result["examples"], outcome.result["left_out"]) == (1, 1)
    (warning,) = engine_harness.events(outcome.run_id, "warning")
    assert "1 plain text of some.jsonl left out" in warning.payload["message"]
    assert "some.jsonl:2. --format messages --split 0.1 writes them" in warning.payload["message"]
    whole = data("alpaca", "some.jsonl", split=0.0, output="folder")
    assert (whole.result["examples"], whole.result.get("left_out")) == (2, None)
    assert (tmp_path / "folder" / "documents_train.jsonl").read_text() == '{"text": "plain"}\n'


def test_a_file_of_which_the_form_holds_nothing_is_refused(data: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text(conversation("hi", "hello", "bye", "so long") + '{"text": "plain"}\n')
    outcome = data("alpaca", "some.jsonl")
    assert outcome.exit_status == 1
    assert outcome.error is not None
    assert "can hold nothing of some.jsonl" in outcome.error
    assert "some.jsonl:1" in outcome.error
    assert "--format sharegpt" in outcome.error
    assert not (tmp_path / "some-alpaca.jsonl").exists()
