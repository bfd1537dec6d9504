"""The training job: load the model, report the plan, train, keep the best adapter with its card and metadata.

This is where settings, store and the torch code meet; the mathematics are in `loop` and what it calls.
"""

import asyncio
import json
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w
import torch
from peft import PeftModel
from safetensors.torch import save

from lora_tui.config.hub_names import is_hub_name
from lora_tui.config.models import Settings
from lora_tui.engine.data.examples import Conversation, QuestionAnswer
from lora_tui.engine.data.holdout import question_digest, questions_fingerprint
from lora_tui.engine.data.knowledge import keep_knowledge
from lora_tui.engine.data.read import ReadResult
from lora_tui.engine.evaluation.held_out import documents_by_question, held_out_order, write_held_out
from lora_tui.engine.evaluation.own_prompts import template_renderer
from lora_tui.engine.evaluation.prompts import TestPrompt, fixed_replies
from lora_tui.engine.evaluation.scoring import EvaluationResult, score_model
from lora_tui.engine.inference.fast_model import forget
from lora_tui.engine.jobs.evaluate import emit_evaluation, higher_score
from lora_tui.engine.jobs.train_place import RankMonitor, run_folder, settled, started_ranks, take_devices
from lora_tui.engine.jobs.training_data import (
    as_asked,
    keep_preferences,
    plan_warnings,
    preference_rank,
    prompts_to_ask,
    tokenised,
)
from lora_tui.engine.models.adapter_source import ADAPTER_METADATA, AdapterSource, base_began_as
from lora_tui.engine.models.adapters import begin_as
from lora_tui.engine.models.base_location import base_facts
from lora_tui.engine.models.base_model import BaseModel, load_base
from lora_tui.engine.models.builtin import BUILTIN, HUB_NAME
from lora_tui.engine.models.tokenizer_files import save_tokenizer
from lora_tui.engine.review.aggregators import EVALUATION, evaluation_aggregator
from lora_tui.engine.review.agreement import RatingStatistics, rating_statistics
from lora_tui.engine.runtime.commands import DONE
from lora_tui.engine.runtime.context import RunContext, Stopped, progress_events
from lora_tui.engine.runtime.resume import store_flag
from lora_tui.engine.training import checkpoint, pissa
from lora_tui.engine.training.data_plan import data_plan
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.everyday import everyday_examples
from lora_tui.engine.training.hooks import Hooks, StepReport, TrainingResult, Verdict
from lora_tui.engine.training.launch import RankProcesses
from lora_tui.engine.training.loop import TrainingSet, train_model
from lora_tui.engine.training.lora import create_lora_model, trainable_parameters
from lora_tui.engine.training.model_card import CardFacts, model_card
from lora_tui.engine.training.packing import PackableExample
from lora_tui.engine.training.ranks import LostRankError, OneRank, Ranks
from lora_tui.engine.training.schedule import total_steps
from lora_tui.engine.training.trackers import tracked
from lora_tui.engine.training.validation import overfitting_warning
from lora_tui.protocol.agreement import Estimate
from lora_tui.protocol.choice import Choice
from lora_tui.store.queries.runs import step_columns
from lora_tui.store.training import evaluations


async def train(
    ctx: RunContext,
    data_file: Path,
    data: ReadResult,
    choices: Sequence[Choice],
    begins_with: AdapterSource | None = None,
) -> dict[str, Any]:
    """Train on what was read of `data_file`; returns the adapter's folder, the best score and how training ended.

    `choices` are what the settings were given for keys that nobody has written; the plan shows them. `begins_with` is
    the adapter that goes on (None: a new one), whose shape the settings have.
    """
    plan = await take_devices(ctx)
    folder = await run_folder(ctx)
    with tracked(ctx, folder) as told:
        settings = await ctx.in_torch_thread(settled, ctx, folder, plan)
        try:
            async with started_ranks(told, plan, settings) as processes:
                return await _train_in(told, folder, settings, processes, data_file, data, choices, begins_with)
        except LostRankError as problem:
            again = f"lora-tui --resume {ctx.run_id}{store_flag(ctx.store.path)}"
            raise LostRankError(f"{problem}\nWhat was trained until then is saved. Go on with: {again}") from problem


