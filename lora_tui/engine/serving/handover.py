"""Commands for the servers that bear more than this one: vLLM, and llama.cpp's, with the paths filled in.

They are for a person to copy; nothing here runs them, which is why it is apart from the job that serves.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.serving.choice import Served

_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` takes; 16 where it is not given."""


def vllm_command(served: Served, base: str) -> tuple[str, tuple[str, ...]]:
    """Return vLLM's command for what is served, and the adapters that it cannot load, each with the reason.

    `base` is the base model's folder, or its name on the hub.
    """
    loaded, left_out, ranks = list[str](), list[str](), [0]
    for name, source in _adapters(served):
        config = _configuration(source)
        if obstacle := _vllm_obstacle(config):
            left_out.append(f"{name}: {obstacle}")
            continue
        ranks.append(int(config.get("r") or 0))
        loaded.append(f"{name}={source.folder.absolute()}")
    command = ["vllm", "serve", base, "--served-model-name", "base"]
    if loaded:
        rank = next((rank for rank in _VLLM_RANKS if rank >= max(ranks)), max(ranks))
        command += ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", *loaded]
    return shlex.join(command), tuple(left_out)


def llama_commands(served: Served, base: str) -> tuple[str, ...]:
    """Return the commands that make llama.cpp's files of what is served, and the one that serves them."""
    if base.endswith(".gguf"):
        model, commands = base, []
    else:
        model, commands = "base.gguf", [shlex.join(["convert_hf_to_gguf.py", base, "--outfile", "base.gguf"])]
    files = []
    for name, source in _adapters(served):
        config = _configuration(source)
        if config.get("use_dora") or config.get("modules_to_save"):
            continue  # llama.cpp has no form for it
        folder = f"{name.replace(':', '-').replace('/', '-')}-lora"
        export = ["lora-tui", "--run", "export", "--format", "gguf-lora"]
        commands.append(shlex.join([*export, "--adapter", str(source.folder.absolute()), "--output", folder]))
        files += ["--lora", f"{folder}/adapter.gguf"]
    chosen = ["--lora-init-without-apply"] if len(files) > 2 else []  # else all of them are applied at once
    return (*commands, shlex.join(["llama-server", "-m", model, *files, *chosen]))


def base_place(name: str, folder: Path | None) -> str:
    """Return how other programs find the base model: its folder where it was loaded from one, else its hub name."""
    path = Path(name).expanduser()
    if path.exists():
        return str(path.absolute())
    is_hub_name = "/" in name
    return name if is_hub_name or folder is None else str(folder)


def _adapters(served: Served) -> Sequence[tuple[str, AdapterSource]]:
    return [(model.name, model.source) for model in served.models if model.source is not None]


def _configuration(source: AdapterSource) -> Mapping[str, Any]:
    """The adapter's configuration, which was read before: it is known to be an object."""
    found: Mapping[str, Any] = json.loads((source.folder / "adapter_config.json").read_text(encoding="utf-8"))
    return found


def _vllm_obstacle(config: Mapping[str, Any]) -> str:
    """Why vLLM cannot load an adapter; empty where it can. The model card says the same of its own."""
    if config.get("use_dora"):
        return "vLLM does not know DoRA"
    if config.get("modules_to_save"):
        return "vLLM loads no modules that were trained whole"
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        return "vLLM knows one scale for all layers, and here they differ"
    return f"vLLM's highest rank is {_VLLM_RANKS[-1]}" if int(config.get("r") or 0) > _VLLM_RANKS[-1] else ""
