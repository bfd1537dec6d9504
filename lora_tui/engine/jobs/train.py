"""The training job: read the data, load the model, say the plan, train, keep the best adapter with its papers.

This is where settings, store and the torch code meet; the mathematics are in `loop` and what it calls.
"""

import asyncio
import math
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from peft import PeftModel

from lora_tui.config import Settings, advise, with_values
from lora_tui.engine.data.examples import Conversation
from lora_tui.engine.data.read import ReadResult
from lora_tui.engine.evaluation.prompts import TestPrompt, resolve_prompts
from lora_tui.engine.evaluation.scoring import EvaluationResult, score_model
from lora_tui.engine.inference.decode import configured_stops
from lora_tui.engine.jobs.evaluate import emit_evaluation
from lora_tui.engine.models.adapter_source import ADAPTER_METADATA
from lora_tui.engine.models.base_model import BaseModel, choose_device, load_base
from lora_tui.engine.models.builtin import BUILTIN, HUB_NAME
from lora_tui.engine.review.aggregators import evaluation_aggregator
from lora_tui.engine.runtime.commands import DONE
from lora_tui.engine.runtime.context import RunContext, Stopped, progress_events
from lora_tui.engine.training import checkpoint
from lora_tui.engine.training.data_plan import data_plan, data_warnings
from lora_tui.engine.training.dataset import TextDataset
from lora_tui.engine.training.loop import Hooks, StepReport, TrainingResult, train_model
from lora_tui.engine.training.lora import create_lora_model, trainable_parameters
from lora_tui.engine.training.model_card import CardFacts, model_card
from lora_tui.engine.training.packing import EncodedExample
from lora_tui.engine.training.pissa import takes_from_base
from lora_tui.engine.training.schedule import total_steps
from lora_tui.engine.training.validation import overfitting
from lora_tui.store import runs
from lora_tui.store.queries.runs import step_columns
from lora_tui.store.training import evaluations


async def train(ctx: RunContext, data_file: Path, data: ReadResult) -> dict[str, Any]:
    """Train on what was read of `data_file`; returns the adapter's folder, the best score and how training ended."""
    device = await ctx.in_torch_thread(choose_device, ctx.settings.fine_tuning.device)
    await ctx.take_device(str(device))
    folder = await _folder(ctx)
    settings = await asyncio.to_thread(_same_precision, ctx, folder)
    base = await ctx.in_torch_thread(load_base, settings, progress_events(ctx.emit))
    ctx.raise_if_stopping()
    work = await ctx.in_torch_thread(_prepare, ctx, base, data, data_file, folder)
    if ctx.resumed:
        await _recall(ctx, work)
    with ctx.commands.handling({"checkpoint": work.save_soon}):
        result = await ctx.in_torch_thread(_train, ctx, work, folder)
    await ctx.flush()
    summary = _summary(work, result)
    if result.stopped_by == "request":
        raise Stopped(summary)
    return summary


async def _recall(ctx: RunContext, work: "_Work") -> None:
    """Take up the losses from before a stop, for the card and the watch on overfitting."""
    done = await step_columns(ctx.store, ctx.run_id)
    work.curve = [point for point in zip(done.step, done.loss, strict=True) if not math.isnan(point[1])]
    work.held_out_curve = [
        (look.step, look.held_out_loss)
        for look in await evaluations(ctx.store, ctx.run_id)
        if look.held_out_loss is not None
    ]
    work.overfits = any(
        overfitting(work.held_out_curve[:looks], work.curve) for looks in range(len(work.held_out_curve) + 1)
    )


async def _folder(ctx: RunContext) -> Path:
    """The run's own folder, which a resumed run finds again. Another store may have had a run of the same number."""
    wanted = Path(ctx.settings.fine_tuning.training.save_dir) / f"run-{ctx.run_id}"
    run = await runs.get(ctx.store, ctx.run_id)
    if ctx.resumed and run is not None and run.folder is not None:
        return Path(run.folder) if Path(run.folder).is_dir() else wanted  # noqa: ASYNC240  # one look at the disk
    names = (wanted, *(wanted.with_name(f"{wanted.name}-{number}") for number in range(2, 10_000)))
    folder = next(name for name in names if not name.exists())
    await ctx.use_folder(folder.absolute())
    return folder


