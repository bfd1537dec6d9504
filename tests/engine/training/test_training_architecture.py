"""What a configuration file alone says of a model, held against the models that transformers and PEFT build of it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, SmolLM3Config

from lora_tui.config.models import Lora
from lora_tui.engine.models import activation_memory
from lora_tui.engine.models.architecture import (
    Architecture,
    UnknownArchitectureError,
    architecture_of,
    layer_names,
    linear_layers,
    lora_parameters,
    unknown_targets,
)
from lora_tui.engine.training import schedule
from lora_tui.engine.training.loop import _Trainer
from lora_tui.engine.training.lora import create_lora_model, trainable_parameters
from lora_tui.engine.training.memory import sizes_of
from lora_tui.engine.training.schedule import plan_epoch
from tests.engine.tiny import save_base

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
MODELS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES),
    "tied llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama with wide heads": LlamaConfig(**SIZES, head_dim=16),
    "mistral": MistralConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "tied qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES),
    "qwen3 with biases": Qwen3Config(**SIZES, attention_bias=True, head_dim=10, tie_word_embeddings=True),
    "smollm3": SmolLM3Config(**SIZES, pad_token_id=0),
}
TARGETS: list[Any] = [
    ["q_proj", "k_proj", "v_proj", "o_proj"],
    ["q_proj"],
    ["mlp.down_proj", "gate_proj"],
    ["layers.1.self_attn.v_proj"],
    ["up_proj", "lm_head"],
    "all-linear",
]


def built(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def read(config: Any, folder: Path) -> dict[str, Any]:
    """The content of the config.json that a model of this configuration is saved with."""
    config.save_pretrained(folder)
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_parameters_are_those_of_the_model(config: Any, tmp_path: Path) -> None:
    assert architecture_of(read(config, tmp_path)).parameters == sum(p.numel() for p in built(config).parameters())


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_what_a_configuration_leaves_out_is_as_transformers_has_it(config: Any, tmp_path: Path) -> None:
    said = read(config, tmp_path)
    for left_out in ("tie_word_embeddings", "head_dim", "attention_bias", "mlp_bias"):
        said.pop(left_out, None)
    assert architecture_of(said).parameters == sum(p.numel() for p in built(type(config).from_dict(said)).parameters())


@pytest.mark.parametrize("targets", TARGETS, ids=str)
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
@pytest.mark.filterwarnings("ignore")
def test_trained_parameters_are_those_that_peft_makes(config: Any, targets: Any, tmp_path: Path) -> None:
    architecture = architecture_of(read(config, tmp_path))
    for r in (1, 5, 64):
        lora = Lora(r=r, target_modules=targets)
        assert lora_parameters(architecture, lora) == trainable_parameters(create_lora_model(built(config), lora))[0]


@pytest.mark.parametrize(
    "option",
    [
        {"use_dora": True},
        {"use_rslora": True, "init_lora_weights": "pissa_niter_2"},
        {"rank_pattern": {"q_proj": 3, "layers.1.self_attn.v_proj": 7, "model.layers.0..*": 2, "v_proj": 5}},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens", "lm_head"], "use_dora": True},
        {"modules_to_save": ["norm"]},
        {"modules_to_save": ["down_proj", "0.self_attn.q_proj"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
@pytest.mark.filterwarnings("ignore")
def test_trained_parameters_of_every_option_are_those_that_peft_makes(
    config: Any, option: dict[str, Any], tmp_path: Path
) -> None:
    lora = Lora(r=4, target_modules="all-linear", **option)
    architecture = architecture_of(read(config, tmp_path))
    assert lora_parameters(architecture, lora) == trainable_parameters(create_lora_model(built(config), lora))[0]


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_linear_layers_have_the_names_and_sizes_of_the_models_own(config: Any, tmp_path: Path) -> None:
    own = {
        name: (module.in_features, module.out_features)
        for name, module in built(config).named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert {
        layer.name: (layer.inputs, layer.outputs) for layer in linear_layers(architecture_of(read(config, tmp_path)))
    } == own


@pytest.mark.parametrize("tied", [True, False])
def test_the_tests_own_model_as_it_is_saved(tied: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_base(tmp_path, tied=tied)
    model = AutoModelForCausalLM.from_pretrained(folder)
    architecture = architecture_of(json.loads((folder / "config.json").read_text()))
    lora = Lora(r=4, target_modules="all-linear")
    trained = lora_parameters(architecture, lora)
    assert (trained, architecture.parameters + trained) == trainable_parameters(create_lora_model(model, lora))


def test_old_configurations_without_heads_of_their_own_for_keys() -> None:
    config = {"model_type": "llama", **SIZES}
    del config["num_key_value_heads"]
    assert architecture_of(config) == architecture_of({**config, "num_key_value_heads": 6})


def test_well_known_models_have_their_well_known_size() -> None:
    """Sizes as published: SmolLM2-135M has 134,515,008 parameters, DeepSeek-R1-Distill-Qwen-1.5B 1,777,088,000."""
    smollm2 = {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
    distilled = {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    }
    assert architecture_of(smollm2).parameters == 134_515_008
    assert architecture_of(distilled).parameters == 1_777_088_000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "model of type gpt2 is not known"),
        ({"model_type": None}, "model of type None"),
        ({"hidden_size": None}, "does not say hidden_size"),
        ({"vocab_size": "many"}, "does not say vocab_size"),
        ({"num_hidden_layers": 0}, "does not say num_hidden_layers"),
        ({"num_attention_heads": True}, "does not say num_attention_heads"),
        ({"model_type": "qwen2", "num_key_value_heads": None}, "does not say num_key_value_heads"),
        ({"head_dim": -1}, "does not say head_dim"),
    ],
)
def test_what_the_configuration_does_not_say_is_not_made_up(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=reason):
        architecture_of({"model_type": "llama", **SIZES, **changes})


@pytest.fixture
def architecture() -> Architecture:
    return architecture_of({"model_type": "llama", **SIZES})


def test_targets_that_no_layer_has_are_named(architecture: Architecture) -> None:
    assert unknown_targets(architecture, ["q_proj", "c_attn", "proj", "lm_head"]) == ["c_attn", "proj"]
    assert unknown_targets(architecture, "all-linear") == []
    assert lora_parameters(architecture, Lora(r=8, target_modules=["c_attn"])) == 0
    assert layer_names(architecture) == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes_are_alike_with_and_without_the_model(dtype: torch.dtype, architecture: Architecture) -> None:
    model = built(MODELS["llama"]).to(dtype)
    width = activation_memory.WIDTHS[str(dtype).removeprefix("torch.")]
    wanted = activation_memory.Sizes(
        architecture.hidden, architecture.intermediate, architecture.layers, width, by_hand=True
    )
    assert sizes_of(model, by_hand=True) == wanted


@pytest.mark.parametrize("eval_steps", [0, 1, 4, 7, 100])
@pytest.mark.parametrize("eval_frequency", [1, 2, 3])
@pytest.mark.parametrize(("examples", "max_epochs", "max_steps"), [(10, 4, 0), (10, 5, 0), (7, 1, 0), (10, 9, 11)])
def test_evaluations_are_as_many_as_the_loop_makes(
    examples: int, max_epochs: int, max_steps: int, eval_frequency: int, eval_steps: int
) -> None:
    per_step = 4
    steps = schedule.total_steps(examples, per_step, max_epochs, max_steps)
    settings = SimpleNamespace(training=SimpleNamespace(eval_steps=eval_steps, eval_frequency=eval_frequency))
    loop = SimpleNamespace(settings=settings, steps=steps)
    plans = [plan for epoch in range(20) for plan in plan_epoch(range(examples), per_step, epoch)][:steps]
    due = sum(_Trainer._evaluation_due(loop, plan) for plan in plans)  # type: ignore[arg-type]  # all that it looks at
    assert (
        schedule.evaluation_count(steps, schedule.steps_per_epoch(examples, per_step), eval_steps, eval_frequency)
        == due
    )


def test_checkpoints_come_at_their_steps_and_at_the_end() -> None:
    assert [schedule.checkpoint_count(steps, 50) for steps in (1, 50, 51, 100, 101)] == [1, 1, 2, 2, 3]
