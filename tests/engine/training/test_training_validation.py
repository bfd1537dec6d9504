"""The loss on held-out examples: the mean over their labels, no trace of it in the run, and when it warns."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from lora_tui.engine.data.examples import QuestionAnswer
from lora_tui.engine.models.adapters import adapter_weights
from lora_tui.engine.training import validation
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.fallback import RowTooLargeError
from lora_tui.engine.training.fast.layers import FastLayers
from lora_tui.engine.training.hooks import Hooks
from lora_tui.engine.training.loop import train_model
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.step import GradientStep
from lora_tui.engine.training.validation import held_out_loss, overfitting_warning, within_budget
from lora_tui.errors import UsageError
from tests.engine.tiny import PAIRS, tiny_settings


@pytest.fixture
def divided(tokenizer: Any) -> tuple[TextDataset, list[EncodedExample]]:
    """The pairs, four of them held out."""
    dataset = TextDataset([QuestionAnswer(q, a, f"pairs:{n}") for n, (q, a) in enumerate(PAIRS)], tokenizer)
    return dataset, dataset.hold_out(0.4, 42)


def mean_over_labels(model: Any, examples: list[EncodedExample]) -> float:
    """The same, one example at a time through the model's own forward."""
    total, labels = 0.0, 0
    with torch.no_grad():
        for example in examples:
            ids = torch.tensor([example.input_ids])
            logits = model(input_ids=ids).logits[0, :-1].float()
            wanted = torch.tensor(example.is_label[1:])
            losses = functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            total += float(losses[wanted].sum())
            labels += int(wanted.sum())
    return total / labels


def test_held_out_examples_are_not_in_the_dataset(divided: tuple[TextDataset, list[EncodedExample]]) -> None:
    dataset, held_out = divided
    assert (len(dataset), len(held_out)) == (6, 4)
    assert {row.source for row in dataset}.isdisjoint(row.source for row in held_out)
    assert dataset.tokens == sum(len(row.input_ids) for row in dataset)


@pytest.mark.parametrize("tokens_per_row", [16, 64, 512])
def test_it_is_the_mean_over_label_tokens_without_dropout(
    new_model: Callable[..., Any], examples: list[EncodedExample], tokens_per_row: int
) -> None:
    model = new_model(dropout=0.5).train()
    found = held_out_loss(GradientStep.of(model, tokens_per_row), examples)
    assert not model.training
    assert found == pytest.approx(mean_over_labels(model, examples), rel=1e-5)
    means = [mean_over_labels(model, [example]) for example in examples]
    assert found != pytest.approx(sum(means) / len(means), rel=1e-3), "examples would count alike"


