"""From a proposed pair to its verdict: what keeps it from the judge, then the judge's rating against the threshold.

Screening: the gates are asked, then the index of the run's questions.

The verdict: the judge's metrics and the text metrics become one score by the adaptive aggregator, which is replayed
from the stored feedback when a run begins and does not change while it runs; every decision names the version of its
weights. A pair is never accepted or rejected because a call failed: without a rating the verdict is ``review``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lora_tui.engine.generation.gates import Refusal, check_gates
from lora_tui.engine.generation.generation_model import Judgement, Proposals, ProposedPair, Slot
from lora_tui.engine.generation.near_duplicates import NearDuplicates
from lora_tui.engine.generation.planner import slot_of
from lora_tui.engine.generation.question_types import question_type_of
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.judge import ten_scale
from lora_tui.scoring.metrics import bleu, exact_match, grounding, rouge, rouge_l_precision, token_f1
from lora_tui.scoring.priors import JUDGE_PROBABILITY
from lora_tui.scoring.words import question_key
from lora_tui.secrets import find_secret, redact
from lora_tui.store.rows import Decision, NewPair, PairRow, TaskRow
from lora_tui.text import one_line

MIN_GROUNDEDNESS = 0.375
"""Half-way between the judge's levels 2 and 3. Below, the passage does not hold the answer, and no other metric makes
up for that: with the prior weights, a groundless pair could still score 7 of 10."""

DOUBTFUL = "doubtful number"
"""The cause that such a pair is counted under."""

MIN_CONFIRMED = 0.75
"""Level 4. A number that the judge was asked to work out must have it in groundedness and correctness."""

_METRIC_NAMES = {
    "judge_groundedness": "the judge's groundedness",
    "judge_correctness": "the judge's correctness",
    "judge_usefulness": "the judge's usefulness",
    "coverage": "how much of the answer the evidence holds",
    "grounding": "words that are not in the passage",
    "token_f1": "words shared with the evidence",
    "rougeL": "word order shared with the evidence",
    "bleu": "phrases shared with the evidence",
    "exact_match": "being the evidence itself",
}


@dataclass(frozen=True, slots=True)
class Screened:
    """A proposed pair as it is stored, and why it is kept from the judge: by a gate, or by a question nearly its own.

    `version` is that of the analysis it was asked under, `index_id` its question's in the index of near duplicates,
    None for a pair that is refused.
    """

    new: NewPair
    slot: dict[str, Any]
    version: int
    refusal: Refusal | None
    near: Refusal | None
    index_id: int | None

    def as_row(self, pair_id: int, task: TaskRow) -> PairRow:
        """Return the pair as it is in the store, waiting for its verdict."""
        new = self.new
        return PairRow(
            id=pair_id,
            task_id=task.id,
            chunk_id=task.chunk_id,
            source=task.source,
            question=new.question,
            answer=new.answer,
            evidence=new.evidence,
            topic=new.topic,
            slot=self.slot,
            state="waiting",
            score=None,
            cause="",
            reason="",
        )


def screened(
    task: TaskRow, ordinal: int, pair: ProposedPair, passage: str, version: int, known: NearDuplicates
) -> Screened:
    """Return a pair of a task's reply with what the gates and the questions that are `known` say of it.

    Found out without the store: only it can tell whether the very same question was asked before. A pair that passes
    joins the `known` at once, so that a question of the next reply is held against it before either is stored.
    """
    refusal, near, index_id = check_gates(pair, passage), None, None
    if refusal is None:
        if (other := known.find(pair.question)) is None:
            index_id = known.add(pair.question)
        else:
            shown, similarity = one_line(other[0], 100), other[1]
            near = Refusal("near duplicate", f"nearly the same as «{shown}» ({similarity:.0%} alike)")
    key = question_key(pair.question)
    pair = _without_secrets(pair)
    new = NewPair(
        ordinal=ordinal,
        question=pair.question,
        answer=pair.answer,
        evidence=pair.evidence,
        topic=pair.topic or slot_of(task).topic,
        question_key=key,
    )
    asked = task.slot["question_type"]
    slot = {**task.slot, "question_type": pair.question_type, "asked_type": asked}
    return Screened(new, slot, version, refusal, near, index_id)


def _without_secrets(pair: ProposedPair) -> ProposedPair:
    """Return a pair as it may be stored: one that holds a secret is refused, and what is kept of it holds none."""
    if find_secret(f"{pair.question}\n{pair.answer}\n{pair.evidence}\n{pair.topic}") is None:
        return pair
    question, answer, evidence, topic = map(redact, (pair.question, pair.answer, pair.evidence, pair.topic))
    return replace(pair, question=question, answer=answer, evidence=evidence, topic=topic)


def typed(proposals: Proposals, slot: Slot) -> Proposals:
    """Return proposals whose pairs have the type that their questions have, whatever was asked for."""
    pairs = [
        replace(
            pair, question_type=question_type_of(pair.question, pair.answer, pair.question_type or slot.question_type)
        )
        for pair in proposals.pairs
    ]
    return replace(proposals, pairs=tuple(pairs))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, the metrics (0-1) it rests on, and how they were measured."""

    decision: Decision
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)


