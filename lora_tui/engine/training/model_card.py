"""The model card beside an adapter's weights: what it was trained on, its scores and losses, how to load and serve it.

For serving it goes by what the servers can load. vLLM's ``peft_helper.py`` refuses DoRA and modules that were trained
whole, and knows one scale for all layers; llama.cpp's ``convert_lora_to_gguf.py`` refuses the same, and its scale is
alpha / r, never rsLoRA's.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_tui import __version__
from lora_tui.config.models import Lora
from lora_tui.engine.evaluation.scoring import EvaluationResult
from lora_tui.engine.training.pissa import uses_base_weights
from lora_tui.text import clean

FOLDER = "THIS_FOLDER"
"""Placeholder for the adapter's folder: nobody knows yet where it will be read."""

_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` accepts, from its default on."""

_MERGE = f"lora-tui --run export --format merged --adapter {FOLDER} --output merged"


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card says of a run.

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
    evaluation: EvaluationResult | None
    curve: Sequence[tuple[int, float]]
    lora: Lora
    conversations: bool = False
    held_out: int = 0
    held_out_loss: float | None = None


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown, with the front matter that the Hugging Face hub reads."""
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
        *_held_out_line(facts),
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
        *serving_sections(facts.base_model, facts.lora, conversations=facts.conversations),
    ]
    return "\n".join(lines)


def _held_out_line(facts: CardFacts) -> list[str]:
    if facts.held_out_loss is None or not math.isfinite(facts.held_out_loss):
        return []
    return [f"Loss on {facts.held_out:,} held-out examples, which were not trained on: {facts.held_out_loss:.4f}."]


def _cell(text: str) -> str:
    return clean(text).replace("\n", " ").replace("|", "\\|")


def saved_rank(lora: Lora) -> int:
    """Return the highest rank of the saved matrices: twice that of the trained ones for PiSSA and OLoRA."""
    highest = max(lora.r, *lora.rank_pattern.values()) if lora.rank_pattern else lora.r
    return 2 * highest if uses_base_weights(lora.init_lora_weights) else highest


def serving_sections(base_model: str, lora: Lora, *, conversations: bool) -> list[str]:
    """Return the lines of the card's sections on vLLM and Ollama.

    `conversations` says that prompts go through the model's chat template; else they are ``Question: …`` texts.
    """
    return [*_vllm(base_model, lora, conversations), *_ollama(base_model, lora, conversations)]


def _vllm(base_model: str, lora: Lora, conversations: bool) -> list[str]:
    obstacle = _vllm_obstacle(base_model, lora)
    rank = saved_rank(lora)
    if obstacle:
        commands = [_MERGE, "vllm serve merged --served-model-name tuned"]
    else:
        wider = f" --max-lora-rank {next(r for r in _VLLM_RANKS if r >= rank)}" if rank > _VLLM_RANKS[0] else ""
        serve = f"vllm serve {shlex.quote(base_model)} --enable-lora --lora-modules tuned={FOLDER}{wider}"
        commands = [serve]
    where = "/v1/chat/completions" if conversations else "/v1/completions"
    asked = '"messages": [{"role": "user", "content": "…"}]' if conversations else r'"prompt": "Question: …\nAnswer:"'
    return [
        "## vLLM",
        "",
        *(
            [f"vLLM cannot load this adapter beside its base model: {obstacle}. Merge the two first.", ""]
            if obstacle
            else []
        ),
        "```sh",
        *commands,
        f"curl localhost:8000{where} -H 'Content-Type: application/json' -d '{{\"model\": \"tuned\", {asked}}}'",
        "```",
        "",
    ]


def _vllm_obstacle(base_model: str, lora: Lora) -> str:
    """Why vLLM cannot load the adapter; empty where it can."""
    if lora.use_dora:
        return "it does not know DoRA"
    if lora.modules_to_save:
        return "it loads no modules that were trained whole"
    if lora.rank_pattern or lora.alpha_pattern:
        return "it knows one scale for all layers, and here they differ"
    if saved_rank(lora) > _VLLM_RANKS[-1]:
        return f"its highest rank is {_VLLM_RANKS[-1]}"
    return "the base model is a .gguf file" if base_model.endswith(".gguf") else ""


def _ollama(base_model: str, lora: Lora, conversations: bool) -> list[str]:
    obstacle = _gguf_obstacle(lora)
    lines = [
        "## Ollama",
        "",
        "Ollama reads GGUF files; the two converters come with llama.cpp. Merged weights work for every adapter:",
        "",
        "```sh",
        _MERGE,
        "python convert_hf_to_gguf.py merged --outfile tuned.gguf",
        "ollama create tuned -f Modelfile && ollama run tuned",
        "```",
        "",
        "with this `Modelfile`:",
        "",
        "```",
        "FROM ./tuned.gguf",
        *_ollama_template(conversations),
        "```",
        "",
    ]
    if obstacle:
        return [*lines, f"The adapter alone cannot be converted: {obstacle}.", ""]
    base = "base.gguf"
    whole = shlex.quote(base_model)
    known = f" --base-model-id {whole}" if not base_model.startswith(("/", ".", "~")) else f" --base {whole}"
    if base_model.endswith(".gguf"):
        base, known = base_model, " --base FOLDER_OF_THE_ORIGINAL_MODEL"
    return [
        *lines,
        f"Or the adapter alone, beside the same base model as `{base}`:",
        "",
        "```sh",
        f"python convert_lora_to_gguf.py {FOLDER}{known} --outfile adapter.gguf",
        "```",
        "",
        "```",
        f"FROM {base if '/' in base else f'./{base}'}",
        "ADAPTER ./adapter.gguf",
        *_ollama_template(conversations),
        "```",
        "",
    ]


def _gguf_obstacle(lora: Lora) -> str:
    """Why llama.cpp cannot convert the adapter rightly; empty where it can."""
    if lora.use_dora:
        return "llama.cpp does not know DoRA"
    if lora.modules_to_save:
        return "llama.cpp converts no modules that were trained whole"
    if lora.use_rslora:
        return "llama.cpp scales by alpha / r, and this adapter by alpha / √r (rsLoRA)"
    return "llama.cpp knows one alpha for all layers, and here they differ" if lora.alpha_pattern else ""


def _ollama_template(conversations: bool) -> list[str]:
    """The prompts of training: for conversations the model's own template, which the converted file holds."""
    return [] if conversations else ['TEMPLATE """Question: {{ .Prompt }}', 'Answer:"""']
