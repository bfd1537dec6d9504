"""Log-probabilities of many short continuations of one long text, which is read once.

The keys and values of a text are kept and shared by all that follows it: a question after a passage, and twenty answers
after the question, cost little more than their own tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.inference.padding import padded


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text that a model has read.

    `layers` are keys and values by layer, ``(1, heads, tokens, head size)``; `following` the log-probabilities of the
    token that comes next, ``(vocabulary,)``; `mean` the mean log-probability of the tokens of its last part, in nats.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    tokens: int
    following: Tensor
    mean: float


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """Log-probability of a continuation in nats, that of its first token alone, and its number of tokens."""

    total: float
    tokens: int
    first: float = 0.0

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.total / max(1, self.tokens)


@torch.inference_mode()
def read_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, after: ReadText | None = None
) -> ReadText:
    """Have the model read a text of at least one token, at the beginning or `after` what it has read."""
    ids = tokenizer(text, add_special_tokens=after is None, return_tensors="pt")["input_ids"].to(model.device)
    before = after.tokens if after is not None else 0
    cache = _cache(model, after, 1)
    positions = torch.arange(before, before + ids.shape[1], device=model.device)[None]
    logits = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True).logits[0]
    scores = logits.float().log_softmax(-1)
    own = scores[:-1].gather(-1, ids[0, 1:, None])
    if after is not None:
        own = torch.cat([after.following[ids[0, 0]].view(1, 1), own])
    mean = float(own.mean()) if len(own) else 0.0
    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    return ReadText(layers, before + ids.shape[1], scores[-1], mean)


@torch.inference_mode()
def score_continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: ReadText,
    continuations: Sequence[str],
    batch: int = 16,
) -> list[ContinuationScore]:
    """Return how probable the model finds each continuation of what it has read.

    Tokens are cut where the text ends, so a continuation should begin with a space or a line break.
    """
    scores: list[ContinuationScore] = []
    for start in range(0, len(continuations), batch):
        ids = [tokenizer(one, add_special_tokens=False)["input_ids"] for one in continuations[start : start + batch]]
        scores += _score_batch(model, tokenizer, text, ids)
    return scores


def _score_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: ReadText, rows: Sequence[list[int]]
) -> list[ContinuationScore]:
    firsts = [float(text.following[ids[0]]) if ids else 0.0 for ids in rows]
    totals = list(firsts)
    longer = [place for place, ids in enumerate(rows) if len(ids) > 1]
    if longer:
        input_ids, mask = padded(tokenizer, [rows[place][:-1] for place in longer], "right", model.device)
        n, width = input_ids.shape
        logits = model(
            input_ids=input_ids,
            attention_mask=torch.cat([mask.new_ones(n, text.tokens), mask], dim=1),
            position_ids=torch.arange(text.tokens, text.tokens + width, device=model.device).expand(n, -1),
            past_key_values=_cache(model, text, n),
            use_cache=True,
        ).logits
        for row, place in enumerate(longer):
            following = torch.tensor(rows[place][1:], device=model.device)
            log_probabilities = logits[row, : len(following)].float().log_softmax(-1)
            totals[place] += float(log_probabilities.gather(-1, following[:, None]).sum())
    return [ContinuationScore(total, len(ids), first) for total, ids, first in zip(totals, rows, firsts, strict=True)]


def _cache(model: PreTrainedModel, text: ReadText | None, rows: int) -> DynamicCache:
    """Return a cache that holds what was read, for so many rows; the text's own tensors stay as they are."""
    if text is None:
        return DynamicCache(config=model.config)
    shared = [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in text.layers]
    return DynamicCache(ddp_cache_data=shared, config=model.config)
