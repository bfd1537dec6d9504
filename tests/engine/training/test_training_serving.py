"""The card's commands for other programs: right for each kind of adapter, and ours can be run as they stand."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.cli.main import parse
from lora_tui.cli.run import _options as run_options
from lora_tui.config.models import Lora, Settings
from lora_tui.engine.training.checkpoint import save_adapter
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.engine.training.model_card import saved_rank, serving_sections
from tests.engine.conftest import EngineHarness, Trained
from tests.engine.tiny import make_model


def card(option: dict[str, Any], base: str = "org/model", *, conversations: bool = False) -> str:
    return serving_sections(base, Lora(**option), conversations=conversations)


def vllm(text: str) -> list[str]:
    (line,) = re.findall(r"^vllm serve .*$", text, re.MULTILINE)
    return shlex.split(line)


@pytest.mark.parametrize(
    ("option", "rank"),
    [
        ({"r": 1}, None),
        ({"r": 16}, None),
        ({"r": 17}, "32"),
        ({"r": 64, "use_rslora": True}, "64"),
        ({"r": 300}, "320"),
        ({"r": 16, "init_lora_weights": "pissa"}, "32"),
        ({"r": 8, "init_lora_weights": "olora"}, None),
    ],
)
def test_vllm_loads_the_adapter_with_room_for_its_rank(option: dict[str, Any], rank: str | None) -> None:
    command = vllm(card(option))
    assert command[:6] == ["vllm", "serve", "org/model", "--enable-lora", "--lora-modules", "tuned=THIS_FOLDER"]
    assert command[6:] == ([] if rank is None else ["--max-lora-rank", rank])


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "trained whole"),
        ({"rank_pattern": {"q_proj": 4}}, "one scale"),
        ({"alpha_pattern": {"q_proj": 4}}, "one scale"),
        ({"r": 300, "init_lora_weights": "pissa"}, "highest rank is 512"),
    ],
)
def test_what_vllm_cannot_load_is_merged_first(option: dict[str, Any], why: str) -> None:
    text = card(option).partition("## Ollama")[0]
    assert re.search(rf"vLLM cannot load this adapter .*{why}", text)
    assert vllm(text) == ["vllm", "serve", "merged", "--served-model-name", "tuned"]
    assert text.index("lora-tui --run export --format merged") < text.index("vllm serve merged")


@pytest.mark.parametrize(
    ("option", "why"), [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["norm"]}, "trained whole")]
)
def test_what_llama_cpp_has_no_form_for_is_said(option: dict[str, Any], why: str) -> None:
    text = card(option)
    assert re.search(f"The adapter alone cannot be written for llama.cpp: .*{why}", text)
    assert "--lora" not in text.partition("## Ollama")[2]
    assert "--format gguf --adapter" in text


def test_ollama_gets_a_merged_file_and_llama_cpp_the_adapter_too() -> None:
    text = card({"rank_pattern": {"q_proj": 4}, "use_rslora": True})
    assert "lora-tui --run export --format gguf --adapter THIS_FOLDER --output tuned\nollama create tuned" in text
    assert "llama-server -m BASE.gguf --lora tuned-lora/adapter.gguf" in text
    assert "ADAPTER" not in text, "Ollama refuses it"
    assert "llama-server -m '/my models/one.gguf' --lora" in card({}, "/my models/one.gguf")


@pytest.mark.parametrize("conversations", [True, False])
def test_vllm_is_asked_in_the_form_of_training(conversations: bool) -> None:
    (line,) = re.findall(r"^curl .*$", card({}, conversations=conversations), re.MULTILINE)
    command = shlex.split(line)
    sent = json.loads(command[-1])
    assert sent["model"] == "tuned"
    if conversations:
        assert (command[1], sent["messages"][0]["role"]) == ("localhost:8000/v1/chat/completions", "user")
    else:
        assert (command[1], sent["prompt"]) == ("localhost:8000/v1/completions", "Question: …\nAnswer:")


@pytest.mark.parametrize(
    "option",
    [{}, {"init_lora_weights": "pissa"}, {"rank_pattern": {"q_proj": 6}}, {"init_lora_weights": "olora", "r": 8}],
    ids=str,
)
def test_the_rank_is_the_one_that_is_saved(tokenizer: Any, tmp_path: Path, option: dict[str, Any]) -> None:
    lora = Lora(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **option})
    save_adapter(create_lora_model(make_model(tokenizer), lora), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved_rank(lora) == max(config["r"], *config["rank_pattern"].values(), 0)


@pytest.mark.parametrize(
    ("form", "file"),
    [("gguf", "tuned/model.gguf"), ("gguf-lora", "tuned-lora/adapter.gguf")],
)
def test_the_commands_that_export_work_as_they_stand(
    form: str,
    file: str,
    trained: Trained,
    new_engine_harness: Callable[[Path, Settings], EngineHarness],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readme = (trained.adapter / "README.md").read_text()
    line = next(line for line in readme.splitlines() if f"--format {form} " in line)
    command = [word.replace("THIS_FOLDER", str(trained.adapter)) for word in shlex.split(line)]
    request = parse(command[1:])
    assert request is not None
    assert request.run == "export"
    monkeypatch.chdir(tmp_path)
    outcome = new_engine_harness(tmp_path, Settings()).run("export", run_options(request))
    assert outcome.state == "finished", outcome
    assert (tmp_path / file).is_file()
