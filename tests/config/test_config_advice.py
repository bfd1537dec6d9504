"""Values that surprise are named with what they do and what to set; ordinary values are passed over in silence."""

from typing import Any

import pytest

from lora_tui.config.advice import advise, optimal_rate
from lora_tui.config.load import with_values
from lora_tui.config.models import Settings

QUIET = {"fine_tuning.optimizer.lora_lr": 2e-4}

T = "fine_tuning.training."
D = "data_generation."

L = "fine_tuning.lora."
RATES = "fine_tuning.optimizer."
SMALL = {"hidden_size": 576, "model_type": "llama"}
QWEN = {"hidden_size": 1536, "model_type": "qwen2"}
ALL = {L + "target_modules": "all-linear"}

SURPRISES: list[tuple[dict[str, Any], dict[str, Any], str, list[str]]] = [
    (
        {"data_generation.max_concurrency": 8},
        {},
        "data_generation.max_concurrency = 8: ",
        ["default of earlier versions", "leave it out"],
    ),
    (
        {},
        {"optimizer_steps": 60},
        "fine_tuning.scheduler.warmup_steps = 200: ",
        ["only 60 steps", "never reaches lora_lr = 2e-4", "highest: about 6e-5", "set 3"],
    ),
    ({T + "max_steps": 60}, {}, "fine_tuning.scheduler.warmup_steps = 200: ", ["only 60 steps", "set 3"]),
    ({}, {"optimizer_steps": 1}, "fine_tuning.scheduler.warmup_steps = 200: ", ["set 0"]),
    ({}, {"optimizer_steps": 300}, "fine_tuning.scheduler.warmup_steps = 200: ", ["more than half", "set 15"]),
    ({"fine_tuning.optimizer.lora_lr": 3e-5}, {}, "fine_tuning.optimizer.lora_lr = 3e-5: ", ["slowly", "set 2e-4"]),
    ({"fine_tuning.optimizer.lora_lr": 0.01}, {}, "fine_tuning.optimizer.lora_lr = 0.01: ", ["unstable", "set 1e-3"]),
    (
        {RATES + "lora_lr": 3e-5},
        QWEN,
        RATES + "lora_lr = 3e-5: ",
        ["17 times below LoRA's optimum for a model of width 1,536 (Schulman et al. 2025)", "set 5e-4"],
    ),
    ({RATES + "lora_lr": 1e-4}, SMALL, RATES + "lora_lr = 1e-4: ", ["10 times below", "width 576", "set 0.001"]),
    (
        {RATES + "lora_lr": 4e-3},
        QWEN,
        RATES + "lora_lr = 0.004: ",
        ["8 times above", "Schulman", "unstable", "set 5e-4"],
    ),
    ({RATES + "lora_lr": 3e-5}, {"hidden_size": 64, "model_type": "gemma2"}, RATES + "lora_lr = 3e-5: ", ["set 2e-4"]),
    (
        {RATES + "loraplus_lr_ratio": 16},
        QWEN,
        RATES + "loraplus_lr_ratio = 16.0: ",
        ["second matrices learn at 0.0032", "Hayou et al. 2024", "set 1, or lora_lr = 8e-5"],
    ),
    (
        {RATES + "loraplus_lr_ratio": 100},
        {},
        RATES + "loraplus_lr_ratio = 100.0: ",
        ["learn at 0.02", "lora_lr = 3e-5"],
    ),
    (
        {L + "r": 256, L + "alpha": 32},
        {},
        L + "use_rslora = false: ",
        ["alpha / r = 0.125", "Kalajdz", "set true", "16"],
    ),
    ({L + "r": 64, L + "alpha": 128, L + "use_rslora": True}, {}, L + "alpha = 128: ", ["alpha / √r = 16", "set 16"]),
    ({L + "use_dora": True, L + "dropout": 0}, {}, L + "use_dora = true: ", ["in full size (Liu et al. 2024)", "vLLM"]),
    ({L + "init_lora_weights": "olora"}, {}, L + "dropout = 0.05: ", ["part of the base model itself", "set 0"]),
    (
        {L + "init_lora_weights": "pissa", L + "dropout": 0},
        QWEN,
        L + 'init_lora_weights = "pissa": ',
        ["Meng", 'set "pissa_niter_16"'],
    ),
    (
        {"data_generation.model": "builtin", "data_generation.judge_models": ["a"]},
        {},
        'data_generation.judge_models = ["a"]: ',
        ["judges what it wrote", "set data_generation.model"],
    ),
    (
        {"data_generation.judge_model": "b", "data_generation.judge_models": ["a"]},
        {},
        'data_generation.judge_model = "b": ',
        ["no effect", "add it to that list"],
    ),
    (
        {"data_generation.check_judge": False, "data_generation.judge_must_tell": 9},
        {},
        "data_generation.judge_must_tell = 9: ",
        ["no effect", "check_judge = true"],
    ),
    ({}, {"examples": 2000}, L + "target_modules = [", ["attention alone", "Schulman et al. 2025", '"all-linear"']),
    (ALL, {"examples": 20_000}, L + "dropout = 0.05: ", ["20,000 examples", "Unsloth", "set 0"]),
    (
        {},
        {"examples": 640, "optimizer_steps": 800},
        T + "max_epochs = 40: ",
        ["40 passes over 640 examples", "by heart", "set 3"],
    ),
    (
        {T + "max_steps": 400, T + "max_epochs": 0},
        {"examples": 640},
        T + "max_steps = 400: ",
        ["20 passes over 640 examples", "set 60"],
    ),
    ({T + "batch_size": 8}, {}, T + "gradient_accumulation_steps = 16: ", ["batches of 128", "Schulman", "set 4"]),
    ({T + "batch_size": 65}, {}, T + "gradient_accumulation_steps = 16: ", ["batches of 1040", "set 1 "]),
    ({"fine_tuning.lora.alpha": 512}, {}, "fine_tuning.lora.alpha = 512: ", ["alpha / r = 32", "set 32"]),
    ({"fine_tuning.lora.alpha": 1}, {}, "fine_tuning.lora.alpha = 1: ", ["set 32"]),
    ({"fine_tuning.lora.dropout": 0.5}, {}, "fine_tuning.lora.dropout = 0.5: ", ["set 0.05"]),
    (
        {},
        {"trainable_parameters": 0},
        "fine_tuning.lora.target_modules = [",
        ["nothing would be trained", "all-linear"],
    ),
    ({}, {"trainable_parameters": 10**9}, "fine_tuning.lora.r = 16: ", ["14.9 GiB", "smaller rank"]),
    (
        {"fine_tuning.sampling.keywords": [], "fine_tuning.sampling.keyword_weight": 2},
        {},
        "fine_tuning.sampling.keyword_weight = 2.0: ",
        ["no effect"],
    ),
    ({"fine_tuning.trust_remote_code": True}, {}, "fine_tuning.trust_remote_code = true: ", ["with your rights"]),
    ({T + "max_epochs": 1}, {}, T + "eval_frequency = 2: ", ["run of 1 epochs ends before the first", "set 1"]),
    ({T + "eval_steps": 500}, {"optimizer_steps": 400}, T + "eval_steps = 500: ", ["run of 400 steps", "set 100"]),
    ({T + "patience": 0}, {}, T + "patience = 0: ", ["stops at the first evaluation", "set 3"]),
    ({T + "target_score": 1.5}, {}, T + "target_score = 1.5: ", ["never reached"]),
    ({T + "target_score": 0}, {}, T + "target_score = 0.0: ", ["never ends the run"]),
    ({"fine_tuning.evaluation.max_new_tokens": 5}, {}, "fine_tuning.evaluation.max_new_tokens = 5: ", ["set at least"]),
    ({"fine_tuning.chat.temperature": 0.7}, {}, "fine_tuning.chat.temperature = 0.7: ", ["set num_beams = 1"]),
    ({"fine_tuning.chat.top_p": 0.9}, {}, "fine_tuning.chat.top_p = 0.9: ", ["no effect"]),
    ({"fine_tuning.chat.repetition_penalty": 3}, {}, "fine_tuning.chat.repetition_penalty = 3.0: ", ["set 1.0"]),
    ({D + "evaluation_threshold": 11}, {}, D + "evaluation_threshold = 11.0: ", ["no pair is ever accepted", "set 6"]),
    ({D + "evaluation_threshold": -1}, {}, D + "evaluation_threshold = -1.0: ", ["every pair is accepted", "set 6"]),
    ({D + "evaluation.temperature": 0.5}, {}, D + "evaluation.temperature = 0.5: ", ["differently each time", "set 0"]),
    ({D + "evaluation.max_tokens": 1}, {}, D + "evaluation.max_tokens = 1: ", ["cut off", "set 10"]),
    ({D + "total_examples": 4}, {}, D + "batch_analysis_interval = 5: ", ["no analysis", "set 1"]),
    ({D + "output_file": "training_input/out.txt"}, {}, D + 'output_file = "training_input/out.txt": ', ["as input"]),
    ({D + "generation.temperature": 0}, {}, D + "generation.temperature = 0.0: ", ["same questions", "set 0.7"]),
    ({D + "generation.temperature": 1.9}, {}, D + "generation.temperature = 1.9: ", ["noise", "set 0.7"]),
    ({D + "generation.max_tokens": 20}, {}, D + "generation.max_tokens = 20: ", ["cut off", "set 300"]),
    ({D + "chunk_overlap": 200}, {}, D + "chunk_overlap = 200: ", ["read twice", "set 40"]),
    ({D + "chunk_tokens": 41, D + "chunk_overlap": 4}, {}, D + "chunk_tokens = 41: ", ["too little", "set 200"]),
    ({D + "budget_tokens": 1000}, {}, D + "budget_tokens = 1000: ", ["handful", "set about 210000"]),
    (
        {D + "budget_dollars": 5, D + "base_url": "https://models.example.org/v1"},
        {},
        D + "budget_dollars = 5.0: ",
        ["no effect", "prices are 0", "set prompt_price"],
    ),
    (
        {D + "budget_dollars": 5, D + "prompt_price": 2.5},
        {},
        D + "completion_price = 0.0: ",
        ["written count as free", "budget_dollars = 5.0", "for a million"],
    ),
    ({D + "budget_dollars": 5, D + "completion_price": 10}, {}, D + "prompt_price = 0.0: ", ["sent count as free"]),
    (
        {D + "budget_dollars": 0.05, D + "prompt_price": 2.5, D + "completion_price": 10},
        {},
        D + "budget_dollars = 0.05: ",
        ["handful of pairs", "set about 1.2 for total_examples = 100"],
    ),
    ({D + "budget_dollars": 5, D + "model": "builtin"}, {}, D + "budget_dollars = 5.0: ", ["costs nothing", "set 0"]),
    (
        {"app.keys": {"train.stop": "s,f8", "train.save": "ctrl+k, s"}},
        {},
        "app.keys = { ",
        ['s is given to "train.stop" and to "train.save"', "only one"],
    ),
    ({D + "base_url": "http://example.com/v1"}, {}, D + 'base_url = "http://example.com/v1": ', ["unencrypted"]),
    ({D + "base_url": "https://h/v1/chat/completions"}, {}, D + "base_url = ", ["404", "without /chat/completions"]),
]


