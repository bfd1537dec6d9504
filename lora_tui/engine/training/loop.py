"""The training loop: planned steps, evaluation, early stopping, the best adapter kept, and exact resumption.

It reads like the run it performs. It knows nothing of stores or screens: what happens goes out through `Hooks`.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora_tui.config.models import FineTuning
from lora_tui.engine.models import activation_memory
from lora_tui.engine.models.run_folder import best_folder
from lora_tui.engine.runtime.process import keep_freed_memory
from lora_tui.engine.training import checkpoint
from lora_tui.engine.training.checkpoint import TrainerState, run_identity
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.memory import follow, plan_memory, recompute, used_megabytes
from lora_tui.engine.training.optimizer import layers_with_gradient, make_optimizer
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.schedule import StepPlan, epoch_order, lr_factor, plan_epoch, steps_per_epoch, total_steps
from lora_tui.engine.training.step import GradientStep, RowTooLargeError
from lora_tui.engine.training.validation import held_out_loss
from lora_tui.errors import LoraTuiError
from lora_tui.text import count, one_line

_MOST_SECONDS_UNSAVED = 60.0

_MOST_SKIPPED = 3
"""Steps in a row without a finite gradient after which training goes back to its last checkpoint."""

_MOST_TIMES_BACK = 3
"""How often that is tried, each time at half the rate, before training is given up."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step.

    Loss per label token, learning rate, gradient norm before clipping, speed, memory, time left.
    """

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_s: float
    seconds: float
    memory_mb: float
    eta_s: float


@dataclass(frozen=True)
class Hooks:
    """What the caller wants to hear of, and may decide. Each is called on the thread that trains.

    `evaluate` scores the model (already in evaluation mode) after a step; `fill_best` writes what belongs into the
    folder of the best adapter, `describe` what belongs beside the adapter of a step; `should_stop` is asked between
    steps, `save_wanted` after each of them. `note` hears how the steps are computed, `warn` what goes wrong, and
    `on_held_out` the loss on the held-out examples before `evaluate`.
    """

    on_step: Callable[[StepReport], None] = lambda report: None
    evaluate: Callable[[int], float] | None = None
    fill_best: Callable[[Path], None] | None = None
    describe: Callable[[Path, int], None] = lambda target, step: None
    on_checkpoint: Callable[[str, int, Path, float | None], None] = lambda kind, step, path, score: None
    should_stop: Callable[[], bool] = lambda: False
    warn: Callable[[str], None] = lambda message: None
    save_wanted: Callable[[], bool] = lambda: False
    note: Callable[[str], None] = lambda message: None
    on_held_out: Callable[[int, float], None] = lambda step, loss: None


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How training ended. `stopped_by` is ``steps``, ``target_score``, ``patience`` or ``request``."""

    steps: int
    tokens: int
    last_loss: float | None
    best_score: float | None
    best_step: int
    stopped_by: str
    best_folder: Path | None


def train_model(
    model: PeftModel,
    dataset: TextDataset,
    settings: FineTuning,
    folder: Path,
    hooks: Hooks | None = None,
    *,
    resume: bool = False,
    held_out: Sequence[EncodedExample] = (),
) -> TrainingResult:
    """Train the adapters of `model` on `dataset`, keeping checkpoints in `folder`.

    With `resume` the newest checkpoint there is continued exactly; data or settings that differ raise `UsageError`.
    Every evaluation tells the loss on `held_out`, examples that are not in `dataset`.
    Raises `LoraTuiError` when gradients stop being finite.
    """
    return _Training(model, dataset, settings, folder, hooks or Hooks(), held_out).run(resume=resume)


