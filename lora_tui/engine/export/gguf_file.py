"""Writers of GGUF files: a whole model in one of three number forms, and an adapter alone.

Tensors are written one by one, so that beside the model itself only the largest of them is in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, Keys, LlamaFileType
from gguf.quants import quant_shape_to_byte_shape, quantize
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.export.gguf_layout import GgufLayout
from lora_tui.engine.export.gguf_vocabulary import write_vocabulary
from lora_tui.errors import UsageError
from lora_tui.protocol.backend import LoadProgress

NUMBER_FORMS: Final = ("f16", "bf16", "q8_0", "f32")
"""How the numbers of a model's matrices can be written here, the first by default."""

_FORMS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


def write_model(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
    form: str,
    name: str,
    progress: LoadProgress,
) -> None:
    """Write a model in float32 to a new file; `ends` are the tokens that end an answer, `form` one of `NUMBER_FORMS`.

    Vectors stay in float32, as llama.cpp has them, and matrices whose rows are not whole blocks in float16. Raises
    `UsageError` for a model or tokenizer that llama.cpp does not have, `OSError` where the file cannot be written.
    """
    layout = GgufLayout(model.config)
    wanted, file_type = _FORMS[form]
    writer = GGUFWriter(path, layout.family.name)
    writer.add_name(name)
    writer.add_file_type(int(file_type))
    layout.write_head(writer)
    write_vocabulary(writer, tokenizer, model.config.vocab_size, ends)
    tensors = dict(_tensors(layout, model))
    for gguf_name, (_, weight) in tensors.items():
        _announce(writer, gguf_name, tuple(weight.shape), _number_form(wanted, weight))
    try:
        _write_head(writer)
        for done, (own_name, weight) in enumerate(tensors.values()):
            progress(f"writing {path.name}", done, len(tensors))
            array = layout.laid_out(own_name, weight.detach().float().cpu()).numpy()
            writer.write_tensor_data(_in_form(array, _number_form(wanted, weight)))
        progress(f"writing {path.name}", len(tensors), len(tensors))
    finally:
        writer.close()


def write_adapter(path: Path, model: PeftModel) -> None:
    """Write an adapter alone to a new file, in float32, for ``llama-server --lora``.

    llama.cpp multiplies by alpha / rank with one alpha for all layers: what is different from layer to layer, or scaled
    by another rule, goes into the outer matrices. Raises `UsageError` for what llama.cpp has no form for.
    """
    layout = GgufLayout(model.get_base_model().config)
    pairs = list(_low_rank_pairs(model))
    writer = GGUFWriter(path, layout.family.name)
    writer.add_type("adapter")
    writer.add_string(Keys.Adapter.TYPE, "lora")
    alpha = float(pairs[0][1].shape[0])
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)
    tensors: list[tuple[str, np.ndarray]] = []
    for name, inner, outer, scale in pairs:
        gguf_name = layout.name_of(f"{name}.weight")
        rank = inner.shape[0]
        turned = layout.laid_out(f"{name}.weight", outer * (scale * rank / alpha))
        tensors += [(f"{gguf_name}.lora_a", inner.numpy()), (f"{gguf_name}.lora_b", turned.numpy())]
    for gguf_name, array in tensors:
        _announce(writer, gguf_name, array.shape, GGMLQuantizationType.F32)
    try:
        _write_head(writer)
        for _, array in tensors:
            writer.write_tensor_data(np.ascontiguousarray(array, dtype=np.float32))
    finally:
        writer.close()


def _low_rank_pairs(model: PeftModel) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """Yield each adapted layer: its name in the base model, inner matrix (r, in), outer matrix (out, r), scale."""
    config = model.peft_config["default"]
    if getattr(config, "use_dora", False):
        raise UsageError("--format gguf-lora: llama.cpp does not know DoRA; --format gguf merges it.")
    if getattr(config, "modules_to_save", None):
        raise UsageError("--format gguf-lora: llama.cpp has no place for layers that were trained whole; use gguf.")
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if "default" in module.lora_embedding_A:
            raise UsageError("--format gguf-lora: the embedding was trained, too, which only --format gguf can write.")
        inner, outer = module.lora_A["default"], module.lora_B["default"]
        if outer.bias is not None:
            raise UsageError("--format gguf-lora: llama.cpp has no place for an adapter's biases; use --format gguf.")
        yield name, _plain(inner.weight), _plain(outer.weight), float(module.scaling["default"])


def _plain(weight: Tensor) -> Tensor:
    return weight.detach().float().cpu()


def _tensors(layout: GgufLayout, model: PreTrainedModel) -> Iterator[tuple[str, tuple[str, Tensor]]]:
    """Yield llama.cpp's name of each tensor with its own name and the weight; a tied head is not written again."""
    tied = is_tied(model)
    for name, weight in model.state_dict().items():
        if not (tied and name == "lm_head.weight"):
            yield layout.name_of(name), (name, weight)
    if (factors := layout.rotation_factors()) is not None:
        yield "rope_freqs.weight", ("", factors)


def is_tied(model: PreTrainedModel) -> bool:
    """Whether a model's head is its embedding, which an adapter that was merged into one of them ends."""
    head = model.get_output_embeddings()
    return head is not None and head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def _number_form(wanted: GGMLQuantizationType, weight: Tensor) -> GGMLQuantizationType:
    if weight.dim() < 2:
        return GGMLQuantizationType.F32
    return wanted if weight.shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


def _in_form(array: np.ndarray, form: GGMLQuantizationType) -> np.ndarray:
    """Return the array in a number form; numpy's own types for float32 and float16, bytes for the others."""
    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
    if form in plain:
        return np.ascontiguousarray(array, dtype=plain[form])
    written: np.ndarray = quantize(np.ascontiguousarray(array), form)
    return written


def _announce(writer: GGUFWriter, name: str, shape: Iterable[int], form: GGMLQuantizationType) -> None:
    """Put a tensor on the file's list."""
    byte_shape = quant_shape_to_byte_shape(tuple(shape), form)
    size = int(np.prod(byte_shape, dtype=np.int64))
    if form in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        writer.add_tensor_info(
            name, list(shape), np.dtype(np.float32 if form == GGMLQuantizationType.F32 else np.float16), size
        )
    else:
        writer.add_tensor_info(name, list(byte_shape), np.dtype(np.uint8), size, raw_dtype=form)


def _write_head(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
