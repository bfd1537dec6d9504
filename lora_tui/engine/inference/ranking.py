"""Log-probabilities of many short continuations of long texts, each of which is read once.

The keys and values of a text are kept and shared by all that follows it: questions after a passage, and twenty answers
after each question, cost little more than their own tokens. What follows the same text is read in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from lora_tui.engine.inference.fast_model import FastForm, fast_form
from lora_tui.engine.inference.key_values import KeyValueCache, PromptAttention, Span
from lora_tui.engine.inference.matrices import RowAdapters
from lora_tui.engine.inference.readers import padded

_ROWS = 64
"""Continuations that are read in one pass: keys and values of their question are copied for each."""

_BLOCK = 16
"""Tokens by which such a copy grows: most are short."""

_TOKENS = 1024
"""Tokens of whole texts that are read in one pass."""

_PADDED_ROWS = 16
"""Continuations that transformers' forward reads in one pass; it gives the scores of all tokens."""


@dataclass(frozen=True, slots=True)
class _FastText:
    """A text in the fast form: the first `prefix_tokens` at the first place of `prefix`, the other `tokens` in `cache`.

    `form` is the fast form of the model that read it, and its adapter: what follows is read by the same, and the model
    is not looked through again for each of many short texts.
    """

    form: FastForm
    cache: KeyValueCache
    place: int
    tokens: int
    prefix: KeyValueCache | None = None
    prefix_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text of so many `tokens` that a model has read.

    `following` are the log-probabilities of the token that comes next, ``(vocabulary,)``; `mean` is the mean
    log-probability of the tokens of its last part, in nats, and `worst` that of the least probable one; `each` has all
    of them, but for the first of a text at the beginning. `kept` is the text in the model's fast form, or keys and
    values by layer, ``(1, heads, tokens, head size)``, of transformers' own forward.
    """

    tokens: int
    following: Tensor
    mean: float
    worst: float
    kept: "_FastText | tuple[tuple[Tensor, Tensor], ...]"
    each: tuple[float, ...] = ()


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


def read_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    after: ReadText | None = None,
    *,
    measured: bool = True,
) -> ReadText:
    """Have the model read a text; see `read_texts`."""
    return read_texts(model, tokenizer, [text], after, measured=measured)[0]


@torch.inference_mode()
def read_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    after: ReadText | None = None,
    *,
    measured: bool = True,
) -> list[ReadText]:
    """Have the model read texts of at least one token each, at the beginning or all `after` what it has read.

    Without `measured`, their `mean` and `worst` are not computed, and are 0.
    """
    rows: list[list[int]] = [tokenizer(text, add_special_tokens=after is None)["input_ids"] for text in texts]
    if after is None:
        form = fast_form(model, rows, 0)
    else:
        form = after.kept.form if isinstance(after.kept, _FastText) and _fits(after, rows) else None
    if form is not None:
        return _read_fast(form, rows, after, measured=measured)
    return [_read_plainly(model, ids, after, measured=measured) for ids in rows]


@torch.inference_mode()
def score_continuations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[tuple[ReadText, Sequence[str]]]
) -> list[list[ContinuationScore]]:
    """Return how probable the model finds each continuation of each text that it has read.

    Tokens are cut where the text ends, so a continuation should begin with a space or a line break.
    """
    rows = [
        _Continuation(text, tokenizer(one, add_special_tokens=False)["input_ids"])
        for text, continuations in asked
        for one in continuations
    ]
    together: dict[tuple[bool, int], list[_Continuation]] = {}  # those that share their beginning, in the fast form
    for row in rows:
        kept = row.text.kept
        if len(row.ids) > 1:
            is_fast = isinstance(kept, _FastText) and _fits(row.text, [row.ids])
            shared = _divided(kept)[0] if is_fast and isinstance(kept, _FastText) else row.text
            together.setdefault((is_fast, id(shared)), []).append(row)
    for (is_fast, _), alike in together.items():
        size = _ROWS if is_fast else _PADDED_ROWS
        for start in range(0, len(alike), size):
            part = alike[start : start + size]
            if is_fast:
                _score_fast(part)
            else:
                _score_plainly(model, tokenizer, part)
    scores = iter(rows)
    return [[next(scores).score() for _ in continuations] for _, continuations in asked]


def token_log_probabilities(form: FastForm, rows: Sequence[tuple[list[int], int]]) -> list[list[float]]:
    """For each text of tokens and a place in it, at least 1: log-probabilities of the tokens from there on, in nats."""
    found, start = list[list[float]](), 0
    while start < len(rows):
        end, tokens = start, 0
        while end < len(rows) and (end == start or tokens + len(rows[end][0]) <= _TOKENS):
            tokens += len(rows[end][0])
            end += 1
        texts, starts = [ids for ids, _ in rows[start:end]], [place for _, place in rows[start:end]]
        _, spans, hidden = _read_on(form, [None] * len(texts), texts)
        found += _following_tokens(form, hidden, spans, texts, starts)
        start = end
    return found


@dataclass(slots=True)
class _Continuation:
    """Tokens that follow a text; `later` is the log-probability of all after the first, in nats."""

    text: ReadText
    ids: list[int]
    later: float = 0.0

    def score(self) -> ContinuationScore:
        first = float(self.text.following[self.ids[0]]) if self.ids else 0.0
        return ContinuationScore(first + self.later, len(self.ids), first)


def _fits(text: ReadText, rows: Sequence[Sequence[int]]) -> bool:
    """Whether rows of tokens may follow a text in the fast form of its model."""
    assert isinstance(text.kept, _FastText)
    most = text.kept.form[0].max_tokens
    return most is None or text.tokens + max(map(len, rows)) <= most


def _divided(text: _FastText) -> tuple[KeyValueCache | None, int, int]:
    """What follows a text shares its beginning: the cache where it is, how many tokens, and how many are to be copied.

    A text that lies at the first place of its cache is such a beginning as a whole.
    """
    if text.prefix is None and text.place == 0:
        return text.cache, text.tokens, 0
    return text.prefix, text.prefix_tokens, text.tokens


def _read_on(
    form: FastForm, texts: Sequence[_FastText | None], rows: Sequence[list[int]]
) -> tuple[KeyValueCache, list[Span], Tensor]:
    """Read rows of tokens, each after its text, all of which share their beginning, or at the beginning.

    Returns the cache of what is not shared, where each row is, and the hidden states of all tokens one below the other.
    """
    fast, adapter = form
    prefix, prefix_tokens, _ = (None, 0, 0) if texts[0] is None else _divided(texts[0])
    copied = [0 if text is None else _divided(text)[2] for text in texts]
    cache = fast.new_cache()
    cache.reserve(len(rows), max(before + len(ids) for before, ids in zip(copied, rows, strict=True)), block=_BLOCK)
    spans, positions, start = list[Span](), list[int](), 0
    for place, (text, before, ids) in enumerate(zip(texts, copied, rows, strict=True)):
        if text is not None and before:
            cache.copy_from(text.cache, text.place, place, before)
        spans.append(Span(place, start, start + len(ids), before))
        positions += range(prefix_tokens + before, prefix_tokens + before + len(ids))
        start += len(ids)
    tokens = torch.tensor([token for ids in rows for token in ids], device=fast.device)
    attention = PromptAttention(cache, spans, fast.scaling, prefix, prefix_tokens)
    hidden = fast.hidden(
        tokens, torch.tensor(positions, device=fast.device), attention, RowAdapters(everywhere=adapter)
    )
    return cache, spans, hidden


def _read_fast(form: FastForm, rows: Sequence[list[int]], after: ReadText | None, *, measured: bool) -> list[ReadText]:
    fast, adapter = form
    before = after.kept if after is not None else None
    assert before is None or isinstance(before, _FastText)
    prefix, prefix_tokens, _ = (None, 0, 0) if before is None else _divided(before)
    cache, spans, hidden = _read_on(form, [before] * len(rows), rows)
    lasts = hidden[[span.end - 1 for span in spans]]
    following = fast.logits(lasts, RowAdapters(everywhere=adapter)).log_softmax(-1)
    parts = [list[float]() for _ in rows]
    if measured:
        parts = _following_tokens(form, hidden, spans, rows, [1] * len(rows))
        if after is not None:
            parts = [[float(after.following[ids[0]]), *own] for ids, own in zip(rows, parts, strict=True)]
    return [
        ReadText(
            prefix_tokens + span.before + len(ids),
            following[place],
            sum(own) / max(1, len(own)),
            min(own, default=0.0),
            _FastText(form, cache, place, span.before + len(ids), prefix, prefix_tokens),
            tuple(own),
        )
        for place, (span, ids, own) in enumerate(zip(spans, rows, parts, strict=True))
    ]


def _following_tokens(
    form: FastForm, hidden: Tensor, spans: Sequence[Span], rows: Sequence[list[int]], starts: Sequence[int]
) -> list[list[float]]:
    """Log-probabilities of the tokens of each row from a place on, at least 1; a span may lack its row's last token."""
    fast, adapter = form
    targets = [ids[start:] for ids, start in zip(rows, starts, strict=True)]
    wanted = [target for own in targets for target in own]
    if not wanted:
        return [[] for _ in spans]
    places = [
        span.start + start - 1 + place
        for span, own, start in zip(spans, targets, starts, strict=True)
        for place in range(len(own))
    ]
    at = torch.tensor(places, device=fast.device)
    found = fast.log_probabilities(hidden[at], torch.tensor(wanted, device=fast.device), adapter)
    return [part.tolist() for part in torch.split(found, [len(own) for own in targets])]


