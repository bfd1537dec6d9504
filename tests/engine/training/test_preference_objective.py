"""Losses and gradients of preference training: against formulas written in plain torch, and against TRL's trainers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from lora_tui.engine.data.examples import JudgedAnswer, Judgement, Preference, QuestionAnswer
from lora_tui.engine.models.adapters import adapter_weights
from lora_tui.engine.training.judgement_data import JudgementDataset, reference_log_probs
from lora_tui.engine.training.objective import DpoObjective, KtoObjective, Objective
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.step import GradientStep
from tests.engine.tiny import PAIRS, make_model
from tests.engine.training.conftest import stir
from tests.extras import needed

QUESTIONS = [question for question, _ in PAIRS[:8]]
CHOSEN = [answer for _, answer in PAIRS[:8]]
REJECTED = [answer for _, answer in (*PAIRS[3:8], *PAIRS[:3])]
MOVES_AWAY = 4
"""A seed with which answers of others become likelier, so that KTO's baseline is not zero."""

DESIRABLE = [True, False, False, True, True, True, False, True]


def preferences() -> list[Judgement]:
    return [
        Preference(QuestionAnswer(q, good, f"file:{n}"), QuestionAnswer(q, bad, f"file:{n}"), f"file:{n}")
        for n, (q, good, bad) in enumerate(zip(QUESTIONS, CHOSEN, REJECTED, strict=True))
    ]


def verdicts() -> list[Judgement]:
    return [
        JudgedAnswer(QuestionAnswer(q, answer, f"file:{n}"), desirable, f"file:{n}")
        for n, (q, answer, desirable) in enumerate(zip(QUESTIONS, CHOSEN, DESIRABLE, strict=True))
    ]