async def _train_in(
    ctx: RunContext,
    folder: Path,
    settings: Settings,
    processes: RankProcesses | None,
    data_file: Path,
    data: ReadResult,
    choices: Sequence[Choice],
    begins_with: AdapterSource | None,
) -> dict[str, Any]:
    """Train with the run's folder and devices known, and its other ranks started."""
    onto = torch.device("cpu") if processes is not None and processes.plan.kind == "fsdp" else None
    base = await ctx.in_torch_thread(load_base, settings, progress_events(ctx.emit), onto=onto)
    ctx.raise_if_stopping()
    documents = await documents_by_question(ctx.store)
    parts = ctx, base, data, data_file, folder, choices, documents, processes, begins_with
    run = await ctx.in_torch_thread(_prepare, *parts)
    if ctx.resumed:
        await run.load_measured()
    with ctx.commands.handling({"checkpoint": run.request_checkpoint}):
        result = await ctx.in_torch_thread(run.train, folder)
    await ctx.flush()
    summary = run.summary(result) | await higher_score(ctx)
    if result.stopped_by == "request":
        raise Stopped(summary)
    flag = store_flag(ctx.store.path)
    return {**summary, "commands": [f"lora-tui --run chat{flag}", f"lora-tui --run export --format merged{flag}"]}


def _prepare(
    ctx: RunContext,
    base: BaseModel,
    data: ReadResult,
    data_file: Path,
    folder: Path,
    choices: Sequence[Choice],
    documents: Mapping[int, str],
    processes: RankProcesses | None,
    begins_with: AdapterSource | None,
) -> "_TrainingRun":
    """Tokenise the data, put LoRA on the model, and report the plan with its warnings; on the torch thread.

    `documents` names the document that a question was asked about, by the question's digest.
    """
    fine_tuning = ctx.settings.fine_tuning
    training, lora = fine_tuning.training, fine_tuning.lora
    keep_preferences(ctx, data, folder)
    dataset, held_out = tokenised(ctx.settings, base, data, folder, documents, resumed=ctx.resumed)
    planned = data_plan(data, data_file, dataset, held_out, training)
    render = template_renderer(base.tokenizer)
    unseen = set(map(question_digest, dataset.held_out_texts))
    prompts = prompts_to_ask(ctx, render, [one for one in dataset.texts if question_digest(one) not in unseen])
    if not ctx.resumed or held_out_order(folder) is None:
        keep_knowledge(folder, data_file, data.examples)
        write_held_out(folder, dataset.held_out_texts, dataset.texts, documents, render, training.seed)
    if isinstance(dataset, TextDataset):
        dataset.extend(everyday_examples(training.everyday_examples))
    from_base = ctx.resumed and pissa.uses_base_weights(lora.init_lora_weights)
    initial_matrices = checkpoint.newest_initial_matrices(folder) if from_base else None
    model = create_lora_model(base.model, lora, training.seed, initial_matrices)
    if processes is not None and (first := pissa.initial_matrices(model)):
        processes.put("first", save({name: matrix.cpu().contiguous() for name, matrix in first.items()}))
    if begins_with is not None:
        begin_as(model, base, begins_with)
    trained, total = trainable_parameters(model)
    examples_per_step = training.batch_size * training.gradient_accumulation_steps
    steps = total_steps(len(dataset), examples_per_step, training.max_epochs, training.max_steps)
    ctx.emit(
        "plan",
        method=fine_tuning.method,
        begins_with=None if begins_with is None else str(begins_with.folder),
        model=base.name,
        device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        threads=torch.get_num_threads() if processes is None else processes.plan.threads,
        **({} if processes is None else processes.plan.as_json()),
        **planned,
        everyday=len(dataset) - planned["examples"],
        label_tokens=dataset.label_tokens,
        steps=steps,
        trainable_parameters=trained,
        parameters=total,
        chosen=[asdict(choice) for choice in as_asked(choices, prompts)],
    )
    for warning in plan_warnings(ctx.settings, base, dataset, held_out, planned["examples"], steps, trained):
        ctx.warn(warning)
    fingerprint, examples = dataset.fingerprint(), planned["examples"]
    return _TrainingRun(
        ctx, base, model, dataset, examples, held_out, data, data_file, fingerprint, prompts, processes, begins_with
    )