def _same_precision(ctx: RunContext, folder: Path) -> Settings:
    """The settings with the precision that a resumed run began in: "auto" measures, and may come out another way."""
    state = checkpoint.newest_state(folder) if ctx.resumed else None
    if state is None or ctx.settings.fine_tuning.dtype != "auto":
        return ctx.settings
    return with_values(ctx.settings, {"fine_tuning.dtype": state.dtype})


@dataclass
class _Work:
    """Everything a training run is made of, once it has been prepared."""

    base: BaseModel
    model: PeftModel
    dataset: TextDataset
    held_out: list[EncodedExample]
    data: ReadResult
    data_file: Path
    fingerprint: str
    prompts: list[TestPrompt]
    loop: asyncio.AbstractEventLoop
    evaluation: EvaluationResult | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)
    held_out_curve: list[tuple[int, float]] = field(default_factory=list)
    overfits: bool = False
    _save: threading.Event = field(default_factory=threading.Event)

    @property
    def held_out_loss(self) -> float | None:
        """The newest loss on the held-out examples."""
        return self.held_out_curve[-1][1] if self.held_out_curve else None

    def look(self, step: int, loss: float) -> str | None:
        """Note the loss on the held-out examples; returns a warning, once in a run, when they are left behind."""
        self.held_out_curve = [*(entry for entry in self.held_out_curve if entry[0] < step), (step, loss)]
        warning = None if self.overfits else overfitting(self.held_out_curve, self.curve)
        self.overfits = self.overfits or warning is not None
        return warning

    async def save_soon(self) -> str:
        """Have a checkpoint saved after the step that is under way."""
        self._save.set()
        return DONE

    def should_save(self) -> bool:
        """Tell, once for each wish, whether a checkpoint is wanted; asked on the thread that trains."""
        if not self._save.is_set():
            return False
        self._save.clear()
        return True


def _prepare(ctx: RunContext, base: BaseModel, data: ReadResult, data_file: Path, folder: Path) -> _Work:
    fine_tuning = ctx.settings.fine_tuning
    training = fine_tuning.training
    dataset = TextDataset(
        data.examples,
        base.tokenizer,
        training.max_length,
        fine_tuning.sampling.keywords,
        configured_stops(base.model),
    )
    held_out = dataset.hold_out(training.validation_share, training.seed)
    begun = ctx.resumed and takes_from_base(fine_tuning.lora.init_lora_weights)
    first = checkpoint.newest_first_matrices(folder) if begun else None
    model = create_lora_model(base.model, fine_tuning.lora, training.seed, first)
    trained, total = trainable_parameters(model)
    steps = total_steps(
        len(dataset),
        training.batch_size * training.gradient_accumulation_steps,
        training.max_epochs,
        training.max_steps,
    )
    ctx.emit(
        "plan",
        model=base.name,
        device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        **data_plan(data, data_file, dataset, held_out, training),
        steps=steps,
        trainable_parameters=trained,
        parameters=total,
    )
    for warning in data_warnings(dataset, held_out, training):
        ctx.warn(warning)
    shape = base.model.config.get_text_config()
    known = {
        "examples": len(dataset),
        "hidden_size": getattr(shape, "hidden_size", None),
        "model_type": shape.model_type,
    }
    for advice in advise(ctx.settings, optimizer_steps=steps, trainable_parameters=trained, **known):
        if advice.startswith("fine_tuning"):
            ctx.warn(advice)
    prompts, doubt = resolve_prompts(fine_tuning, data.examples)
    if doubt:
        ctx.warn(doubt)
    return _Work(base, model, dataset, held_out, data, data_file, dataset.fingerprint(), prompts, ctx.writer.loop)


