"""The knowledge test of ``--run evaluate``: facts that were held out from training, asked of both models.

The base model is asked twice: as it is, and with the passage in view. Scores and their paired difference are those of
the other questions (`scoring`, `scoring.paired`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from lora_tui.engine.data.knowledge import KNOWLEDGE_FILE, KnowledgeQuestion, read_knowledge
from lora_tui.engine.data.training_text import prompt_text
from lora_tui.engine.evaluation.held_out import HeldOutQuestions
from lora_tui.engine.evaluation.prompts import TestPrompt
from lora_tui.engine.evaluation.scoring import EvaluationResult
from lora_tui.engine.models.adapter_source import AdapterSource
from lora_tui.engine.review.agreement import estimate_of
from lora_tui.engine.runtime.context import RunContext
from lora_tui.protocol.knowledge import KNOWN, KnowledgeAnswer, KnowledgeTest
from lora_tui.scoring.paired import compare_paired
from lora_tui.text import question_of

MOST_SHOWN = 10
"""Answers that a test lists: those that the fine-tuned model got least of."""

Score = Callable[[PreTrainedModel, Sequence[TestPrompt], Sequence[str], str], Awaitable[EvaluationResult]]
"""Has a model answer prompts, each after a context, and scores the answers; the last argument names the phase."""


@dataclass
class KnowledgeRun:
    """A knowledge test under way: first `ask_base`, then `ask_tuned`, then `result`."""

    questions: HeldOutQuestions
    passages: tuple[str, ...]
    score: Score
    _results: dict[str, EvaluationResult] = field(default_factory=dict)

    @classmethod
    async def of(cls, ctx: RunContext, source: AdapterSource, score: Score) -> "KnowledgeRun | None":
        """Return the test of an adapter; None where its training held no fact out, or none is to be asked."""
        evaluation, seed = ctx.settings.fine_tuning.evaluation, ctx.settings.fine_tuning.training.seed
        found = await asyncio.to_thread(_questions_of, source) if evaluation.held_out_questions else []
        if not found:
            return None
        prompts = tuple(TestPrompt(prompt_text(one.question), "expected", one.answer) for one in found)
        passages = {prompt.prompt: one.passage for prompt, one in zip(prompts, found, strict=True)}
        questions = HeldOutQuestions(prompts, tuple(one.document or None for one in found), len(found), False)
        asked = questions.sample(evaluation.held_out_questions, seed)
        return cls(asked, tuple(passages[prompt.prompt] for prompt in asked.prompts), score)

    async def ask_base(self, model: PreTrainedModel) -> None:
        """Have the base model answer, without the passages and with them."""
        in_view = [f"{passage.strip()}\n\n" for passage in self.passages]
        self._results["base"] = await self._ask(model, [], "held-out facts, base model")
        self._results["in_view"] = await self._ask(model, in_view, "held-out facts, base model with the passage")

    async def ask_tuned(self, model: PreTrainedModel) -> None:
        """Have the fine-tuned model answer."""
        self._results["tuned"] = await self._ask(model, [], "held-out facts, fine-tuned model")

    async def _ask(self, model: PreTrainedModel, contexts: Sequence[str], phase: str) -> EvaluationResult:
        return await self.score(model, self.questions.prompts, contexts, phase)

    def result(self) -> KnowledgeTest:
        """Return what the models know."""
        base, in_view, tuned = (self._results[name] for name in ("base", "in_view", "tuned"))
        scores = {name: [sample.score for sample in found.samples] for name, found in self._results.items()}
        groups = None if None in self.questions.documents else self.questions.documents
        gained = compare_paired(scores["base"], scores["tuned"], groups)
        reading = compare_paired(scores["base"], scores["in_view"], groups)
        answers = [
            KnowledgeAnswer(
                question=question_of(one.prompt),
                reference=one.reference,
                document=document or "",
                base=before.answer,
                tuned=one.answer,
                in_view=read.answer,
                base_score=before.score,
                score=one.score,
                in_view_score=read.score,
            )
            for one, before, read, document in zip(
                tuned.samples, base.samples, in_view.samples, self.questions.documents, strict=True
            )
        ]
        return KnowledgeTest(
            questions=len(answers),
            of=self.questions.of,
            documents=len(self.questions.names),
            tuned=estimate_of(gained.tuned),
            base=estimate_of(gained.base),
            in_view=estimate_of(reading.tuned),
            tuned_known=_known(scores["tuned"]),
            base_known=_known(scores["base"]),
            in_view_known=_known(scores["in_view"]),
            gain=estimate_of(gained.difference),
            verdict=gained.verdict,
            drawn=gained.drawn,
            answers=tuple(sorted(answers, key=lambda one: one.score)[:MOST_SHOWN]),
        )


def _questions_of(source: AdapterSource) -> list[KnowledgeQuestion]:
    """The facts that the adapter's training held out: its run's own copy, whatever lies beside its data by now."""
    return read_knowledge(source.run_folder / KNOWLEDGE_FILE) if source.run_folder is not None else []


def _known(scores: Sequence[float]) -> int:
    return sum(score >= KNOWN for score in scores)
