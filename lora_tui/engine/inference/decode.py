"""Decoding: greedy, sampled and beam search, for one prompt or many, one token a step.

The loop is our own, so that it can stream and stop between two tokens. What comes next is told by a `PromptReader`: the
fast form of the model where its family is known, transformers' forward elsewhere, which is said once. Many prompts go
through continuous batching. A batch gives what each prompt gives alone, in half precision up to its rounding.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from lora_tui.engine.data.chat_template import common_prefix
from lora_tui.engine.inference.batch_decoder import BatchDecoder
from lora_tui.engine.inference.beams import BeamSearch, beams_are_known, configured_beams
from lora_tui.engine.inference.fast_model import FastModel, fast_form
from lora_tui.engine.inference.ranking import token_log_probabilities
from lora_tui.engine.inference.readers import FastReader, PromptReader, TransformersReader, padded
from lora_tui.engine.inference.sequences import SequenceRequest
from lora_tui.engine.inference.token_choice import choose, penalised, random_generator, stop_token_ids
from lora_tui.engine.models.loaded_checks import position_limit
from lora_tui.protocol.reply import Decoding


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
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    fast = fast_form(model, ids, decoding.max_new_tokens) if len(prompts) > 1 else None
    if fast is not None:
        written = _continuously(*fast, tokenizer, ids, stop_token_ids(model, tokenizer), decoding, stop)
    else:
        written = [[] for _ in prompts]
        for tokens in decode(model, tokenizer, prompts, decoding):
            for answer, token in zip(written, tokens, strict=True):
                if token is not None:
                    answer.append(token)
            if stop.is_set():
                break
    return [text_of(tokenizer, answer) for answer in written]


def _continuously(
    model: FastModel,
    adapter: str | None,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    ends: frozenset[int],
    decoding: Decoding,
    stop: threading.Event,
) -> list[list[int]]:
    """The tokens of each prompt's reply; a prompt that ends makes room for the next."""
    decoder = BatchDecoder(model, ends)
    replies: dict[int, list[int]] = {decoder.add(SequenceRequest(ids, decoding, adapter)): [] for ids in prompts}
    while (decoder.running or decoder.waiting) and not stop.is_set():
        for told in decoder.step():
            if told.token is None:
                continue
            replies[told.sequence].append(told.token)
            if decoding.until and not told.ended:
                text = tokenizer.decode([told.token])
                if any(mark in text for mark in decoding.until):
                    decoder.cancel(told.sequence)
    return list(replies.values())


def _reader(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[list[int]], new_tokens: int
) -> PromptReader:
    fast = fast_form(model, ids, new_tokens)
    return TransformersReader(model, tokenizer, ids) if fast is None else FastReader(fast[0], ids, fast[1])


def _seen(ids: Sequence[list[int]], device: torch.device) -> Tensor:
    """The tokens of each prompt ``(prompts, longest)``, filled up with its own last one: that is no repetition."""
    longest = max(map(len, ids))
    filled = [[*row, *(row[-1:] or [0]) * (longest - len(row))] for row in ids]
    return torch.tensor(filled, dtype=torch.long, device=device)


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
    reader = _reader(model, tokenizer, ids, longest)
    seen = _seen(ids, model.device)
    live = [True] * len(prompts)
    chosen: Tensor | None = None
    for _ in range(longest):
        logits = penalised(reader.scores(chosen), seen, decoding.repetition_penalty)
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
        seen = torch.cat([seen, chosen[:, None]], dim=1)


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
    if (form := fast_form(model, [ids for ids, _ in rows], 0)) is not None:
        found = token_log_probabilities(form, rows)
        return [sum(own) / len(own) if own else 0.0 for own in found]
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
    ends = stop_token_ids(model, tokenizer)
    fast = fast_form(model, fitted, longest) if beams_are_known(model) else None
    if fast is not None:
        search = BeamSearch(*fast, fitted[0], ends, decoding, longest, configured_beams(model))
        return search.run(should_stop, on_step)
    return _transformers_beams(model, tokenizer, fitted[0], ends, decoding, longest, should_stop, on_step)


def _transformers_beams(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    ends: frozenset[int],
    decoding: Decoding,
    new_tokens: int,
    should_stop: Callable[[], bool],
    on_step: Callable[[int], None],
) -> list[int]:
    """Beam search by transformers, for architectures that are not known here."""
    ids = torch.tensor([prompt], device=model.device)
    length = len(prompt)

    def between_steps(input_ids: Tensor, scores: object, **_: object) -> Tensor:
        on_step(input_ids.shape[1] - length)
        return torch.full((input_ids.shape[0],), should_stop(), device=input_ids.device)

    with torch.inference_mode():
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            num_beams=decoding.num_beams,
            do_sample=False,
            repetition_penalty=decoding.repetition_penalty,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(ends),
            stopping_criteria=StoppingCriteriaList([between_steps]),
        )
    return list(takewhile(lambda token: token not in ends, found[0, length:].tolist()))