@dataclass
class _TrainingRun:
    """A prepared run: model, data and prompts, and what it has measured; its methods are the hooks of `train_model`.

    `examples` counts those of the file that are trained on; the dataset may hold everyday ones beside them.
    `losses` holds (step, loss) of the optimizer steps, `held_out_losses` those of the evaluations.
    """

    ctx: RunContext
    base: BaseModel
    model: PeftModel
    dataset: TrainingSet
    examples: int
    held_out: Sequence[PackableExample]
    data: ReadResult
    data_file: Path
    fingerprint: str
    prompts: list[TestPrompt]
    processes: RankProcesses | None = None
    begins_with: AdapterSource | None = None
    evaluation: EvaluationResult | None = None
    ratings: RatingStatistics | None = None
    people: Estimate | None = None
    """The mean that people would give the answers of the best adapter, as far as ratings tell."""
    losses: list[tuple[int, float]] = field(default_factory=list)
    rewards: Mapping[str, float] = field(default_factory=dict)  # of preference training's newest step, by name
    held_out_losses: list[tuple[int, float]] = field(default_factory=list)
    base_result: tuple[float, int] | None = None
    """The base model's score and how many controls it kept; None where it was not asked."""
    best_controls: tuple[int, int] | None = None
    """How many controls the best evaluation asked, and how many were kept; None where that is not known."""
    warned_of_overfitting: bool = False
    _checkpoint_requested: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def base_facts(self) -> dict[str, str]:
        """Where the base model lies, and the hash by which it is known again when it was moved."""
        return base_facts(self.base.name)

    @property
    def held_out_loss(self) -> float | None:
        """The newest loss on the held-out examples."""
        return self.held_out_losses[-1][1] if self.held_out_losses else None

    @property
    def mostly_conversations(self) -> bool:
        """Whether a chat with this adapter should use the model's chat template instead of ``Question: …``."""
        if self.begins_with is not None and "chat_template" in self.begins_with.metadata:
            return bool(self.begins_with.metadata["chat_template"])  # what it was taught first is in that form
        return 2 * self.data.number_of(Conversation) > len(self.data.examples)

    async def load_measured(self) -> None:
        """Read what was measured before a stop: losses, the base model's score, the best evaluation's controls."""
        store, run_id = self.ctx.store, self.ctx.run_id
        done = await step_columns(store, run_id)
        self.losses = [point for point in zip(done.step, done.loss, strict=True) if not math.isnan(point[1])]
        rows = await evaluations(store, run_id)
        self.held_out_losses = [(row.step, row.held_out_loss) for row in rows if row.held_out_loss is not None]
        for row in rows:
            if row.model == "base" and row.controls_kept is not None:
                self.base_result = row.score, row.controls_kept
        best = max((row for row in rows if row.model == "tuned"), key=lambda row: (row.rank, -row.step), default=None)
        if best is not None and best.controls is not None and best.controls_kept is not None:
            self.best_controls = best.controls, best.controls_kept
        counts = range(len(self.held_out_losses) + 1)
        self.warned_of_overfitting = any(overfitting_warning(self.held_out_losses[:n], self.losses) for n in counts)

    async def request_checkpoint(self) -> str:
        """Have a checkpoint saved after the step that is under way."""
        self._checkpoint_requested.set()
        return DONE

    def train(self, folder: Path) -> TrainingResult:
        """Run the loop, on the torch thread; a run that begins first shows what the base model answers."""
        hooks = Hooks(
            begin=self._evaluate_base,
            on_step=self._on_step,
            evaluate=self._evaluate,
            write_best=self._write_best,
            write_metadata=lambda target, step: self._write_metadata(target, step, None),
            on_checkpoint=self._on_checkpoint,
            should_stop=self._should_stop,
            warn=self.ctx.warn,
            should_save=self.should_save,
            note=lambda message: self.ctx.emit("note", message=message),
            on_held_out_loss=self._on_held_out_loss,
            on_progress=self._on_progress,
        )
        ranks: Ranks = OneRank()
        if self.processes is not None:
            hooks = replace(hooks, on_ranks=RankMonitor(self.ctx.emit, self.processes.plan).add)
            self.ctx.emit("progress", phase="waiting for the other ranks to load the model", done=0, total=0)
            ranks = self.processes.connect(self.model, self.ctx.raise_if_stopping)
        tuning = self.ctx.settings.fine_tuning
        if self.ctx.resumed and (name := base_began_as(folder, tuning.model_name)) is not None:
            tuning = tuning.model_copy(update={"model_name": name})  # the same model, moved: the run is the same
        parts = self.model, self.dataset, tuning, folder, hooks
        return train_model(*parts, resume=self.ctx.resumed, held_out=self.held_out, ranks=ranks)

    def _should_stop(self) -> bool:
        """Whether to save and end; raises `Stopped` where the folder belongs to another process by now."""
        if self.ctx.lost.is_set():
            raise Stopped
        return self.ctx.stop.is_set()

    def _on_step(self, report: StepReport) -> None:
        # A resumed run repeats the steps after its last checkpoint.
        self.losses = [*(point for point in self.losses if point[0] < report.step), (report.step, report.loss)]
        values = asdict(report)
        self.rewards = values.pop("figures")
        self.ctx.emit("step", **values, **self.rewards)

    def _on_progress(self, phase: str, done: int, total: int) -> None:
        self.ctx.raise_if_stopping()
        self.ctx.emit("progress", phase=phase, done=done, total=total)

    def _on_held_out_loss(self, step: int, loss: float) -> None:
        """Keep the loss on held-out examples, and warn once in a run when it rises while the training loss falls."""
        self.held_out_losses = [*(point for point in self.held_out_losses if point[0] < step), (step, loss)]
        if self.warned_of_overfitting:
            return
        if warning := overfitting_warning(self.held_out_losses, self.losses):
            self.warned_of_overfitting = True
            self.ctx.warn(warning)

    def _evaluate_base(self) -> None:
        """Score the base model, so that the curve begins with what it knew: adapters change nothing before step 1."""
        if self.begins_with is not None:  # the adapter already says something: this is its first point
            self.ctx.emit("progress", phase="testing the adapter that goes on", done=0, total=0)
            self._score(0, "tuned", self.held_out_loss)
            return
        self.ctx.emit("progress", phase="asking the base model", done=0, total=0)
        base = self._score(0, "base", self.held_out_loss)
        self.base_result = base.score, base.controls_kept
        target = self.ctx.settings.fine_tuning.training.target_score
        if base.score >= target:
            self.ctx.emit(
                "note",
                message=f"The base model already scores {base.score:.2f}, and fine_tuning.training.target_score is "
                f"{target:g}: reaching it ends nothing. Set a higher one to end early.",
            )
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()  # what is free is measured next, and what is cached does not count as free

    def _evaluate(self, step: int) -> Verdict:
        """Score the model with the weights that the feedback so far has made, and report it.

        The target may end the run where the base model does not reach it, and the controls that this one keeps are
        kept: what even the base model says cannot be asked of the tuned one.
        """
        self.ctx.emit("progress", phase="testing it", done=0, total=0)
        self.evaluation = found = self._score(step, "tuned", self.held_out_loss)
        base_score, wanted = self.base_result or (-math.inf, found.controls)
        below = base_score < self.ctx.settings.fine_tuning.training.target_score
        judges = self.ctx.settings.fine_tuning.method != "sft"
        rank = preference_rank(step, found, self.held_out_loss) if judges else found.overall
        return Verdict(found.score, rank, below and found.controls_kept >= wanted)

    def _score(self, step: int, name: str, held_out_loss: float | None) -> EvaluationResult:
        """Let the model as it is answer the test prompts, and emit the evaluation as `name`'s."""
        ctx, settings = self.ctx, self.ctx.settings.fine_tuning.evaluation
        rate = settings.adaptive_aggregator.learning_rate
        weights = evaluation_aggregator(ctx.store, settings.adaptive_aggregator)
        aggregator, version = asyncio.run_coroutine_threadsafe(weights, ctx.writer.loop).result()
        rated = rating_statistics(ctx.store, EVALUATION, rate)
        self.ratings = asyncio.run_coroutine_threadsafe(rated, ctx.writer.loop).result()
        fixed = fixed_replies(ctx.settings.fine_tuning)
        scored = score_model(self.model, self.base.tokenizer, self.prompts, aggregator, settings.max_new_tokens, fixed)
        forget(self.model)  # the steps that follow want the memory
        emit_evaluation(ctx, scored, aggregator, version, step, name, held_out_loss, self.ratings)
        return scored

    def should_save(self) -> bool:
        """Tell, once for each request, whether a checkpoint is wanted."""
        if not self._checkpoint_requested.is_set():
            return False
        self._checkpoint_requested.clear()
        return True

    def _on_checkpoint(self, kind: str, step: int, path: Path, score: float | None) -> None:
        self.ctx.emit("checkpoint", step=step, kind=kind, path=str(path.absolute()), score=score)

    def _write_best(self, target: Path) -> None:
        """Write the best adapter's folder: weights, tokenizer, configuration, card, and metadata."""
        checkpoint.save_adapter(self.model, target)
        save_tokenizer(self.base.tokenizer, self.base.folder, target)
        settings = self.ctx.settings.model_dump(mode="json", exclude_none=True)
        (target / "config.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
        step = self.losses[-1][0] if self.losses else 0
        score = self.evaluation.score if self.evaluation is not None else None
        if self.evaluation is not None:
            self.best_controls = self.evaluation.controls, self.evaluation.controls_kept
        facts = CardFacts(
            base_model=HUB_NAME if self.base.name == BUILTIN else self.base.name,
            data_file=str(self.data_file),
            forms=self.data.forms,
            examples=self.examples,
            tokens=self.dataset.tokens,
            step=step,
            evaluation=self.evaluation,
            curve=[(number, loss) for number, loss in self.losses if math.isfinite(loss)],
            lora=self.ctx.settings.fine_tuning.lora,
            conversations=self.mostly_conversations,
            held_out=len(self.held_out),
            held_out_loss=self.held_out_loss,
            agreement=None if self.ratings is None else self.ratings.agreement,
            people=self.people,
        )
        (target / "README.md").write_text(model_card(facts), encoding="utf-8")
        self._write_metadata(target, step, score)

    def _write_metadata(self, target: Path, step: int, score: float | None) -> None:
        """Write what the adapter of a step belongs to; `score` is that of an evaluation at this very step."""
        metadata = {
            "base_model": self.base.name,
            **self.base_facts,
            "run": self.ctx.run_id,
            "step": step,
            "score": score,
            "forms": dict(self.data.forms),
            "questions": self.data.number_of(QuestionAnswer),
            "max_new_tokens": self.ctx.settings.fine_tuning.evaluation.max_new_tokens,
            "chat_template": self.mostly_conversations,
            "data": {
                # From the adapter's folder: whoever is given the adapter need not learn where its files lay.
                "file": str(self.data_file) if is_hub_name(self.data_file) else os.path.relpath(self.data_file, target),
                "sha256": self.fingerprint,
                "questions_sha256": questions_fingerprint(self.data.examples),
                "examples": self.examples,
            },
            "prompts": [asdict(prompt) for prompt in self.prompts],
        }
        content = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
        (target / ADAPTER_METADATA).write_text(content, encoding="utf-8")

    def summary(self, result: TrainingResult) -> dict[str, Any]:
        """The run's result, as the store keeps it."""
        return {
            "adapter": str(result.best_folder.absolute()) if result.best_folder else None,
            "steps": result.steps,
            "tokens": result.tokens,
            "loss": result.last_loss,
            "best_score": result.best_score,
            "best_step": result.best_step,
            "controls": self.best_controls and self.best_controls[0],
            "controls_kept": self.best_controls and self.best_controls[1],
            "stopped_by": result.stopped_by,
            "examples": self.examples,
            "held_out": len(self.held_out) or None,
            "held_out_loss": self.held_out_loss,
            "data_file": str(self.data_file),
            "people": None if self.people is None else asdict(self.people),
            "agreement": None if self.ratings is None else self.ratings.agreement.as_json(),
            **{name: self.rewards[name] for name in ("reward_accuracy", "reward_margin") if name in self.rewards},
        }