def still_waiting(judged: PairRow, state: str, question: str, answer: str) -> bool:
    """Tell whether a pair, as it is now, still waits for the verdict on the text that was `judged`."""
    return state == "waiting" and (judged.question, judged.answer) == (question, answer)


@dataclass(frozen=True, slots=True)
class PairJudge:
    """Weights and threshold (0-10) of the verdicts; `weights_version` is the row of `weight_versions` they name."""

    aggregator: AdaptiveAggregator
    weights_version: int
    threshold: float

    def decide(self, metrics: Mapping[str, float], doubts: Sequence[str] = (), *, can_reckon: bool = True) -> Decision:
        """Return the verdict on a pair with these metrics.

        `doubts` are numbers of the answer that its judge was asked to work out. Where it did not, or cannot be relied
        on for that (`can_reckon`), a person has to: nothing was proved either way, and measures of words or of the
        built-in model tell nothing of it.
        """
        decision = self._decide(metrics)
        levels = [metrics[name] for name in ("judge_groundedness", "judge_correctness") if name in metrics]
        if not doubts or (decision.verdict != "accepted" and len(levels) == 2):
            return decision
        doubt, follows = " and ".join(doubts), "follows" if len(doubts) == 1 else "follow"
        if len(levels) < 2 or not can_reckon:
            reason = f"no judge has worked out {doubt}, which neither evidence nor question says: a person should look"
            return replace(decision, verdict="review", cause=DOUBTFUL, reason=reason)
        if (least := min(levels)) < MIN_CONFIRMED:
            reason = f"the judge does not find that {doubt} {follows} from the passage ({1 + 4 * least:.1f} of 5)"
            return replace(decision, verdict="rejected", cause=DOUBTFUL, reason=reason)
        return replace(decision, reason=f"{decision.reason}; the judge finds that {doubt} {follows} from the passage")

    def _decide(self, metrics: Mapping[str, float]) -> Decision:
        score = ten_scale(self.aggregator.score(metrics))
        if JUDGE_PROBABILITY in metrics:
            return self._decide_by_probability(score)
        groundedness = metrics.get("judge_groundedness", 1.0)
        if groundedness < MIN_GROUNDEDNESS:
            level = 1 + 4 * groundedness
            reason = f"the judge finds {level:.1f} of 5 of the answer in the passage"
            return self._decision("rejected", score, "not grounded", reason)
        if score < self.threshold:
            return self._decision("rejected", score, "below threshold", self._reason_of_low_score(score, metrics))
        reason = f"scores {score:g} of 10, the threshold is {self.threshold:g}"
        return self._decision("accepted", score, "accepted", reason)

    def _decide_by_probability(self, score: float) -> Decision:
        if score < self.threshold:
            reason = (
                f"scores {score:g} of 10, the threshold is {self.threshold:g}: "
                f"of pairs like it, {score:.1f} in ten are sensible and right"
            )
            return self._decision("rejected", score, "below threshold", reason)
        return self._decision(
            "accepted", score, "accepted", f"scores {score:g} of 10, the threshold is {self.threshold:g}"
        )

    def review(self, cause: str, reason: str) -> Decision:
        """Return the verdict on a pair that was not judged."""
        return self._decision("review", None, cause, reason)

    def refuse(self, refusal: Refusal) -> Decision:
        """Return the verdict on a pair that a gate refused, or left to a person."""
        return replace(self._decision(refusal.verdict, None, refusal.cause, refusal.reason), decided_by="gate")

    def _decision(self, verdict: str, score: float | None, cause: str, reason: str) -> Decision:
        return Decision(verdict, score, self.threshold, self.weights_version, "aggregator", cause, reason)

    def _reason_of_low_score(self, score: float, metrics: Mapping[str, float]) -> str:
        """Name the metric that cost most: its weight times what it lacks of 1."""
        weights = self.aggregator.weights
        worst = max(weights, key=lambda name: weights[name] * (1 - metrics.get(name, 1.0)))
        return (
            f"scores {score:g} of 10, the threshold is {self.threshold:g}; most is lost by "
            f"{_METRIC_NAMES.get(worst, worst)} ({metrics.get(worst, 1.0):.2f} of 1)"
        )


def pair_metrics(pair: ProposedPair, passage: str, judgement: Judgement) -> dict[str, float]:
    """Return every metric of a judged pair, 0-1.

    The text metrics compare the answer with the quoted evidence, the one reference that a new pair has: against a whole
    passage BLEU and ROUGE mean nothing. `grounding` compares it with the passage.
    """
    f1 = rouge(pair.answer, pair.evidence)
    return {
        **judgement.metrics,
        "coverage": rouge_l_precision(pair.answer, pair.evidence),
        "grounding": grounding(pair.answer, passage),
        "token_f1": token_f1(pair.answer, pair.evidence),
        "rougeL": f1["rougeL"],
        "rouge1": f1["rouge1"],
        "bleu": bleu(pair.answer, pair.evidence),
        "exact_match": exact_match(pair.answer, pair.evidence),
    }
