"""Training objectives: what is computed from a row's label losses, and what a step's sum is divided by.

Supervised fine-tuning adds up the losses of labels. Preference training (`DpoObjective`, `KtoObjective`) takes the log
probabilities of whole answers, those of the model before its first step (the *reference*) beside them, and asks by how
much they have moved apart. All losses are sums over a row's examples and are divided by the whole step's, so how a step
is packed changes nothing.

A *reward* is ``beta * (log probability - reference)``: how much likelier the model finds an answer than it did, in
nats times beta. Sources: DPO, Rafailov et al. 2023 (arXiv 2305.18290), with label smoothing after Mitchell's note
("conservative DPO", https://ericmitchell.ai/cdpo.pdf); its additional likelihood term after Pang et al. 2024 (RPO,
arXiv 2404.19733); KTO, Ethayarajh et al. 2024 (arXiv 2402.01306).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lora_tui.config.models import FineTuning
from lora_tui.engine.training.packing import EncodedExample, PackableExample


@dataclass(frozen=True, slots=True)
class EncodedPreference:
    """Two answers to one question as tokens, the better one first.

    `reference` holds the summed log probabilities of their labels before training, in the same order.
    """

    chosen: EncodedExample
    rejected: EncodedExample
    source: str
    reference: tuple[float, float] = (0.0, 0.0)
    has_keyword: bool = False

    @property
    def parts(self) -> tuple[EncodedExample, ...]:
        """Both answers, each behind its question."""
        return self.chosen, self.rejected

    @property
    def input_ids(self) -> tuple[int, ...]:
        """The tokens of both."""
        return self.chosen.input_ids + self.rejected.input_ids

    @property
    def labels(self) -> int:
        """The label tokens of both."""
        return self.chosen.labels + self.rejected.labels

    @property
    def measured(self) -> tuple[EncodedExample, ...]:
        """The sequences that `reference` is about."""
        return self.parts


@dataclass(frozen=True, slots=True)
class EncodedVerdict:
    """One answer as tokens, and whether it is desirable.

    `other` is the same question with the answer of another example, from which KTO estimates how far the model has
    moved in general; `reference` holds the summed log probabilities of both before training.
    """

    answer: EncodedExample
    other: EncodedExample
    desirable: bool
    source: str
    reference: tuple[float, float] = (0.0, 0.0)
    has_keyword: bool = False

    @property
    def parts(self) -> tuple[EncodedExample, ...]:
        """The answer alone: `other` gets no gradient."""
        return (self.answer,)

    @property
    def input_ids(self) -> tuple[int, ...]:
        """The tokens of question and answer."""
        return self.answer.input_ids

    @property
    def labels(self) -> int:
        """The label tokens of the answer."""
        return self.answer.labels

    @property
    def measured(self) -> tuple[EncodedExample, ...]:
        """The sequences that `reference` is about."""
        return self.answer, self.other


EncodedJudgement = EncodedPreference | EncodedVerdict
"""What preference training is made of, as tokens."""


class Objective(Protocol):
    """How a step's loss follows from the log probabilities of its examples' parts.

    A *sum* is a float32 vector: the loss, then what `figures` needs, each added up over examples.
    """

    def divisor(self, examples: Sequence[PackableExample]) -> float:
        """What the summed loss of a step is divided by."""

    def compared_with(self, examples: Sequence[PackableExample]) -> list[EncodedExample]:
        """Sequences whose log probabilities `baseline` wants before the step's gradient; none for most."""

    def baseline(self, examples: Sequence[PackableExample], log_probs: Tensor) -> Tensor | None:
        """A scalar without gradient that every example of the step is held against."""

    def sums(self, examples: Sequence[PackableExample], losses: Sequence[Tensor], baseline: Tensor | None) -> Tensor:
        """The sum of a row's `examples`; `losses` holds, part by part, the cross-entropies of its labels."""

    def figures(
        self, examples: Sequence[PackableExample], sums: Tensor, baseline: Tensor | None
    ) -> Mapping[str, Tensor]:
        """What a step reports beside its loss, by name."""


