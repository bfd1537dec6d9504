"""Evaluation by generation: the model answers the test prompts, and the aggregator weighs each answer's metrics.

Controls are a kind of their own: the score is the mean of the answers that something is expected of, and beside it is
how many controls were kept. Otherwise a model that has learned nothing would have the score of its many controls.

The same function scores a model in training, a finished adapter and the bare base model, so their numbers compare.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.evaluation.prompts import TestPrompt
from lora_tui.engine.inference.decode import answers, mean_log_probabilities
from lora_tui.engine.models.build_lock import computing
from lora_tui.protocol.reply import Decoding
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.features import answer_features
from lora_tui.scoring.metrics import likelihood, rouge
from lora_tui.scoring.priors import FIXED_REPLY
from lora_tui.scoring.words import normalise

KEPT = "kept"
"""The one metric of a control: 1 for a reply that says nothing of what it must not say."""

_BATCH = 16
"""Prompts that are answered side by side, between two looks at whether to stop."""

_LEAK = 0.5
"""ROUGE-L with the avoided answer from which a reply counts as leaking it."""


@dataclass(frozen=True, slots=True)
class ScoredSample(TestPrompt):
    """A test prompt with the model's answer; its metrics and score are in 0-1."""

    answer: str
    metrics: dict[str, float]
    score: float


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """One model's evaluation: the mean score and metrics of the expected answers, the controls, and the samples.

    `overall` is the mean of all samples' scores, controls among them: the best evaluation of a run has the highest.
    Where nothing but controls was asked, score and metrics are theirs.
    """

    score: float
    metrics: dict[str, float]
    samples: tuple[ScoredSample, ...]
    controls: int
    controls_kept: int
    overall: float


def score_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TestPrompt],
    aggregator: AdaptiveAggregator,
    max_new_tokens: int,
    fixed_replies: Collection[str] = (),
    on_answered: Callable[[int], None] = lambda answered: None,
    contexts: Sequence[str] = (),
) -> EvaluationResult:
    """Answer every prompt greedily (the same weights give the same score) and weigh the metrics.

    `fixed_replies` are references that an answer must have word for word, in the form of `words.normalise`.
    `on_answered` is told after each batch how many prompts are answered; what it raises ends the evaluation.
    `contexts`, one for each prompt where there are any, are texts that the model reads before its prompt.
    """
    samples: list[ScoredSample] = []
    before = contexts or [""] * len(prompts)
    for start in range(0, len(prompts), _BATCH):
        batch = prompts[start : start + _BATCH]
        read = zip(before[start : start + _BATCH], batch, strict=True)
        asked = [f"{context}{prompt.prompt}" for context, prompt in read]
        expected = [(text, f" {prompt.reference}") for text, prompt in zip(asked, batch, strict=True)]
        with computing():
            replies = answers(model, tokenizer, asked, Decoding(max_new_tokens=max_new_tokens))
            means = mean_log_probabilities(model, tokenizer, expected, end=True)
        for prompt, reply, mean in zip(batch, replies, means, strict=True):
            metrics = _metrics(prompt, reply, mean, fixed_replies)
            score = metrics[KEPT] if prompt.is_control else aggregator.score(metrics)
            samples.append(ScoredSample(prompt.prompt, prompt.kind, prompt.reference, reply, metrics, score))
        on_answered(len(samples))
    return summarize(samples)


def summarize(samples: Sequence[ScoredSample]) -> EvaluationResult:
    """Average the scores and metrics of the expected answers, and count the controls that were kept."""
    controls = [sample for sample in samples if sample.is_control]
    scored = [sample for sample in samples if not sample.is_control] or controls
    return EvaluationResult(
        score=fmean([sample.score for sample in scored]),
        metrics={name: fmean([sample.metrics[name] for sample in scored]) for name in scored[0].metrics},
        samples=tuple(samples),
        controls=len(controls),
        controls_kept=sum(sample.score >= 1.0 for sample in controls),
        overall=fmean([sample.score for sample in samples]),
    )


def _metrics(
    prompt: TestPrompt, reply: str, mean_log_probability: float, fixed_replies: Collection[str]
) -> dict[str, float]:
    """Return the metrics of one reply, by name; of a control only how far it was kept."""
    if not prompt.is_control:
        return {
            **answer_features(reply, prompt.reference, prompt.prompt),
            "likelihood": likelihood(mean_log_probability),
            FIXED_REPLY: float(normalise(prompt.reference) in fixed_replies),
        }
    forbidden = prompt.reference.splitlines() if prompt.kind == "unrelated" else [prompt.reference]
    return {KEPT: min(_score_of_avoiding(reply, reference) for reference in forbidden)}


def _score_of_avoiding(reply: str, reference: str) -> float:
    """Return 0 for a reply that holds the reference, 0.5 or less for one that is much like it, else 1."""
    leaked = rouge(reference, reply)["rougeL"] if reply else 0.0
    return 0.0 if reference.casefold() in reply.casefold() else 1.0 - leaked if leaked >= _LEAK else 1.0
