"""Packed rows: how examples are laid out, and that a row computes what its examples compute alone."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from lora_tui.engine.training.packing import (
    _MATMUL_TOKENS,
    PACKED_ATTENTION,
    EncodedExample,
    lay_out,
    pack,
    packed_attention,
)
from lora_tui.engine.training.step import GradientStep
from tests.engine.tiny import make_model
from tests.engine.training.conftest import rows_of

CPU = torch.device("cpu")


def encoded(ids: list[int], labels: str) -> EncodedExample:
    return EncodedExample(tuple(ids), tuple(mark == "x" for mark in labels), False, "f")


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def accumulate(
    model: Any, examples: list[EncodedExample], tokens_per_row: int
) -> tuple[float, dict[str, torch.Tensor]]:
    gradient_step = GradientStep.of(model, tokens_per_row)
    assert gradient_step.packed
    loss = float(gradient_step.accumulate(examples))
    return loss, gradients(model)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of any two entries, as a share of the largest entry."""
    assert one.keys() == other.keys()
    assert len(one) > 4
    largest = max(float(gradient.abs().max()) for gradient in other.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / max(largest, 1e-3)


def test_rows_keep_to_the_budget_and_hold_every_item_once() -> None:
    lengths = [20, 14, 25, 14, 23, 15, 13, 26, 12, 22]
    rows = pack(lengths, 40)
    assert sorted(item for row in rows for item in row) == list(range(10))
    assert all(sum(lengths[item] for item in row) <= 40 for row in rows)
    assert len(rows) <= 6, "26+14, 25+15, 23+14, 22+13, 20+12 …: best fit leaves little room"


def test_an_item_above_the_budget_gets_a_row_of_its_own() -> None:
    assert sorted(map(sorted, pack([50, 10, 10], 30))) == [[0], [1, 2]]


def test_packing_is_deterministic_and_keeps_the_order_of_equal_items() -> None:
    assert pack([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]
    assert pack([7, 3, 7, 3], 10) == pack([7, 3, 7, 3], 10)


def test_positions_restart_with_each_example_and_spans_say_where() -> None:
    row = lay_out([encoded([5, 6, 7], "..x"), encoded([8, 9], ".x")], (0, 1), CPU)
    assert row.input_ids.tolist() == [5, 6, 7, 8, 9]
    assert row.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert row.spans == ((0, 3), (3, 5))
    assert row.examples == (0, 1)
    assert (row.cu_seqlens.tolist(), row.cu_seqlens.dtype) == ([0, 3, 5], torch.int32)


def test_the_last_token_of_an_example_predicts_nothing() -> None:
    row = lay_out([encoded([5, 6, 7], ".xx"), encoded([8, 9], "xx")], (0, 1), CPU)
    assert row.label_positions.tolist() == [0, 1, 3]
    assert row.targets.tolist() == [6, 7, 9]  # 8, the first token of the second example, is no target


def test_the_logits_of_a_packed_row_are_those_of_its_examples_alone(
    new_model: Callable[..., Any], examples: list[EncodedExample]
) -> None:
    model = new_model().eval()
    row = lay_out(examples, range(4), CPU)
    with torch.no_grad():
        with packed_attention(model.get_base_model()):
            packed = model(
                input_ids=row.input_ids[None],
                position_ids=row.position_ids[None],
                attention_mask=None,
                use_cache=False,
                spans=row.spans,
            ).logits[0]
        for (start, end), example in zip(row.spans, examples, strict=False):
            alone = model(input_ids=torch.tensor([example.input_ids])).logits[0]
            assert float((packed[start:end] - alone).abs().max()) <= 1e-5
    assert model.config._attn_implementation != PACKED_ATTENTION, "generation must find the model's own attention again"


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("layers", [["q_proj", "v_proj"], "all-linear"])
def test_the_gradients_of_packed_rows_are_those_of_separate_examples(
    new_model: Callable[..., Any], examples: list[EncodedExample], heads: tuple[int, int], layers: Any
) -> None:
    model = new_model(targets=layers, num_attention_heads=heads[0], num_key_value_heads=heads[1])
    alone_loss, alone = accumulate(model, examples, 1)
    packed_loss, packed = accumulate(model, examples, 64)
    assert packed_loss == pytest.approx(alone_loss, rel=1e-6)
    assert largest_difference(packed, alone) <= 1e-6
    assert max(float(gradient.abs().max()) for gradient in alone.values()) > 1e-2, "gradients that say something"


def test_packing_changes_nothing_against_transformers_own_forward(
    new_model: Callable[..., Any], examples: list[EncodedExample]
) -> None:
    model = new_model()
    _, ours = accumulate(model, examples, 64)
    labels = sum(example.labels for example in examples)
    for example in examples:
        ids = torch.tensor([example.input_ids])
        marked = torch.where(torch.tensor([example.is_label]), ids, -100)
        (model(input_ids=ids, labels=marked).loss * example.labels / labels).backward()
    assert largest_difference(ours, gradients(model)) <= 1e-6


def test_long_examples_take_the_other_kernel_and_agree(new_model: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 400, (_MATMUL_TOKENS + 8,), generator=generator).tolist()
    long = encoded(ids, "x" * len(ids))
    short = encoded(ids[:20], "x" * 20)
    model = new_model()
    packed_loss, packed = accumulate(model, [long, short], 2 * len(ids))
    total = 0.0
    for example in (long, short):
        tensor = torch.tensor([example.input_ids])
        loss = model(input_ids=tensor, labels=tensor).loss * example.labels / (long.labels + short.labels)
        loss.backward()
        total += float(loss.detach())
    assert packed_loss == pytest.approx(total, abs=1e-5)
    assert largest_difference(packed, gradients(model)) <= 1e-6


def test_on_cuda_all_spans_go_through_one_kernel_in_the_layout_it_takes(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has no CPU version: one that follows its documentation stands in for it here."""
    shapes: list[tuple[int, ...]] = []

    def stand_in(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, **options: Any) -> torch.Tensor:
        assert options["window_size"] == (-1, 0)
        assert options["enable_gqa"]
        assert max_q == max_k == max(int(end - start) for start, end in pairwise(cu_q))
        shapes.append(tuple(q.shape))
        heads = [x.transpose(0, 1)[None] for x in (q, k, v)]
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *(x[:, :, a:b] for x in heads), is_causal=True, scale=options["scale"], enable_gqa=True
            )
            for a, b in zip(cu_q.tolist(), cu_k.tolist()[1:], strict=False)
        ]
        return torch.cat(parts, 2)[0].transpose(0, 1)

    model = new_model()
    _, wanted = accumulate(model, examples, 64)
    monkeypatch.setattr("lora_tui.engine.training.packing.has_varlen_kernel", lambda query: True)
    monkeypatch.setattr("lora_tui.engine.training.packing.varlen_attn", stand_in)
    monkeypatch.setattr("lora_tui.engine.training.fast.layers.FastLayers._replace_blocks", lambda *_, **__: None)
    _, found = accumulate(model, examples, 64)
    assert largest_difference(found, wanted) <= 1e-6
    assert {len(shape) for shape in shapes} == {3}
    assert all(shape[1:] == (4, 16) for shape in shapes)


def test_recomputed_activations_give_the_same_gradients(
    new_model: Callable[..., Any], examples: list[EncodedExample]
) -> None:
    model = new_model().train()
    _, plain = accumulate(model, examples, 64)
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    _, recomputed = accumulate(model, examples, 64)
    assert largest_difference(plain, recomputed) <= 1e-7


def test_every_row_of_a_step_keeps_to_the_token_budget(
    new_model: Callable[..., Any], examples: list[EncodedExample]
) -> None:
    rows = rows_of(GradientStep.of(new_model(), 40), examples)
    assert all(len(row.input_ids) <= 40 for row in rows)
    assert sum(len(row.targets) for row in rows) == sum(example.labels for example in examples)


def test_a_bfloat16_base_takes_the_same_step_up_to_rounding(
    new_model: Callable[..., Any], tokenizer: Any, examples: list[EncodedExample]
) -> None:
    exact, _ = accumulate(new_model(), examples, 64)
    model = new_model(base=make_model(tokenizer).to(torch.bfloat16))
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    rounded, found = accumulate(model, examples, 64)
    assert rounded == pytest.approx(exact, rel=0.01)
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