def _score_fast(rows: Sequence[_Continuation]) -> None:
    texts = [row.text.kept for row in rows]
    first = texts[0]
    assert isinstance(first, _FastText)
    fast_texts = [text for text in texts if isinstance(text, _FastText)]
    _, spans, hidden = _read_on(first.form, fast_texts, [row.ids[:-1] for row in rows])
    found = _following_tokens(first.form, hidden, spans, [row.ids for row in rows], [1] * len(rows))
    for row, own in zip(rows, found, strict=True):
        row.later = sum(own)


def _read_plainly(model: PreTrainedModel, ids: list[int], after: ReadText | None, *, measured: bool) -> ReadText:
    input_ids = torch.tensor([ids], device=model.device)
    logits, layers = _forward(model, after, input_ids, torch.ones_like(input_ids), None if measured else len(ids) - 1)
    scores = logits[0].log_softmax(-1)
    each: tuple[float, ...] = ()
    if measured:
        own = scores[:-1].gather(-1, input_ids[0, 1:, None])
        if after is not None:
            own = torch.cat([after.following[ids[0]].view(1, 1), own])
        each = tuple(own[:, 0].tolist())
    tokens = (0 if after is None else after.tokens) + len(ids)
    mean, worst = sum(each) / max(1, len(each)), min(each, default=0.0)
    return ReadText(tokens, scores[-1], mean, worst, tuple(layers), each)