@pytest.mark.parametrize(("changes", "facts", "start", "parts"), SURPRISES, ids=[str(row[:2]) for row in SURPRISES])
def test_surprise_is_named_with_its_effect_and_remedy(
    changes: dict[str, Any], facts: dict[str, Any], start: str, parts: list[str]
) -> None:
    (line,) = advise(with_values(Settings(), QUIET | changes), **facts)
    assert line.startswith(start)
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({}, {}),
        ({}, {"optimizer_steps": 400}),
        ({"fine_tuning.scheduler.warmup_steps": 1}, {"optimizer_steps": 1}),
        ({"fine_tuning.scheduler.warmup_steps": 0}, {"optimizer_steps": 1}),
        ({}, {"optimizer_steps": 5000, "trainable_parameters": 10**7}),
        ({}, {"examples": 100, "optimizer_steps": 400}),  # the tutorial's forty passes over few examples are meant
        ({}, {"examples": 999}),
        ({T + "max_epochs": 5, "fine_tuning.scheduler.warmup_steps": 5}, {"examples": 640, "optimizer_steps": 100}),
        ({RATES + "lora_lr": 1.1e-4}, QWEN),
        ({RATES + "lora_lr": 2.4e-3}, QWEN),
        ({RATES + "lora_lr": 1e-3}, SMALL),
        ({RATES + "lora_lr": 3e-5, RATES + "loraplus_lr_ratio": 16}, QWEN),
        ({L + "r": 128, L + "alpha": 128}, {}),
        ({L + "r": 256, L + "alpha": 32, L + "use_rslora": True}, {}),
        (ALL, {"examples": 9999}),
        ({L + "init_lora_weights": "pissa", L + "dropout": 0}, SMALL | {"hidden_size": 900}),
        ({L + "init_lora_weights": "pissa_niter_16", L + "dropout": 0}, QWEN),
        ({"fine_tuning.optimizer.lora_lr": 5e-5}, {}),
        ({"fine_tuning.optimizer.lora_lr": 5e-3}, {}),
        ({T + "batch_size": 4}, {}),
        ({T + "max_epochs": 1, T + "eval_steps": 10}, {}),
        ({T + "max_epochs": 0, T + "max_steps": 1000}, {}),
        ({"fine_tuning.chat.temperature": 0.7, "fine_tuning.chat.num_beams": 1}, {}),
        ({D + "evaluation_threshold": 10}, {}),
        ({D + "prompt_price": 2.5}, {}),
        ({D + "budget_dollars": 5, D + "prompt_price": 2.5, D + "completion_price": 10}, {}),
        ({D + "total_examples": 4, D + "forms": ["qa", "rewrite"], D + "output_file": "a.jsonl"}, {}),
        ({"app.keys": {"train.stop": "s", "chat.send": "s", "train.save": "k"}}, {}),
        ({D + "evaluation_threshold": 0.5}, {}),
        ({D + "base_url": "http://localhost:8000/v1"}, {}),
        ({D + "base_url": "http://127.0.0.1:8000/v1"}, {}),
        ({D + "base_url": "http://[::1]:8000/v1"}, {}),
        ({D + "base_url": "http://gpu-box:8000/v1"}, {}),
        ({D + "base_url": "http://example.com/v1", D + "model": "builtin"}, {}),
        ({D + "output_file": "training_input_2/out.txt"}, {}),
    ],
)
def test_ordinary_values_bring_no_advice(changes: dict[str, Any], facts: dict[str, Any]) -> None:
    assert advise(with_values(Settings(), QUIET | changes), **facts) == []


def test_defaults_bring_only_the_low_learning_rate() -> None:
    (line,) = advise(Settings())
    assert line.startswith("fine_tuning.optimizer.lora_lr = 3e-5: ")


def test_dora_with_dropout_brings_a_word_on_each() -> None:
    found = advise(with_values(Settings(), QUIET | {L + "use_dora": True}))
    assert [line.partition(" = ")[0] for line in found] == [L + "dropout", L + "use_dora"]
    assert "multiplies by every base weight twice a step" in found[0]


def test_the_optimum_is_that_of_the_formula() -> None:
    """5e-4 · (2000 / 4096)^0.781 = 2.85e-4 for Llama-3.1-8B, 5e-4 · (2000 / 4096)^0.0775 = 4.73e-4 for Qwen3-8B."""
    assert optimal_rate(4096, "llama") == 3e-4
    assert optimal_rate(4096, "qwen3") == 5e-4
    assert optimal_rate(4096, "gemma2") is optimal_rate(None, "llama") is None
