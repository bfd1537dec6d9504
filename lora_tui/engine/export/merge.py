"""Merging an adapter into its base model's weights, for a model that needs no PEFT.

The weights are merged in float32, into the base model as it was published, and checked: the reloaded model must give
the adapter's logits. Apart from the job because it imports torch.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError

from lora_tui.config.load import with_values
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.engine.models.tokenizer_files import save_tokenizer
from lora_tui.engine.runtime.context import RunContext, progress_events
from lora_tui.errors import LoraTuiError
from lora_tui.files import atomic_folder, unwritable

_PROBE = "Question: what is the capital of France?\nAnswer:"
_TOLERANCE = 1e-3
"""Largest difference between the logits of adapter and merged model (float32) that rounding explains."""


def load_in_float32(ctx: RunContext, name: str) -> BaseModel:
    """Load a model as it was published, whatever precision is configured: what is written of it is read by others."""
    settings = with_values(ctx.settings, {"fine_tuning.dtype": "float32", "fine_tuning.qlora": False})
    return load_base(settings, progress_events(ctx.emit), name)


def merge(ctx: RunContext, source: AdapterSource, target: Path) -> float:
    """Add the adapter to the base weights in float32, save, and compare the logits of both on one prompt."""
    base = load_in_float32(ctx, source.base_model(ctx.settings))
    model = load_adapter(base, source)
    encoded = base.tokenizer(_PROBE, return_tensors="pt").to(base.device)
    with torch.inference_mode():
        expected = model(**encoded).logits.clone()
    merged = model.merge_and_unload(safe_merge=True)
    try:
        with atomic_folder(target) as scratch:
            merged.save_pretrained(scratch)
            save_tokenizer(base.tokenizer, base.folder, scratch)
            del base, model, merged
            # What others will load, not what was saved: a head that was tied to its embedding is tied again on loading.
            reloaded = load_in_float32(ctx, str(scratch)).model
            with torch.inference_mode():
                difference = float((reloaded(**encoded).logits - expected).abs().max())
            if not difference <= _TOLERANCE:
                raise LoraTuiError(
                    f"The merged model's logits differ from the adapter's by {difference:.2g}: nothing was written. "
                    "Serve the adapter itself instead."
                )
    except (OSError, SafetensorError) as problem:  # safetensors tells of a full disk in a type of its own
        raise unwritable(target, problem) from problem
    return difference
