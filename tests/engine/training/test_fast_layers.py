"""Layers computed by hand against torch's and transformers' own: outputs, gradients, dropout, and their use."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from lora_tui.engine.training.fast import cpu_ops
from lora_tui.engine.training.fast.cpu_ops import HeadLayout, packed_rotary_attention, rms_norm, swiglu
from lora_tui.engine.training.fast.dropout import DropoutRng, bernoulli_positions
from lora_tui.engine.training.fast.layers import FastLayers
from lora_tui.engine.training.fast.linear import LoraLinearSpec, lora_linears
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.step import GradientStep
from tests.engine.tiny import make_model
from tests.engine.training.conftest import draws_follow_seed_step_example_and_layer_alone, kept_of_ones, rows_of
from tests.engine.training.test_training_packing import accumulate, gradients, largest_difference

CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


# --- the functions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
def test_the_linear_layer_has_the_gradients_of_its_formula(rate: float) -> None:
    x, a, b = numbers(2, 5, 12), numbers(3, 12), numbers(7, 3)
    weight, bias = numbers(7, 12).detach(), numbers(7).detach()
    dropped = DropoutRng(1, 2, (0, 1), ((0, 4), (4, 10))).mask(3, 12, rate, CPU) if rate else None
    keep = torch.ones(10, 12, dtype=torch.float64)
    if dropped is not None:
        keep = dropped.apply(keep)
        assert 0 < float(keep.mean()) < 1
    (ours,) = lora_linears(x, [LoraLinearSpec(weight, bias, a, b, 1.5, dropped)])
    plain = functional.linear(x, weight, bias) + 1.5 * (x * keep.view(2, 5, 12)) @ a.T @ b.T
    torch.testing.assert_close(ours, plain)
    seed = torch.linspace(-1, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    for one, other in zip(
        torch.autograd.grad(ours, (x, a, b), seed), torch.autograd.grad(plain, (x, a, b), seed), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("other_scale", [0.5, 1.5], ids=["unlike scales", "one scale"])
@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_layers_that_share_their_input_have_the_gradients_of_their_formulas(rate: float, other_scale: float) -> None:
    """Two with LoRA, of unlike ranks, and one without between them."""
    x = numbers(10, 12)
    a, b, other_a, other_b = numbers(3, 12), numbers(7, 3), numbers(2, 12), numbers(5, 2)
    weights = [numbers(out, 12, seed=out).detach() for out in (7, 4, 5)]
    drops = [
        DropoutRng(1, 2, (0, 1), ((0, 4), (4, 10))).mask(layer, 12, rate, CPU) if rate else None for layer in (3, 4)
    ]
    keeps = [dropped.apply(torch.ones_like(x)) if dropped else torch.ones_like(x) for dropped in drops]
    layers = [
        LoraLinearSpec(weights[0], None, a, b, 1.5, drops[0]),
        LoraLinearSpec(weights[1], numbers(4).detach()),
        LoraLinearSpec(weights[2], None, other_a, other_b, other_scale, drops[1]),
    ]
    ours = torch.cat(lora_linears(x, layers), dim=1)
    plain = [functional.linear(x, layer.weight, layer.bias) for layer in layers]
    plain[0] = plain[0] + 1.5 * (x * keeps[0]) @ a.T @ b.T
    plain[2] = plain[2] + other_scale * (x * keeps[1]) @ other_a.T @ other_b.T
    torch.testing.assert_close(ours, torch.cat(plain, dim=1))
    seed = torch.linspace(-1, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    inputs = (x, a, b, other_a, other_b)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, seed), torch.autograd.grad(torch.cat(plain, dim=1), inputs, seed), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_an_input_without_a_gradient_gets_none() -> None:
    x, a, b = numbers(4, 6).detach(), numbers(2, 6), numbers(5, 2)
    lora_linears(x, [LoraLinearSpec(numbers(5, 6).detach(), None, a, b, 2.0)])[0].sum().backward()
    assert x.grad is None
    assert a.grad is not None


def test_norm_and_gated_unit_have_the_gradients_of_their_formulas() -> None:
    x, weight, gate = numbers(4, 6), numbers(6).detach(), numbers(4, 6, seed=9)
    seed = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)
    for ours, plain, inputs in (
        (rms_norm(x, weight, 1e-5), functional.rms_norm(x, (6,), weight, 1e-5), (x,)),
        (swiglu(gate, x), functional.silu(gate) * x, (gate, x)),
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)  # ours computes in float32 inside
        for one, other in zip(
            torch.autograd.grad(ours, inputs, seed), torch.autograd.grad(plain, inputs, seed), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_norm_and_gated_unit_round_once_in_bfloat16() -> None:
    x, weight, gate = (numbers(64, 96, seed=seed, dtype=torch.bfloat16).detach() for seed in (0, 1, 2))
    for ours, exact in (
        (rms_norm(x, weight[0], 1e-5), functional.rms_norm(x.double(), (96,), weight[0].double(), 1e-5)),
        (swiglu(gate, x), functional.silu(gate.double()) * x.double()),
    ):
        assert ((ours.double() - exact).abs() <= 1.01 * 2**-8 * exact.abs()).all()


@pytest.mark.parametrize("biased", [False, True])
def test_low_ranks_beside_a_bfloat16_layer_are_computed_in_float32(biased: bool) -> None:
    x, weight, grad = (numbers(*shape, dtype=torch.bfloat16).detach() for shape in ((64, 96), (48, 96), (64, 48)))
    a, b = numbers(8, 96, dtype=torch.float32), numbers(48, 8, dtype=torch.float32)
    dropped = DropoutRng(1, 2, (0,), ((0, 64),)).mask(3, 96, 0.05, CPU)
    bias = numbers(48, dtype=torch.bfloat16).detach() if biased else None
    (ours,) = lora_linears(x.requires_grad_(), [LoraLinearSpec(weight, bias, a, b, 1.5, dropped)])
    assert ours.dtype == torch.bfloat16
    wide = x.detach().double().requires_grad_()
    seen = wide * dropped.apply(torch.ones(64, 96, dtype=torch.float64))
    exact = wide @ weight.double().T + 1.5 * seen @ a.double().T @ b.double().T
    if bias is not None:
        exact = exact + bias.double()
    assert float((ours.double() - exact).norm() / exact.norm()) <= 2**-8  # two roundings
    of_x, *found = torch.autograd.grad(ours, (x, a, b), grad)
    of_wide, *expected = torch.autograd.grad(exact, (wide, a, b), grad.double())
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) <= 1e-6
    assert float((of_x.double() - of_wide).norm() / of_wide.norm()) <= 2**-8


def test_attention_rounds_once_in_bfloat16() -> None:
    spans, heads = ((0, 30), (30, 50)), HeadLayout(2, 8, 0.4)
    q, k, v = (numbers(50, wide, seed=wide, dtype=torch.bfloat16) for wide in (32, 16, 16))
    angle = torch.arange(50, dtype=torch.float32)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.01])
    angles = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    ours, exact = (packed_rotary_attention(*inputs, angles, heads, spans) for inputs in ((q, k, v), wide))
    assert torch.equal(ours, exact.bfloat16())
    seed = torch.linspace(-1, 1, ours.numel()).view_as(ours).bfloat16()
    found, expected = torch.autograd.grad(ours, (q, k, v), seed), torch.autograd.grad(exact, wide, seed.float())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other.bfloat16())


@pytest.mark.parametrize("kept_tokens", [512, 0])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
def test_attention_has_the_gradients_of_torchs_own(
    monkeypatch: pytest.MonkeyPatch, heads: int, kv_heads: int, kept_tokens: int
) -> None:
    monkeypatch.setattr(cpu_ops, "_QUERIES_PER_BLOCK", 4)  # spans of one block, of several, and of a rest of one query
    monkeypatch.setattr(cpu_ops, "KEPT_TOKENS", kept_tokens)
    cpu_ops._causal_bias.cache_clear()
    spans = ((0, 3), (3, 12), (12, 20), (20, 21))
    width, total = 6, 21
    q, k, v = numbers(total, heads * width), numbers(total, kv_heads * width), numbers(total, kv_heads * width, seed=5)
    angle = torch.arange(total, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    ours = packed_rotary_attention(q, k, v, (cos, sin), HeadLayout(kv_heads, width, 0.4), spans)
    plain = plain_attention(q, k, v, (cos, sin), kv_heads, 0.4, spans)
    cpu_ops._causal_bias.cache_clear()
    torch.testing.assert_close(ours, plain)
    seed = torch.linspace(-1, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    for one, other in zip(
        torch.autograd.grad(ours, (q, k, v), seed), torch.autograd.grad(plain, (q, k, v), seed), strict=True
    ):
        torch.testing.assert_close(one, other)


def plain_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    kv_heads: int,
    scaling: float,
    spans: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """The same by transformers' rotation and torch's attention, a span at a time."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    width = k.shape[1] // kv_heads
    q, k, v = (x.view(1, len(x), -1, width).transpose(1, 2) for x in (q, k, v))
    q, k = apply_rotary_pos_emb(q, k, angles[0][None], angles[1][None])
    parts = [
        functional.scaled_dot_product_attention(
            q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], is_causal=True, scale=scaling, enable_gqa=True
        )
        for a, b in spans
    ]
    return torch.cat(parts, 2).transpose(1, 2).flatten(2)[0]


