"""Advice on values that run but will surprise: what each will do, and what to set instead.

Nothing here refuses anything (`models` does), and nothing here is certain to be a mistake. Each piece of advice is one
line: ``key = value: what will happen; what to set``, with its source where it is a finding of others.
"""

import math
import re
from collections.abc import Iterator
from pathlib import PurePath
from urllib.parse import urlsplit

from lora_tui.config.generation import DataGeneration
from lora_tui.config.keys import settings_value
from lora_tui.config.models import App, FineTuning, Settings
from lora_tui.config.prices import token_prices
from lora_tui.config.reference import toml_value
from lora_tui.text import memory_size, one_line

_ADAM_BYTES = 16
"""Per trained parameter in fp32: the weight, its gradient and AdamW's two memories."""

_LOCAL_HOSTS = re.compile(r"localhost|127\.|::1$|10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|[^.]+$|.*\.local$")

_LOWEST_USEFUL_LR = 5e-5
_HIGHEST_USEFUL_LR = 5e-3
_USUAL_RATE = 5e-4
_FROM_OPTIMUM = 5
"""How many times above or below the optimum a rate is worth a word: within that, runs end alike."""

_WIDTH_EXPONENTS = {"llama": 0.781, "mistral": 0.781, "smollm3": 0.781, "qwen2": 0.0775, "qwen3": 0.0775}
"""How the optimum falls with the width, by family: measured on Llama and on Qwen (the others are built as Llama is)."""

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"}

Advice = Iterator[tuple[str, str]]
"""Pairs of a dotted key and what follows its value."""


_FORMER_CONCURRENCY = 8
"""``max_concurrency`` of a configuration that was copied before the endpoint's own limit was looked for."""


def advise(
    settings: Settings,
    *,
    optimizer_steps: int | None = None,
    trainable_parameters: int | None = None,
    examples: int | None = None,
    hidden_size: int | None = None,
    model_type: str | None = None,
) -> list[str]:
    """Return one line of advice for each value that runs but will surprise, the most consequential first.

    `optimizer_steps` is how long the run will be (None: unknown unless max_steps says it), `trainable_parameters` how
    many numbers it will train, `examples` how many there are to train on. `hidden_size` is the width of the base model
    and `model_type` its family, as its config.json tells them. None is "not known": less is said.
    """
    tuning = settings.fine_tuning
    steps = optimizer_steps if optimizer_steps is not None else tuning.training.max_steps or None
    found = [
        *_warmup(tuning, steps),
        *_rate_advice(tuning, hidden_size, model_type),
        *_size(tuning, trainable_parameters),
        *_lora_advice(tuning, examples, hidden_size),
        *_stopping(tuning, steps),
        *_passes(tuning, steps, examples),
        *_evaluation_and_chat(tuning),
        *_judging(settings.data_generation),
        *_writing(settings.data_generation),
        *_cost(settings.data_generation),
        *_endpoint(settings.data_generation),
        *_concurrency(settings.data_generation),
        *_key_clashes(settings.app),
    ]
    return [f"{key} = {one_line(toml_value(settings_value(settings, key)), 60)}: {what}" for key, what in found]


def _warmup(tuning: FineTuning, steps: int | None) -> Advice:
    rate, warmup = tuning.optimizer.lora_lr, tuning.scheduler.warmup_steps
    useful = f"set {max(1, round(steps * 0.05)) if steps and steps > 1 else 0}"
    if steps and warmup > steps:
        reached = toml_value(float(f"{rate * steps / warmup:.2g}"))
        what = f"the run has only {steps} steps, so the rate never reaches lora_lr = {toml_value(rate)}"
        yield "fine_tuning.scheduler.warmup_steps", f"{what} (highest: about {reached}); {useful}"
    elif steps and warmup > 1 and warmup * 2 > steps:
        what = f"more than half of the run's {steps} steps pass before the rate reaches lora_lr"
        yield "fine_tuning.scheduler.warmup_steps", f"{what}; {useful}"


