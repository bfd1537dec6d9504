"""A GPU's kernels, run by Triton's interpreter on the CPU: each equals the plain formula, and so does a whole step."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

if not os.environ.get("CI"):  # the test extra brings it: in CI a missing one is a failure
    pytest.importorskip("triton")

from lora_tui.config.models import Lora
from lora_tui.engine.models import activation_memory
from lora_tui.engine.training.cuda_graphs import GraphedRows
from lora_tui.engine.training.fast import cpu_ops, gpu_ops, kernel_selftest
from lora_tui.engine.training.fast.dropout import DropoutRng, SeededMask
from lora_tui.engine.training.fast.layers import FastLayers
from lora_tui.engine.training.lora import create_lora_model
from lora_tui.engine.training.loss import summed_cross_entropy
from lora_tui.engine.training.packing import EncodedExample, Row, lay_out
from lora_tui.engine.training.step import GradientStep
from tests.engine.training.conftest import draws_follow_seed_step_example_and_layer_alone, kept_of_ones, stir

CPU = torch.device("cpu")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this machine's CPU for a GPU: kernels are interpreted, torch's own variable-length kernel is replaced."""

    def per_span_attention(
        query: Any, key: Any, value: Any, starts: torch.Tensor, _: Any, longest: int, *__: Any, scale: float, **___: Any
    ) -> Any:
        assert starts.diff().max() <= longest, "the kernel would leave the rest of the span as it finds it"
        mixed = []
        for start, end in zip(starts.tolist(), starts.tolist()[1:], strict=False):
            q, k, v = (x[start:end].transpose(0, 1)[None] for x in (query, key, value))
            one = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
            mixed.append(one[0].transpose(0, 1))
        return torch.cat(mixed)

    monkeypatch.setattr("lora_tui.engine.training.packing.varlen_attn", per_span_attention)
    monkeypatch.setattr("lora_tui.engine.training.fast.layers.has_varlen_kernel", lambda query: True)
    monkeypatch.setattr(gpu_ops, "unusable_reason", lambda device, dtype: None)
    monkeypatch.setattr(
        gpu_ops, "attention_kernels_usable", lambda *_: False
    )  # slow to interpret: where it is asked for
    # More than one block of each kind, and blocks that are not full.
    monkeypatch.setattr(gpu_ops.low_rank_kernels(), "_GATED_TOKENS", 16)
    monkeypatch.setattr(gpu_ops.low_rank_kernels(), "_GATED_COLUMNS", 32)