# --- dropout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3, 0.9])
def test_trials_come_true_as_often_as_they_should_and_one_by_one(rate: float) -> None:
    count, rounds = 4000, 50
    hits = np.zeros(count)
    for seed in range(rounds):
        positions = bernoulli_positions(np.random.Generator(np.random.SFC64(seed)), count, rate)
        assert (np.diff(positions) > 0).all()
        hits[positions] += 1
    error = (rate * (1 - rate) / (count * rounds)) ** 0.5
    assert abs(hits.mean() / rounds - rate) < 4 * error
    # Independent trials have the binomial's variance, and neighbours know nothing of each other.
    assert hits.var() == pytest.approx(rounds * rate * (1 - rate), rel=0.15)
    assert abs(np.corrcoef(hits[:-1], hits[1:])[0, 1]) < 0.07


def test_what_is_dropped_depends_on_seed_step_example_and_layer_alone() -> None:
    draws_follow_seed_step_example_and_layer_alone()
    # High rates come as a mask instead of positions: the same draws, the other form.
    high = DropoutRng(42, 3, (5, 2), ((0, 10), (10, 30)))
    assert high.mask(0, 32, 0.5, CPU).index.dtype == torch.bool
    assert 0.4 < float(kept_of_ones(high, rate=0.5).mean()) < 0.6


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_with_dropout_a_step_is_the_same_however_it_is_packed(
    new_model: Callable[..., Any], examples: list[EncodedExample], rate: float
) -> None:
    model = new_model(dropout=rate).train()
    random_state = torch.get_rng_state()
    one_loss, one = accumulate(model, examples, 10_000)
    for budget in (1, 64):
        loss, found = accumulate(model, examples, budget)
        assert loss == pytest.approx(one_loss, rel=1e-6)
        assert largest_difference(found, one) <= 1e-6
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    _, recomputed = accumulate(model, examples, 64)
    assert largest_difference(recomputed, one) <= 1e-6
    assert torch.equal(torch.get_rng_state(), random_state)
    another = GradientStep.of(model, 64)
    assert float(another.accumulate(examples, 2)) != pytest.approx(one_loss, rel=1e-4), "another step drops others"
    model.zero_grad()
    dropless, _ = accumulate(model.eval(), examples, 64)
    assert abs(dropless - one_loss) > 1e-4