class Moved:
    """A model that has moved from its reference, the judgements with what the reference said, and their step."""

    def __init__(self, new_model: Callable[..., Any], tokenizer: Any, folder: Path, objective: Objective, **how: Any):
        judged = verdicts() if isinstance(objective, KtoObjective) else preferences()
        self.dataset = JudgementDataset(judged, tokenizer, unpaired=isinstance(objective, KtoObjective))
        self.model = new_model(stirred=False, **how.pop("model", {}))
        self.step = GradientStep.of(self.model, how.pop("tokens", 256), objective=objective)
        self.dataset.set_references(reference_log_probs(self.step, list(self.dataset), folder))
        stir(self.model, seed=MOVES_AWAY)

    def gradient(self) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
        """The loss of all judgements as one step, its figures, and the gradient by parameter."""
        self.model.train()
        loss = float(self.step.accumulate(list(self.dataset), 1))
        figures = {name: float(value) for name, value in self.step.figures.items()}
        return loss, figures, gradients(self.model)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {
        name.replace(".default", ""): one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return found


def log_prob(model: Any, example: EncodedExample) -> torch.Tensor:
    """The log probability of an example's labels, by the model's own forward pass."""
    ids = torch.tensor([example.input_ids])
    logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    taken = logits.gather(1, ids[0, 1:, None])[:, 0]
    return taken[torch.tensor(example.is_label[1:])].sum()


def same_gradients(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest difference of any gradient, relative to that parameter's gradient as a whole."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in found)


@pytest.mark.parametrize(
    "objective", [DpoObjective(0.3), DpoObjective(0.3, label_smoothing=0.1), DpoObjective(0.1, rpo_alpha=0.5)]
)
def test_dpo_is_its_formula(new_model: Any, tokenizer: Any, tmp_path: Path, objective: DpoObjective) -> None:
    moved = Moved(new_model, tokenizer, tmp_path, objective)
    loss, figures, found = moved.gradient()

    model, terms, rewards = moved.model, [], []
    for item in moved.dataset:
        with torch.no_grad(), model.disable_adapter():
            before = [log_prob(model, part) for part in item.parts]
        now = [log_prob(model, part) for part in item.parts]
        reward = [objective.beta * (one - other) for one, other in zip(now, before, strict=True)]
        margin = reward[0] - reward[1]
        term = -(1 - objective.label_smoothing) * functional.logsigmoid(margin)
        term = term - objective.label_smoothing * functional.logsigmoid(-margin)
        terms.append(term - objective.rpo_alpha * now[0] / item.chosen.labels)
        rewards.append([float(one.detach()) for one in reward])
    wanted = torch.stack(terms).mean()
    wanted.backward()
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert same_gradients(found, gradients(model)) < 1e-4
    good, bad = ([pair[side] for pair in rewards] for side in (0, 1))
    assert figures["chosen_reward"] == pytest.approx(sum(good) / 8, rel=1e-4, abs=1e-5)
    assert figures["reward_margin"] == pytest.approx(sum(good) / 8 - sum(bad) / 8, rel=1e-4, abs=1e-5)
    assert figures["reward_accuracy"] == sum(one > other for one, other in rewards) / 8
    assert 0 < figures["reward_accuracy"] < 1, "else nobody would notice that it is upside down"


def test_kto_is_its_formula(new_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    objective = KtoObjective(0.3, desirable_weight=0.7, undesirable_weight=1.3)
    moved = Moved(new_model, tokenizer, tmp_path, objective)
    loss, figures, found = moved.gradient()

    model = moved.model

    def ratio(example: EncodedExample) -> torch.Tensor:
        with torch.no_grad(), model.disable_adapter():
            before = log_prob(model, example)
        return log_prob(model, example) - before

    kl = torch.stack([ratio(item.other) for item in moved.dataset]).mean().detach().clamp(min=0)
    assert kl > 0, "a model that has moved"
    terms = [
        0.7 * (1 - torch.sigmoid(0.3 * (ratio(item.answer) - kl)))
        if item.desirable
        else 1.3 * (1 - torch.sigmoid(0.3 * (kl - ratio(item.answer))))
        for item in moved.dataset
    ]
    wanted = torch.stack(terms).mean()
    wanted.backward()
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert same_gradients(found, gradients(model)) < 1e-4
    assert figures["kl"] == pytest.approx(float(kl), rel=1e-4)


@pytest.mark.parametrize("objective", [DpoObjective(0.3), KtoObjective(0.3)])
@pytest.mark.parametrize("packed", [True, False], ids=["short rows", "one a row"])
def test_how_a_step_is_packed_changes_nothing(
    new_model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: Any, objective: Objective, packed: bool
) -> None:
    loss, figures, found = Moved(new_model, tokenizer, tmp_path / "one", objective).gradient()
    if not packed:
        monkeypatch.setattr("lora_tui.engine.training.step.supports_packing", lambda model: False)
    other = Moved(new_model, tokenizer, tmp_path / "other", objective, tokens=32)
    assert len(other.step.assign_rows(list(other.dataset))) > 4
    other_loss, other_figures, other_found = other.gradient()
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert other_figures == pytest.approx(figures, rel=1e-4, abs=1e-5)
    assert same_gradients(other_found, found) < 1e-5


def _their_arguments(kind: Any, folder: Path, **more: Any) -> Any:
    return kind(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        gradient_checkpointing=False,
        max_length=128,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **more,
    )


def _their_loss(trainer: Any, ours: Any) -> tuple[float, dict[str, torch.Tensor], dict[str, Any]]:
    """The loss and gradients of a trainer of TRL's on its whole data as one batch, with our adapter's values."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(trainer.model, adapter_weights(ours))
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer._compute_loss(trainer.model, batch, return_outputs=False)
    loss.backward()
    return float(loss), gradients(trainer.model), trainer._metrics["train"]


def _adapters(moved: Moved) -> Any:
    config = moved.model.peft_config["default"]
    return type(config)(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=config.target_modules, task_type="CAUSAL_LM"
    )


def test_trls_dpo_has_the_same_loss_and_gradients(new_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    trl = needed("trl")
    from datasets import Dataset

    objective = DpoObjective(0.3)
    moved = Moved(new_model, tokenizer, tmp_path, objective)
    rows = [
        {"prompt": f"Question: {q}\nAnswer:", "chosen": f" {good}", "rejected": f" {bad}"}
        for q, good, bad in zip(QUESTIONS, CHOSEN, REJECTED, strict=True)
    ]
    trainer = trl.DPOTrainer(
        model=make_model(tokenizer),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_adapters(moved),
        args=_their_arguments(trl.DPOConfig, tmp_path / "trl", beta=0.3),
    )
    wanted, their_gradients, metrics = _their_loss(trainer, moved.model)
    loss, figures, found = moved.gradient()
    assert loss == pytest.approx(wanted, rel=1e-4)
    assert same_gradients(found, their_gradients) < 1e-4
    assert figures["reward_margin"] == pytest.approx(metrics["rewards/margins"][-1], rel=1e-4, abs=1e-5)
    assert figures["reward_accuracy"] == pytest.approx(metrics["rewards/accuracies"][-1])


def test_trls_kto_has_the_same_loss_and_gradients(new_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    trl = needed("trl")
    from datasets import Dataset

    moved = Moved(new_model, tokenizer, tmp_path, KtoObjective(0.3, 0.7, 1.3))
    rows = [
        {"prompt": f"Question: {q}\nAnswer:", "completion": f" {answer}", "label": desirable}
        for q, answer, desirable in zip(QUESTIONS, CHOSEN, DESIRABLE, strict=True)
    ]
    arguments = {"beta": 0.3, "desirable_weight": 0.7, "undesirable_weight": 1.3}
    trainer = trl.KTOTrainer(
        model=make_model(tokenizer),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_adapters(moved),
        args=_their_arguments(trl.KTOConfig, tmp_path / "trl", **arguments),
    )
    wanted, their_gradients, metrics = _their_loss(trainer, moved.model)
    loss, figures, found = moved.gradient()
    assert figures["kl"] == pytest.approx(metrics["kl"][-1], rel=1e-4)
    assert loss == pytest.approx(wanted, rel=1e-4)
    assert same_gradients(found, their_gradients) < 1e-4