def test_where_memory_runs_out_a_row_is_looked_at_in_halves(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient_step = GradientStep.of(new_model(), 512)
    expected = held_out_loss(gradient_step, examples)
    real, room = GradientStep.summed_loss, 1

    def cramped(self: GradientStep, row: Any) -> torch.Tensor:
        if len(row.spans) > room:
            raise RuntimeError("out of memory")
        return real(self, row)

    monkeypatch.setattr(GradientStep, "summed_loss", cramped)
    assert held_out_loss(gradient_step, examples) == pytest.approx(expected, rel=1e-6)
    room = 0
    with pytest.raises(RowTooLargeError):
        held_out_loss(gradient_step, examples)


def test_a_run_goes_on_without_a_held_out_loss_that_does_not_fit(
    new_model: Callable[..., Any],
    divided: tuple[TextDataset, list[EncodedExample]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_large(*_: Any) -> float:
        raise RowTooLargeError(40)

    dataset, held_out = divided
    monkeypatch.setattr("lora_tui.engine.training.loop.held_out_loss", too_large)
    warnings: list[str] = []
    result = train_model(
        new_model(), dataset, tiny_settings().fine_tuning, tmp_path, Hooks(warn=warnings.append), held_out=held_out
    )
    assert result.steps > 0
    assert "is missing: memory ran out for an example of 40 tokens" in warnings[0]


def test_it_works_on_models_that_are_not_packed(new_model: Callable[..., Any], examples: list[EncodedExample]) -> None:
    model = new_model()
    gradient_step = GradientStep.of(model, 64)
    fast = FastLayers.of(model, packed=False)
    plain = replace(gradient_step, packed=False, plain_head=False, fast=fast)
    assert held_out_loss(plain, examples) == pytest.approx(held_out_loss(gradient_step, examples), rel=1e-5)


def test_it_builds_no_graph_and_touches_no_random_state(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[torch.Tensor] = []
    real = GradientStep.summed_loss

    def watching(self: Any, row: Any) -> torch.Tensor:
        losses.append(real(self, row))
        return losses[-1]

    monkeypatch.setattr(GradientStep, "summed_loss", watching)
    model = new_model(dropout=0.5)
    before = torch.get_rng_state()
    held_out_loss(GradientStep.of(model, 64), examples)
    assert torch.equal(torch.get_rng_state(), before)
    assert losses
    assert not any(loss.requires_grad for loss in losses)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_large_share_is_looked_at_in_part_always_the_same(
    new_model: Callable[..., Any], examples: list[EncodedExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert within_budget(examples, 10**6) == examples
    size = len(examples[0].input_ids)
    assert within_budget(examples, size) == examples[:1]
    assert within_budget(examples, size - 1) == examples[:1], "one is looked at, however long"
    assert within_budget(examples, size + len(examples[1].input_ids)) == examples[:2]
    few = examples[:3]
    monkeypatch.setattr(validation, "within_budget", lambda held_out: few)
    model = new_model()
    assert held_out_loss(GradientStep.of(model, 64), examples) == pytest.approx(mean_over_labels(model, few), rel=1e-5)


def test_every_evaluation_tells_it_and_training_is_the_same_as_without(
    new_model: Callable[..., Any], divided: tuple[TextDataset, list[EncodedExample]], tmp_path: Path
) -> None:
    dataset, held_out = divided
    settings = tiny_settings({"lora.dropout": 0.2, "training.max_epochs": 3}).fine_tuning
    calls: list[tuple[str, int, float]] = []
    hooks = Hooks(
        begin=lambda: calls.append(("begin", 0, 0.0)),
        on_held_out_loss=lambda step, loss: calls.append(("held out", step, loss)),
        evaluate=lambda step: calls.append(("score", step, 0.5)) or 0.5,  # type: ignore[func-returns-value]
    )
    quiet, looked_at = (new_model(dropout=0.2, stirred=False) for _ in range(2))
    train_model(quiet, dataset, settings, tmp_path / "quiet")
    train_model(looked_at, dataset, settings, tmp_path / "looked at", hooks, held_out=held_out)
    assert [(kind, step) for kind, step, _ in calls[:2]] == [("held out", 0), ("begin", 0)]
    assert [(kind, step) for kind, step, _ in calls[2:]] == [
        (kind, step) for step in (2, 4, 6) for kind in ("held out", "score")
    ]
    wanted, found = adapter_weights(quiet), adapter_weights(looked_at)
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())
    assert calls[-2][2] == pytest.approx(mean_over_labels(looked_at, held_out), rel=1e-5)


def test_the_time_left_counts_the_evaluations_to_come(
    new_model: Callable[..., Any], divided: tuple[TextDataset, list[EncodedExample]], tmp_path: Path
) -> None:
    settings = tiny_settings({"training.max_epochs": 3}).fine_tuning
    left: dict[int, float] = {}

    def evaluate(step: int) -> float:
        time.sleep(0.2)
        return 0.5

    hooks = Hooks(on_step=lambda report: left.__setitem__(report.step, report.eta_s), evaluate=evaluate)
    train_model(new_model(stirred=False), divided[0], settings, tmp_path, hooks)
    assert left[3] > 0.4, "two are to come"
    assert left[5] > 0.2, "one is"


def test_another_share_is_refused_on_resuming(
    new_model: Callable[..., Any], divided: tuple[TextDataset, list[EncodedExample]], tmp_path: Path
) -> None:
    dataset, held_out = divided
    taken: list[int] = []
    hooks = Hooks(on_step=lambda report: taken.append(report.step), should_stop=lambda: len(taken) >= 2)
    first, second = (tiny_settings({"training.validation_share": share}).fine_tuning for share in (0.4, 0.39))
    train_model(new_model(stirred=False), dataset, first, tmp_path, hooks, held_out=held_out)
    with pytest.raises(UsageError, match="other training data or settings"):
        train_model(new_model(stirred=False), dataset, second, tmp_path, resume=True, held_out=held_out)
    assert train_model(new_model(stirred=False), dataset, first, tmp_path, resume=True, held_out=held_out).steps == 4


FALLING = [(step, 3.0 - step / 10) for step in range(1, 21)]
LEVEL = [(step, 2.0) for step in range(1, 21)]


@pytest.mark.parametrize(
    ("held_out", "training", "warned"),
    [
        ([(5, 2.0), (10, 2.1), (15, 2.2)], FALLING, True),
        ([(5, 1.9), (10, 1.8), (14, 1.9), (20, 2.0)], FALLING, True),
        ([(5, 2.0), (10, 2.1)], FALLING, False),  # one rise may be an accident
        ([(5, 2.0), (10, 2.1), (15, 2.05)], FALLING, False),
        ([(5, 2.0), (10, 2.2), (15, 2.1), (20, 2.3)], FALLING, False),
        ([(5, 2.0), (10, 2.001), (15, 2.002)], FALLING, False),  # less than a hundredth is noise
        ([(5, 2.0), (10, 2.1), (15, 2.2)], LEVEL, False),  # it learns nothing, which is another trouble
        ([(5, 2.0), (10, 2.1), (15, float("nan"))], FALLING, False),
        ([(5, 2.0), (10, 2.1), (15, 2.2)], [], False),
        ([], FALLING, False),
    ],
)
def test_overfitting_is_a_held_out_loss_that_rises_while_the_training_loss_falls(
    held_out: list[tuple[int, float]], training: list[tuple[int, float]], warned: bool
) -> None:
    assert (overfitting_warning(held_out, training) is not None) is warned


def test_the_warning_says_what_was_seen_and_what_to_do() -> None:
    said = overfitting_warning([(5, 1.9), (10, 2.0), (14, 2.1), (20, 2.2)], FALLING)
    assert said is not None
    assert said.startswith(
        "overfitting: the loss on the held-out examples rose from 2.000 (step 10) to 2.200 (step 20)"
    )
    assert "training loss fell from 2.200 to 1.250" in said
    assert "fine_tuning.training.max_epochs" in said