def _size(tuning: FineTuning, trainable_parameters: int | None) -> Advice:
    training = tuning.training
    together = training.batch_size * training.gradient_accumulation_steps
    if trainable_parameters == 0:
        what = "no layer of the model has such a name, so nothing would be trained"
        yield "fine_tuning.lora.target_modules", f'{what}; set "all-linear"'
    if trainable_parameters and (needed := trainable_parameters * _ADAM_BYTES) > 4e9:
        what = f"{trainable_parameters:,} trained parameters need {memory_size(needed)} for AdamW alone"
        yield "fine_tuning.lora.r", f"{what}; set a smaller rank, such as 16"
    if together > 64:
        what = f"times batch_size = {training.batch_size} makes batches of {together}, which LoRA learns badly from"
        advice = f"set {max(1, 32 // training.batch_size)} for batches of about 32"
        yield "fine_tuning.training.gradient_accumulation_steps", f"{what} (Schulman et al. 2025); {advice}"
    if tuning.sampling.keyword_weight != 1 and not tuning.sampling.keywords:
        yield "fine_tuning.sampling.keyword_weight", "has no effect without keywords; set fine_tuning.sampling.keywords"
    if tuning.trust_remote_code:
        what = "code that comes with the model runs with your rights"
        yield "fine_tuning.trust_remote_code", f"{what}; set false unless you trust its authors"


def _stopping(tuning: FineTuning, steps: int | None) -> Advice:
    training = tuning.training
    late = "so early stopping cannot work and the best checkpoint is simply the last"
    if training.eval_steps == 0 and 0 < training.max_epochs < training.eval_frequency:
        what = f"the run of {training.max_epochs} epochs ends before the first evaluation is due, {late}"
        yield "fine_tuning.training.eval_frequency", f"{what}; set {max(1, training.max_epochs // 4)}"
    if steps and training.eval_steps > steps:
        what = f"the run of {steps} steps ends before the first evaluation is due, {late}"
        yield "fine_tuning.training.eval_steps", f"{what}; set {max(1, steps // 4)}"
    if training.patience == 0:
        what = "training stops at the first evaluation that is no better than the one before"
        yield "fine_tuning.training.patience", f"{what}; set 3 to 5"
    if not 0 < training.target_score <= 1:
        what = "the base model reaches it before the first step, so it never ends the run"
        if training.target_score > 1:
            what = "scores end at 1, so the target is never reached and only patience or the last step ends the run"
        yield "fine_tuning.training.target_score", f"{what}; set 0.7 to 1.0"


def _passes(tuning: FineTuning, steps: int | None, examples: int | None) -> Advice:
    """Many passes over much data; over a few examples they may be what is wanted."""
    training = tuning.training
    if steps is None or examples is None or examples < 500:
        return
    passes = steps * training.batch_size * training.gradient_accumulation_steps / examples
    if passes > 5:
        key = "max_steps" if training.max_steps else "max_epochs"
        wanted = max(1, round(3 * steps / passes)) if training.max_steps else 3
        what = f"{passes:.0f} passes over {examples:,} examples learn them by heart, and other answers get worse"
        yield f"fine_tuning.training.{key}", f"{what} (Unsloth's guide: 1 to 3); set {wanted}"


