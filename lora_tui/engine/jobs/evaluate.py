"""The job of ``--run evaluate``: an adapter and its base model on the same prompts and held-out questions.

The test prompts are those of training; the held-out questions were not trained on, where there are enough documents
nothing about theirs was. What came of it is written as a report beside the adapter.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.config.models import Evaluation
from lora_tui.engine.data.examples import Example
from lora_tui.engine.data.holdout import question_digest, questions_fingerprint
from lora_tui.engine.data.read import examples_if_there, read_examples
from lora_tui.engine.evaluation.held_out import (
    HeldOutQuestions,
    documents_by_question,
    held_out_order,
    questions_of,
    read_held_out,
)
from lora_tui.engine.evaluation.own_prompts import template_renderer
from lora_tui.engine.evaluation.prompts import TestPrompt, fixed_replies, resolve_prompts
from lora_tui.engine.evaluation.scoring import EvaluationResult, ScoredSample, score_model, summarize
from lora_tui.engine.jobs.knowledge import KnowledgeRun
from lora_tui.engine.jobs.report import compare_rows, write_adapter_report
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.models.adapters import load_adapter
from lora_tui.engine.models.base_model import load_base
from lora_tui.engine.review.aggregators import EVALUATION, evaluation_aggregator
from lora_tui.engine.review.agreement import RatingStatistics, estimate_of, rating_statistics
from lora_tui.engine.runtime.context import RunContext, progress_events
from lora_tui.errors import UsageError
from lora_tui.protocol.comparison import WORST, ComparedAnswer, HeldOutComparison
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.paired import compare_paired
from lora_tui.store.connection import Store
from lora_tui.store.training import evaluations, passed_over
from lora_tui.store.training import samples as stored_samples

HELD_OUT = "_held_out"
"""What the model's name ends with in the evaluation event of the held-out questions."""


async def evaluate_adapter(ctx: RunContext, source: AdapterSource) -> dict[str, Any]:
    """Score one adapter and its base model, and emit an ``evaluation`` event for each; then compare and report.

    Where there are held-out questions, both answer these too: two more events, and a ``comparison``.
    """
    prompts = await asyncio.to_thread(_prompts, ctx, source)
    base = await ctx.in_torch_thread(
        load_base, ctx.settings, progress_events(ctx.emit), source.base_model(ctx.settings)
    )
    ctx.raise_if_stopping()
    evaluation = ctx.settings.fine_tuning.evaluation
    max_new_tokens = evaluation.max_new_tokens
    if max_new_tokens == Evaluation().max_new_tokens:  # as in the adapter's training, so that scores compare
        max_new_tokens = int(source.metadata.get("max_new_tokens", max_new_tokens))
    aggregator, version = await evaluation_aggregator(ctx.store, evaluation.adaptive_aggregator)
    ratings = await rating_statistics(ctx.store, EVALUATION, evaluation.adaptive_aggregator.learning_rate)
    fixed = fixed_replies(ctx.settings.fine_tuning)
    scorer = _Scorer(ctx, base.tokenizer, aggregator, max_new_tokens, fixed)
    base_result = await answers_before_training(ctx.store, ctx.run_id, prompts, aggregator)
    if base_result is None:
        base_result = await scorer.score(base.model, prompts)
    emit_evaluation(ctx, base_result, aggregator, version, 0, "base", ratings=ratings)
    ctx.raise_if_stopping()
    documents = await documents_by_question(ctx.store)
    questions = await ctx.in_torch_thread(_held_out_questions, ctx, source, base.tokenizer, documents)
    held_out: dict[str, EvaluationResult] = {}
    if questions is not None:
        held_out["base"] = await scorer.score(base.model, questions.prompts, (), _asking("base"))
    knowledge = await KnowledgeRun.of(ctx, source, scorer.score)
    if knowledge is not None:
        await knowledge.ask_base(base.model)
    model = await ctx.in_torch_thread(load_adapter, base, source)
    tuned_result = await scorer.score(model, prompts)
    emit_evaluation(ctx, tuned_result, aggregator, version, source.step, "tuned", ratings=ratings)
    comparison = None
    if questions is not None:
        held_out["tuned"] = await scorer.score(model, questions.prompts, (), _asking("tuned"))
        for name, step in (("base", 0), ("tuned", source.step)):
            emit_evaluation(ctx, held_out[name], aggregator, version, step, f"{name}{HELD_OUT}", ratings=ratings)
        comparison = _compare(questions, held_out["base"], held_out["tuned"], ctx.options.get("train_data_file"))
        ctx.emit("comparison", step=source.step, **comparison.as_json())
    known = None
    if knowledge is not None:
        await knowledge.ask_tuned(model)
        known = knowledge.result()
        ctx.emit("knowledge", step=source.step, **known.as_json())
    report = await write_adapter_report(ctx, source, base.name, base_result, tuned_result, comparison, ratings, known)
    return {
        "rows": compare_rows(base_result, tuned_result),
        "base_score": base_result.score,
        "tuned_score": tuned_result.score,
        **compare_controls(base_result, tuned_result),
        "adapter": str(source.folder),
        "adapter_run": source.run_id,
        "base_model": base.name,
        "comparison": None if comparison is None else comparison.as_json(),
        "knowledge": None if known is None else known.as_json(),
        "report": None if report is None else str(report),
        "agreement": ratings.agreement.as_json(),
    }


