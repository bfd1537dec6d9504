"""The loss: the fused head, the division by all labels of a step, and models that must take their own way."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from lora_tui.engine.training import loss as loss_module
from lora_tui.engine.training.fast import compiled_ops
from lora_tui.engine.training.loss import summed_cross_entropy
from lora_tui.engine.training.packing import EncodedExample, supports_packing
from lora_tui.engine.training.step import GradientStep
from tests.engine.tiny import make_model
from tests.engine.training.test_training_packing import accumulate, gradients, largest_difference


@pytest.mark.parametrize("chunk_bytes", [64 << 20, 4 * 300 * 5])
def test_the_fused_head_is_the_full_cross_entropy(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(loss_module, "_CHUNK_BYTES", chunk_bytes)  # the second makes chunks of five labels
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 16, generator=generator)
    targets = torch.randint(0, 300, (23,), generator=generator)
    ours = torch.randn(23, 16, generator=generator).requires_grad_()
    full = ours.detach().clone().requires_grad_()
    fused = summed_cross_entropy(ours, weight, targets)
    plain = functional.cross_entropy(full @ weight.T, targets, reduction="sum")
    (fused / 7).backward()
    (plain / 7).backward()
    assert fused.dtype == torch.float32
    assert float(fused) == pytest.approx(float(plain), rel=1e-6)
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, full.grad, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_the_fused_head_does_not_round_the_logits_that_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 16, generator=generator).bfloat16()
    targets = torch.randint(0, 300, (500,), generator=generator)
    # As a trained model's: the target's logit is high, about 20, and few others come near it.
    hidden = (1.2 * weight[targets] + 0.3 * torch.randn(500, 16, generator=generator)).bfloat16().requires_grad_()
    wide = hidden.detach().float().requires_grad_()

    def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, of)[0].float()

    fused = summed_cross_entropy(hidden, weight, targets)
    exact = functional.cross_entropy(wide @ weight.float().T, targets, reduction="sum")
    rounded = functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")
    assert fused.dtype == torch.float32
    assert float(fused) == pytest.approx(float(exact), rel=2e-3)
    of_exact = gradient(exact, wide)
    errors = [float((gradient(loss, hidden) - of_exact).norm() / of_exact.norm()) for loss in (fused, rounded)]
    assert errors[0] <= 0.5 * errors[1]
    assert errors[0] <= 4e-3


@pytest.mark.parametrize("compiled", [True, False])
def test_the_sum_over_a_large_vocabulary_is_precise(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(compiled_ops, "usable", lambda *_, **__: False)
    generator = torch.Generator().manual_seed(0)
    weight, targets = torch.randn(48_000, 16, generator=generator), torch.arange(20) * 2000
    hidden = (weight[targets] * 1.1).requires_grad_()  # answers that are nearly sure
    exact = hidden.detach().double().requires_grad_()
    summed_cross_entropy(hidden, weight, targets).backward()
    functional.cross_entropy(exact @ weight.double().T, targets, reduction="sum").backward()
    assert hidden.grad is not None
    assert exact.grad is not None
    assert float((hidden.grad.double() - exact.grad).norm()) <= 4e-6 * float(exact.grad.norm())


def test_huge_logits_do_not_overflow() -> None:
    weight = torch.eye(4) * 1e4
    hidden = torch.eye(4).requires_grad_()
    summed_cross_entropy(hidden, weight, torch.tensor([1, 1, 2, 2])).backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_the_head_visits_label_positions_only(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    visited: list[int] = []

    def counting(hidden: Any, weight: Any, targets: Any) -> Any:
        visited.append(len(hidden))
        return summed_cross_entropy(hidden, weight, targets)

    monkeypatch.setattr("lora_tui.engine.training.step.summed_cross_entropy", counting)
    accumulate(new_model(), examples, 64)
    assert sum(visited) == sum(example.labels for example in examples)


@pytest.mark.parametrize("tied", [True, False])
def test_many_small_rows_give_the_gradient_of_one_batch(
    new_model: Callable[..., Any], examples: list[EncodedExample], tied: bool
) -> None:
    model = new_model(tied=tied)
    one_loss, one = accumulate(model, examples, 10_000)
    for budget in (1, 30, 64):
        many_loss, many = accumulate(model, examples, budget)
        assert many_loss == pytest.approx(one_loss, rel=1e-6)
        assert largest_difference(many, one) <= 1e-6


def test_the_loss_is_divided_by_the_labels_of_the_whole_step_not_row_by_row(
    new_model: Callable[..., Any], examples: list[EncodedExample]
) -> None:
    model = new_model().eval()
    short, long = examples[1], examples[0]
    assert long.labels > 5 * short.labels, "a mean of means would show"
    sums = {example: accumulate(model, [example], 64)[0] * example.labels for example in (short, long)}
    together, _ = accumulate(model, [short, long], 1)
    assert together == pytest.approx(sum(sums.values()) / (short.labels + long.labels), rel=1e-6)
    mean_of_means = sum(total / example.labels for example, total in sums.items()) / 2
    assert abs(together - mean_of_means) > 1e-3


COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def other_model(kind: str, vocabulary: int) -> Any:
    """A tiny model of another family, with what makes it special switched on."""
    import transformers as hf

    common = {**COMMON, "vocab_size": vocabulary}
    configuration = {
        "mistral": lambda: hf.MistralConfig(**common, sliding_window=8),
        "gemma2": lambda: hf.Gemma2Config(
            **common,
            head_dim=16,
            sliding_window=8,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
            query_pre_attn_scalar=16,
        ),
        "granite": lambda: hf.GraniteConfig(**common, logits_scaling=4.0, attention_multiplier=0.3),
        "cohere": lambda: hf.CohereConfig(**common, logit_scale=0.5),
        "nemotron": lambda: hf.NemotronConfig(**common, head_dim=16),
        "qwen2": lambda: hf.Qwen2Config(**common, sliding_window=8, use_sliding_window=False),
        "qwen3": lambda: hf.Qwen3Config(**common, head_dim=16),
        "mistral without a window": lambda: hf.MistralConfig(**common, sliding_window=None),
        "llama 3": lambda: hf.LlamaConfig(
            **common,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        "gpt2": lambda: hf.GPT2Config(
            vocab_size=vocabulary, n_embd=64, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2
        ),
    }[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return hf.AutoModelForCausalLM.from_config(configuration)


FAMILIES = [
    ("mistral", False, True),  # a sliding window
    ("gemma2", False, False),  # soft-capped scores and logits
    ("nemotron", False, True),  # layers that drop what attention needs
    ("granite", True, False),  # scaled logits
    ("cohere", True, False),
    ("qwen2", True, True),
    ("qwen3", True, True),  # a norm on each head
    ("mistral without a window", True, True),
    ("llama 3", True, True),  # stretched positions
    ("gpt2", True, True),  # learned positions
]
"""Families of models, whether they are packed, and whether their head is nothing but a product."""


@pytest.mark.parametrize(
    ("kind", "packed", "plain_head", "matmul_tokens"),
    # By matrix products, and where rows are packed by torch's kernel as well, which long examples go through.
    [(*family, tokens) for family in FAMILIES for tokens in ((512, 0) if family[1] else (512,))],
)
def test_every_family_has_the_loss_and_gradients_of_transformers_own_forward(
    new_model: Callable[..., Any],
    tokenizer: Any,
    examples: list[EncodedExample],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    packed: bool,
    plain_head: bool,
    matmul_tokens: int,
) -> None:
    monkeypatch.setattr("lora_tui.engine.training.packing._MATMUL_TOKENS", matmul_tokens)
    model = new_model(base=other_model(kind, len(tokenizer))).eval()
    gradient_step = GradientStep.of(model, 64)
    assert (gradient_step.packed, gradient_step.plain_head) == (packed, plain_head)
    if not packed:
        assert len(gradient_step.assign_rows(examples)) == len(examples), "one example a row"
    ours = float(gradient_step.accumulate(examples))
    found = gradients(model)
    labels = sum(example.labels for example in examples)
    theirs = 0.0
    for example in examples:
        ids = torch.tensor([example.input_ids])
        marked = torch.where(torch.tensor([example.is_label]), ids, -100)
        loss = model(input_ids=ids, labels=marked).loss * example.labels / labels
        loss.backward()
        theirs += float(loss.detach())
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert largest_difference(found, gradients(model)) <= 1e-5


def test_recurrent_layers_are_not_packed(tokenizer: Any) -> None:
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    configuration = RecurrentGemmaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4
    )
    assert not supports_packing(RecurrentGemmaForCausalLM(configuration))
    model = make_model(tokenizer)
    assert supports_packing(model)
    model._is_stateful = True  # how transformers marks those that carry a state from token to token
    assert not supports_packing(model)


def test_an_adapter_on_the_head_takes_the_models_own_forward(
    new_model: Callable[..., Any], examples: list[EncodedExample]
) -> None:
    model = new_model(targets=["q_proj", "lm_head"], tied=False)
    gradient_step = GradientStep.of(model, 64)
    assert not gradient_step.plain_head
    loss, found = accumulate(model, examples, 64)
    labels = sum(example.labels for example in examples)
    theirs = 0.0
    for example in examples:
        ids = torch.tensor([example.input_ids])
        part = model(input_ids=ids, labels=torch.where(torch.tensor([example.is_label]), ids, -100)).loss
        part = part * example.labels / labels
        part.backward()
        theirs += float(part.detach())
    assert loss == pytest.approx(theirs, abs=1e-5)
    assert any("lm_head" in name for name in found)
    assert largest_difference(found, gradients(model)) <= 1e-6
