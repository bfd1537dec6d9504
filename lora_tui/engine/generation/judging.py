"""From metrics to a verdict: the judge's view, the text metrics, one score by the adaptive aggregator, the threshold.

The aggregator is replayed from the stored feedback when a run begins and does not move while it runs; every decision
names the version of the weights it was made with. A pair is never accepted or rejected because a call failed: without a
judgement the verdict is ``review``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lora_tui.engine.generation.gates import Refusal
from lora_tui.engine.generation.generation_model import Judgement, ProposedPair
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.judge import ten_scale
from lora_tui.scoring.metrics import bleu, exact_match, grounding, rouge, rouge_l_precision, token_f1
from lora_tui.store.generation import Decision

LEAST_GROUNDEDNESS = 0.375
"""Below half-way between the levels 2 and 3, the judge says that the passage does not hold the answer. No other
metric makes up for that: with the prior weights, a groundless pair could still score 7 of 10."""


@dataclass(frozen=True, slots=True)
class PairJudge:
    """What verdicts are made with. `weights_version` is the row of `weight_versions` that decisions name."""

    aggregator: AdaptiveAggregator
    weights_version: int
    threshold: float

    def decide(self, metrics: Mapping[str, float]) -> Decision:
        """Return the verdict on a pair with these metrics."""
        score = ten_scale(self.aggregator.score(metrics))
        groundedness = metrics.get("judge_groundedness", 1.0)
        if groundedness < LEAST_GROUNDEDNESS:
            level = 1 + 4 * groundedness
            return self._decision(
                "rejected", score, "not grounded", f"the judge finds {level:.1f} of 5 of the answer in the passage"
            )
        if score < self.threshold:
            return self._decision("rejected", score, "below threshold", self._why_low(score, metrics))
        return self._decision(
            "accepted", score, "accepted", f"scores {score:g} of 10, the threshold is {self.threshold:g}"
        )

    def review(self, cause: str, reason: str) -> Decision:
        """Return the verdict on a pair that nobody judged."""
        return self._decision("review", None, cause, reason)

    def refuse(self, refusal: Refusal) -> Decision:
        """Return the verdict on a pair that a gate keeps from the judge."""
        return replace(self._decision("rejected", None, refusal.cause, refusal.reason), decided_by="gate")

    def _decision(self, verdict: str, score: float | None, cause: str, reason: str) -> Decision:
        return Decision(verdict, score, self.threshold, self.weights_version, "aggregator", cause, reason)

    def _why_low(self, score: float, metrics: Mapping[str, float]) -> str:
        """Name the metric that cost the most: weight times what is missing."""
        weights = self.aggregator.weights
        worst = max(weights, key=lambda name: weights[name] * (1 - metrics.get(name, 1.0)))
        return (
            f"scores {score:g} of 10, the threshold is {self.threshold:g}; most is lost by "
            f"{metric_in_words(worst)} ({metrics.get(worst, 1.0):.2f} of 1)"
        )


def measure(pair: ProposedPair, passage: str, judgement: Judgement) -> dict[str, float]:
    """Return every metric of a judged pair, 0-1.

    The text metrics hold the answer against the quoted evidence, the one reference that a fresh pair has; against a
    whole passage BLEU and ROUGE mean nothing. `grounding` holds it against the passage.
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


_IN_WORDS = {
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


def metric_in_words(name: str) -> str:
    """Return what a metric is, for people."""
    return _IN_WORDS.get(name, name)
