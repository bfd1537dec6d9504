"""Evaluation by generation: the model answers the test prompts, and the aggregator weighs each answer's metrics.

The same function scores a model in training, a finished adapter and the bare base model, so their numbers compare.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.evaluation.prompts import TestPrompt
from lora_tui.engine.inference.decode import answers, mean_log_probabilities
from lora_tui.engine.models.build_lock import computing
from lora_tui.protocol.reply import Decoding
from lora_tui.scoring.aggregator import AdaptiveAggregator
from lora_tui.scoring.metrics import likelihood, rouge, text_metrics

_BATCH = 8
"""Prompts that are answered in one batch."""

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
    """One model's evaluation: the mean score, the mean of each metric, and the samples."""

    score: float
    metrics: dict[str, float]
    samples: tuple[ScoredSample, ...]


def score_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TestPrompt],
    aggregator: AdaptiveAggregator,
    max_new_tokens: int,
) -> EvaluationResult:
    """Answer every prompt greedily (the same weights give the same score) and weigh the metrics."""
    samples: list[ScoredSample] = []
    for start in range(0, len(prompts), _BATCH):
        batch = prompts[start : start + _BATCH]
        asked = [prompt.prompt for prompt in batch]
        expected = [(prompt.prompt, f" {prompt.reference}") for prompt in batch]
        with computing():
            replies = answers(model, tokenizer, asked, Decoding(max_new_tokens=max_new_tokens))
            means = mean_log_probabilities(model, tokenizer, expected, end=True)
        for prompt, reply, mean in zip(batch, replies, means, strict=True):
            metrics = _metrics(prompt, reply, mean, tuple(aggregator.weights))
            samples.append(
                ScoredSample(prompt.prompt, prompt.kind, prompt.reference, reply, metrics, aggregator.score(metrics))
            )
    names = samples[0].metrics.keys()
    return EvaluationResult(
        score=math.fsum(sample.score for sample in samples) / len(samples),
        metrics={name: math.fsum(sample.metrics[name] for sample in samples) / len(samples) for name in names},
        samples=tuple(samples),
    )


def _metrics(prompt: TestPrompt, reply: str, mean_log_probability: float, names: Sequence[str]) -> dict[str, float]:
    """Return the metrics of one reply, by name; where the reference must be avoided, all are 1 minus its leakage."""
    if prompt.kind == "expected":
        return {**text_metrics(reply, prompt.reference), "likelihood": likelihood(mean_log_probability)}
    forbidden = prompt.reference.splitlines() if prompt.kind == "unrelated" else [prompt.reference]
    return dict.fromkeys(names, min(_score_of_avoiding(reply, reference) for reference in forbidden))


def _score_of_avoiding(reply: str, reference: str) -> float:
    """Return 0 for a reply that holds the reference, less than 0.5 for one that is much like it, else 1."""
    leaked = rouge(reference, reply)["rougeL"] if reply else 0.0
    return 0.0 if reference.casefold() in reply.casefold() else 1.0 - leaked if leaked >= _LEAK else 1.0
