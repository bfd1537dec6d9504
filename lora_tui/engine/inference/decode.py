"""Decoding: greedy, sampled and beam search, for a batch of prompts, one token a step.

The greedy and sampling loop is our own, so that it can stream and stop between two tokens. Beam search is
transformers'. Prompts are padded on the left, and the padding is masked: a batch gives what each prompt gives alone.
Nothing here draws from torch's global random state, which belongs to the trainer of this process.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from lora_tui.engine.data.chat_template import common_prefix
from lora_tui.engine.models.loaded_checks import position_limit
from lora_tui.protocol.reply import Decoding


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the generation configuration's and the tokenizer's."""
    own = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    return configured_stop_ids(model) | own


def configured_stop_ids(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end an answer by the generation configuration alone, which is what other programs go by."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in listed if token is not None)


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    decoding: Decoding,
    stop: threading.Event | None = None,
) -> list[str]:
    """Return the model's continuation of each prompt, without prompt and special tokens, stripped.

    When `stop` is set in between, the answers so far are returned.
    """
    stop = stop or threading.Event()
    if decoding.num_beams > 1:
        found = [beam_search(model, tokenizer, prompt, decoding, stop.is_set) for prompt in prompts]
        return [text_of(tokenizer, ids) for ids in found]
    written: list[list[int]] = [[] for _ in prompts]
    for tokens in decode(model, tokenizer, prompts, decoding):
        for answer, token in zip(written, tokens, strict=True):
            if token is not None:
                answer.append(token)
        if stop.is_set():
            break
    return [text_of(tokenizer, answer) for answer in written]


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a reply's tokens, without special ones, stripped."""
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    decoding: Decoding,
    written: Sequence[Sequence[int]] = (),
) -> Iterator[list[int | None]]:
    """Yield one token for each prompt at a time, None for those that have ended.

    Ends when all have, or at the limit. `written` holds tokens that each reply has already: what is yielded goes on
    from there, and is what a higher limit would have given; a seed goes on from where it was, too.
    """
    generator = random_generator(decoding.seed)
    ends = stop_token_ids(model, tokenizer)
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    if written:
        ids = [[*prompt, *reply] for prompt, reply in zip(ids, written, strict=True)]
    ids, longest = within_positions(model, ids, decoding.max_new_tokens)
    used_draws = max(map(len, written), default=0) if decoding.temperature > 0.0 else 0
    input_ids, mask = padded(tokenizer, ids, "left", model.device)
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    seen = torch.where(mask.bool(), input_ids, input_ids[:, -1:])  # padding was not generated: it is no repetition
    live = [True] * len(prompts)
    for _ in range(longest):
        output = model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = penalised(output.logits[:, -1].float(), seen, decoding.repetition_penalty)
        for _ in range(used_draws):
            torch.multinomial(torch.ones(logits.shape), 1, generator=generator)
        used_draws = 0
        chosen = choose(logits, decoding, generator)
        tokens = chosen.tolist()
        live = [alive and token not in ends for alive, token in zip(live, tokens, strict=True)]
        if not any(live):
            return
        yield [token if alive else None for token, alive in zip(tokens, live, strict=True)]
        if decoding.until:
            texts = tokenizer.batch_decode([[token] for token in tokens])
            ended = [any(mark in text for mark in decoding.until) for text in texts]
            live = [alive and not done for alive, done in zip(live, ended, strict=True)]
            if not any(live):
                return
        input_ids = chosen[:, None]
        seen = torch.cat([seen, input_ids], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions[:, -1:] + 1


@torch.inference_mode()
def mean_log_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], *, end: bool = False
) -> list[float]:
    """For each (prompt, continuation): the mean log-probability of the continuation's tokens, in nats a token.

    `end` adds the end-of-sequence token to what is scored. An empty continuation without it scores 0.
    """
    rows = [_scored_ids(tokenizer, prompt, continuation, end=end) for prompt, continuation in texts]
    if (limit := position_limit(model)) is not None:
        rows = [(ids[-limit:], max(1, start - max(0, len(ids) - limit))) for ids, start in rows]
    input_ids, mask = padded(tokenizer, [ids for ids, _ in rows], "right", model.device)
    offset = min(start for _, start in rows) - 1  # the first position whose logits are looked at
    keep = input_ids.shape[1] - offset
    logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False, logits_to_keep=keep).logits
    means = []
    for row, (ids, start) in enumerate(rows):
        if len(ids) <= start:
            means.append(0.0)
            continue
        scores = logits[row, start - 1 - offset : len(ids) - 1 - offset].float().log_softmax(-1)
        picked = scores.gather(-1, input_ids[row, start : len(ids), None]).squeeze(-1)
        means.append(float(picked.mean()))
    return means


