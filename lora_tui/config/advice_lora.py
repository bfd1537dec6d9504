"""Advice on LoRA's own options and its learning rate: what the literature found, with its source in each line."""

import math
from collections.abc import Iterator

from lora_tui.config.models import FineTuning
from lora_tui.config.reference import toml_value

_LOWEST_USEFUL_LR = 5e-5
_HIGHEST_USEFUL_LR = 5e-3
_FROM_OPTIMUM = 5
"""How many times above or below the optimum a rate is worth a word: within that, runs end alike."""

_WIDTH_EXPONENTS = {"llama": 0.781, "mistral": 0.781, "smollm3": 0.781, "qwen2": 0.0775, "qwen3": 0.0775}
"""How the optimum falls with the width, by family: measured on Llama and on Qwen (the others are built as Llama is)."""

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"}
_MUCH_DATA = 1000
_TOO_MUCH_FOR_DROPOUT = 10_000
_RANK_FOR_RSLORA = 128
_WIDTH_FOR_FAST_PISSA = 1024

Advice = Iterator[tuple[str, str]]
"""Pairs of a dotted key and what follows its value."""


def optimal_rate(hidden_size: int | None, model_type: str | None) -> float | None:
    """Return LoRA's best learning rate for a model of that width, to one digit; None for families not measured.

    5e-5 · 10 · (2000 / width) ** exponent: full training's rate, ten times it for LoRA (Schulman et al. 2025,
    "LoRA Without Regret"; the constants are those of the Tinker cookbook, for alpha = 32).
    """
    exponent = _WIDTH_EXPONENTS.get(model_type or "")
    if not hidden_size or exponent is None:
        return None
    return float(f"{5e-4 * (2000 / hidden_size) ** exponent:.0e}")


def rate_advice(tuning: FineTuning, hidden_size: int | None, model_type: str | None) -> Advice:
    """Advice on the learning rate, by the model's own optimum where that is known."""
    rate, ratio = tuning.optimizer.lora_lr, tuning.optimizer.loraplus_lr_ratio
    best = optimal_rate(hidden_size, model_type)
    lowest = _LOWEST_USEFUL_LR if best is None else best / _FROM_OPTIMUM
    highest = _HIGHEST_USEFUL_LR if best is None else best * _FROM_OPTIMUM
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


def lora_advice(tuning: FineTuning, examples: int | None, hidden_size: int | None) -> Advice:
    """Advice on rank, strength, dropout and variants."""
    lora = tuning.lora
    root = math.sqrt(lora.r)
    if lora.alpha < lora.r >= _RANK_FOR_RSLORA and not lora.use_rslora:
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
    elif lora.dropout > 0 and examples is not None and examples >= _TOO_MUCH_FOR_DROPOUT:
        what = f"with {examples:,} examples it guards against little and makes steps slower (Unsloth's guide)"
        yield "fine_tuning.lora.dropout", f"{what}; set 0"
    targets = lora.target_modules
    if (
        examples is not None
        and examples >= _MUCH_DATA
        and not isinstance(targets, str)
        and _ATTENTION.issuperset(targets)
    ):
        what = "attention alone learns less than all layers, even with as many parameters (Schulman et al. 2025)"
        yield "fine_tuning.lora.target_modules", f'{what}; set "all-linear"'
    if lora.use_dora:
        what = "every step forms each layer's B·A in full size (Liu et al. 2024), and vLLM serves it merged only"
        yield "fine_tuning.lora.use_dora", f"{what}; set false unless a low rank falls short"
    if lora.init_lora_weights == "pissa" and hidden_size is not None and hidden_size >= _WIDTH_FOR_FAST_PISSA:
        what = "every weight is factorised in full before the first step, which takes minutes (Meng et al. 2024)"
        yield "fine_tuning.lora.init_lora_weights", f'{what}; set "pissa_niter_16"'
