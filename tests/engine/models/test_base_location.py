"""A base model that was moved is found again by its weights; another one is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_tui.engine.models.adapter_source import open_adapter
from lora_tui.engine.models.base_location import base_facts
from lora_tui.errors import UnreachableError, UsageError
from tests.engine.conftest import Trained
from tests.engine.tiny import tiny_settings

DEFAULT = "deepseek-ai/deepseek-r1-distill-qwen-1.5b"


@pytest.fixture
def moved(trained: Trained, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """An adapter that was trained on ``./base`` in this folder, and what it takes as its base model now."""
    shutil.copytree(base_folder, tmp_path / "base")
    adapter = Path(shutil.copytree(trained.adapter, tmp_path / "checkpoints" / "run-1" / "best"))
    path = adapter / "lora_tui.json"
    metadata = json.loads(path.read_text())
    assert metadata["base_path"] == str(base_folder)
    metadata |= {"base_model": "./base", "base_path": str(tmp_path / "base")}
    path.write_text(json.dumps(metadata))
    monkeypatch.chdir(tmp_path)

    def base_model(configured: str = DEFAULT, *, forget: tuple[str, ...] = ()) -> str:
        path.write_text(json.dumps({key: value for key, value in metadata.items() if key not in forget}))
        return open_adapter(adapter, None).base_model(tiny_settings({"model_name": configured}))

    return base_model


def test_where_nothing_was_moved_the_name_is_kept(moved: Callable[..., str], tmp_path: Path) -> None:
    assert moved() == moved("./base") == "./base"
    assert moved(str(tmp_path / "base")) == str(tmp_path / "base"), "the same folder by another name"


@pytest.mark.parametrize("forget", [(), ("base_path", "base_sha256")], ids=["known", "older adapter"])
def test_from_another_folder_it_is_found(
    moved: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: tuple[str, ...]
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert moved(forget=forget) == str(tmp_path / "base")


@pytest.mark.parametrize("forget", [(), ("base_path", "base_sha256")], ids=["known", "older adapter"])
def test_naming_where_it_is_now_is_enough(moved: Callable[..., str], tmp_path: Path, forget: tuple[str, ...]) -> None:
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UnreachableError, match=r"The base model ./base of the adapter .* is no longer there. Name where"
    ):
        moved(forget=forget)
    for name in ("./elsewhere", str(tmp_path / "elsewhere")):
        assert moved(name, forget=forget) == name


def test_another_model_is_not_taken_for_it(moved: Callable[..., str], tmp_path: Path, untied_folder: Path) -> None:
    for gone in (False, True):
        if gone:
            shutil.rmtree(tmp_path / "base")
        with pytest.raises(UsageError, match=r"trained on ./base, but fine_tuning.model_name is .* another model"):
            moved(str(untied_folder))


def test_a_model_of_the_same_shape_is_another_one_by_its_weights(moved: Callable[..., str], tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "base", tmp_path / "tuned")
    weights = tmp_path / "tuned" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0@")
    with pytest.raises(UsageError, match="another model"):
        moved("./tuned")


def test_a_model_in_which_one_matrix_differs_is_another(tmp_path: Path) -> None:
    found = set()
    for folder, changed in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
        model = tmp_path / folder
        model.mkdir()
        (model / "config.json").write_text("{}")
        tensors = {f"layers.{number}": torch.zeros(576, 576) for number in range(60)}
        tensors["layers.31"] += changed
        save_file(tensors, model / "model.safetensors")
        found.add(base_facts(str(model))["base_sha256"])
    assert len(found) == 2
