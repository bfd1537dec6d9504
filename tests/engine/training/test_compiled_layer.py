"""Decoder layers that compiled code computes in one step: the gradients of the layers that autograd puts together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from lora_tui.engine.models import activation_memory
from lora_tui.engine.training.fast import compiled_ops
from lora_tui.engine.training.fast.layers import FastLayers
from lora_tui.engine.training.memory import kept_bytes
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.step import GradientStep
from tests.engine.compiled import needs_compiler
from tests.engine.tiny import make_model
from tests.engine.training.test_training_packing import accumulate, gradients, largest_difference

pytestmark = needs_compiler

WIDE_HEADS = {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 160}
"""Sizes of a tiny model that compiled code takes: heads 32 wide."""

OF_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def biased_base(tokenizer: Any) -> Any:
    """A Qwen2, whose queries, keys and values have biases."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), num_hidden_layers=2, initializer_range=0.1, use_sliding_window=False, **WIDE_HEADS
    )
    base = Qwen2ForCausalLM(config)
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    return base


@pytest.mark.parametrize(
    "targets", [OF_ATTENTION, "all-linear", ["k_proj", "up_proj"]], ids=["attention", "all", "two"]
)
@pytest.mark.parametrize("biased", [False, True])
def test_its_gradients_are_those_of_layers_put_together(
    new_model: Callable[..., Any],
    tokenizer: Any,
    examples: list[EncodedExample],
    monkeypatch: pytest.MonkeyPatch,
    targets: Any,
    biased: bool,
) -> None:
    def model_of(dtype: torch.dtype) -> Any:
        base = biased_base(tokenizer) if biased else make_model(tokenizer, **WIDE_HEADS)
        return new_model(base=base.to(torch.bfloat16).to(dtype), dropout=0.1, targets=targets).train()

    exact_model, half_model = model_of(torch.float32), model_of(torch.bfloat16)
    assert FastLayers.of(exact_model, packed=True).replaced["layer"] == 2
    loss, ours = accumulate(exact_model, examples, 64)
    _, ours_in_half = accumulate(half_model, examples, 64)
    monkeypatch.setattr(compiled_ops, "usable", lambda *_, **__: False)
    assert "layer" not in FastLayers.of(exact_model, packed=True).replaced
    expected, theirs = accumulate(exact_model, examples, 64)
    _, theirs_in_half = accumulate(half_model, examples, 64)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert largest_difference(ours, theirs) <= 4e-6
    assert largest_difference(ours_in_half, theirs) <= 1.2 * largest_difference(theirs_in_half, theirs)


@pytest.mark.parametrize("way", activation_memory.RECOMPUTATIONS[:-1], ids=lambda way: way.name)
def test_whatever_is_recomputed_the_gradients_are_the_same_to_the_last_bit_and_less_is_kept(
    new_model: Callable[..., Any], examples: list[EncodedExample], way: activation_memory.Recomputation
) -> None:
    model = new_model(dropout=0.1, num_hidden_layers=4, **WIDE_HEADS).train()
    _, plain = accumulate(model, examples, 64)
    everything = kept_bytes(GradientStep.of(model, 64), (0, 1, 2), examples)
    gradient_step = GradientStep.of(model, 64)
    gradient_step.recompute(way)
    gradient_step.accumulate(examples)
    again = gradients(model)
    assert all(torch.equal(again[name], plain[name]) for name in plain)
    if way is not activation_memory.NONE:
        assert kept_bytes(gradient_step, (0, 1, 2), examples) < everything


def test_layers_that_somebody_listens_to_or_that_drop_much_are_put_together(new_model: Callable[..., Any]) -> None:
    assert FastLayers.of(new_model(dropout=0.1, **WIDE_HEADS), packed=True).replaced["layer"] == 2
    assert "layer" not in FastLayers.of(new_model(dropout=0.2, **WIDE_HEADS), packed=True).replaced
    assert "layer" not in FastLayers.of(new_model(**WIDE_HEADS), packed=False).replaced
    assert "layer" not in FastLayers.of(new_model(**WIDE_HEADS), packed=True, sharded=True).replaced
    listened = new_model(**WIDE_HEADS)
    listened.get_base_model().model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert FastLayers.of(listened, packed=True).replaced["layer"] == 1