def test_dropout_is_pefts_with_the_same_elements_dropped(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT's own layers, with its dropout modules replaced by ones that drop what ours drop."""
    model = new_model(dropout=0.2, targets=["q_proj", "up_proj", "down_proj"]).train()
    loss, ours = accumulate(model, examples, 64)
    gradient_step = GradientStep.of(model, 64)
    rows = rows_of(gradient_step, examples)
    total = 0.0
    labels = sum(example.labels for example in examples)
    for row in rows:
        rng = DropoutRng(42, 0, row.examples, row.spans)
        adapted = [module for module in model.modules() if hasattr(module, "lora_dropout")]
        for number, module in enumerate(adapted):

            def drop(x: torch.Tensor, number: int = number, rng: DropoutRng = rng) -> torch.Tensor:
                keep = rng.mask(number, x.shape[-1], 0.2, CPU).apply(torch.ones(x.shape[-2:]))
                return x * keep / 0.8

            monkeypatch.setattr(module.lora_dropout["default"], "forward", drop)
        from lora_tui.engine.training.packing import packed_attention

        with packed_attention(gradient_step.base):
            part = gradient_step.summed_loss(row) / labels
        part.backward()
        total += float(part.detach())
    assert loss == pytest.approx(total, rel=1e-6)
    assert largest_difference(ours, gradients(model)) <= 1e-6


# --- where they are used -------------------------------------------------------------------------------------------


def test_all_layers_of_a_llama_are_replaced_for_the_step_and_only_for_it(new_model: Callable[..., Any]) -> None:
    model = new_model()
    fast = FastLayers.of(model, packed=True)
    assert fast.unsupported_reason is None
    assert fast.replaced == {"linear": 14, "norm": 5, "mlp": 2, "attention": 2, "embedding": 1}
    with fast.installed():
        assert sum("forward" in module.__dict__ for module in model.modules()) == 24
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_trained_norms_keep_their_own_layer(new_model: Callable[..., Any]) -> None:
    model = new_model()
    for name, parameter in model.named_parameters():
        if "input_layernorm" in name:
            parameter.requires_grad_(True)
    kinds = FastLayers.of(model, packed=True).replaced
    assert kinds["norm"] == 3
    assert "embedding" not in kinds, "a norm of transformers' own would not take a float32 sum"


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"use_dora": True}, "a variant of LoRA"), ({"lora_bias": True}, "LoRA with a bias")],
)
def test_what_is_not_plain_lora_is_left_to_peft(
    tokenizer: Any, examples: list[EncodedExample], change: Any, reason: str
) -> None:
    from peft import LoraConfig, get_peft_model

    base = make_model(tokenizer).requires_grad_(False)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **change))
    gradient_step = GradientStep.of(model, 64)
    assert gradient_step.fast.unsupported_reason == reason
    assert gradient_step.fast.forwards == []
    ours = float(gradient_step.accumulate(examples))
    labels = sum(example.labels for example in examples)
    found = gradients(model)
    theirs = 0.0
    for example in examples:
        ids = torch.tensor([example.input_ids])
        part = model(input_ids=ids, labels=torch.where(torch.tensor([example.is_label]), ids, -100)).loss
        part = part * example.labels / labels
        part.backward()
        theirs += float(part.detach())
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert found.keys() == gradients(model).keys()


def test_in_bfloat16_gradients_are_as_near_the_exact_ones_as_pefts_own_or_nearer(
    new_model: Callable[..., Any], tokenizer: Any, examples: list[EncodedExample]
) -> None:
    def base(dtype: torch.dtype) -> Any:
        return make_model(tokenizer).to(torch.bfloat16).to(dtype)  # the same weights

    _, exact = accumulate(new_model(base=base(torch.float32)), examples, 64)
    _, ours = accumulate(new_model(base=base(torch.bfloat16)), examples, 64)
    gradient_step = GradientStep.of(new_model(base=base(torch.bfloat16)), 64)
    gradient_step.fast = FastLayers(unsupported_reason="for comparison")
    gradient_step.accumulate(examples)
    pefts = gradients(gradient_step.model)

    def relative_error(found: dict[str, torch.Tensor]) -> float:
        distance = sum(float((found[name] - exact[name]).square().sum()) for name in exact)
        return float((distance / sum(float(value.square().sum()) for value in exact.values())) ** 0.5)

    assert relative_error(ours) <= 2e-2
    assert relative_error(ours) <= 1.05 * relative_error(pefts)
