"""The model card: what an adapter was trained on, how well it does, and how to use it, beside the weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_tui import __version__
from lora_tui.config.models import Lora
from lora_tui.engine.evaluation.scoring import Scored
from lora_tui.engine.training.serving import serving
from lora_tui.text import clean


@dataclass(frozen=True)
class CardFacts:
    """What the card tells.

    `curve` holds (step, loss) pairs of the run so far, `held_out` how many examples were not trained on and
    `held_out_loss` their mean loss a label token; `conversations` says that prompts go through the
    model's chat template.
    """

    base_model: str
    data_file: str
    forms: Mapping[str, int]
    examples: int
    tokens: int
    step: int
    score: float | None
    evaluation: Scored | None
    curve: Sequence[tuple[int, float]]
    lora: Lora
    conversations: bool = False
    held_out: int = 0
    held_out_loss: float | None = None


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown with the front matter that the Hugging Face hub reads."""
    forms = ", ".join(f"{number:,} {form}" for form, number in facts.forms.items())
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {facts.base_model}",
        "tags: [lora, lora-tui]",
        "---",
        "",
        "# LoRA adapter",
        "",
        f"Trained with lora-tui {__version__} on `{Path(facts.data_file).name}`: {facts.examples:,} examples"
        f" ({forms}), {facts.tokens:,} tokens an epoch.",
        f"Step {facts.step}" + (f", score {facts.score:.3f} of 1." if facts.score is not None else "."),
        *_held_out(facts),
        "",
        "The exact configuration is in `config.toml`. "
        + (
            "Prompts go through the model's chat template."
            if facts.conversations
            else "Prompts have the form `Question: …` newline `Answer:`."
        ),
        "",
    ]
    if facts.evaluation is not None:
        lines += ["## Evaluation", "", "| prompt | kind | answer | score |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {_cell(s.prompt)} | {s.kind} | {_cell(s.answer)} | {s.score:.3f} |" for s in facts.evaluation.samples
        ]
        lines += [
            "",
            "Means: " + ", ".join(f"{name} {value:.3f}" for name, value in facts.evaluation.metrics.items()),
            "",
        ]
    if facts.curve:
        lines += ["## Loss", "", "| step | loss |", "| --- | --- |"]
        stride = max(1, len(facts.curve) // 20)
        lines += [f"| {step} | {loss:.4f} |" for step, loss in facts.curve[::stride]]
        lines += [""]
    lines += [
        "## Use",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({facts.base_model!r})",
        'model = PeftModel.from_pretrained(base, "THIS_FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
        "```",
        "",
        *serving(facts.base_model, facts.lora, conversations=facts.conversations),
    ]
    return "\n".join(lines)


def _held_out(facts: CardFacts) -> list[str]:
    if facts.held_out_loss is None or not math.isfinite(facts.held_out_loss):
        return []
    return [f"Loss on {facts.held_out:,} held-out examples, which were not trained on: {facts.held_out_loss:.4f}."]


def _cell(text: str) -> str:
    return clean(text).replace("\n", " ").replace("|", "\\|")