def _scored_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str, *, end: bool
) -> tuple[list[int], int]:
    """Token ids of prompt and continuation, and where the continuation starts: never at token 0 (not predicted)."""
    whole: list[int] = tokenizer(prompt + continuation)["input_ids"]
    start = common_prefix(whole, tokenizer(prompt)["input_ids"] if prompt else [])
    return [*whole, tokenizer.eos_token_id] if end else whole, max(1, start)


def padded(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], side: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and mask of shape ``(rows, longest)``, with padding on the ``left`` or ``right``."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    pad = partial(pad_sequence, batch_first=True, padding_side=side)
    input_ids = pad(ids, padding_value=tokenizer.pad_token_id or 0)
    return input_ids.to(device), pad([torch.ones_like(row) for row in ids]).to(device)


def within_positions(
    model: PreTrainedModel, prompts: list[list[int]], max_new_tokens: int
) -> tuple[list[list[int]], int]:
    """Return prompts and length that a model's table of positions holds: the beginning of a longer prompt is left out.

    The reply keeps its room, or half of the table if that is less.
    """
    limit = position_limit(model)
    if limit is None:
        return prompts, max_new_tokens
    room = min(max_new_tokens, max(1, limit // 2))
    return [ids[-(limit - room) :] for ids in prompts], room


def random_generator(seed: int | None) -> torch.Generator:
    """A generator of its own for a reply: it repeats a `seed`, or begins anywhere."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty of Keskar et al. (2019): divide positive logits of `seen` tokens, multiply negative ones."""
    if penalty == 1.0:
        return logits
    occurred = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(occurred > 0, occurred / penalty, occurred * penalty))


def choose(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> Tensor:
    """Pick one token a row from logits ``(rows, vocabulary)``: the likeliest, or by sampling from the nucleus."""
    if decoding.temperature == 0.0:
        return logits.argmax(-1)
    probabilities = (logits / decoding.temperature).softmax(-1)
    if decoding.top_p < 1.0:
        ordered, order = probabilities.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= decoding.top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
    drawn = torch.multinomial(probabilities.cpu(), 1, generator=generator)
    return drawn.squeeze(-1).to(logits.device)


def beam_search(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    decoding: Decoding,
    should_stop: Callable[[], bool],
    on_step: Callable[[int], None] = lambda tokens: None,
    written: Sequence[int] = (),
) -> list[int]:
    """Return the tokens of the likeliest continuation that a search with ``num_beams`` finds, without its end token.

    `on_step` is called after each token with the number so far. When `should_stop` returns true, the best continuation
    so far is returned. `written` holds tokens that the reply has already; the search goes on from there.
    """
    fitted, longest = within_positions(model, [[*tokenizer(prompt)["input_ids"], *written]], decoding.max_new_tokens)
    ids = torch.tensor(fitted, device=model.device)
    length = ids.shape[1]
    ends = stop_token_ids(model, tokenizer)

    def between_steps(input_ids: Tensor, scores: object, **_: object) -> Tensor:
        on_step(input_ids.shape[1] - length)
        return torch.full((input_ids.shape[0],), should_stop(), device=input_ids.device)

    with torch.inference_mode():
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=longest,
            num_beams=decoding.num_beams,
            do_sample=False,
            repetition_penalty=decoding.repetition_penalty,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(ends),
            stopping_criteria=StoppingCriteriaList([between_steps]),
        )
    return list(takewhile(lambda token: token not in ends, found[0, length:].tolist()))
