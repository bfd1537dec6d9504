"""A GGUF file read back and compared with the model it was made of.

The reader is transformers' own, which shares no line with the writer: it finds the tensors by llama.cpp's names, turns
them back and takes the numbers out of their forms. What is compared are the logits at every position of ten prompts,
and the answers to them, word by word as they would be given.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.export.gguf_file import is_tied
from lora_tui.engine.inference.decode import answers
from lora_tui.engine.models.build_lock import constructing
from lora_tui.errors import LoraTuiError
from lora_tui.protocol.reply import Decoding

FURTHER_PROMPTS = (
    "Question: what is the capital of France?\nAnswer:",
    "Question: why is the sky blue?\nAnswer:",
    "The keeper of the light had a dog,",
    "1, 2, 3, 4, 5,",
    "def largest(numbers):\n    ",
    "Dear all,\n\nthank you for",
    "Über den Wolken",
    "東京は",
    "Name three colours:\n-",
    "In 1897 the first",
)
"""What is asked beside a run's own test prompts, to make ten."""

_PROMPTS, _LONGEST, _ANSWER = 10, 256, 24
_BOUNDS = {"f32": 1e-3, "f16": 0.02, "bf16": 0.15, "q8_0": 0.3, "q6_k": 0.5, "q5_k_m": 0.75, "q5_k_s": 0.75}
_WIDEST_BOUND = 1.5
"""Largest difference of two logits that rounding explains, in standard deviations of a prompt's logits.

Measured with SmolLM2-135M and tiny random models of every family, with room for others; numbers that are in the wrong
place differ by three and more.
"""


@dataclass(frozen=True)
class Expectation:
    """What the model says before it is written: logits of each prompt, (tokens, vocabulary), and its answers."""

    prompts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    logits: tuple[Tensor, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """What the comparison found: the largest difference of two logits, how much they vary, and equal answers."""

    largest_difference: float
    spread: float
    prompts: int
    same_answers: int

    def as_result(self) -> dict[str, Any]:
        """Return it as a run's result holds it."""
        return {
            "largest_logit_difference": round(self.largest_difference, 5),
            "logit_spread": round(self.spread, 3),
            "prompts_compared": self.prompts,
            "same_answers": self.same_answers,
        }


def ten_prompts(own: Sequence[str]) -> tuple[str, ...]:
    """Return a run's own prompts, each once, and further ones to make ten."""
    return tuple(dict.fromkeys([*own[:_PROMPTS], *FURTHER_PROMPTS]))[:_PROMPTS]


def expect(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], stop: threading.Event
) -> Expectation:
    """Ask a model: the one that is about to be written, or the one that was read back."""
    tokens = tuple(tuple(tokenizer(prompt)["input_ids"][-_LONGEST:]) for prompt in prompts)
    logits = tuple(_logits(model, ids) for ids in tokens)
    replies = answers(model, tokenizer, prompts, Decoding(max_new_tokens=_ANSWER), stop)
    return Expectation(tuple(prompts), tokens, logits, tuple(replies))


@dataclass(frozen=True)
class Reader:
    """What the reader is told of the model that was written, which need not be in memory any more."""

    config: Any
    generation_config: Any
    device: torch.device

    @classmethod
    def for_model(cls, model: PreTrainedModel) -> "Reader":
        """Take note of a model; llama.cpp has Mistral's as Llama's."""
        entries = {**model.config.to_dict(), "tie_word_embeddings": is_tied(model)}
        kind: Any = type(model.config)
        if model.config.model_type == "mistral":
            del entries["model_type"]
            kind = LlamaConfig
        return cls(kind.from_dict(entries), model.generation_config, model.device)


def prove(path: Path, expected: Expectation, reader: Reader, form: str, stop: threading.Event) -> Proof:
    """Read a file back and compare.

    Raises `LoraTuiError` where the difference is more than rounding explains, or the tokenizer is not the same.
    """
    tokenizer = _read_tokenizer(path)
    _compare_tokenizers(tokenizer, expected)
    with constructing():
        read = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, config=reader.config, dtype=torch.float32
        )
    read = read.to(reader.device).eval()
    read.generation_config = reader.generation_config
    proof = compare(expect(read, tokenizer, expected.prompts, stop), expected)
    bound = _BOUNDS.get(form, _WIDEST_BOUND) * proof.spread
    if not proof.largest_difference <= bound:
        raise LoraTuiError(
            f"The file's logits differ from the model's by {proof.largest_difference:.2g}, where rounding to {form} "
            f"explains {bound:.2g}: nothing was written. --format merged writes the model in transformers' form."
        )
    return proof


def compare(found: Expectation, expected: Expectation) -> Proof:
    """Return how far a file's model is from what was expected; a logit that is no number is infinitely off."""
    pairs = list(zip(found.logits, expected.logits, strict=True))
    differences = [float((one - other).abs().max()) for one, other in pairs]
    return Proof(
        max(one if math.isfinite(one) else math.inf for one in differences),
        sum(float(other.std()) for _, other in pairs) / len(pairs),
        len(pairs),
        sum(one == other for one, other in zip(found.answers, expected.answers, strict=True)),
    )


def _read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The file's tokenizer; transformers does not know that SmolLM's splits numbers into their digits."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    split = GGUFReader(path).fields.get("tokenizer.ggml.pre")
    if split is not None and split.contents() == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def _compare_tokenizers(tokenizer: PreTrainedTokenizerBase, expected: Expectation) -> None:
    for prompt, wanted in zip(expected.prompts, expected.tokens, strict=True):
        found = tuple(tokenizer(prompt)["input_ids"][-_LONGEST:])
        if found != wanted:
            raise LoraTuiError(
                f"The file's tokenizer reads {prompt[:40]!r} as {len(found)} other tokens than the model's "
                f"({len(wanted)}): nothing was written. --format merged keeps the tokenizer's own files."
            )


@torch.inference_mode()
def _logits(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu()
    return logits