@pytest.fixture
def with_attention(on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention's kernels as well, in blocks as small as the examples are short."""
    kernels = gpu_ops.attention_kernels()
    monkeypatch.setattr(gpu_ops, "attention_kernels_usable", lambda *_: True)
    for name, queries, keys in (("FORWARD", 16, 8), ("BACKWARD_KV", 8, 16), ("BACKWARD_Q", 16, 8)):
        monkeypatch.setattr(kernels, f"_{name}", {"QUERIES": queries, "KEYS": keys})


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
"""A model small enough for Triton's interpreter, which takes a millisecond for a block."""


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_norm_and_gated_unit_equal_the_plain_ones(dtype: torch.dtype, error: float) -> None:
    x, weight = numbers(2, 5, 48, dtype=dtype), numbers(48, dtype=dtype).detach()
    gate, up = numbers(5, 1300, seed=1, dtype=dtype), numbers(5, 1300, seed=2, dtype=dtype)
    for ours, plain, inputs in (
        (gpu_ops.rms_norm(x, weight, 1e-5), cpu_ops.rms_norm(x, weight, 1e-5), (x,)),
        (gpu_ops.swiglu(gate, up), cpu_ops.swiglu(gate, up), (gate, up)),
    ):
        torch.testing.assert_close(ours, plain, rtol=error, atol=error)
        seed = numbers(*ours.shape, seed=3, dtype=dtype).detach()
        for one, other in zip(
            torch.autograd.grad(ours, inputs, seed), torch.autograd.grad(plain, inputs, seed), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=3 * error, atol=3 * error)


@pytest.mark.usefixtures("on_gpu")
def test_the_rotation_is_that_of_transformers() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x = numbers(7, 3, 16)
    cos, sin = (numbers(7, 8, seed=seed).detach().repeat(1, 2) for seed in (1, 2))
    ours = gpu_ops.rotate(x, cos, sin)
    by_head = x.transpose(0, 1)[None]
    plain = apply_rotary_pos_emb(by_head, by_head, cos[None], sin[None])[0][0].transpose(0, 1)
    torch.testing.assert_close(ours, plain)
    seed = numbers(7, 3, 16, seed=3).detach()
    torch.testing.assert_close(*(torch.autograd.grad(y, x, seed, retain_graph=True)[0] for y in (ours, plain)))


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("vocabulary", [50, 8192 + 77])
def test_the_cross_entropy_equals_the_plain_one(vocabulary: int) -> None:
    hidden, weight = numbers(6, 12), numbers(vocabulary, 12, seed=1).detach()
    targets = torch.tensor([0, 1, vocabulary - 1, 7, 7, 3])
    ours = summed_cross_entropy(hidden, weight, targets)
    plain = functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(*(torch.autograd.grad(loss, hidden)[0] for loss in (ours, plain)))
    certain = (hidden * 1e4).detach().requires_grad_()  # probabilities of 0 and 1: the logarithm must not overflow
    torch.testing.assert_close(
        summed_cross_entropy(certain, weight, targets),
        functional.cross_entropy(certain @ weight.T, targets, reduction="sum"),
    )


@pytest.mark.usefixtures("on_gpu")
def test_what_is_dropped_depends_on_seed_step_example_and_layer_alone() -> None:
    draws_follow_seed_step_example_and_layer_alone()
    one = kept_of_ones(DropoutRng(42, 3, (5, 2), ((0, 10), (10, 30))))
    assert not any(torch.equal(one[0], row) for row in one[1:]), "a token has its own draws"


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_as_many_are_dropped_as_the_rate_says_and_the_gradient_drops_the_same(rate: float) -> None:
    dropped = DropoutRng(1, 2, (0, 1), ((0, 30), (30, 50))).mask(3, 1200, rate, CPU)
    keep = dropped.apply(torch.ones(50, 1200))
    error = (rate * (1 - rate) / keep.numel()) ** 0.5
    assert abs(1 - float(keep.mean()) - rate) < 4 * error
    total, part = numbers(50, 1200).detach(), numbers(50, 1200, seed=1).detach()
    expected = total + part * keep
    torch.testing.assert_close(dropped.add_kept(part.clone(), None), part * keep)
    torch.testing.assert_close(dropped.add_kept(part, total), expected)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_a_step_on_the_gpus_way_equals_the_one_on_the_cpus(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch, targets: Any
) -> None:
    compare_with_the_cpus_way(new_model(targets=targets).train(), examples, monkeypatch)


@pytest.mark.usefixtures("with_attention")
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_by_kernels_equals_the_cpus(
    tokenizer: Any, examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch, kv_heads: int
) -> None:
    """With biases, and LoRA on queries and values alone, so that a part of the fused projection has none."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = Qwen2Config(**shape, num_key_value_heads=kv_heads, vocab_size=len(tokenizer), pad_token_id=0)
    base = AutoModelForCausalLM.from_config(config)
    for name, parameter in base.named_parameters():
        if "bias" in name:
            torch.nn.init.normal_(parameter)
    lora = Lora(r=4, alpha=8, dropout=0.0, target_modules=["q_proj", "v_proj"])
    model = stir(create_lora_model(base, lora)).train()
    calls = []
    real = gpu_ops.rotary_attention
    monkeypatch.setattr(gpu_ops, "rotary_attention", lambda *inputs: calls.append(len(inputs)) or real(*inputs))
    compare_with_the_cpus_way(model, examples, monkeypatch)
    assert calls


@pytest.mark.usefixtures("on_gpu")
def test_fused_layers_keep_their_weights_and_are_fused_once(new_model: Callable[..., Any]) -> None:
    model = new_model(targets=["q_proj", "up_proj"]).train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    FastLayers.of(model, packed=True)
    after = model.state_dict()
    assert all(torch.equal(values, after[name]) for name, values in before.items())
    addresses = {name: values.data_ptr() for name, values in after.items()}
    storages = {values.untyped_storage().data_ptr() for name, values in after.items() if ".layers.0.mlp." in name}
    assert len(storages) == len([name for name in after if ".layers.0.mlp." in name]) - 1, "gate and up share theirs"
    FastLayers.of(model, packed=True)
    assert {name: values.data_ptr() for name, values in model.state_dict().items()} == addresses


@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (3, 3)])
def test_the_attention_is_tried_before_it_is_used(monkeypatch: pytest.MonkeyPatch, heads: int, key_heads: int) -> None:
    kernels = gpu_ops.attention_kernels()
    kernel_selftest.attention_kernels_pass.cache_clear()
    real, gradients = kernels.attention_backward, []
    monkeypatch.setattr(kernels, "attention_backward", lambda *inputs: gradients.extend(real(*inputs)) or gradients)
    assert kernel_selftest.attention_kernels_pass(CPU, torch.float32, heads, key_heads, 16)
    assert gpu_ops.attention_kernels_usable(CPU, torch.float32, heads, key_heads, 16)
    monkeypatch.setattr(kernels, "attention_backward", lambda *_: (gradients[0],) * 3)
    kernel_selftest.attention_kernels_pass.cache_clear()
    assert not kernel_selftest.attention_kernels_pass(CPU, torch.float32, heads, key_heads, 16)
    kernel_selftest.attention_kernels_pass.cache_clear()


def test_what_the_program_runs_fits_its_loops() -> None:
    """One block goes through the other kind in whole blocks, or what is on the diagonal would be seen twice."""
    kernels = gpu_ops.attention_kernels()
    for blocks, inner, outer in (
        (kernels._FORWARD, "KEYS", "QUERIES"),
        (kernels._BACKWARD_KV, "QUERIES", "KEYS"),
        (kernels._BACKWARD_Q, "KEYS", "QUERIES"),
    ):
        assert blocks[outer] % blocks[inner] == 0


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("kind", [Qwen3Config, Qwen2Config], ids=["norms of the heads", "biases"])
def test_other_families_and_unlike_ranks_are_computed_alike(
    tokenizer: Any, examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = kind(**shape, num_key_value_heads=2, head_dim=8, vocab_size=len(tokenizer), pad_token_id=0)
    pattern = Lora(r=4, alpha=8, target_modules="all-linear", rank_pattern={"up_proj": 6, "k_proj": 2})
    lora = pattern.model_copy(update={"dropout": 0.0, "alpha_pattern": {"down_proj": 2, "v_proj": 3}})
    model = stir(create_lora_model(AutoModelForCausalLM.from_config(config), lora)).train()
    compare_with_the_cpus_way(model, examples, monkeypatch)


@pytest.mark.usefixtures("on_gpu")
def test_a_norm_that_somebody_listens_to_is_called(
    new_model: Callable[..., Any], examples: list[EncodedExample]
) -> None:
    model = new_model(targets=["q_proj"]).train()
    norm = model.get_base_model().model.layers[0].post_attention_layernorm
    heard: list[int] = []
    norm.register_forward_hook(lambda *_: heard.append(1))
    gradient_step = GradientStep.of(model, 64)
    gradient_step.accumulate(examples[:1], 1)
    assert heard == [1]
    assert gradient_step.fast.replaced["layer"] == model.config.num_hidden_layers - 1


@pytest.mark.usefixtures("with_attention")
def test_longer_examples_than_were_measured_go_through_torchs_attention(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = new_model(targets=["q_proj"]).train(), []
    real = gpu_ops.kernels().rotate_backward
    monkeypatch.setattr(gpu_ops, "rotary_attention", lambda *_: pytest.fail("not for these"))
    monkeypatch.setattr(gpu_ops.attention_kernels(), "MAX_SEQLEN", 8)
    monkeypatch.setattr(gpu_ops.kernels(), "rotate_backward", lambda *inputs: calls.append(1) or real(*inputs))
    GradientStep.of(model, 64).accumulate(examples[:1], 1)
    assert len(calls) == model.config.num_hidden_layers


@pytest.mark.usefixtures("on_gpu")
def test_layers_that_are_computed_again_are_the_same(
    new_model: Callable[..., Any], examples: list[EncodedExample]
) -> None:
    kernel_selftest.low_rank_kernels_pass.cache_clear()  # the self-test must not happen inside a layer
    model, short = new_model().train(), sorted(examples, key=lambda example: len(example.input_ids))[:1]
    gradient_step = GradientStep.of(model, 64)
    gradient_step.recompute(activation_memory.ALL)
    gradient_step.accumulate(short, 1)
    again = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.get_base_model().gradient_checkpointing_disable()
    GradientStep.of(model, 64).accumulate(short, 1)
    once = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(again, once, rtol=1e-5, atol=1e-7)


def compare_with_the_cpus_way(model: Any, examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient() -> tuple[float, torch.Tensor, dict[str, int]]:
        gradient_step = GradientStep.of(model, 64)
        loss = float(gradient_step.accumulate(examples[:2], 1))
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return loss, found, gradient_step.fast.replaced

    loss, found, kinds = gradient()
    monkeypatch.setattr(gpu_ops, "unusable_reason", lambda device, dtype: "not here")
    plain_loss, plain, plain_kinds = gradient()
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-6)
    assert kinds.pop("layer") == model.config.num_hidden_layers
    assert kinds == {kind: count for kind, count in plain_kinds.items() if kind != "embedding"}
    assert set(kinds) == {"linear", "norm", "mlp", "attention"}


@pytest.mark.usefixtures("on_gpu")
def test_with_dropout_a_step_is_the_same_however_it_is_packed(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_ops.low_rank_kernels(), "_BLOCK", 64)  # the interpreter draws for all of it
    model = new_model(dropout=0.1, targets=["q_proj", "o_proj"], **SMALL).train()
    examples = sorted(examples, key=lambda example: len(example.input_ids))
    losses = [float(GradientStep.of(model, budget).accumulate(examples[:2], 1)) for budget in (10_000, 1)]
    assert losses == pytest.approx([losses[0]] * 2, rel=1e-6)
    model.eval()
    assert abs(float(GradientStep.of(model, 64).accumulate(examples[:2], 1)) - losses[0]) > 1e-4


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "o_proj"], "all-linear"])
def test_what_is_dropped_inside_the_products_is_what_is_dropped_before_them(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch, targets: Any
) -> None:
    monkeypatch.setattr(gpu_ops.low_rank_kernels(), "_BLOCK", 64)  # the interpreter draws for all of it
    for name, size in {
        "_PRODUCT_TOKENS": 8,
        "_PRODUCT_COLUMNS": 16,
        "_COLUMNS_PER_PROGRAM": 32,
        "_TOKENS_PER_PROGRAM": 16,
    }.items():
        # Sums of parts, and parts that the input does not fill.
        monkeypatch.setattr(gpu_ops.low_rank_kernels(), name, size)
    model = new_model(dropout=0.2, targets=targets, **SMALL).train()
    shortest = sorted(examples, key=lambda example: len(example.input_ids))[:2]
    calls = dict.fromkeys(("dropout_xa_", "dropout_grad_a", "dropout_grad_x", "apply"), 0)

    def count(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counting(*inputs: Any, **named: Any) -> Any:
            calls[name] += 1
            return real(*inputs, **named)

        monkeypatch.setattr(owner, name, counting)

    for name in calls:
        count(SeededMask if name == "apply" else gpu_ops.low_rank_kernels(), name)

    def step() -> tuple[float, torch.Tensor]:
        gradient_step = GradientStep.of(model, 64)
        loss = float(gradient_step.accumulate(shortest, 1))
        return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    loss, inside = step()
    before = dict(calls)
    assert [name for name, times in before.items() if not times] == ["apply"]
    monkeypatch.setattr(gpu_ops, "low_rank_kernels_usable", lambda *_: False)
    plain_loss, plain = step()
    assert [name for name, times in calls.items() if times != before[name]] == ["apply"]
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    torch.testing.assert_close(inside, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("on_gpu")
def test_draws_of_neighbours_have_nothing_in_common() -> None:
    """Of tokens, columns and layers, for the gaps at which a poor hash of counters shows."""
    rate, spans = 0.3, ((0, 40), (40, 64))
    layers = [
        DropoutRng(1, 1, (0, 1), spans).mask(layer, 1024, rate, CPU).apply(torch.ones(64, 1024)) for layer in (0, 1)
    ]
    dropped = [(1 - kept) - rate for kept in layers]

    def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
        """In standard deviations of what independent draws have."""
        return float((a * b).sum() / (rate * (1 - rate) * a.numel() ** 0.5))

    pairs = [(dropped[0], dropped[1])]
    for gap in (1, 2, 3, 4, 8, 16, 32):
        pairs += [(dropped[0][gap:], dropped[0][:-gap]), (dropped[0][:, gap:], dropped[0][:, :-gap])]
        pairs.append((dropped[0][gap:, gap:], dropped[0][:-gap, :-gap]))
    assert max(abs(correlation(*pair)) for pair in pairs) < 4
    for axis, others in ((0, 64), (1, 1024)):
        means = dropped[0].mean(axis) / (rate * (1 - rate) / others) ** 0.5
        assert float(means.abs().max()) < 4.5
        assert 0.8 < float(means.std()) < 1.2


class Captured:
    """In a CUDA graph's place on the CPU: run once when it is captured, and again at each replay."""

    def __init__(self, function: Callable[[], None], _pool: Any) -> None:
        self._function, self.replays = function, 0
        function()

    def replay(self) -> None:
        self.replays += 1
        self._function()


@pytest.mark.usefixtures("on_gpu")
def test_rows_padded_for_a_graph_give_the_gradients_of_the_rows(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_tui.engine.training.cuda_graphs._TOKENS", 8)
    monkeypatch.setattr("lora_tui.engine.training.cuda_graphs._LABELS", 4)
    monkeypatch.setattr(gpu_ops.low_rank_kernels(), "_BLOCK", 64)  # the interpreter draws for all of it
    model = new_model(dropout=0.1, targets=["q_proj", "o_proj"], **SMALL).train()
    examples = sorted(examples, key=lambda example: len(example.input_ids))[:3]

    def gradients_of_three_steps(gradient_step: GradientStep) -> list[torch.Tensor]:
        found = []
        for step in (1, 2):
            loss = gradient_step.accumulate(examples[step - 1 : step + 1], step)
            found.append(torch.cat([loss[None], *(p.grad.flatten() for p in model.parameters() if p.grad is not None)]))
        return found

    plain = gradients_of_three_steps(GradientStep.of(model, 1000))
    gradient_step = GradientStep.of(model, 1000)
    gradient_step.record_graphs()
    assert gradient_step.graphs is not None
    monkeypatch.setattr(gradient_step.graphs, "_capture", Captured)
    monkeypatch.setattr("lora_tui.engine.training.cuda_graphs._EAGER_ROWS", 0)
    for ours, expected in zip(gradients_of_three_steps(gradient_step), plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert [graph.replays for _, graph in gradient_step.graphs._graphs.values()] in ([1, 1], [2])


@pytest.mark.usefixtures("on_gpu")
def test_a_graph_that_cannot_be_captured_costs_nothing_but_time(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model(targets=["q_proj"], **SMALL).train()
    expected = float(GradientStep.of(model, 1000).accumulate(examples[:2], 1))
    gradient_step = GradientStep.of(model, 1000)
    gradient_step.record_graphs()

    def refuse(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gradient_step.graphs, "_capture", refuse)
    monkeypatch.setattr("lora_tui.engine.training.cuda_graphs._EAGER_ROWS", 0)
    assert float(gradient_step.accumulate(examples[:2], 1)) == pytest.approx(expected, rel=1e-6)
    assert gradient_step.graphs is None
    assert gradient_step.fallback.current.tokens_per_row == 1000, (
        "and nothing but time where its memory did not suffice"
    )
    assert "not permitted" in str(gradient_step.fallback.graphs_error)


class Sums:
    """Graphs of a model of one parameter, whose loss is that parameter for each label."""

    def __init__(self) -> None:
        self.parameter = torch.nn.Parameter(torch.tensor(2.0))
        self.rows = GraphedRows([self.parameter], 1, self.loss, lambda rng: None, capture=Captured)

    def loss(self, row: Row) -> torch.Tensor:
        return self.parameter * (row.targets >= 0).sum()

    def step(self, *tokens: int) -> tuple[float, float]:
        self.rows.begin(10)
        for count in tokens:
            self.rows.add(lay_out([EncodedExample((5,) * count, (True,) * count, False, "x")], [0], CPU), None)
        return float(self.rows.total), float(self.rows.sums[0])


def test_the_first_row_of_a_size_is_not_captured_and_capturing_adds_nothing() -> None:
    sums = Sums()
    for _ in range(3):
        assert sums.step(100, 130) == pytest.approx((2.0 * 228, 22.8))
    assert [graph.replays for _, graph in sums.rows._graphs.values()] == [2, 2]


def test_graphs_are_few_and_of_the_sizes_that_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_tui.engine.training.cuda_graphs._MAX_GRAPHS", 1)
    sums = Sums()
    for tokens in (100, 100, 200, 200, 200, 200):
        assert sums.step(tokens)[0] == 2.0 * (tokens - 1)
        assert [size.tokens for size in sums.rows._graphs] in ([], [128])
    sums.step(200)
    assert [size.tokens for size in sums.rows._graphs] == [256]


def test_weights_that_have_moved_are_captured_anew() -> None:
    sums = Sums()
    sums.step(100, 100)
    assert len(sums.rows._graphs) == 1
    sums.parameter.data = torch.tensor(3.0)
    assert sums.step(100) == pytest.approx((3.0 * 99, 9.9))


def test_where_the_kernels_cannot_be_compiled_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = gpu_ops.kernels()
    kernel_selftest.failure_reason.cache_clear()
    assert kernel_selftest.failure_reason(CPU, torch.float32) is None

    def broken(*_: Any) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(kernels, "rotate", broken)
    kernel_selftest.failure_reason.cache_clear()
    assert kernel_selftest.failure_reason(CPU, torch.float32) == "Triton could not compile them (RuntimeError)"
    monkeypatch.setattr(kernels, "rotate", lambda x, *_: x)
    kernel_selftest.failure_reason.cache_clear()
    assert kernel_selftest.failure_reason(CPU, torch.float32) == (
        "they compute something else on this device (rotation, rotation of some heads)"
    )
    kernel_selftest.failure_reason.cache_clear()
    assert gpu_ops.unusable_reason(CPU, torch.float32) == "they are for GPUs"


def test_low_ranks_are_added_in_passing_only_where_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = gpu_ops.low_rank_kernels()
    kernel_selftest.low_rank_kernels_pass.cache_clear()
    assert kernel_selftest.low_rank_kernels_pass(CPU, torch.float32, 5)
    real = kernels.gated_forward
    monkeypatch.setattr(kernels, "gated_forward", lambda *inputs: real(*inputs) + 0.5)
    kernel_selftest.low_rank_kernels_pass.cache_clear()
    assert not kernel_selftest.low_rank_kernels_pass(CPU, torch.float32, 5)
    kernel_selftest.low_rank_kernels_pass.cache_clear()


def test_without_the_kernels_a_model_says_that_it_is_slower(
    new_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model()
    fast = FastLayers.of(model, packed=True)
    fast.slower_reason = "they cannot be used"
    gradient_step = GradientStep.of(model, 64)
    monkeypatch.setattr(gradient_step, "fast", fast)
    assert any("they cannot be used" in line for line in gradient_step.slower_reasons())
