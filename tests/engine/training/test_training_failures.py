"""What a run does when memory runs out or numbers stop being finite, and what it says of it."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_tui.engine.models import activation_memory
from lora_tui.engine.models.activation_memory import Sizes
from lora_tui.engine.training import checkpoint
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.fallback import FallbackLadder, RowTooLargeError, Rung
from lora_tui.engine.training.fast import layers as layers_module
from lora_tui.engine.training.fast.dropout import DropoutRng
from lora_tui.engine.training.fast.layers import FastLayers
from lora_tui.engine.training.hooks import Hooks, StepReport
from lora_tui.engine.training.loop import train_model
from lora_tui.engine.training.memory import MemoryPlan, apply_plan, kept_bytes, plan_memory, sizes_of
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.step import GradientStep
from lora_tui.errors import LoraTuiError
from tests.engine.tiny import make_model
from tests.engine.training.conftest import rows_of
from tests.engine.training.test_training_packing import accumulate, gradients, largest_difference
from tests.engine.training.test_training_step import fine_tuning, trained_parameters

OUT_OF_MEMORY = "[enforce fail at alloc_cpu.cpp:123] . DefaultCPUAllocator: can't allocate memory: you tried …"


def limited(monkeypatch: pytest.MonkeyPatch, tokens: int, kind: type[RuntimeError] = RuntimeError) -> list[int]:
    """Let memory run out in the backward pass of every row of more than `tokens`; returns the rows that fitted."""
    real, fitted = GradientStep.summed_loss, []

    def summed_loss(self: GradientStep, row: Any) -> torch.Tensor:
        loss = real(self, row)
        if len(row.input_ids) > tokens:
            loss.register_hook(lambda gradient: (_ for _ in ()).throw(kind(OUT_OF_MEMORY)))
        else:
            fitted.append(len(row.input_ids))
        return loss

    monkeypatch.setattr(GradientStep, "summed_loss", summed_loss)
    return fitted


@pytest.mark.parametrize("kind", [RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_step_for_which_memory_runs_out_is_taken_in_smaller_rows_with_the_same_result(
    new_model: Callable[..., Any],
    examples: list[EncodedExample],
    monkeypatch: pytest.MonkeyPatch,
    dropout: float,
    kind: type[RuntimeError],
) -> None:
    model = new_model(dropout=dropout).train()
    loss, undisturbed = accumulate(model, examples, 400)
    fitted = limited(monkeypatch, 60, kind)
    gradient_step = GradientStep.of(model, 400)
    assert float(gradient_step.accumulate(examples)) == pytest.approx(loss, rel=1e-6)
    assert largest_difference(gradients(model), undisturbed) <= 1e-6
    assert gradient_step.fallback.current.tokens_per_row <= 60
    assert max(fitted) <= 60


def test_a_run_in_which_memory_runs_out_ends_as_an_undisturbed_one(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fine_tuning(**{"lora.dropout": 0.1, "training.batch_size": 5, "training.max_steps": 4})
    undisturbed, disturbed = new_model(dropout=0.1), new_model(dropout=0.1)
    train_model(undisturbed, dataset, settings, tmp_path / "whole")
    limited(monkeypatch, 60)
    warnings: list[str] = []
    train_model(disturbed, dataset, settings, tmp_path / "cut", Hooks(warn=warnings.append))
    wanted = trained_parameters(undisturbed)
    for name, value in trained_parameters(disturbed).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-6)
    (warning,) = [line for line in warnings if "Memory" in line]
    assert "Memory ran out at step 1" in warning
    state = checkpoint.newest_state(tmp_path / "cut")
    assert state is not None
    assert state.tokens_per_row is not None, "a resumed run does not try again what did not fit"
    assert state.tokens_per_row <= 60


def test_one_example_that_does_not_fit_is_recomputed_and_then_refused(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 5)
    warnings: list[str] = []
    with pytest.raises(LoraTuiError, match=r"one example of \d+ tokens.*max_length"):
        train_model(new_model(), dataset, fine_tuning(), tmp_path, Hooks(warn=warnings.append))
    assert any("every layer's activations are recomputed" in line for line in warnings)


def test_other_errors_are_not_taken_for_a_full_memory(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(GradientStep, "summed_loss", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        GradientStep.of(new_model(), 64).accumulate(examples)
    with pytest.raises(RowTooLargeError):
        raise RowTooLargeError(3)


# --- what is recomputed --------------------------------------------------------------------------------------------


SIZES = Sizes(hidden=576, intermediate=1536, layers=30, width=2, by_hand=True)


def test_each_way_of_recomputing_takes_longer_and_keeps_less_than_the_one_before() -> None:
    ways = activation_memory.RECOMPUTATIONS
    assert [way.extra for way in ways] == sorted(way.extra for way in ways)
    kept = [way.bytes_per_token(SIZES) for way in ways if not way.feed_forward]
    assert kept == sorted(kept, reverse=True)
    assert kept[-2] < kept[0] / 6


def test_the_fastest_way_that_fits_is_taken() -> None:
    for way in activation_memory.RECOMPUTATIONS:
        free = way.bytes_per_token(SIZES) * 1000 / activation_memory.SHARE_TO_USE
        chosen = activation_memory.cheapest(SIZES, 1000, free * 1.001, offload=True)
        assert chosen.extra <= way.extra
        assert chosen.bytes_per_token(SIZES) <= way.bytes_per_token(SIZES)
    assert activation_memory.cheapest(SIZES, 1000, 0) is activation_memory.ALL
    assert activation_memory.cheapest(SIZES, 1000, 0, offload=True) is activation_memory.OFFLOADED
    assert not any(
        activation_memory.cheapest(Sizes(576, 1536, 30, 2), 1000, free * 1e6).feed_forward for free in range(1, 2000, 7)
    )
    half = activation_memory.cheapest(SIZES, 1000, 1e9, scale=1.0)
    assert activation_memory.cheapest(SIZES, 1000, 1e9, scale=10.0).extra > half.extra


def test_graphs_are_recorded_only_where_a_row_fits_twice() -> None:
    def plan(way: activation_memory.Recomputation, free: int) -> MemoryPlan:
        return MemoryPlan(way, 400, free, 1000, measured=False)

    assert plan(activation_memory.NONE, 1000).has_room_for_graphs
    assert not plan(activation_memory.NONE, 999).has_room_for_graphs
    assert not plan(activation_memory.ALL, 10_000).has_room_for_graphs


def test_on_a_gpu_it_is_said_why_graphs_are_not_used() -> None:
    def applied(
        way: activation_memory.Recomputation, free: int, one_at_a_time: bool = False
    ) -> tuple[str | None, list[str]]:
        called: list[str] = []
        gradient_step: Any = SimpleNamespace(
            device=torch.device("cuda"),
            objective=None,
            fast=SimpleNamespace(uses_kernels=True, unsupported_reason=None),
            base=SimpleNamespace(
                activation_checkpointing_enable=lambda *_, **__: called.append("checkpoints"),
                disable_input_require_grads=lambda: None,
            ),
            fallback=FallbackLadder(1000),
            record_graphs=lambda: called.append("graphs"),
        )
        gradient_step.recompute = partial(GradientStep.recompute, gradient_step)
        gradient_step.fallback.begin_at(Rung(1000, one_at_a_time=one_at_a_time))
        return apply_plan(MemoryPlan(way, 400, free, 1000, measured=False), gradient_step), called

    assert applied(activation_memory.NONE, 1000) == (None, ["graphs"])
    for reason, called in (
        applied(activation_memory.NONE, 900),
        applied(activation_memory.NONE, 1000, one_at_a_time=True),
    ):
        assert called == []
        assert "do not fit into the memory twice" in str(reason)
    reason, called = applied(activation_memory.ALL, 1000)
    assert called == ["checkpoints"]
    assert 'gradient_checkpointing = "auto"' in str(reason)


@pytest.mark.parametrize("way", activation_memory.RECOMPUTATIONS[:-1], ids=lambda way: way.name)
def test_whatever_is_recomputed_the_gradients_are_the_same_and_less_is_kept(
    new_model: Callable[..., Any], examples: list[EncodedExample], way: activation_memory.Recomputation
) -> None:
    model = new_model(dropout=0.1, num_hidden_layers=4).train()
    loss, plain = accumulate(model, examples, 64)
    everything = kept_bytes(GradientStep.of(model, 64), (0, 1, 2), examples)
    gradient_step = GradientStep.of(model, 64)
    gradient_step.recompute(way)
    assert float(gradient_step.accumulate(examples)) == pytest.approx(loss, rel=1e-6)
    assert largest_difference(gradients(model), plain) <= 1e-7
    if way is not activation_memory.NONE:
        assert kept_bytes(gradient_step, (0, 1, 2), examples) < everything


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_is_near_what_is_kept(
    new_model: Callable[..., Any], tokenizer: Any, examples: list[EncodedExample], dtype: torch.dtype
) -> None:
    base = make_model(tokenizer).to(dtype)
    model = new_model(base=base, targets=["q_proj", "k_proj", "v_proj", "o_proj"]).train()
    gradient_step = GradientStep.of(model, 400)
    tokens = sum(len(example.input_ids) for example in examples[:5])
    kept = kept_bytes(gradient_step, tuple(range(5)), examples) / tokens
    sizes = sizes_of(base, by_hand=True)
    assert (sizes.width, sizes.attention_width) == (dtype.itemsize, 4)
    assert 0.7 < kept / activation_memory.NONE.bytes_per_token(sizes) < 1.3


@pytest.mark.parametrize("fits", [True, False])
def test_auto_measures_where_the_estimate_is_near_the_limit(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    gradient_step = GradientStep.of(new_model().train(), 64)
    sizes = Sizes(64, 128, 2, 4, by_hand=True)
    need = activation_memory.NONE.bytes_per_token(sizes) * 64
    monkeypatch.setattr("lora_tui.engine.training.memory.free_bytes", lambda device: need * (100 if fits else 1.0))
    plan = plan_memory("auto", gradient_step, examples)
    assert plan.measured is not fits
    assert (plan.recomputation is activation_memory.NONE) is fits
    assert ("measured" if plan.measured else "estimated") in plan.summary()
    assert plan_memory(True, gradient_step, examples).recomputation is activation_memory.ALL
    assert plan_memory(False, gradient_step, examples).recomputation is activation_memory.NONE


def test_a_row_that_does_not_fit_even_for_measuring_is_recomputed(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient_step = GradientStep.of(new_model().train(), 64)

    def full(*_: Any) -> None:
        raise RuntimeError(OUT_OF_MEMORY)

    monkeypatch.setattr(GradientStep, "summed_loss", full)
    assert math.isinf(kept_bytes(gradient_step, (0,), examples))
    monkeypatch.setattr("lora_tui.engine.training.memory.free_bytes", lambda device: 1000)
    assert plan_memory("auto", gradient_step, examples).recomputation is activation_memory.ALL


def test_a_gpu_whose_backward_pass_runs_on_another_thread_drops_the_same_when_it_recomputes(
    new_model: Callable[..., Any], examples: list[EncodedExample]
) -> None:
    model = new_model(dropout=0.2).train()
    _, wanted = accumulate(model, examples[:3], 400)
    gradient_step = GradientStep.of(model, 400)
    gradient_step.fast.row = layers_module._RowState()  # what it is on a GPU
    gradient_step.recompute(activation_memory.ALL)
    labels = sum(example.labels for example in examples[:3])
    with gradient_step.ready():
        (row,) = rows_of(gradient_step, examples[:3])
        gradient_step.fast.set_dropout_rng(DropoutRng(42, 0, row.examples, row.spans))
        loss = gradient_step.summed_loss(row) / labels
        with ThreadPoolExecutor(1) as other:
            other.submit(loss.backward).result()
    assert largest_difference(gradients(model), wanted) <= 1e-6


def test_measuring_leaves_the_random_state_alone(new_model: Callable[..., Any], examples: list[EncodedExample]) -> None:
    gradient_step = GradientStep.of(new_model(dropout=0.2).train(), 64)
    gradient_step.fast = FastLayers(unsupported_reason="for the test")
    before = torch.get_rng_state()
    kept_bytes(gradient_step, (0, 1), examples)
    assert torch.equal(torch.get_rng_state(), before)


# --- numbers that are not finite -----------------------------------------------------------------------------------


def poisoned_steps(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int, int], bool]) -> list[int]:
    """Make the gradient of a step infinite where `bad` (step, how often it was taken) says so."""
    real, taken = GradientStep.accumulate, []

    def accumulate(self: GradientStep, examples: Any, step: int = 0) -> torch.Tensor:
        taken.append(step)
        loss = real(self, examples, step)
        if bad(step, taken.count(step)):
            next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(math.inf)
        return loss

    monkeypatch.setattr(GradientStep, "accumulate", accumulate)
    return taken


def test_three_bad_steps_in_a_row_lead_back_to_the_last_checkpoint_at_half_the_rate(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fine_tuning(
        **{"scheduler.type": "constant", "scheduler.warmup_steps": 0, "training.max_steps": 9, "training.save_steps": 2}
    )
    taken = poisoned_steps(monkeypatch, lambda step, times: step in (5, 6, 7) and times == 1)
    reports: list[StepReport] = []
    warnings: list[str] = []
    model = new_model()
    train_model(model, dataset, settings, tmp_path, Hooks(on_step=reports.append, warn=warnings.append))
    assert taken == [1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 9]
    assert [report.lr for report in reports] == [3e-3] * 7 + [1.5e-3] * 5
    assert "back at the checkpoint of step 4, at 0.5 times the learning rate" in warnings[-1]
    # The same as a run that halves its rate after step 4 by itself.
    other = new_model()
    monkeypatch.undo()
    half = fine_tuning(**{"scheduler.type": "constant", "scheduler.warmup_steps": 0, "training.max_steps": 9})
    from lora_tui.engine.training import loop as loop_module

    monkeypatch.setattr(loop_module, "lr_factor", lambda kind, step, *_: 1.0 if step <= 4 else 0.5)
    train_model(other, dataset, half, tmp_path / "other")
    wanted = trained_parameters(other)
    assert all(torch.equal(value, wanted[name]) for name, value in trained_parameters(model).items())


def test_a_run_that_cannot_be_saved_by_half_the_rate_ends(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = poisoned_steps(monkeypatch, lambda step, times: step > 2)
    warnings: list[str] = []
    settings = fine_tuning(**{"training.max_steps": 30, "training.save_steps": 2})
    with pytest.raises(LoraTuiError, match=r"3 steps in a row .* even at an eighth of the rate.*lora_lr"):
        train_model(new_model(), dataset, settings, tmp_path, Hooks(warn=warnings.append))
    assert taken == [1, 2] + [3, 4, 5] * 4
    assert sum("times the learning rate" in line for line in warnings) == 3


def test_without_a_checkpoint_it_goes_on_where_it_stands(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned_steps(monkeypatch, lambda step, times: step <= 3)
    model, warnings = new_model(), []
    settings = fine_tuning(**{"training.max_steps": 5, "training.save_steps": 100})
    train_model(model, dataset, settings, tmp_path, Hooks(warn=warnings.append))
    assert "on without a checkpoint" in warnings[3]
    assert all(torch.isfinite(value).all() for value in trained_parameters(model).values())


def test_a_layer_that_gets_no_gradient_in_the_first_step_is_warned_of(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = layers_module.lora_linears

    def cut(x: torch.Tensor, layers: list[Any]) -> Any:
        return real(x, [without_gradient(layer) if dead(layer.weight) else layer for layer in layers])

    def without_gradient(layer: Any) -> Any:
        return replace(layer, lora_a=layer.lora_a.detach(), lora_b=layer.lora_b.detach())

    def dead(weight: torch.Tensor) -> bool:
        return weight.shape == (128, 64)  # gate and up

    monkeypatch.setattr(layers_module, "lora_linears", cut)
    warnings: list[str] = []
    train_model(new_model(), dataset, fine_tuning(), tmp_path, Hooks(warn=warnings.append))
    assert "4 trained layers of 14 got no gradient" in warnings[0]
    assert "gate_proj" in warnings[0]


def test_a_run_without_any_gradient_ends(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = layers_module.lora_linears

    def nothing(x: torch.Tensor, layers: list[Any]) -> Any:
        return real(x, [replace(layer, lora_a=layer.lora_a * 0.0, lora_b=layer.lora_b * 0.0) for layer in layers])

    monkeypatch.setattr(layers_module, "lora_linears", nothing)
    with pytest.raises(LoraTuiError, match="nothing would be learned"):
        train_model(new_model(), dataset, fine_tuning(), tmp_path)


def test_what_is_slower_is_said_once(new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path) -> None:
    notes: list[str] = []
    train_model(new_model(), dataset, fine_tuning(), tmp_path, Hooks(note=notes.append))
    assert len(notes) == 1
    assert "Activations are kept: a row of" in notes[0]
    gradient_step = GradientStep.of(new_model(), 64)
    gradient_step.packed, gradient_step.fast.unsupported_reason = False, "a variant of LoRA"
    assert [note.split(":")[0] for note in gradient_step.slower_reasons()] == [
        "One example a row",
        "PEFT's own layers are used, which are slower",
    ]
