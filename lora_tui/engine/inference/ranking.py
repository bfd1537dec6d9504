"""Log-probabilities of many short continuations of one long text, which is read once.

The keys and values of a text are kept and shared by all that follows it: a question after a passage, and twenty answers
after the question, cost little more than their own tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.inference.fast_model import FastForm, fast_form
from lora_tui.engine.inference.key_values import ContinuedTextAttention
from lora_tui.engine.inference.matrices import RowAdapters
from lora_tui.engine.inference.padding import padded


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text that a model has read.

    `layers` are keys and values by layer, ``(1, heads, tokens, head size)``; `following` the log-probabilities of the
    token that comes next, ``(vocabulary,)``; `mean` the mean log-probability of the tokens of its last part, in nats,
    and `worst` that of the least probable one.
    `form` is the fast form of the model that read it, and its adapter: what follows is read by the same, and the model
    is not looked through again for each of many short texts. None: transformers' own forward.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    tokens: int
    following: Tensor
    mean: float
    form: FastForm | None = None
    worst: float = 0.0


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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    after: ReadText | None = None,
    *,
    measured: bool = True,
) -> ReadText:
    """Have the model read a text of at least one token, at the beginning or `after` what it has read.

    Without `measured`, its `mean` is not computed, and is 0.
    """
    ids = tokenizer(text, add_special_tokens=after is None, return_tensors="pt")["input_ids"].to(model.device)
    before = after.tokens if after is not None else 0
    form = fast_form(model, ids.tolist(), 0) if after is None else after.form
    logits, layers = _forward(model, form, after, ids, torch.ones_like(ids), None if measured else ids.shape[1] - 1)
    scores = logits[0].log_softmax(-1)
    mean = worst = 0.0
    if measured:
        own = scores[:-1].gather(-1, ids[0, 1:, None])
        if after is not None:
            own = torch.cat([after.following[ids[0, 0]].view(1, 1), own])
        mean, worst = (float(own.mean()), float(own.min())) if len(own) else (0.0, 0.0)
    return ReadText(tuple(layers), before + ids.shape[1], scores[-1], mean, form, worst)


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
        logits, _ = _forward(model, text.form, text, input_ids, mask, None)
        for row, place in enumerate(longer):
            following = torch.tensor(rows[place][1:], device=model.device)
            log_probabilities = logits[row, : len(following)].log_softmax(-1)
            totals[place] += float(log_probabilities.gather(-1, following[:, None]).sum())
    return [ContinuationScore(total, len(ids), first) for total, ids, first in zip(totals, rows, firsts, strict=True)]


def _forward(
    model: PreTrainedModel,
    form: FastForm | None,
    text: ReadText | None,
    ids: Tensor,
    mask: Tensor,
    position: int | None,
) -> tuple[Tensor, Sequence[tuple[Tensor, Tensor]]]:
    """Scores ``(rows, width, vocabulary)``, float32, of rows of tokens `ids` ``(rows, width)`` that continue a text.

    They are padded on the right, as `mask` says; with `position` the scores are those of that place alone. Beside them
    are the keys and values of text and row together, where there is one row.
    """
    rows, width = ids.shape
    before = 0 if text is None else text.tokens
    positions = torch.arange(before, before + width, device=ids.device).expand(rows, -1)
    if form is None or (form[0].max_tokens is not None and before + width > form[0].max_tokens):
        cache = _cache(model, text, rows)
        logits = model(
            input_ids=ids,
            attention_mask=torch.cat([mask.new_ones(rows, before), mask], dim=1),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if position is None else width - position,
        ).logits
        return logits.float(), [(layer.keys, layer.values) for layer in cache.layers]
    fast, adapters = form[0], RowAdapters(everywhere=form[1])
    layers = None if text is None else text.layers
    attention = ContinuedTextAttention(layers, rows, width, fast.scaling)
    hidden = fast.hidden(ids.flatten(), positions.flatten(), attention, adapters)
    if position is not None:
        hidden = hidden.view(rows, width, -1)[:, position:].flatten(0, 1)
    logits = fast.logits(hidden.contiguous(), adapters).view(rows, -1, fast.vocabulary)
    if layers is None or rows > 1:
        return logits, attention.own
    joined = zip(layers, attention.own, strict=True)
    return logits, [(torch.cat([k, own_k], 2), torch.cat([v, own_v], 2)) for (k, v), (own_k, own_v) in joined]


def _cache(model: PreTrainedModel, text: ReadText | None, rows: int) -> DynamicCache:
    """Return a cache that holds what was read, for so many rows; the text's own tensors stay as they are."""
    if text is None:
        return DynamicCache(config=model.config)
    shared = [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in text.layers]
    return DynamicCache(ddp_cache_data=shared, config=model.config)