@dataclass(frozen=True, slots=True)
class DpoObjective:
    """Direct preference optimisation: the better answer's reward is to exceed the other's.

    ``-(1 - e) * logsigmoid(margin) - e * logsigmoid(-margin)``, with `label_smoothing` e, the share of preferences that
    are thought to be the wrong way round. `rpo_alpha` times the mean cross-entropy of the better answer is added, which
    keeps it from becoming less likely in itself. The loss is a mean over the step's preferences.
    """

    beta: float
    label_smoothing: float = 0.0
    rpo_alpha: float = 0.0

    def divisor(self, examples: Sequence[PackableExample]) -> float:
        """See `Objective`: the preferences of the step."""
        return float(len(examples))

    def compared_with(self, examples: Sequence[PackableExample]) -> list[EncodedExample]:
        """See `Objective`."""
        return []

    def baseline(self, examples: Sequence[PackableExample], log_probs: Tensor) -> Tensor | None:
        """See `Objective`."""
        return None

    def sums(self, examples: Sequence[PackableExample], losses: Sequence[Tensor], baseline: Tensor | None) -> Tensor:
        """See `Objective`: loss, rewards of the better and of the other answers, preferences told right."""
        rewards = self.beta * (_log_probs(losses) - _references(examples, losses[0].device)).view(-1, 2)
        chosen, rejected = rewards.unbind(1)
        margin = chosen - rejected
        loss = -functional.logsigmoid(margin) * (1 - self.label_smoothing)
        if self.label_smoothing:
            loss = loss - functional.logsigmoid(-margin) * self.label_smoothing
        if self.rpo_alpha:
            loss = loss + self.rpo_alpha * torch.stack([part.mean() for part in losses[::2]])
        return torch.stack([loss.sum(), chosen.sum(), rejected.sum(), (margin > 0).float().sum()])

    def figures(
        self, examples: Sequence[PackableExample], sums: Tensor, baseline: Tensor | None
    ) -> Mapping[str, Tensor]:
        """See `Objective`: means over the step."""
        chosen, rejected, right = (sums[1:] / len(examples)).unbind()
        return {
            "reward_margin": chosen - rejected,
            "reward_accuracy": right,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
        }


@dataclass(frozen=True, slots=True)
class KtoObjective:
    """Kahneman-Tversky optimisation: desirable answers are to gain, others to lose, beside a common baseline.

    A desirable answer costs ``weight * (1 - sigmoid(reward - baseline))``, another ``weight * (1 - sigmoid(baseline -
    reward))``. The baseline is beta times an estimate of the divergence from the reference: the mean log ratio of the
    step's questions with answers that belong to others, not below zero. The loss is a mean over the step's answers.
    """

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def divisor(self, examples: Sequence[PackableExample]) -> float:
        """See `Objective`: the answers of the step."""
        return float(len(examples))

    def compared_with(self, examples: Sequence[PackableExample]) -> list[EncodedExample]:
        """See `Objective`: each question with another's answer."""
        return [one.other for one in _verdicts(examples)]

    def baseline(self, examples: Sequence[PackableExample], log_probs: Tensor) -> Tensor | None:
        """See `Objective`."""
        before = torch.tensor([one.reference[1] for one in _verdicts(examples)]).to(log_probs)
        return self.beta * (log_probs - before).mean().clamp(min=0)

    def sums(self, examples: Sequence[PackableExample], losses: Sequence[Tensor], baseline: Tensor | None) -> Tensor:
        """See `Objective`: loss, rewards of desirable and of other answers, answers on their side of the baseline."""
        device = losses[0].device
        desirable = torch.tensor([one.desirable for one in _verdicts(examples)], device=device)
        reward = self.beta * (_log_probs(losses) - _references(examples, device)[::2])
        gain = torch.where(desirable, 1.0, -1.0) * (reward - (0.0 if baseline is None else baseline))
        weight = torch.where(desirable, self.desirable_weight, self.undesirable_weight)
        loss = weight * (1 - torch.sigmoid(gain))
        zero = torch.zeros((), device=device)
        chosen, rejected = torch.where(desirable, reward, zero), torch.where(desirable, zero, reward)
        return torch.stack([loss.sum(), chosen.sum(), rejected.sum(), (gain > 0).float().sum()])

    def figures(
        self, examples: Sequence[PackableExample], sums: Tensor, baseline: Tensor | None
    ) -> Mapping[str, Tensor]:
        """See `Objective`: mean rewards of either kind, where the step has any, and the baseline as `kl`."""
        good = sum(one.desirable for one in _verdicts(examples))
        found = {"reward_accuracy": sums[3] / len(examples)}
        if good:
            found["chosen_reward"] = sums[1] / good
        if good < len(examples):
            found["rejected_reward"] = sums[2] / (len(examples) - good)
        if 0 < good < len(examples):
            found["reward_margin"] = found["chosen_reward"] - found["rejected_reward"]
        if baseline is not None:
            found["kl"] = baseline / self.beta
        return found


def objective_of(settings: FineTuning) -> Objective | None:
    """Return the objective of ``fine_tuning.method``; None for supervised fine-tuning."""
    preference = settings.preferences
    if settings.method == "dpo":
        return DpoObjective(preference.beta, preference.label_smoothing, preference.rpo_alpha)
    if settings.method == "kto":
        return KtoObjective(preference.beta, preference.desirable_weight, preference.undesirable_weight)
    return None


def _log_probs(losses: Sequence[Tensor]) -> Tensor:
    """The log probability of each part, summed over its labels, float32 ``(parts,)``."""
    # One sum a part, and no scatter: the order of additions is the same each time, on a GPU too.
    return -torch.stack([part.sum() for part in losses])


def _references(examples: Sequence[PackableExample], device: torch.device) -> Tensor:
    """The reference log probabilities of examples one after the other, float32 ``(2 * examples,)``."""
    pairs = [one.reference for one in examples if isinstance(one, EncodedPreference | EncodedVerdict)]
    return torch.tensor([value for pair in pairs for value in pair], dtype=torch.float32, device=device)


def _verdicts(examples: Sequence[PackableExample]) -> list[EncodedVerdict]:
    return [one for one in examples if isinstance(one, EncodedVerdict)]
