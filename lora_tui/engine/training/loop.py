"""The training loop: planned steps, evaluation, early stopping, the best adapter kept, and exact resumption.

It reads like the run it performs. It knows nothing of stores or screens: what happens goes out through `Hooks`.
`schedule` says which examples a step sees, and at which rate; `step` computes its gradient, `fallback` says how where
memory runs out, and `checkpoint` writes and restores.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_tui.config.models import FineTuning
from lora_tui.engine.models import activation_memory
from lora_tui.engine.models.adapter_source import best_folder
from lora_tui.engine.runtime.process import keep_freed_memory
from lora_tui.engine.training import checkpoint
from lora_tui.engine.training.checkpoint import TrainerState, identity_settings, run_identities
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.fallback import RowTooLargeError
from lora_tui.engine.training.hooks import Hooks, StepReport, TrainingResult, Verdict
from lora_tui.engine.training.judgement_data import JudgementDataset, reference_log_probs, with_references
from lora_tui.engine.training.memory import announced, apply_plan, plan_memory, used_megabytes
from lora_tui.engine.training.objective import EncodedJudgement, objective_of
from lora_tui.engine.training.optimizer import layers_with_gradient, make_optimizer
from lora_tui.engine.training.packing import PackableExample
from lora_tui.engine.training.ranks import LostRankError, OneRank, Ranks
from lora_tui.engine.training.schedule import StepPlan, epoch_order, lr_factor, plan_epoch, steps_per_epoch, total_steps
from lora_tui.engine.training.step import GradientStep
from lora_tui.engine.training.validation import held_out_loss
from lora_tui.errors import LoraTuiError
from lora_tui.text import count

_MOST_SECONDS_UNSAVED = 60.0
"""Seconds of training that a killed run loses at most, beside the step that is under way."""

_MOST_SKIPPED = 3
"""Steps in a row without a finite gradient after which training goes back to its last checkpoint."""

_MOST_TIMES_BACK = 3
"""How often it goes back, each time to half the rate, before training is given up."""


TrainingSet = TextDataset | JudgementDataset
"""What is trained on: examples to learn, or judgements of answers."""


def train_model(
    model: PeftModel,
    dataset: TrainingSet,
    settings: FineTuning,
    folder: Path,
    hooks: Hooks | None = None,
    *,
    resume: bool = False,
    held_out: Sequence[PackableExample] = (),
    ranks: Ranks | None = None,
) -> TrainingResult:
    """Train the adapters of `model` on `dataset`, keeping checkpoints in `folder`.

    With `resume` the newest checkpoint there is continued exactly; data or settings that differ raise `UsageError`.
    Every evaluation reports the loss on `held_out`, examples that are not in `dataset`. `ranks` compute the steps,
    this process being the first of them. Raises `LoraTuiError` when gradients stop being finite, and `LostRankError`,
    with everything saved, when another rank is gone.
    """
    parts = model, dataset, settings, folder, hooks or Hooks(), held_out, ranks or OneRank()
    return _Trainer(*parts).run(resume=resume)


@dataclass
class _Trainer:
    """One call of `train_model`: the model with its optimizer, and `state`, which checkpoints keep."""

    model: PeftModel
    dataset: TrainingSet
    settings: FineTuning
    folder: Path
    hooks: Hooks
    held_out: Sequence[PackableExample]
    ranks: Ranks
    last_loss: float | None = None
    step_seconds: list[float] = field(default_factory=list)
    evaluation_seconds: list[float] = field(default_factory=list)
    saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        training = self.settings.training
        self.examples_per_step = training.batch_size * training.gradient_accumulation_steps
        self.per_epoch = steps_per_epoch(len(self.dataset), self.examples_per_step)
        self.steps = total_steps(len(self.dataset), self.examples_per_step, training.max_epochs, training.max_steps)
        parts = self.model, training.tokens_per_micro_batch, training.seed, self.ranks
        self.gradient_step = GradientStep.of(*parts, objective=objective_of(self.settings))
        self.optimizer, self.names = make_optimizer(self.model, self.settings)
        dtype = str(self.gradient_step.base.dtype).removeprefix("torch.")
        self.identities = run_identities(self.dataset, self.settings, dtype)
        self.state = TrainerState(
            self.identities[0], dtype, made_with=identity_settings(self.dataset, self.settings, dtype)
        )

    def run(self, *, resume: bool) -> TrainingResult:
        """Train to the end, from the newest checkpoint with `resume`."""
        keep_freed_memory()
        self._measure_references()
        restored = self._restore_checkpoint() if resume else None
        if restored is not None:
            self.state = restored
            checkpoint.forget_lost_best(self.folder, self.state, self.hooks.warn)
            self.gradient_step.fallback.resume(restored.tokens_per_row, restored.long_rows_that_fit)
            if restored.ranks != self.ranks.world:
                self.hooks.warn(
                    f"The run began on {count(restored.ranks, 'device')} and goes on with {self.ranks.world}: "
                    "not to the last bit as it would have."
                )
        else:
            torch.manual_seed(self.settings.training.seed)
        self._plan_memory(fresh=restored is None)
        if not resume:
            self._begin()
        try:
            stopped_by = self._end_reason() or self._run_steps()
        finally:
            self.gradient_step.row_workers.close()
        if stopped_by == "steps" and not self._has_learned:
            raise LoraTuiError(
                f"Nothing was trained: none of the {count(self.state.step, 'step')} had a finite loss and gradient. "
                'Set fine_tuning.dtype = "float32", lower fine_tuning.optimizer.lora_lr, or take another base model.'
            )
        self.model.eval()
        state, folder = self.state, best_folder(self.folder)
        return TrainingResult(
            state.step, state.tokens, self.last_loss, state.best_score, state.best_step, stopped_by, folder
        )

    def _measure_references(self) -> None:
        """Put the log probabilities of judged answers beside them, as they are before the first step."""
        dataset, held_out = self.dataset, [one for one in self.held_out if isinstance(one, EncodedJudgement)]
        if isinstance(dataset, TextDataset):
            return
        progress = partial(self.hooks.on_progress, "reading the answers before training")
        found = reference_log_probs(self.gradient_step, [*dataset, *held_out], self.folder, progress)
        dataset.set_references(found[: len(dataset)])
        self.held_out = with_references(held_out, found[len(dataset) :])

    @property
    def _has_learned(self) -> bool:
        """Whether a step has been taken: until then the adapter changes nothing, and is no result."""
        return bool(self.optimizer.state)

    def _begin(self) -> None:
        """Measure the model as it came: adapters change nothing before the first step."""
        if self.held_out:
            self._report_held_out_loss()
        self.model.eval()
        with torch.random.fork_rng(devices=[]):
            self.hooks.begin()

    def _run_steps(self) -> str:
        """Take steps until something ends the run; returns what did."""
        for plan in self._step_plans():
            if self.hooks.should_stop():
                self._save_step()
                return "request"
            try:
                self._take_step(plan)
            except LostRankError:
                if self._has_learned:
                    self._save_step()
                raise
            if self.state.step < plan.step:  # back at a checkpoint
                continue
            if self._evaluation_due(plan) and self._has_learned:
                began = time.perf_counter()
                self._evaluate()
                self.evaluation_seconds.append(time.perf_counter() - began)
            end_reason = self._end_reason()
            should_save = self.hooks.should_save()
            if end_reason or should_save or self._save_due():
                self._save_step()
            if end_reason:
                return end_reason
        raise AssertionError("plans never end")

    def _step_plans(self) -> Iterator[StepPlan]:
        """The plan of the step after the one that the state names, again and again."""
        sampling, training = self.settings.sampling, self.settings.training
        weights = [sampling.keyword_weight if example.has_keyword else 1.0 for example in self.dataset]
        while True:
            epoch = self.state.step // self.per_epoch
            order = epoch_order(len(self.dataset), weights, training.seed, epoch, shuffle=training.shuffle)
            plans = plan_epoch(order, self.examples_per_step, epoch)
            while self.state.step // self.per_epoch == epoch:
                yield plans[self.state.step % self.per_epoch]

    def _save_due(self) -> bool:
        """Tell whether a checkpoint is due: a killed run loses `save_steps` steps or a minute, whichever is less.

        Never after a step without a finite gradient.
        """
        if self.state.skipped_in_a_row:
            return False
        overdue = time.monotonic() - self.saved_at > _MOST_SECONDS_UNSAVED
        return overdue or self.state.step % self.settings.training.save_steps == 0

    def _end_reason(self) -> str | None:
        """What ends the run at this point, if anything does; a resumed run may be over before its first step."""
        training, state = self.settings.training, self.state
        if state.best_may_end and state.best_score is not None and state.best_score >= training.target_score:
            return "target_score"
        if state.evaluations_without_gain >= max(1, training.patience):
            return "patience"
        return "steps" if state.step >= self.steps else None

    def _take_step(self, plan: StepPlan) -> None:
        """Compute a step's gradient, clip it, and let the optimizer take it, unless something of it is not finite."""
        began = time.perf_counter()
        self._set_learning_rate(plan.step)
        examples: list[PackableExample] = [self.dataset.as_read(index, plan.epoch) for index in plan.examples]
        self.model.train()
        loss_tensor = self._gradient(examples, plan.step)
        if plan.step == 1:
            self._check_layers_learn()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm_tensor = nn.utils.clip_grad_norm_(parameters, self.settings.optimizer.max_grad_norm, foreach=True)
        values = [loss_tensor, norm_tensor.to(loss_tensor), *self.gradient_step.figures.values()]
        loss, norm, *figures = torch.stack(values).tolist()  # the one wait for the device
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            self.optimizer.step()
            self.state.skipped_in_a_row = 0
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(example.input_ids) for example in examples)
        reported = dict(zip(self.gradient_step.figures, figures, strict=True))
        self._report(plan, loss, norm, tokens, time.perf_counter() - began, reported)
        if not finite:
            self._report_skipped(plan, examples, loss, norm)

    def _set_learning_rate(self, step: int) -> None:
        scheduler = self.settings.scheduler
        factor = lr_factor(scheduler.type, step, self.steps, scheduler.warmup_steps) * self.state.rate_scale
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def _gradient(self, examples: list[PackableExample], step: int) -> Tensor:
        """Compute the gradient of a step, and say how it goes on where memory ran out."""
        try:
            return self.gradient_step.accumulate(examples, step)
        except RowTooLargeError as problem:
            raise LoraTuiError(
                f"Memory ran out at step {step} for one example of {problem.tokens:,} tokens. Lower "
                "fine_tuning.training.max_length, or take a smaller model."
            ) from problem
        finally:
            for message in self.gradient_step.fallback.messages(step):
                self.hooks.warn(message)

    def _check_layers_learn(self) -> None:
        """Warn, after the first backward pass, of layers without a gradient: they will never learn (unsloth#1282)."""
        learns = layers_with_gradient(self.optimizer, self.names)
        dead = [layer for layer, has_gradient in learns.items() if not has_gradient]
        if len(dead) == len(learns):
            raise LoraTuiError("The first step gave no trained layer a gradient: nothing would be learned.")
        if dead:
            self.hooks.warn(
                f"{count(len(dead), 'trained layer')} of {len(learns)} got no gradient in the first step and will not "
                f"learn: {', '.join(dead[:3])}{', …' if len(dead) > 3 else '.'}"
            )

    def _report_skipped(self, plan: StepPlan, examples: list[PackableExample], loss: float, norm: float) -> None:
        """Warn of a step whose loss or gradient is not finite, by its examples; after several in a row, go back.

        The weights are as they were before the step.
        """
        self.state.skipped_in_a_row += 1
        nonfinite = self.gradient_step.with_nonfinite_loss(examples, plan.step)
        sources = ", ".join(examples[index].source for index in (nonfinite or range(len(examples)))[:4])
        whose = "Without a finite loss" if nonfinite else "Its examples"
        more = ", …" if len(nonfinite or examples) > 4 else "."
        self.hooks.warn(f"Step {plan.step} skipped: loss {loss}, gradient norm {norm}. {whose}: {sources}{more}")
        if self.state.skipped_in_a_row >= _MOST_SKIPPED:
            self._return_to_checkpoint(plan.step)

    def _return_to_checkpoint(self, step: int) -> None:
        """Restore the last checkpoint, whose steps all had finite gradients, and go on from there at half the rate."""
        if self.state.times_back >= _MOST_TIMES_BACK:
            raise LoraTuiError(
                f"{_MOST_SKIPPED} steps in a row had no finite gradient (the last was step {step}), even at an eighth "
                'of the rate. Lower fine_tuning.optimizer.lora_lr, or set fine_tuning.dtype = "float32".'
            )
        scale, times = self.state.rate_scale / 2, self.state.times_back + 1
        restored = self._restore_checkpoint()
        self.state = restored or self.state
        self.state.rate_scale, self.state.times_back, self.state.skipped_in_a_row = scale, times, 0
        where = (
            f"back at the checkpoint of step {restored.step}" if restored else "on without a checkpoint to go back to"
        )
        self.hooks.warn(
            f"{_MOST_SKIPPED} steps in a row had no finite gradient: {where}, at {scale:g} times the learning rate."
        )

    def _report(
        self, plan: StepPlan, loss: float, norm: float, tokens: int, seconds: float, figures: dict[str, float]
    ) -> None:
        self.state.step = plan.step
        self.state.tokens += tokens
        self.last_loss = loss
        self.step_seconds = [*self.step_seconds[-19:], seconds]
        mean_seconds = sum(self.step_seconds) / len(self.step_seconds)
        if self.ranks.loads:
            self.hooks.on_ranks(plan.step, self.ranks.loads)
        self.hooks.on_step(
            StepReport(
                step=plan.step,
                steps=self.steps,
                epoch=round(plan.step / self.per_epoch, 4),
                loss=loss,
                lr=self.optimizer.param_groups[0]["lr"],
                grad_norm=norm,
                tokens=tokens,
                tokens_per_s=tokens / seconds,
                seconds=seconds,
                memory_mb=used_megabytes(self.gradient_step.device),
                eta_s=mean_seconds * (self.steps - plan.step) + self._seconds_of_evaluations_left(plan.step),
                figures=figures,
            )
        )

    def _seconds_of_evaluations_left(self, step: int) -> float:
        """Return how long the evaluations after a step will take, by those so far; 0 before the first."""
        if not self.evaluation_seconds:
            return 0.0
        training = self.settings.training
        every = training.eval_steps or self.per_epoch * training.eval_frequency
        left = math.ceil(self.steps / every) - step // every
        return left * sum(self.evaluation_seconds) / len(self.evaluation_seconds)

    def _evaluation_due(self, plan: StepPlan) -> bool:
        """Evaluations come every `eval_frequency` epochs (or `eval_steps` steps), and after the last step."""
        training = self.settings.training
        if plan.step >= self.steps:
            return True
        if training.eval_steps:
            return plan.step % training.eval_steps == 0
        return plan.ends_epoch and (plan.epoch + 1) % training.eval_frequency == 0

    def _evaluate(self) -> None:
        """Score the model, keep it when it is the best so far, and count evaluations without a gain."""
        if self.held_out:
            self._report_held_out_loss()
        if self.hooks.evaluate is None:
            self._save_best(None)
            return
        self.model.eval()
        with torch.random.fork_rng(devices=[]):
            found = self.hooks.evaluate(self.state.step)
        verdict = found if isinstance(found, Verdict) else Verdict(found, found)
        state = self.state
        best_rank = state.best_score if state.best_rank is None else state.best_rank
        if best_rank is None or verdict.rank > best_rank:
            state.best_score, state.best_rank, state.best_may_end = verdict.score, verdict.rank, verdict.may_end
            state.best_step, state.evaluations_without_gain = state.step, 0
            self._save_best(verdict.score)
        else:
            state.evaluations_without_gain += 1

    def _report_held_out_loss(self) -> None:
        try:
            loss = held_out_loss(self.gradient_step, self.held_out)
        except RowTooLargeError as problem:
            self.hooks.warn(
                f"The held-out loss of step {self.state.step} is missing: memory ran out for an example of "
                f"{problem.tokens:,} tokens."
            )
        else:
            self.hooks.on_held_out_loss(self.state.step, loss)

    def _save_best(self, score: float | None) -> None:
        write = self.hooks.write_best or (lambda target: checkpoint.save_adapter(self.model, target))
        path = checkpoint.save_best(self.folder, write)
        self.hooks.on_checkpoint("best", self.state.step, path, score)

    def _save_step(self) -> None:
        self.saved_at = time.monotonic()
        self.state.tokens_per_row, self.state.long_rows_that_fit = self.gradient_step.fallback.state()
        self.state.ranks = self.ranks.world
        if self.ranks.loads:
            self.state.rank_ladders = [[load.tokens_per_row, load.long_rows] for load in self.ranks.loads]
        parts = self.folder, self.model, self.optimizer, self.names, self.state
        path = checkpoint.save_step(*parts, self.hooks.write_metadata, self.settings.training.keep_checkpoints)
        self.hooks.on_checkpoint("last", self.state.step, path, None)

    def _restore_checkpoint(self) -> TrainerState | None:
        parts = self.folder, self.model, self.optimizer, self.names
        return checkpoint.restore(*parts, self.identities, self.state.made_with, self.hooks.warn)

    def _plan_memory(self, *, fresh: bool) -> None:
        """Decide what is recomputed in the backward pass and how many long rows go together, and note both.

        A resumed run (not `fresh`) keeps its number of long rows while memory allows: it shows in the last bits.
        """
        own_examples = -(-self.examples_per_step // self.ranks.world)
        examples: Sequence[PackableExample] = self.dataset
        longest = sorted(examples, key=lambda example: -len(example.input_ids))[:own_examples]
        gradient_step, ladder = self.gradient_step, self.gradient_step.fallback
        plan = plan_memory(self.settings.gradient_checkpointing, gradient_step, longest)
        no_graphs_reason = apply_plan(plan, gradient_step)
        if fresh:
            ladder.begin_at(replace(ladder.current, long_rows=plan.rows_that_fit()))
        at_most = plan.rows_that_fit(activation_memory.SHARE_TO_USE)
        if at_most < gradient_step.long_rows_together(longest):
            ladder.begin_at(replace(ladder.current, long_rows=at_most))
            self.hooks.warn(
                f"Less memory is free than when the run began: long rows go {at_most} at a time, and the last bits of "
                "the result may not be those of an undisturbed run."
            )
        ladders = self.state.rank_ladders if self.state.ranks == self.ranks.world else []
        self.ranks.announce(announced(plan, gradient_step, ladders))
        self.hooks.note(plan.summary())
        if (at_once := gradient_step.long_rows_together(longest)) > 1:
            self.hooks.note(f"Long rows are computed {at_once} at a time: there is memory for it.")
        for note in filter(None, [*gradient_step.slower_reasons(), no_graphs_reason]):
            self.hooks.note(note)
