"""The export as GGUF, llama.cpp's form: the merged model, or the adapter alone, each read back before it is kept."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from safetensors import SafetensorError
from transformers import PreTrainedModel

from lora_tui.engine.data.training_text import prompt_text
from lora_tui.engine.evaluation.own_prompts import template_renderer
from lora_tui.engine.export.gguf_file import NUMBER_FORMS, write_adapter, write_model
from lora_tui.engine.export.gguf_layout import GgufLayout
from lora_tui.engine.export.gguf_proof import Expectation, Proof, Reader, compare, expect, prove, ten_prompts
from lora_tui.engine.export.merge import load_in_float32
from lora_tui.engine.export.modelfile import PLAIN_CHAT_TEMPLATE, modelfile
from lora_tui.engine.inference.token_choice import stop_token_ids
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import BaseModel
from lora_tui.engine.runtime.context import RunContext, progress_events
from lora_tui.errors import LoraTuiError, UsageError
from lora_tui.files import atomic_folder, unwritable
from lora_tui.text import one_line

MODEL_FILE, ADAPTER_FILE = "model.gguf", "adapter.gguf"

_TOOL = "llama-quantize"
_TOOL_SECONDS = 3600


def check_number_form(form: str) -> None:
    """Raise `UsageError` where a number form cannot be written on this machine: those of llama.cpp need its tool."""
    if form not in NUMBER_FORMS and shutil.which(_TOOL) is None:
        raise UsageError(
            f"--quantize {one_line(form, 30)}: {', '.join(NUMBER_FORMS)} can be written here; other forms need "
            f"llama.cpp's {_TOOL} on the PATH."
        )


def export_gguf(ctx: RunContext, source: AdapterSource, target: Path, form: str) -> dict[str, Any]:
    """Merge the adapter into its base model and write it to a folder, with a Modelfile; returns what the proof found.

    Raises `LoraTuiError` where the file read back is not the model, with nothing written.
    """
    base, model = _loaded(ctx, source)
    by_template = bool(source.metadata.get("chat_template")) and bool(base.tokenizer.chat_template)
    ends = sorted(stop_token_ids(base.model, base.tokenizer))
    expected = _expectation(ctx, source, base, model)
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    tokenizer, reader, parameters = base.tokenizer, Reader.for_model(merged), _ollama_parameters(ctx, merged)
    if not by_template:
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    try:
        with atomic_folder(target) as scratch:
            file = scratch / MODEL_FILE
            written = scratch / "whole.gguf" if form not in NUMBER_FORMS else file
            number_form = form if form in NUMBER_FORMS else NUMBER_FORMS[0]
            write_model(written, merged, tokenizer, ends, number_form, target.name, progress_events(ctx.emit))
            del base, model, merged  # what is read back takes as much memory again
            if written != file:
                _quantize(written, file, form)
                written.unlink()
            proof = prove(file, expected, reader, form, ctx.stop)
            render = template_renderer(tokenizer) if by_template else None
            stops = [str(tokenizer.convert_ids_to_tokens(number)) for number in ends]
            (scratch / "Modelfile").write_text(modelfile(MODEL_FILE, render, stops, parameters), encoding="utf-8")
            (scratch / "README.md").write_text(_card(source, form, proof), encoding="utf-8")
    except (OSError, SafetensorError) as problem:
        raise unwritable(target, problem) from problem
    _warn_of_other_answers(ctx, proof)
    return {**proof.as_result(), "number_form": form}


def export_gguf_adapter(ctx: RunContext, source: AdapterSource, target: Path) -> dict[str, Any]:
    """Write the adapter alone, for ``llama-server --lora``, to a folder; it is read back, put on the base and compared.

    Raises as `export_gguf`, and `UsageError` for an adapter that llama.cpp has no form for.
    """
    base, model = _loaded(ctx, source)
    expected = _expectation(ctx, source, base, model)
    try:
        with atomic_folder(target) as scratch:
            file = scratch / ADAPTER_FILE
            write_adapter(file, model)
            del base, model
            plain = load_in_float32(ctx, source.base_model(ctx.settings))
            _apply(file, plain.model)
            proof = compare(expect(plain.model, plain.tokenizer, expected.prompts, ctx.stop), expected)
            if not proof.largest_difference <= 1e-3 * max(1.0, proof.spread):
                raise LoraTuiError(
                    f"The adapter read back gives logits that differ by {proof.largest_difference:.2g}: nothing was "
                    "written. --format gguf writes it merged."
                )
            (scratch / "README.md").write_text(_adapter_card(source), encoding="utf-8")
    except (OSError, SafetensorError) as problem:
        raise unwritable(target, problem) from problem
    _warn_of_other_answers(ctx, proof)
    return proof.as_result()


def _loaded(ctx: RunContext, source: AdapterSource) -> tuple[BaseModel, Any]:
    """The base model in float32, and the adapter on it."""
    base = load_in_float32(ctx, source.base_model(ctx.settings))
    GgufLayout(base.model.config)  # a family that is not known is told before anything is computed
    return base, load_adapter(base, source)


def _expectation(ctx: RunContext, source: AdapterSource, base: BaseModel, model: Any) -> Expectation:
    ctx.emit("progress", phase="asking the model", done=0, total=0)
    own = [str(prompt.get("prompt", "")) for prompt in source.prompts] or [prompt_text("What is the capital?")]
    return expect(model, base.tokenizer, ten_prompts([prompt for prompt in own if prompt]), ctx.stop)


def _quantize(whole: Path, target: Path, form: str) -> None:
    """Have llama.cpp's own tool write another number form; raises `LoraTuiError` with the last line that it says."""
    tool = shutil.which(_TOOL)
    assert tool is not None, "check_number_form has looked"
    ran = subprocess.run(  # the user's own tool, with paths that are ours
        [tool, os.fspath(whole), os.fspath(target), form.upper()],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TOOL_SECONDS,
        check=False,
    )
    if ran.returncode or not target.is_file():
        said = [line for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
        raise LoraTuiError(f"{_TOOL} wrote no {form}: {one_line(said[-1] if said else 'it said nothing', 200)}")


def _apply(file: Path, model: PreTrainedModel) -> None:
    """Add the low-rank pairs of a GGUF adapter to a model's weights, turned back into transformers' order."""
    reader = GGUFReader(file)
    layout = GgufLayout(model.config)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    arrays = {tensor.name: torch.tensor(dequantize(tensor.data, tensor.tensor_type)) for tensor in reader.tensors}
    for name, weight in model.named_parameters():
        gguf_name = layout.name_of(name) if name.endswith(".weight") else ""
        if f"{gguf_name}.lora_a" not in arrays:
            continue
        inner, outer = arrays[f"{gguf_name}.lora_a"], arrays[f"{gguf_name}.lora_b"]
        if layout.family.interleaved and name.rpartition(".weight")[0].endswith(("q_proj", "k_proj")):
            heads = weight.shape[0] // layout.head_size
            outer = outer.reshape(heads, -1, 2, outer.shape[1]).transpose(1, 2).reshape(outer.shape)
        with torch.no_grad():
            weight.add_((outer @ inner) * (alpha / inner.shape[0]))


def _warn_of_other_answers(ctx: RunContext, proof: Proof) -> None:
    if proof.same_answers < proof.prompts:
        ctx.warn(
            f"Of {proof.prompts} prompts {proof.prompts - proof.same_answers} are answered in other words by the file: "
            "its numbers are rounded. --quantize bf16 or f16 is closer."
        )


def _ollama_parameters(ctx: RunContext, model: PreTrainedModel) -> dict[str, float | int]:
    chat = ctx.settings.fine_tuning.chat
    return {
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "repeat_penalty": chat.repetition_penalty,
        "num_ctx": min(4096, int(model.config.max_position_embeddings)),
    }


def _card(source: AdapterSource, form: str, proof: Proof) -> str:
    base = one_line(source.trained_on or "its base model", 200)
    return (
        f"# {MODEL_FILE}\n\n{base} with an adapter of lora-tui merged into it, numbers in {form}.\n\n"
        f"Read back and compared with the model it was made of: on {proof.prompts} prompts the logits differ by "
        f"{proof.largest_difference:.3g} at most (they spread by {proof.spread:.3g}), and {proof.same_answers} of "
        f"{proof.prompts} greedy answers are the same.\n\n"
        f"```sh\nollama create tuned -f Modelfile && ollama run tuned\nllama-server -m {MODEL_FILE}\n```\n"
    )


def _adapter_card(source: AdapterSource) -> str:
    base = one_line(source.trained_on or "its base model", 200)
    return (
        f"# {ADAPTER_FILE}\n\nAn adapter of lora-tui for {base}, read back and compared with it.\n\n"
        f"```sh\nllama-server -m BASE.gguf --lora {ADAPTER_FILE}\n```\n\n"
        "BASE.gguf is the same base model as GGUF. Ollama from 0.34.1 on takes no adapter alone: "
        "for it, `lora-tui --run export --format gguf` writes the model merged.\n"
    )