def _train(ctx: RunContext, work: _Work, folder: Path) -> TrainingResult:
    """The part that runs on the torch thread."""

    def on_step(report: StepReport) -> None:
        # A resumed run repeats the steps after its last checkpoint.
        work.curve = [*(entry for entry in work.curve if entry[0] < report.step), (report.step, report.loss)]
        ctx.emit("step", **asdict(report))

    def evaluate(step: int) -> float:
        work.evaluation = _evaluate(ctx, work, step, "tuned")
        return work.evaluation.score

    def write_best(target: Path) -> None:
        checkpoint.save_adapter(work.model, target)
        _write_papers(ctx, work, target)

    def on_checkpoint(kind: str, step: int, path: Path, score: float | None) -> None:
        ctx.emit("checkpoint", step=step, kind=kind, path=str(path.absolute()), score=score)

    def write_metadata(target: Path, step: int) -> None:
        checkpoint.write_json(target / ADAPTER_METADATA, _papers(ctx, work, step, None))

    def on_held_out_loss(step: int, loss: float) -> None:
        if warning := work.look(step, loss):
            ctx.warn(warning)

    def note(message: str) -> None:
        ctx.emit("note", message=message)

    hooks = Hooks(
        on_step=on_step,
        evaluate=evaluate,
        write_best=write_best,
        write_metadata=write_metadata,
        on_checkpoint=on_checkpoint,
        should_stop=ctx.stop.is_set,
        warn=ctx.warn,
        should_save=work.should_save,
        note=note,
        on_held_out_loss=on_held_out_loss,
    )
    return train_model(
        work.model,
        work.dataset,
        ctx.settings.fine_tuning,
        folder,
        hooks,
        resume=ctx.resumed,
        held_out=work.held_out,
    )


def _evaluate(ctx: RunContext, work: _Work, step: int, name: str) -> EvaluationResult:
    """Score the model with the weights that the feedback so far has made, and report it."""
    settings = ctx.settings.fine_tuning.evaluation
    future = asyncio.run_coroutine_threadsafe(evaluation_aggregator(ctx.store, settings.adaptive_aggregator), work.loop)
    aggregator, version = future.result()
    scored = score_model(work.model, work.base.tokenizer, work.prompts, aggregator, settings.max_new_tokens)
    emit_evaluation(ctx, scored, aggregator, version, step, name, work.held_out_loss)
    return scored


def _write_papers(ctx: RunContext, work: _Work, target: Path) -> None:
    """Write what belongs beside an adapter: tokenizer, configuration, card, and what it was trained for."""
    work.base.tokenizer.save_pretrained(target)
    settings = ctx.settings.model_dump(mode="json", exclude_none=True)
    (target / "config.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    step = work.curve[-1][0] if work.curve else 0
    score = work.evaluation.score if work.evaluation is not None else None
    facts = CardFacts(
        base_model=HUB_NAME if work.base.name == BUILTIN else work.base.name,
        data_file=str(work.data_file),
        forms=work.data.forms,
        examples=len(work.dataset),
        tokens=work.dataset.tokens,
        step=step,
        score=score,
        evaluation=work.evaluation,
        curve=[(number, loss) for number, loss in work.curve if math.isfinite(loss)],
        lora=ctx.settings.fine_tuning.lora,
        conversations=_mostly_conversations(work.data),
        held_out=len(work.held_out),
        held_out_loss=work.held_out_loss,
    )
    (target / "README.md").write_text(model_card(facts), encoding="utf-8")
    checkpoint.write_json(target / ADAPTER_METADATA, _papers(ctx, work, step, score))


def _papers(ctx: RunContext, work: _Work, step: int, score: float | None) -> dict[str, Any]:
    """What the adapter of a step belongs to; `score` is that of an evaluation at this very step."""
    return {
        "base_model": work.base.name,
        "run": ctx.run_id,
        "step": step,
        "score": score,
        "forms": dict(work.data.forms),
        "max_new_tokens": ctx.settings.fine_tuning.evaluation.max_new_tokens,
        "chat_template": _mostly_conversations(work.data),
        "data": {"file": str(work.data_file), "sha256": work.fingerprint, "examples": len(work.dataset)},
        "prompts": [asdict(prompt) for prompt in work.prompts],
    }


def _mostly_conversations(data: ReadResult) -> bool:
    """Tell whether a chat with this adapter should use the model's chat template instead of ``Question: …``."""
    return 2 * sum(isinstance(example, Conversation) for example in data.examples) > len(data.examples)


def _summary(work: _Work, result: TrainingResult) -> dict[str, Any]:
    return {
        "adapter": str(result.best_folder.absolute()) if result.best_folder else None,
        "steps": result.steps,
        "tokens": result.tokens,
        "loss": result.last_loss,
        "best_score": result.best_score,
        "best_step": result.best_step,
        "stopped_by": result.stopped_by,
        "examples": len(work.dataset),
        "held_out": len(work.held_out) or None,
        "held_out_loss": work.held_out_loss,
        "data_file": str(work.data_file),
    }