def _score_plainly(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[_Continuation]) -> None:
    input_ids, mask = padded(tokenizer, [row.ids[:-1] for row in rows], "right", model.device)
    logits, _ = _forward(model, rows[0].text, input_ids, mask, None)
    for place, row in enumerate(rows):
        following = torch.tensor(row.ids[1:], device=model.device)
        log_probabilities = logits[place, : len(following)].log_softmax(-1)
        row.later = float(log_probabilities.gather(-1, following[:, None]).sum())


def _forward(
    model: PreTrainedModel, text: ReadText | None, ids: Tensor, mask: Tensor, position: int | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Scores ``(rows, width, vocabulary)``, float32, of rows of tokens `ids` ``(rows, width)`` that continue a text.

    They are padded on the right, as `mask` says; with `position` the scores are those from that place on. Beside them
    are the keys and values of text and row together.
    """
    rows, width = ids.shape
    before = 0 if text is None else text.tokens
    cache = _transformers_cache(model, text, rows)
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([mask.new_ones(rows, before), mask], dim=1),
        position_ids=torch.arange(before, before + width, device=ids.device).expand(rows, -1),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=0 if position is None else width - position,
    ).logits
    return logits.float(), [(layer.keys, layer.values) for layer in cache.layers]


def _transformers_cache(model: PreTrainedModel, text: ReadText | None, rows: int) -> DynamicCache:
    """Return a cache that holds what was read, for so many rows; the text's own tensors stay as they are."""
    if text is None:
        return DynamicCache(config=model.config)
    layers = _layers(text.kept) if isinstance(text.kept, _FastText) else text.kept
    shared = [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in layers]
    return DynamicCache(ddp_cache_data=shared, config=model.config)


def _layers(text: _FastText) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of a text by layer, ``(1, key heads, tokens, width)``."""
    own = slice(text.place, text.place + 1)
    found = []
    for layer, pair in enumerate(zip(text.cache.keys, text.cache.values, strict=True)):
        parts = [tensor[own, :, : text.tokens] for tensor in pair]
        if text.prefix is not None:
            before = (text.prefix.keys[layer], text.prefix.values[layer])
            parts = [
                torch.cat([one[:1, :, : text.prefix_tokens], part], dim=2)
                for one, part in zip(before, parts, strict=True)
            ]
        found.append((parts[0], parts[1]))
    return found