@dataclass
class _Training:
    """The state of one call of `train_model`."""

    model: PeftModel
    dataset: TextDataset
    settings: FineTuning
    folder: Path
    hooks: Hooks
    held_out: Sequence[EncodedExample] = ()
    last_loss: float | None = None
    recomputation: activation_memory.Recomputation = activation_memory.NONE
    step_seconds: list[float] = field(default_factory=list)
    saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        training = self.settings.training
        self.examples_per_step = training.batch_size * training.gradient_accumulation_steps
        self.per_epoch = steps_per_epoch(len(self.dataset), self.examples_per_step)
        self.steps = total_steps(len(self.dataset), self.examples_per_step, training.max_epochs, training.max_steps)
        self.maths = GradientStep.of(self.model, training.tokens_per_micro_batch, training.seed)
        self.optimizer, self.names = make_optimizer(self.model, self.settings)
        dtype = str(self.maths.base.dtype).removeprefix("torch.")
        self.state = TrainerState(run_identity(self.dataset, self.settings, dtype), dtype)

    def run(self, *, resume: bool) -> TrainingResult:
        keep_freed_memory()
        restored = (
            checkpoint.restore(self.folder, self.model, self.optimizer, self.names, self.state.identity)
            if resume
            else None
        )
        if restored is not None:
            self.state = restored
        else:
            torch.manual_seed(self.settings.training.seed)
        if self.state.tokens_per_row is not None:  # what did not fit before the stop is not tried again
            self.maths.tokens_per_row, self.maths.one_at_a_time = self.state.tokens_per_row, True
        self._plan_memory(fresh=restored is None)
        try:
            stopped_by = self._already_over() or self._epochs()
        finally:
            self.maths.side_by_side.close()
        self.model.eval()
        return TrainingResult(
            self.state.step,
            self.state.tokens,
            self.last_loss,
            self.state.best_score,
            self.state.best_step,
            stopped_by,
            best_folder(self.folder),
        )

    def _epochs(self) -> str:
        """Take steps until something ends the run; returns what did."""
        for plan in self._plans():
            if self.hooks.should_stop():
                self._save_step()
                return "request"
            self._take_step(plan)
            if self.state.step < plan.step:  # back at a checkpoint
                continue
            if self._evaluation_due(plan):
                self._evaluate()
            ended_by = self._already_over()
            wanted = self.hooks.save_wanted()
            if ended_by or wanted or self._save_due():
                self._save_step()
            if ended_by:
                return ended_by
        raise AssertionError("plans never end")

    def _plans(self) -> Iterator[StepPlan]:
        """The step after the one that the state names, again and again."""
        while True:
            epoch = self.state.step // self.per_epoch
            plans = plan_epoch(self._order(epoch), self.examples_per_step, epoch)
            while self.state.step // self.per_epoch == epoch:
                yield plans[self.state.step % self.per_epoch]

    def _save_due(self) -> bool:
        """A killed run loses `save_steps` steps or a minute, whichever is less. What fails is not kept."""
        if self.state.skipped_in_a_row:
            return False
        long_ago = time.monotonic() - self.saved_at > _MOST_SECONDS_UNSAVED
        return long_ago or self.state.step % self.settings.training.save_steps == 0

    def _already_over(self) -> str | None:
        """Tell what ends the run at this point, if anything does. A resumed run may be over before its first step."""
        training, state = self.settings.training, self.state
        if state.best_score is not None and state.best_score >= training.target_score:
            return "target_score"
        if state.evaluations_without_gain >= max(1, training.patience):
            return "patience"
        return "steps" if state.step >= self.steps else None

    def _order(self, epoch: int) -> list[int]:
        sampling, training = self.settings.sampling, self.settings.training
        weights = [sampling.keyword_weight if row.has_keyword else 1.0 for row in self.dataset]
        return epoch_order(len(self.dataset), weights, training.seed, epoch, shuffle=training.shuffle)

    def _take_step(self, plan: StepPlan) -> None:
        began = time.perf_counter()
        self._set_rate(plan.step)
        examples = [self.dataset[index] for index in plan.examples]
        self.model.train()
        loss_tensor = self._gradient(examples, plan.step)
        if plan.step == 1:
            self._check_gradients()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm_tensor = nn.utils.clip_grad_norm_(parameters, self.settings.optimizer.max_grad_norm, foreach=True)
        loss, norm = torch.stack([loss_tensor, norm_tensor.to(loss_tensor)]).tolist()  # the one wait for the device
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            self.optimizer.step()
            self.state.skipped_in_a_row = 0
        self.optimizer.zero_grad(set_to_none=True)
        self._report(plan, loss, norm, sum(len(example.input_ids) for example in examples), time.perf_counter() - began)
        if not finite:
            self._skip(plan, examples, loss, norm)

    def _set_rate(self, step: int) -> None:
        scheduler = self.settings.scheduler
        factor = lr_factor(scheduler.type, step, self.steps, scheduler.warmup_steps) * self.state.rate_scale
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def _gradient(self, examples: list[EncodedExample], step: int) -> Tensor:
        """Compute the gradient of a step; where memory runs out, in smaller rows or with more computed again."""
        before = self.maths.tokens_per_row
        try:
            loss = self.maths.accumulate(examples, step)
        except RowTooLargeError as problem:
            if self.recomputation.every == 1:
                raise LoraTuiError(
                    f"Memory ran out at step {step} for one example of {problem.tokens:,} tokens. Lower "
                    "fine_tuning.training.max_length, or take a smaller model."
                ) from problem
            self.recomputation = activation_memory.ALL
            recompute(self.maths, self.recomputation)
            self.hooks.warn(f"Memory ran out at step {step}: from here on every layer's activations are recomputed.")
            return self._gradient(examples, step)
        if self.maths.graphs_failed is not None:
            reason, self.maths.graphs_failed = one_line(self.maths.graphs_failed, 120), None
            self.hooks.warn(f"Steps go on without CUDA graphs, slower: the GPU could not record one ({reason}).")
        if self.maths.long_rows_that_fit < self.state.long_rows_that_fit:
            self.state.long_rows_that_fit = self.maths.long_rows_that_fit
            self.hooks.warn(f"Memory ran out at step {step}; it goes on with long rows one at a time.")
        if self.maths.one_at_a_time and self.state.tokens_per_row != self.maths.tokens_per_row:
            self.state.tokens_per_row = self.maths.tokens_per_row
            smaller = f" of at most {self.maths.tokens_per_row:,} tokens instead of {before:,}"
            how = smaller if self.maths.tokens_per_row < before else ", one at a time"
            self.hooks.warn(f"Memory ran out at step {step}; it was taken again, and goes on, in rows{how}.")
        return loss

    def _check_gradients(self) -> None:
        """After the first step's backward pass: what has no gradient will never learn (unsloth#1282)."""
        reached = layers_with_gradient(self.optimizer, self.names)
        dead = [layer for layer, alive in reached.items() if not alive]
        if len(dead) == len(reached):
            raise LoraTuiError("The first step gave no trained layer a gradient: nothing would be learned.")
        if dead:
            self.hooks.warn(
                f"{count(len(dead), 'trained layer')} of {len(reached)} got no gradient in the first step and will not "
                f"learn: {', '.join(dead[:3])}{', …' if len(dead) > 3 else '.'}"
            )

    def _skip(self, plan: StepPlan, examples: list[EncodedExample], loss: float, norm: float) -> None:
        """Leave the weights alone after a step whose loss or gradient is not finite, and say which examples it held."""
        self.state.skipped_in_a_row += 1
        guilty = self.maths.without_finite_loss(examples, plan.step)
        named = ", ".join(examples[place].source for place in (guilty or range(len(examples)))[:4])
        whose = "Without a finite loss" if guilty else "Its examples"
        more = ", …" if len(guilty or examples) > 4 else "."
        self.hooks.warn(f"Step {plan.step} skipped: loss {loss}, gradient norm {norm}. {whose}: {named}{more}")
        if self.state.skipped_in_a_row >= _MOST_SKIPPED:
            self._go_back(plan.step)

    def _go_back(self, step: int) -> None:
        """Return to the last checkpoint, all of whose steps were good, and go on from there at half the rate."""
        if self.state.times_back >= _MOST_TIMES_BACK:
            raise LoraTuiError(
                f"{_MOST_SKIPPED} steps in a row had no finite gradient (the last was step {step}), even at an eighth "
                'of the rate. Lower fine_tuning.optimizer.lora_lr, or set fine_tuning.dtype = "float32".'
            )
        scale, times, tokens = self.state.rate_scale / 2, self.state.times_back + 1, self.state.tokens_per_row
        restored = checkpoint.restore(self.folder, self.model, self.optimizer, self.names, self.state.identity)
        self.state = restored or self.state
        self.state.rate_scale, self.state.times_back, self.state.skipped_in_a_row = scale, times, 0
        self.state.tokens_per_row = tokens
        where = (
            f"back at the checkpoint of step {restored.step}" if restored else "on without a checkpoint to go back to"
        )
        self.hooks.warn(
            f"{_MOST_SKIPPED} steps in a row had no finite gradient: {where}, at {scale:g} times the learning rate."
        )

    def _report(self, plan: StepPlan, loss: float, norm: float, tokens: int, seconds: float) -> None:
        self.state.step = plan.step
        self.state.tokens += tokens
        self.last_loss = loss
        self.step_seconds = [*self.step_seconds[-19:], seconds]
        mean_seconds = sum(self.step_seconds) / len(self.step_seconds)
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
                memory_mb=used_megabytes(self.maths.device),
                eta_s=mean_seconds * (self.steps - plan.step),
            )
        )

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
            self._tell_held_out_loss()
        if self.hooks.evaluate is None:
            self._save_best(None)
            return
        self.model.eval()
        with torch.random.fork_rng(devices=[]):
            score = self.hooks.evaluate(self.state.step)
        if self.state.best_score is None or score > self.state.best_score:
            self.state.best_score, self.state.best_step = score, self.state.step
            self.state.evaluations_without_gain = 0
            self._save_best(score)
        else:
            self.state.evaluations_without_gain += 1

    def _tell_held_out_loss(self) -> None:
        try:
            loss = held_out_loss(self.maths, self.held_out)
        except RowTooLargeError as problem:
            self.hooks.warn(
                f"The held-out loss of step {self.state.step} is missing: memory ran out for an example of "
                f"{problem.tokens:,} tokens."
            )
        else:
            self.hooks.on_held_out(self.state.step, loss)

    def _save_best(self, score: float | None) -> None:
        fill = self.hooks.fill_best or (lambda target: checkpoint.save_adapter(self.model, target))
        path = checkpoint.save_best(self.folder, fill)
        self.hooks.on_checkpoint("best", self.state.step, path, score)

    def _save_step(self) -> None:
        self.saved_at = time.monotonic()

        def describe(target: Path) -> None:
            self.hooks.describe(target, self.state.step)

        path = checkpoint.save_step(self.folder, self.model, self.optimizer, self.names, self.state, describe)
        self.hooks.on_checkpoint("last", self.state.step, path, None)

    def _plan_memory(self, *, fresh: bool) -> None:
        """Decide what is computed again in the backward pass, and say how the steps are computed."""
        first = sorted(self.dataset, key=lambda row: -len(row.input_ids))[: self.examples_per_step]
        plan = plan_memory(self.settings.gradient_checkpointing, self.maths, first)
        self.recomputation = plan.recomputation
        without_graphs = follow(plan, self.maths)
        self.maths.long_rows_that_fit = plan.rows_that_fit() if fresh else self.state.long_rows_that_fit
        still = plan.rows_that_fit(activation_memory.SHARE_TO_USE)
        if still < self.maths.long_rows_together(first):
            self.maths.long_rows_that_fit = still
            self.hooks.warn(
                f"Less memory is free than when the run began: long rows go {still} at a time, and the last bits of "
                "the result may not be those of an undisturbed run."
            )
        self.state.long_rows_that_fit = self.maths.long_rows_that_fit
        self.hooks.note(plan.in_words())
        if (at_once := self.maths.long_rows_together(first)) > 1:
            self.hooks.note(f"Long rows are computed {at_once} at a time: there is memory for it.")
        for note in filter(None, [*self.maths.slower_because(), without_graphs]):
            self.hooks.note(note)
