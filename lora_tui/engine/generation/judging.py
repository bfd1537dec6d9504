"""From a proposed pair to its verdict: gates, then the judge's rating against the threshold.

Gates are checks of one pair that need no model, the cheapest first. The judge is lenient and can be talked round; these
cannot. A weighted score lets a fluent pair make up for an invented number, so what must not happen is refused here.
Each refusal has a cause (a short name that is counted) and a reason in words.

The verdict: the judge's metrics and the text metrics become one score by the adaptive aggregator, which is replayed
from the stored feedback when a run begins and does not change while it runs; every decision names the version of its
weights. A pair is never accepted or rejected because a call failed: without a rating the verdict is ``review``.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lora_tui.engine.generation.generation_model import Judgement, ProposedPair
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.judge import ten_scale
from lora_tui.scoring.metrics import bleu, exact_match, grounding, numbers_supported, rouge, rouge_l_precision, token_f1
from lora_tui.scoring.priors import JUDGE_PROBABILITY
from lora_tui.secrets import find_secret
from lora_tui.store.rows import Decision

_MIN_QUESTION, _MAX_QUESTION, _MAX_ANSWER, _MIN_EVIDENCE = 8, 400, 3000, 12
"""Lengths in characters."""

MIN_GROUNDEDNESS = 0.375
"""Half-way between the judge's levels 2 and 3. Below, the passage does not hold the answer, and no other metric makes
up for that: with the prior weights, a groundless pair could still score 7 of 10."""

# References to the passage. Words such as "context" or "document" are ordinary in many subjects: they count only
# where they point at our passage.
_PASSAGE_WORD = (
    r"(?:texts?|passages?|excerpts?|articles?|documents?|sections?|paragraphs?|contexts?|chapters?|quotes?|snippets?)"
)
_POINTER = r"(?:the|this|that)\ (?:above\ |given\ |provided\ |following\ |preceding\ )?"
_PASSAGE_REFERENCE = re.compile(
    rf"""\b(?:according\ to|based\ on)\ {_POINTER}(?:{_PASSAGE_WORD}|authors?|writer)\b
      | \b(?:stated|described|mentioned|said|noted|discussed|given|presented|listed|explained)\ (?:in|by|above)\b
        (?:\ {_POINTER}(?:{_PASSAGE_WORD}|authors?|writer)\b|(?=\W*$))
      | \b(?:the|this)\ (?:passage|excerpt|snippet)s?\b(?!\ of\b)
      | \b(?:the|this)\ (?:above|given|provided|preceding)\ {_PASSAGE_WORD}\b
      | \b(?:the|this)\ authors?\b(?!\ of\b)
      | \b(?:the|this)\ {_PASSAGE_WORD}\ (?:says?|states?|mentions?|describes?|explains?|suggests?|claims?|argues?)\b
      | \b(?:in|from|of)\ (?:the|this)\ {_PASSAGE_WORD}(?=\W*(?:$|[?.!;]))
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget)\b.{0,30}\b(?:previous|above|prior|all)\b.{0,20}\b(?:instructions?|prompts?)\b"
    r"|\b(?:groundedness|correctness|usefulness)\s*[:=]\s*\d|<\|(?:im_start|im_end|system|user|assistant)\|?>",
    re.IGNORECASE,
)
_HIDDEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a gate keeps a pair from the judge: the cause is counted, the reason is read."""

    cause: str
    reason: str


def check_gates(pair: ProposedPair, passage: str) -> Refusal | None:
    """Return the refusal of the first gate that a pair does not pass, or None."""
    return next(_refusals(pair, passage), None)


def _refusals(pair: ProposedPair, passage: str) -> Iterator[Refusal]:
    question, answer, text = len(pair.question.strip()), len(pair.answer.strip()), f"{pair.question}\n{pair.answer}"
    if question < _MIN_QUESTION or not any(character.isalpha() for character in pair.question):
        yield Refusal("too short", "the question is too short to ask anything")
    if question > _MAX_QUESTION:
        yield Refusal("too long", f"the question has {question:,} characters, the most is {_MAX_QUESTION}")
    if not any(character.isalnum() for character in pair.answer):
        yield Refusal("too short", "the answer holds no word")
    if answer > _MAX_ANSWER:
        yield Refusal("too long", f"the answer has {answer:,} characters, the most is {_MAX_ANSWER:,}")
    if _normalised(pair.question).casefold() == _normalised(pair.answer).casefold():
        yield Refusal("no answer", "the answer repeats the question")
    if len(pair.evidence.strip()) < min(_MIN_EVIDENCE, len(passage.strip())):
        yield Refusal("no evidence", "no sentence of the passage is quoted as evidence")
    if not is_quoted(pair.evidence, passage):
        yield Refusal("no evidence", "the quoted evidence does not occur in the passage")
    if not numbers_supported(_LIST_NUMBER.sub("", pair.answer), passage):
        yield Refusal("wrong number", "a number in the answer does not occur in the passage")
    if found := _PASSAGE_REFERENCE.search(pair.question) or _PASSAGE_REFERENCE.search(pair.answer):
        words = " ".join(found.group().split())
        yield Refusal("leans on the passage", f"«{words}» means nothing to someone who has not seen the passage")
    if kind := find_secret(text):
        yield Refusal("holds a secret", f"it seems to hold {kind}")
    if _HIDDEN.search(text):
        yield Refusal("hidden characters", "it holds characters that nobody can see")
    if _INSTRUCTION.search(text):
        yield Refusal("instructions", "it reads like instructions to a model")


def is_quoted(evidence: str, passage: str) -> bool:
    """Tell whether a quotation occurs in the passage, both NFKC, with typographic signs and white space normalised.

    Parts joined by an ellipsis must occur in their order.
    """
    whole, position = _normalised(passage), 0
    parts = [part for part in re.split(r"\s*(?:\[?\.\.\.\]?|\[?…\]?)\s*", _normalised(evidence).strip("\"' ")) if part]
    for part in parts:
        found = whole.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return bool(parts)


_TYPOGRAPHIC = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "«": '"', "»": '"', "–": "-", "—": "-", "\u2010": "-", "\u2011": "-"}
)


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHIC).split())


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
class PairJudge:
    """Weights and threshold (0-10) of the verdicts; `weights_version` is the row of `weight_versions` they name."""

    aggregator: AdaptiveAggregator
    weights_version: int
    threshold: float

    def decide(self, metrics: Mapping[str, float]) -> Decision:
        """Return the verdict on a pair with these metrics."""
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
        """Return the verdict on a pair that a gate refused."""
        return replace(self._decision("rejected", None, refusal.cause, refusal.reason), decided_by="gate")

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