@dataclass(frozen=True)
class _Scorer:
    """Has models answer prompts, all in the same way, and scores the answers."""

    ctx: RunContext
    tokenizer: PreTrainedTokenizerBase
    aggregator: AdaptiveAggregator
    max_new_tokens: int
    fixed_replies: Collection[str]

    async def score(
        self, model: PreTrainedModel, asked: Sequence[TestPrompt], contexts: Sequence[str] = (), phase: str = ""
    ) -> EvaluationResult:
        """Return a model's answers to prompts, each with its context before it; a `phase` is told how far it is."""

        def told(answered: int) -> None:
            if phase:
                self.ctx.emit("progress", phase=phase, done=answered, total=len(asked))
                self.ctx.raise_if_stopping()

        told(0)
        return await self.ctx.in_torch_thread(
            score_model,
            model,
            self.tokenizer,
            asked,
            self.aggregator,
            self.max_new_tokens,
            self.fixed_replies,
            told,
            contexts,
        )


def _asking(whose: str) -> str:
    """The phase in which a model is asked the held-out questions."""
    return f"held-out questions, {whose} model"


def _held_out_questions(
    ctx: RunContext, source: AdapterSource, tokenizer: PreTrainedTokenizerBase, documents: Mapping[int, str]
) -> HeldOutQuestions | None:
    """The questions to ask that were not trained on: those of ``--train-data-file``, else what training held out.

    Of more than ``held_out_questions`` a sample, always the same one for the seed.
    """
    most, seed = ctx.settings.fine_tuning.evaluation.held_out_questions, ctx.settings.fine_tuning.training.seed
    named = ctx.options.get("train_data_file")
    if not most and named is None:
        return None
    if named is not None:
        found: HeldOutQuestions | None = _questions_of_file(Path(named), source, tokenizer, documents, ctx.warn)
    else:
        found = read_held_out(source.run_folder) if source.run_folder is not None else None
    return None if found is None or not found.prompts else found.sample(most or len(found.prompts), seed)


def _questions_of_file(
    path: Path,
    source: AdapterSource,
    tokenizer: PreTrainedTokenizerBase,
    documents: Mapping[int, str],
    warn: Callable[[str], None],
) -> HeldOutQuestions:
    """The questions of a file but for those that the adapter was trained on; raises `UsageError` where none is left.

    Where it is not known what was trained on, only those are left that the training held out, if it wrote that down.
    """
    examples = read_examples(path).examples
    known, training_known = _trained_examples(source, examples)
    held_out = held_out_order(source.run_folder) if source.run_folder is not None else None
    trained = {question_digest(example) for example in known} - set(held_out or ())
    unseen = [example for example in examples if question_digest(example) not in trained]
    held_out_only = not training_known and held_out is not None
    if not training_known and held_out is not None:
        unseen = [example for example in unseen if question_digest(example) in held_out]
    about = {documents.get(digest) for digest in trained}
    found = questions_of(unseen, documents, template_renderer(tokenizer))
    gone = f"the data that {source.folder} was trained on is missing or may have changed"
    if not found.prompts:
        if not training_known:
            raise UsageError(
                f"{path} holds no question that is known not to be trained on: {gone}. Restore it, or leave "
                "--train-data-file out."
            )
        raise UsageError(f"{path} holds no question that the adapter was not trained on; name another file.")
    whole = bool(found.names) and None not in about.union(found.documents) and not about.intersection(found.names)
    if not training_known:
        doubt = "only what training held out is asked" if held_out_only else "some of it may have been trained on"
        warn(f"{path}: {doubt}, because {gone}.")
    return replace(found, whole_documents=whole and training_known, unseen=training_known or held_out_only)


def _trained_examples(source: AdapterSource, named: Sequence[Example]) -> tuple[Sequence[Example], bool]:
    """What the adapter's training file holds, and whether it is what was trained on; `named` may be that file, moved.

    Adapters of before the fingerprint count as unknown: what lies at the path may be another file.
    """
    wanted, path = (source.metadata.get("data") or {}).get("questions_sha256"), source.training_file
    if wanted is not None and questions_fingerprint(named) == wanted:
        return named, True
    stored = examples_if_there(path) or ()
    return stored, wanted is not None and questions_fingerprint(stored) == wanted


