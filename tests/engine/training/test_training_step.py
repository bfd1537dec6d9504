"""What a step does to the weights: AdamW on the clipped gradient, with each group's rate and decay, or nothing."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_tui.config.models import FineTuning
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.hooks import Hooks, StepReport
from lora_tui.engine.training.loop import train_model
from lora_tui.engine.training.optimizer import make_optimizer
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.schedule import epoch_order
from lora_tui.engine.training.step import GradientStep
from tests.engine.tiny import tiny_settings

RATE, DECAY, BASE_RATE, BASE_DECAY = 3e-3, 0.1, 1e-3, 0.2


def fine_tuning(**changes: Any) -> FineTuning:
    values = {
        "optimizer.lora_lr": RATE,
        "optimizer.lora_weight_decay": DECAY,
        "optimizer.base_lr": BASE_RATE,
        "optimizer.base_weight_decay": BASE_DECAY,
        "optimizer.max_grad_norm": 0.2,
        "scheduler.type": "linear",
        "scheduler.warmup_steps": 2,
        "training.max_steps": 3,
        **changes,
    }
    return tiny_settings(values).fine_tuning


def train(model: Any, dataset: TextDataset, settings: FineTuning, folder: Path, **hooks: Any) -> list[StepReport]:
    reports: list[StepReport] = []
    train_model(model, dataset, settings, folder, Hooks(on_step=reports.append, **hooks))
    return reports


def trained_parameters(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def reference(model: Any, dataset: TextDataset) -> tuple[list[float], list[float]]:
    """Three steps as one would write them with transformers and torch alone; returns losses and norms."""
    lora = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" in n]
    others = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n]
    groups: list[dict[str, Any]] = [{"params": lora, "weight_decay": DECAY}]
    groups += [{"params": others, "weight_decay": BASE_DECAY}] if others else []
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    order = epoch_order(len(dataset), [1.0] * len(dataset), 42, 0, shuffle=True)
    losses, norms = [], []
    for number, factor in enumerate((0.5, 1.0, 1.0)):  # two steps of warm-up, then the first of the fall
        for group, rate in zip(optimizer.param_groups, (RATE, BASE_RATE), strict=False):
            group["lr"] = rate * factor
        batch: list[EncodedExample] = [dataset[i] for i in order[4 * number : 4 * number + 4]]
        longest = max(len(row.input_ids) for row in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.int64)
        labels = torch.full_like(ids, -100)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(batch):
            tokens = torch.tensor(row.input_ids)
            ids[place, : len(tokens)] = tokens
            mask[place, : len(tokens)] = 1
            labels[place, : len(tokens)] = torch.where(torch.tensor(row.is_label), tokens, -100)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_([*lora, *others], 0.2)))
        losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms


@pytest.mark.parametrize("with_base_parameters", [False, True])
def test_three_steps_equal_a_plain_loop_of_transformers_and_torch(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, with_base_parameters: bool
) -> None:
    ours, theirs = new_model(tied=False), new_model(tied=False)
    for model in (ours, theirs):
        model.get_base_model().model.norm.weight.requires_grad_(with_base_parameters)
    before = trained_parameters(ours)
    reports = train(ours, dataset, fine_tuning(), tmp_path)
    losses, norms = reference(theirs, dataset)
    assert [report.loss for report in reports] == pytest.approx(losses, abs=1e-5)
    assert [report.grad_norm for report in reports] == pytest.approx(norms, rel=1e-4)
    assert all(norm > 0.2 for norm in norms), "clipping must have bitten"
    found, wanted = trained_parameters(ours), trained_parameters(theirs)
    assert found.keys() == wanted.keys()
    assert len([name for name in found if "lora_" not in name]) == int(with_base_parameters)
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=2e-6)
        assert float((value - before[name]).abs().max()) > 1e-4, f"{name} has not been trained"


def test_the_reported_rate_is_the_schedules(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path
) -> None:
    reports = train(new_model(), dataset, fine_tuning(**{"training.max_steps": 5}), tmp_path)
    assert [report.lr for report in reports] == pytest.approx([RATE * f for f in (1 / 2, 1, 1, 2 / 3, 1 / 3)])
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert [report.epoch for report in reports] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3], abs=1e-3)
    assert sum(report.tokens for report in reports[:3]) == dataset.tokens
    assert all(report.tokens_per_s > 0 and report.memory_mb > 0 and report.steps == 5 for report in reports)


def test_each_group_has_its_rate_and_decay(new_model: Callable[..., Any]) -> None:
    model = new_model()
    model.get_base_model().model.norm.weight.requires_grad_(True)
    optimizer, names = make_optimizer(model, fine_tuning())
    lora, base = optimizer.param_groups
    assert (lora["peak_lr"], lora["weight_decay"]) == (RATE, DECAY)
    assert (base["peak_lr"], base["weight_decay"]) == (BASE_RATE, BASE_DECAY)
    assert all("lora_" in names[id(parameter)] for parameter in lora["params"])
    assert [names[id(parameter)].endswith("norm.weight") for parameter in base["params"]] == [True]


def test_the_base_model_stays_as_it_was(new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path) -> None:
    model = new_model()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    train(model, dataset, fine_tuning(), tmp_path)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert not model.training, "it comes back ready to be used"


def test_first_weights_depend_on_the_seed_alone(new_model: Callable[..., Any]) -> None:
    torch.manual_seed(1)
    one = trained_parameters(new_model(stirred=False))
    torch.manual_seed(2)
    other = trained_parameters(new_model(stirred=False))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(not value.any() for name, value in one.items() if "lora_B" in name)


def poisoned(new_model: Callable[..., Any], dataset: TextDataset, example: int) -> Any:
    """A model to which one example, and no other, means NaN."""
    model = new_model(tied=False)
    own = set(dataset[example].input_ids)
    for number, row in enumerate(dataset):
        own -= set(row.input_ids) if number != example else set()
    model.get_base_model().get_input_embeddings().weight.data[own.pop()] = math.nan
    return model


def test_a_step_without_a_finite_loss_changes_no_weight_and_the_next_one_goes_on(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path
) -> None:
    model = poisoned(new_model, dataset, example=3)
    snapshots: list[dict[str, torch.Tensor]] = [trained_parameters(model)]
    reports: list[StepReport] = []
    warnings: list[str] = []

    def on_step(report: StepReport) -> None:
        reports.append(report)
        snapshots.append(trained_parameters(model))

    settings = fine_tuning(
        **{"training.shuffle": False, "training.batch_size": 1}
    )  # two examples a step: 3 is in step 2
    train_model(model, dataset, settings, tmp_path, Hooks(on_step=on_step, warn=warnings.append))
    assert [math.isfinite(report.loss) for report in reports] == [True, False, True]
    assert all(torch.equal(value, snapshots[2][name]) for name, value in snapshots[1].items())
    assert any(not torch.equal(value, snapshots[3][name]) for name, value in snapshots[2].items())
    assert all(torch.isfinite(value).all() for value in snapshots[3].values())
    (warning,) = warnings
    assert "Step 2 skipped" in warning
    assert "Without a finite loss: pairs:3." in warning


def test_bad_steps_that_are_not_in_a_row_do_not_end_the_run(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = GradientStep.accumulate, []

    def poisoned(self: GradientStep, examples: Any, step: int) -> torch.Tensor:
        taken.append(1)
        return real(self, examples, step) * (math.nan if len(taken) in (1, 2, 4, 5) else 1)

    monkeypatch.setattr(GradientStep, "accumulate", poisoned)
    reports = train(new_model(), dataset, fine_tuning(**{"training.max_steps": 6}), tmp_path)
    assert [math.isfinite(report.loss) for report in reports] == [False, False, True, False, False, True]


def test_training_in_bfloat16_evaluates_saves_and_goes_on(
    new_model: Callable[..., Any], dataset: TextDataset, tokenizer: Any, tmp_path: Path
) -> None:
    from lora_tui.engine.inference.decode import answers
    from lora_tui.protocol.reply import Decoding
    from tests.engine.tiny import make_model

    model = new_model(base=make_model(tokenizer).to(torch.bfloat16))
    replies: list[str] = []

    def evaluate(step: int) -> float:
        replies.extend(answers(model, tokenizer, ["Question: unlock\nAnswer:"], Decoding(max_new_tokens=3)))
        return 0.5

    settings = fine_tuning(**{"training.eval_steps": 1})
    reports = train(model, dataset, settings, tmp_path, evaluate=evaluate)
    exact = train(new_model(), dataset, settings, tmp_path / "exact")
    assert len(replies) == 3
    assert [report.loss for report in reports] == pytest.approx([report.loss for report in exact], rel=0.01)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradient_checkpointing_changes_no_loss(
    new_model: Callable[..., Any], dataset: TextDataset, tmp_path: Path, checkpointing: bool
) -> None:
    model = new_model()
    reports = train(model, dataset, fine_tuning(gradient_checkpointing=checkpointing), tmp_path)
    assert model.get_base_model().is_activation_checkpointing == checkpointing
    plain = train(new_model(), dataset, fine_tuning(), tmp_path / "plain")
    assert [report.loss for report in reports] == pytest.approx([report.loss for report in plain], abs=1e-6)
