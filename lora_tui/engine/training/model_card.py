"""The model card beside an adapter's weights: what it was trained on, its scores and losses, how to load and serve it.

For serving it goes by what the servers can load. vLLM's ``peft_helper.py`` refuses DoRA and modules that were trained
whole, and knows one scale for all layers; llama.cpp has no form for the first two.
"""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_tui import __version__
from lora_tui.config.hub_names import data_name
from lora_tui.config.models import Lora
from lora_tui.engine.evaluation.scoring import EvaluationResult
from lora_tui.engine.models.adapter_source import THIS_FOLDER as FOLDER
from lora_tui.engine.training.pissa import uses_base_weights
from lora_tui.protocol.agreement import Estimate, ScoreAgreement, agreement_text, interval_text
from lora_tui.text import clean, count

_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` accepts, from its default on."""

_EXPORT = "lora-tui --run export --format"
_MERGE = f"{_EXPORT} merged --adapter {FOLDER} --output merged"


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card says of a run.

    `evaluation` and `step` are those of the adapter, and `curve` holds (step, loss) pairs of the run so far. `held_out`
    is how many examples were not trained on, `held_out_loss` their mean loss a label token. `conversations` says that
    prompts go through the model's chat template.
    """

    base_model: str
    data_file: str
    forms: Mapping[str, int]
    examples: int
    tokens: int
    step: int
    evaluation: EvaluationResult | None
    curve: Sequence[tuple[int, float]]
    lora: Lora
    conversations: bool = False
    held_out: int = 0
    held_out_loss: float | None = None
    agreement: ScoreAgreement | None = None
    people: Estimate | None = None
    """What people would think of the answers, on average, as far as ratings tell."""


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown, with the front matter that the Hugging Face hub reads."""
    forms = ", ".join(f"{number:,} {form}" for form, number in facts.forms.items())
    score = f", score {facts.evaluation.score:.3f} of 1." if facts.evaluation is not None else "."
    if facts.evaluation is not None and facts.evaluation.controls:
        kept, asked_controls = facts.evaluation.controls_kept, facts.evaluation.controls
        score += f" {kept} of {count(asked_controls, 'control')} kept: prompts that must not be answered so."
    asked = (
        "go through the model's chat template"
        if facts.conversations
        else "have the form `Question: …` newline `Answer:`"
    )
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {facts.base_model}",
        "tags: [lora, lora-tui]",
        "---",
        "",
        "# LoRA adapter",
        "",
        f"Trained with lora-tui {__version__} on `{data_name(facts.data_file)}`: {facts.examples:,} examples"
        f" ({forms}), {facts.tokens:,} tokens an epoch.",
        f"Step {facts.step}{score}",
    ]
    if facts.held_out_loss is not None and math.isfinite(facts.held_out_loss):
        held_out = f"{facts.held_out:,} held-out examples, which were not trained on"
        lines += [f"Loss on {held_out}: {facts.held_out_loss:.4f}."]
    lines += ["", f"The exact configuration is in `config.toml`. Prompts {asked}.", ""]
    if facts.evaluation is not None:
        lines += ["## Evaluation", "", "| prompt | kind | answer | score |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {_cell(s.prompt)} | {s.kind} | {_cell(s.answer)} | {s.score:.3f} |" for s in facts.evaluation.samples
        ]
        means = ", ".join(f"{name} {value:.3f}" for name, value in facts.evaluation.metrics.items())
        lines += ["", f"Means: {means}", ""]
        lines += [*_agreement(facts), ""] if facts.agreement is not None else []
    if facts.curve:
        lines += ["## Loss", "", "| step | loss |", "| --- | --- |"]
        stride = max(1, len(facts.curve) // 20)
        lines += [*(f"| {step} | {loss:.4f} |" for step, loss in facts.curve[::stride]), ""]
    load = (
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({facts.base_model!r})",
        f'model = PeftModel.from_pretrained(base, "{FOLDER}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{FOLDER}")',
    )
    use = ["## Use", _block("python", *load), serving_sections(facts.base_model, facts.lora, facts.conversations)]
    return "\n".join([*lines, "\n\n".join(use)])


def _agreement(facts: CardFacts) -> Iterator[str]:
    """What is known of the score's agreement with people, and of the mean that they would give."""
    agreement = facts.agreement
    assert agreement is not None, "it was looked for"
    yield f"How the score agrees with people's ratings: {agreement_text(agreement)}."
    if agreement.curve:
        yield ""
        yield "| score | ratings | good, as people say | 95 % interval |"
        yield "| --- | --- | --- | --- |"
        for point in agreement.curve:
            good = point.good
            yield f"| {point.score:.2f} | {point.ratings} | {good.value:.2f} | {good.low:.2f}–{good.high:.2f} |"
    if facts.people is not None:
        yield ""
        yield f"Mean of the answers that expect a reply, as people would rate them: {interval_text(facts.people)}."


def _cell(text: str) -> str:
    return clean(text).replace("\n", " ").replace("|", "\\|")


def _block(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def saved_rank(lora: Lora) -> int:
    """Return the highest rank of the saved matrices: twice that of the trained ones for PiSSA and OLoRA."""
    highest = max(lora.r, *lora.rank_pattern.values()) if lora.rank_pattern else lora.r
    return 2 * highest if uses_base_weights(lora.init_lora_weights) else highest


def serving_sections(base_model: str, lora: Lora, conversations: bool) -> str:
    """Return the card's sections on vLLM, Ollama and llama.cpp.

    `conversations` says that prompts go through the model's chat template; else they are ``Question: …`` texts.
    """
    paragraphs = [*_vllm(base_model, lora, conversations), *_llama_cpp(base_model, lora)]
    return "\n\n".join(paragraphs) + "\n"


def _vllm(base_model: str, lora: Lora, conversations: bool) -> Iterator[str]:
    yield "## vLLM"
    rank = saved_rank(lora)
    room = f" --max-lora-rank {next((r for r in _VLLM_RANKS if r >= rank), rank)}" if rank > _VLLM_RANKS[0] else ""
    commands = [f"vllm serve {shlex.quote(base_model)} --enable-lora --lora-modules tuned={FOLDER}{room}"]
    if obstacle := _vllm_obstacle(base_model, lora):
        yield f"vLLM cannot load this adapter beside its base model: {obstacle}. Merge the two first."
        commands = [_MERGE, "vllm serve merged --served-model-name tuned"]
    where = "/v1/chat/completions" if conversations else "/v1/completions"
    asked = '"messages": [{"role": "user", "content": "…"}]' if conversations else r'"prompt": "Question: …\nAnswer:"'
    curl = f"curl localhost:8000{where} -H 'Content-Type: application/json' -d '{{\"model\": \"tuned\", {asked}}}'"
    yield _block("sh", *commands, curl)


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


def _llama_cpp(base_model: str, lora: Lora) -> Iterator[str]:
    yield "## Ollama and llama.cpp"
    yield "The model merged, as a GGUF file that is read back and compared, with a `Modelfile` beside it:"
    yield _block("sh", f"{_EXPORT} gguf --adapter {FOLDER} --output tuned", "ollama create tuned -f tuned/Modelfile")
    if obstacle := _gguf_obstacle(lora):
        yield f"The adapter alone cannot be written for llama.cpp: {obstacle}."
        return
    base = shlex.quote(base_model) if base_model.endswith(".gguf") else "BASE.gguf"
    yield "Or the adapter alone, for llama.cpp (Ollama takes none since 0.34.1), beside its base model as GGUF:"
    yield _block(
        "sh",
        f"{_EXPORT} gguf-lora --adapter {FOLDER} --output tuned-lora",
        f"llama-server -m {base} --lora tuned-lora/adapter.gguf",
    )


def _gguf_obstacle(lora: Lora) -> str:
    """Why the adapter alone has no form in llama.cpp; empty where it has."""
    if lora.use_dora:
        return "it does not know DoRA"
    return "it has no place for modules that were trained whole" if lora.modules_to_save else ""
