"""lora-tui: from a folder of text to a fine-tuned language model you can talk to, in one terminal program.

The names that the contract promises to Python users are loaded on first use, so that ``import lora_tui`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lora_tui.engine.training.dataset import TextDataset
    from lora_tui.engine.training.loop import train_model
    from lora_tui.engine.training.lora import create_lora_model
    from lora_tui.scoring.aggregator import AdaptiveAggregator

__all__ = ["AdaptiveAggregator", "TextDataset", "__version__", "create_lora_model", "train_model"]


def __getattr__(name: str) -> Any:
    if name == "AdaptiveAggregator":  # which needs no torch
        from lora_tui.scoring.aggregator import AdaptiveAggregator

        return AdaptiveAggregator
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lora_tui.engine.training.dataset import TextDataset
    from lora_tui.engine.training.loop import train_model
    from lora_tui.engine.training.lora import create_lora_model

    return {"TextDataset": TextDataset, "train_model": train_model, "create_lora_model": create_lora_model}[name]
