"""Which file a run trains on."""

from pathlib import Path

from lora_tui.engine.runtime.context import RunContext


def training_file(ctx: RunContext) -> Path:
    """The file to train on: the command line's, the configuration's, or what generation writes."""
    settings = ctx.settings
    named = ctx.options.get("train_data_file") or settings.fine_tuning.train_data_file
    return Path(named or settings.data_generation.output_file).expanduser()