def _evaluation_and_chat(tuning: FineTuning) -> Advice:
    evaluation, chat = tuning.evaluation, tuning.chat
    # English has about four characters a token; six leave no doubt that the answer cannot fit.
    if (least := len(evaluation.expected_response) // 6) > evaluation.max_new_tokens:
        what = "the expected response is longer, so no answer can match it"
        yield "fine_tuning.evaluation.max_new_tokens", f"{what}; set at least {least * 2}"
    if chat.temperature > 0 and chat.num_beams > 1:
        what = f"num_beams = {chat.num_beams} looks for the likeliest reply, which randomness works against"
        yield "fine_tuning.chat.temperature", f"{what}; set num_beams = 1 (streams), or temperature = 0"
    if chat.top_p < 1 and chat.temperature == 0:
        yield (
            "fine_tuning.chat.top_p",
            "has no effect at temperature = 0; set fine_tuning.chat.temperature to 0.7, or top_p = 1",
        )
    if not 0.8 <= chat.repetition_penalty <= 1.5:
        what = "replies fall into loops" if chat.repetition_penalty < 1 else "replies avoid even the words they need"
        yield "fine_tuning.chat.repetition_penalty", f"{what}; set 1.0 to 1.2"


def _judging(data: DataGeneration) -> Advice:
    if not 0 < data.evaluation_threshold <= 10:
        what = "scores begin at 0, so every pair is accepted, however bad"
        if data.evaluation_threshold > 10:
            what = "scores end at 10, so no pair is ever accepted and generation never reaches total_examples"
        yield "data_generation.evaluation_threshold", f"{what}; set 6 to 8"
    if data.evaluation.temperature > 0:
        what = "the judge scores the same pair differently each time"
        yield "data_generation.evaluation.temperature", f"{what}; set 0"
    if data.evaluation.max_tokens < 4:
        what = "the judge's score may be cut off, and a pair without a score cannot be accepted"
        yield "data_generation.evaluation.max_tokens", f"{what}; set 10"
    if data.judge_models and data.model == "builtin":
        what = "the built-in model judges what it wrote, so nobody else is asked"
        yield "data_generation.judge_models", f"{what}; set data_generation.model to one behind base_url"
    elif data.judge_models and data.judge_model and data.judge_model not in data.judge_models:
        what = "has no effect beside data_generation.judge_models"
        yield "data_generation.judge_model", f"{what}; add it to that list"
    if data.judge_must_tell and not data.check_judge:
        what = "has no effect while no judge is checked"
        yield "data_generation.judge_must_tell", f"{what}; set data_generation.check_judge = true"
    more = [form for form in data.forms if form != "qa"]
    if data.batch_analysis_interval > data.total_examples and not (more or data.mix.phrasings):
        what = f"with total_examples = {data.total_examples} no analysis ever takes place"
        yield "data_generation.batch_analysis_interval", f"{what}; set {max(1, data.total_examples // 10)}"
    if (more or data.mix.phrasings) and PurePath(data.output_file).suffix == ".txt":
        what = "will hold JSON Lines, which other tools know by their name"
        name = one_line(PurePath(data.output_file).stem, 40)
        yield "data_generation.output_file", f"{what}; call it {name}.jsonl"
    if data.held_out_facts and not {"rewrite", "summary"} & set(more):
        what = "keeps facts out of training altogether, since no document tells them"
        yield "data_generation.held_out_facts", f'{what}; add "rewrite" to data_generation.forms'
    folder = PurePath(data.input_folder)
    if folder in PurePath(data.output_file).parents and PurePath(data.output_file).suffix in (".txt", ".md"):
        what = (
            f"lies in input_folder = {one_line(toml_value(data.input_folder), 60)}, so the next pass reads it as input"
        )
        yield "data_generation.output_file", f"{what}; set a place outside that folder"


def _writing(data: DataGeneration) -> Advice:
    generation = data.generation
    if not 0.3 <= generation.temperature <= 1.5:
        what = "replies turn to noise and most pairs are rejected"
        if generation.temperature < 0.3:
            what = "the same passage brings the same questions again, and generation may find nothing new"
        yield "data_generation.generation.temperature", f"{what}; set 0.7 to 1.0"
    if generation.max_tokens < 64:
        what = "most replies are cut off before the answer ends, and paid for in vain"
        yield "data_generation.generation.max_tokens", f"{what}; set 300"
    if data.chunk_overlap * 2 >= data.chunk_tokens:
        what = f"with chunk_tokens = {data.chunk_tokens} most text is read twice, which costs tokens and brings doubles"
        yield "data_generation.chunk_overlap", f"{what}; set {data.chunk_tokens // 10}"
    if data.chunk_tokens < 50:
        what = "passages of a sentence or two hold too little to ask about"
        yield "data_generation.chunk_tokens", f"{what}; set 200 to 600"
    if 0 < data.budget_tokens < 20 * (data.chunk_tokens + generation.max_tokens):
        what = "that is spent after a handful of pairs"
        wanted = data.total_examples * (data.chunk_tokens + generation.max_tokens) * 3
        yield "data_generation.budget_tokens", f"{what}; set about {wanted} for total_examples = {data.total_examples}"


def _cost(data: DataGeneration) -> Advice:
    budget, prices = data.budget_dollars, token_prices(data)
    if budget == 0:
        return
    if data.model == "builtin":
        yield "data_generation.budget_dollars", "has no effect, the built-in model costs nothing; set 0"
    elif not prices.known:
        what = "has no effect while both prices are 0, because what this model costs is not listed"
        yield "data_generation.budget_dollars", f"{what}; set prompt_price and completion_price, or budget_tokens"
    elif prices.prompt == 0 or prices.completion == 0:
        key, free = ("prompt_price", "sent") if prices.prompt == 0 else ("completion_price", "written")
        what = f"tokens that are {free} count as free, so budget_dollars = {toml_value(budget)} is kept too late"
        yield f"data_generation.{key}", f"{what}; set what the endpoint takes for a million of them"
    else:
        pair = prices.cost(data.chunk_tokens, data.generation.max_tokens)
        if budget < 20 * pair:
            wanted = f"{float(f'{data.total_examples * pair * 3:.2g}'):g}"
            what = "that is spent after a handful of pairs"
            advice = f"set about {wanted} for total_examples = {data.total_examples}"
            yield "data_generation.budget_dollars", f"{what}; {advice}"


def _concurrency(data: DataGeneration) -> Advice:
    if data.model != "builtin" and data.max_concurrency == _FORMER_CONCURRENCY:
        what = "that was the default of earlier versions, and bounds what an endpoint is given to do"
        yield "data_generation.max_concurrency", f"{what}; leave it out, and how many calls it can use is found"


def _key_clashes(app: App) -> Advice:
    taken: dict[tuple[str, str], str] = {}
    for name, keys in app.keys.items():
        screen = name.rpartition(".")[0]
        for key in (key.strip() for key in keys.split(",")):
            other = taken.setdefault((screen, key), name)
            if other != name:
                what = f'{one_line(key, 20)} is given to "{one_line(other, 40)}" and to "{one_line(name, 40)}"'
                yield "app.keys", f"{what}, of which only one can have it; set another key for one of them"


def _endpoint(data: DataGeneration) -> Advice:
    if data.model == "builtin":
        return
    if data.base_url and data.base_urls and data.base_url not in data.base_urls:
        yield (
            "data_generation.base_url",
            "has no effect beside data_generation.base_urls; add it to that list",
        )
    named = {"base_url": [data.base_url] if data.base_url and not data.base_urls else []}
    named |= {"base_urls": data.base_urls, "judge_base_urls": data.judge_base_urls}
    for name, urls in named.items():
        for parts in map(urlsplit, urls):
            if parts.scheme == "http" and not _LOCAL_HOSTS.match(parts.hostname or ""):
                what = "your key and your text travel unencrypted to another machine"
                yield f"data_generation.{name}", f"{what}; set an https:// address, or tunnel to localhost"
            if parts.path.rstrip("/").endswith(("/chat/completions", "/completions")):
                what = "the client adds that last part itself, so every call will answer 404"
                yield f"data_generation.{name}", f"{what}; set it without /chat/completions"


def optimal_rate(hidden_size: int | None, model_type: str | None) -> float | None:
    """Return LoRA's best learning rate for a model of that width, to one digit; None for families not measured.

    5e-5 · 10 · (2000 / width) ** exponent: full training's rate, ten times it for LoRA (Schulman et al. 2025,
    "LoRA Without Regret"; the constants are those of the Tinker cookbook, for alpha = 32).
    """
    exponent = _WIDTH_EXPONENTS.get(model_type or "")
    if not hidden_size or exponent is None:
        return None
    return float(f"{5e-4 * (2000 / hidden_size) ** exponent:.0e}")


def _rate_advice(tuning: FineTuning, hidden_size: int | None, model_type: str | None) -> Advice:
    """Advice on the learning rate, by the model's own optimum where that is known."""
    rate, ratio = tuning.optimizer.lora_lr, tuning.optimizer.loraplus_lr_ratio
    best = optimal_rate(hidden_size, model_type)
    lowest = _LOWEST_USEFUL_LR if best is None else best / _FROM_OPTIMUM
    highest = _HIGHEST_USEFUL_LR if best is None else best * _FROM_OPTIMUM
    if tuning.method != "sft":
        most = (best or _USUAL_RATE) / 2
        if rate * ratio > most:
            what = "preferences at the rate of learning answers spoil what the model could say before"
            yield "fine_tuning.optimizer.lora_lr", f"{what}; set {toml_value(float(f'{most / 5:.0e}'))}"
        return
    source = "(Schulman et al. 2025)"
    of_width = f"LoRA's optimum for a model of width {hidden_size:,} {source}" if hidden_size else ""
    # With LoRA+ the second matrices decide how fast the model moves.
    if rate * ratio < lowest:
        if best is None:
            what = f"LoRA learns very slowly at so low a rate, many runs end before anything shows {source}"
            yield "fine_tuning.optimizer.lora_lr", f"{what}; set 2e-4, or 5e-4 for models up to 4 billion parameters"
        else:
            what = f"{best / rate:.0f} times below {of_width}, so it learns very slowly"
            yield "fine_tuning.optimizer.lora_lr", f"{what}; set {toml_value(best)}"
    elif ratio > 1 and rate * ratio > highest:
        what = f"the second matrices learn at {toml_value(float(f'{rate * ratio:.2g}'))}, which may become unstable"
        half = toml_value(float(f"{highest / ratio / 2:.0e}"))
        yield "fine_tuning.optimizer.loraplus_lr_ratio", f"{what} (Hayou et al. 2024); set 1, or lora_lr = {half}"
    elif rate > highest:
        what = "training is likely to become unstable, with a loss that jumps and answers that turn to noise"
        if best is not None:
            what = f"{rate / best:.0f} times above {of_width}: {what}"
        yield "fine_tuning.optimizer.lora_lr", f"{what}; set {'1e-3 or less' if best is None else toml_value(best)}"


def _lora_advice(tuning: FineTuning, examples: int | None, hidden_size: int | None) -> Advice:
    """Advice on rank, strength, dropout and variants."""
    lora = tuning.lora
    root = math.sqrt(lora.r)
    if lora.alpha < lora.r >= 128 and not lora.use_rslora:
        what = f"at rank {lora.r} the scale alpha / r = {lora.alpha / lora.r:.3g} holds back what the rank could learn"
        yield "fine_tuning.lora.use_rslora", f"{what} (Kalajdzievski 2023); set true, and alpha to about {round(root)}"
    elif lora.use_rslora and lora.alpha > 8 * root:
        what = f"what is learned is scaled by alpha / √r = {lora.alpha / root:.3g}, far from the usual 1 to 2"
        yield "fine_tuning.lora.alpha", f"{what}; set {round(2 * root)}, or lower lora_lr"
    elif not lora.use_rslora and (lora.alpha > 8 * lora.r or 4 * lora.alpha < lora.r):
        what = f"what is learned is scaled by alpha / r = {lora.alpha / lora.r:.3g}, far from the usual 1 to 2"
        yield "fine_tuning.lora.alpha", f"{what}; set {2 * lora.r}, or move lora_lr the other way"
    if lora.dropout > 0.3:
        yield "fine_tuning.lora.dropout", "most of what a step teaches is dropped again; set 0.05, or 0 for speed"
    elif lora.dropout > 0 and str(lora.init_lora_weights).startswith(("pissa", "olora")):
        what = f'with "{lora.init_lora_weights}" it drops a part of the base model itself (Meng et al. 2024 use none)'
        yield "fine_tuning.lora.dropout", f"{what}; set 0"
    elif lora.use_dora and lora.dropout > 0:
        what = "DoRA with dropout multiplies by every base weight twice a step (PEFT's guide)"
        yield "fine_tuning.lora.dropout", f"{what}; set 0"
    elif lora.dropout > 0 and (examples or 0) >= 10_000:
        what = f"with {examples:,} examples it guards against little and makes steps slower (Unsloth's guide)"
        yield "fine_tuning.lora.dropout", f"{what}; set 0"
    if (examples or 0) >= 1000 and _ATTENTION.issuperset(lora.target_modules):
        what = "attention alone learns less than all layers, even with as many parameters (Schulman et al. 2025)"
        yield "fine_tuning.lora.target_modules", f'{what}; set "all-linear"'
    if lora.use_dora:
        what = "every step forms each layer's B·A in full size (Liu et al. 2024), and vLLM serves it merged only"
        yield "fine_tuning.lora.use_dora", f"{what}; set false unless a low rank falls short"
    if lora.init_lora_weights == "pissa" and (hidden_size or 0) >= 1024:
        what = "every weight is factorised in full before the first step, which takes minutes (Meng et al. 2024)"
        yield "fine_tuning.lora.init_lora_weights", f'{what}; set "pissa_niter_16"'