def _compare(
    questions: HeldOutQuestions, base: EvaluationResult, tuned: EvaluationResult, named: str | None
) -> HeldOutComparison:
    """Compare the answers to the held-out questions, pair by pair."""
    scores = [[sample.score for sample in result.samples] for result in (base, tuned)]
    groups = None if None in questions.documents else questions.documents
    found = compare_paired(scores[0], scores[1], groups)
    answers = [
        ComparedAnswer(
            after.prompt, after.reference, document or "", before.answer, after.answer, before.score, after.score
        )
        for before, after, document in zip(base.samples, tuned.samples, questions.documents, strict=True)
    ]

    return HeldOutComparison(
        questions=found.questions,
        of=questions.of,
        documents=found.groups,
        whole_documents=questions.whole_documents,
        drawn=found.drawn,
        base=estimate_of(found.base),
        tuned=estimate_of(found.tuned),
        difference=estimate_of(found.difference),
        wins=found.wins,
        ties=found.ties,
        losses=found.losses,
        verdict=found.verdict,
        worst=tuple(sorted(answers, key=lambda one: one.score)[:WORST]),
        source=named or "",
        unseen=questions.unseen,
        without_document=questions.documents.count(None),
    )


async def answers_before_training(
    store: Store, run_id: int, prompts: Sequence[TestPrompt], aggregator: AdaptiveAggregator
) -> EvaluationResult | None:
    """What the base model answered these prompts earlier in the same run, weighed anew; None where it was not asked.

    It answers greedily, so a quickstart, which asks it before training, need not ask it again.
    """
    asked = [row for row in await evaluations(store, run_id) if row.model == "base" and row.step == 0]
    rows = await stored_samples(store, asked[0].id) if asked else []
    answered = [(row.prompt, row.kind, row.reference) for row in rows]
    if not rows or answered != [(prompt.prompt, prompt.kind, prompt.reference) for prompt in prompts]:
        return None
    return summarize(
        [
            ScoredSample(
                *(prompt.prompt, prompt.kind, prompt.reference, row.answer, row.metrics),
                score=row.score if prompt.is_control else aggregator.score(row.metrics),
            )
            for prompt, row in zip(prompts, rows, strict=True)
        ]
    )


def emit_evaluation(
    ctx: RunContext,
    result: EvaluationResult,
    aggregator: AdaptiveAggregator,
    version: int,
    step: int,
    name: str,
    held_out_loss: float | None = None,
    ratings: RatingStatistics | None = None,
) -> None:
    """Emit an ``evaluation`` event for the model called `name` (``tuned`` or ``base``).

    `held_out_loss` is the loss on the examples that a training run holds out, where it holds out any. From `ratings`
    come the event's ``agreement``, and in ``people`` the mean that people would give the answers, with its interval.
    """
    people = None
    if ratings is not None:
        people = ratings.mean([sample.score for sample in result.samples if sample.kind == "expected"])
    ctx.emit(
        "evaluation",
        step=step,
        model=name,
        weights=dict(aggregator.weights),
        weights_version=version,
        held_out_loss=held_out_loss,
        agreement=None if ratings is None else ratings.agreement.as_json(),
        people=None if people is None else asdict(people),
        **asdict(result),
    )


async def higher_score(ctx: RunContext) -> dict[str, Any]:
    """Return a training run's ``passed_over``: a score above that of its best evaluation, which did better on controls.

    Empty where the best scored highest, and for preference training, whose best is found in another way.
    """
    tuned = [one for one in await evaluations(ctx.store, ctx.run_id) if one.model == "tuned"]
    found = passed_over(tuned) if ctx.settings.fine_tuning.method == "sft" else None
    if found is None:
        return {}
    why = f"score {found.score:.2f} at step {found.step:,}: it did worse on the controls"
    return {"passed_over": {"score": found.score, "step": found.step, "summary": why}}


def compare_controls(base_result: EvaluationResult, tuned_result: EvaluationResult) -> dict[str, int]:
    """Return how many controls there are and how many each model kept; nothing where there are none."""
    if not tuned_result.controls:
        return {}
    return {
        "controls": tuned_result.controls,
        "controls_kept": tuned_result.controls_kept,
        "base_controls_kept": base_result.controls_kept,
    }


def _prompts(ctx: RunContext, source: AdapterSource) -> list[TestPrompt]:
    """Return the test prompts: the adapter's own, from its training, unless the configuration changes them.

    Configured ones are resolved with the adapter's training data where that still exists.
    """
    fine_tuning, documented = ctx.settings.fine_tuning, Evaluation()
    asked, expected = fine_tuning.evaluation.test_prompts, fine_tuning.evaluation.expected_response
    if source.prompts and (asked, expected) == (documented.test_prompts, documented.expected_response):
        return [TestPrompt(**prompt) for prompt in source.prompts]
    examples = examples_if_there(source.training_file)
    prompts, warning = resolve_prompts(fine_tuning, examples)
    if warning:
        ctx.warn(warning)
    return prompts
