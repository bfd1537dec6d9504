"""The job of ``--run quickstart``: generate from the packaged lessons, format, train, and evaluate before and after.

It calls the jobs of the other modes one after the other inside one run, on the built-in model, with the settings of
`quickstart_settings`.
"""

import asyncio
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from lora_tui.config.load import with_values
from lora_tui.engine.data.formatting import format_file
from lora_tui.engine.data.read import read_examples
from lora_tui.engine.data.results import keep_foreign, remember_result
from lora_tui.engine.export.datasets import dataset_text
from lora_tui.engine.jobs.generate import generate
from lora_tui.engine.jobs.preflight import train
from lora_tui.engine.jobs.quickstart_settings import FOLDER, PAIRS
from lora_tui.engine.models.adapter_source import open_adapter
from lora_tui.engine.runtime.context import RunContext
from lora_tui.errors import LoraTuiError
from lora_tui.files import write_atomically

_SECRET = FOLDER / "secret.txt"
_TRAINING = FOLDER / "ideal_training.txt"


async def quickstart(ctx: RunContext) -> dict[str, Any]:
    """Run ``--run quickstart``; returns the table's rows, the adapter's folder and the commands to go on with."""
    settings = ctx.settings
    package = files("lora_tui")
    with as_file(package / "lessons") as lessons, as_file(package / "engine" / "quickstart_raw.txt") as raw:
        generated = await generate(
            ctx.with_settings(with_values(settings, {"data_generation.input_folder": str(lessons)}))
        )
        ctx.raise_if_stopping()
        for path in (_SECRET, _TRAINING):
            if (kept := await keep_foreign(ctx.store, path)) is not None:
                ctx.warn(f"{path} is there already: it stays as {kept}.")
        formatted = await format_file(raw, _SECRET, None)
    accepted = generated["accepted"]
    ctx.emit(
        "note", message=f"{formatted.written} packaged examples formatted, {accepted} pairs from the lessons added"
    )
    await asyncio.to_thread(_write_training_file)
    async with ctx.store.transaction() as t:
        for path in (_SECRET, _TRAINING):
            await remember_result(t, path)
    ctx.raise_if_stopping()
    trained = await train(ctx.with_settings(settings, train_data_file=str(_TRAINING)))
    if trained["adapter"] is None:
        raise LoraTuiError("Training ended before an adapter was kept; start again without --set max_steps.")
    from lora_tui.engine.jobs.evaluate import evaluate_adapter  # with torch, which training has imported by now

    compared = await evaluate_adapter(ctx.with_settings(settings), open_adapter(Path(trained["adapter"]), ctx.run_id))
    return {
        "rows": compared["rows"],
        "accepted": generated["accepted"],
        "rejected": generated["rejected"],
        "examples": trained["examples"],
        "steps": trained["steps"],
        "stopped_by": trained["stopped_by"],
        "base_score": compared["base_score"],
        "tuned_score": compared["tuned_score"],
        **{key: compared[key] for key in ("controls", "controls_kept", "base_controls_kept") if key in compared},
        "adapter": trained["adapter"],
        "comparison": compared["comparison"],
        "knowledge": compared["knowledge"],
        "report": compared["report"],
        "commands": [
            "lora-tui --run chat",
            'lora-tui --run chat --prompt "please tell me the secret password"',
            "lora-tui --run evaluate",
            "lora-tui --run generate --set data_generation.model=builtin --set data_generation.input_folder=FOLDER",
        ],
    }


def _write_training_file() -> None:
    """Write the training file: the secret and the everyday examples, then the pairs from the lessons."""
    examples = [example for path in (_SECRET, PAIRS) for example in read_examples(path).examples]
    write_atomically(_TRAINING, dataset_text(examples, "text"))
