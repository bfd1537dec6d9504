"""A base model's facts come from files of this machine, and from nowhere else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.models import hub_info as module
from lora_tui.engine.models.architecture import Architecture
from lora_tui.engine.models.hub_info import find_architecture

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}


def model(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def test_folder_is_read_and_read_again_once_it_changes(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    found = find_architecture(str(folder))
    assert isinstance(found, Architecture)
    assert found.layers == 3
    model(folder, num_hidden_layers=12)
    changed = find_architecture(str(folder))
    assert isinstance(changed, Architecture)
    assert changed.layers == 12


def test_same_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path / "m")
    find_architecture(str(folder))
    monkeypatch.setattr(module, "_read_architecture", lambda _: "parsed again")
    assert isinstance(find_architecture(str(folder)), Architecture)


def test_built_in_model_is_looked_for_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path))
    assert find_architecture("builtin") == "the built-in model is fetched when it is first used"
    folder = model(tmp_path / "smollm2-135m-instruct")
    (folder / "model.safetensors").touch()
    assert isinstance(find_architecture("builtin"), Architecture)


def test_name_on_the_hub_is_looked_for_in_its_cache_and_never_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("nothing is fetched here"))
    assert find_architecture("owner/model") == "it is fetched from the Hugging Face hub when training begins"
    revision = tmp_path / "models--owner--model"
    model(revision / "snapshots" / "abc")
    (revision / "refs").mkdir()
    (revision / "refs" / "main").write_text("abc")
    assert isinstance(find_architecture("owner/model"), Architecture)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("model.gguf", "a .gguf file is opened when training begins"),
        ("./nowhere", "there is no such folder"),
        ("~/nowhere", "there is no such folder"),
        ("not a name", "owner/model"),
        ("", "the folder holds no config.json"),
    ],
)
def test_what_is_not_here_is_told(name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = find_architecture(name)
    assert isinstance(found, str)
    assert problem in found


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "holds no configuration"),
        (json.dumps({**CONFIG, "model_type": "gpt2"}), "type gpt2 is not known"),
        (json.dumps({**CONFIG, "quantization_config": {"bits": 4}}), "weights are quantised"),
    ],
)
def test_configuration_that_tells_nothing_is_told(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    found = find_architecture(str(tmp_path))
    assert isinstance(found, str)
    assert problem in found


def test_nothing_heavy_is_needed() -> None:
    code = (
        "import sys; from lora_tui.engine.models.hub_info import find_architecture; find_architecture('owner/model'); "
        "print(*{n.partition('.')[0] for n in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(run.stdout.split()) & {"torch", "transformers", "peft", "openai", "textual", "rich", "numpy"} == set()
