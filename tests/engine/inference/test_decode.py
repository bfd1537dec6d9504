"""Decoding: the tokens that transformers would choose, alone or in a batch, until there is a reason to stop."""

import threading
from typing import Any

import pytest
import torch

from lora_tui.engine.inference import decode as decoding
from lora_tui.engine.inference import ranking
from lora_tui.engine.inference.decode import answers, decode, mean_log_probabilities
from lora_tui.engine.inference.token_choice import penalised, stop_token_ids
from lora_tui.protocol.reply import Decoding
from tests.engine.loaded_models import PROMPT
from tests.engine.tiny import PAIRS, make_tokenizer

PROMPTS = [
    "Question: unlock\nAnswer:",
    "Question: what is the capital of france, and why is the sky over it so blue in summer?\nAnswer:",
    "eight",
    "Question: name a colour.\nAnswer: green",
]


def ours(model: Any, tokenizer: Any, prompts: list[str], decoding: Decoding) -> list[list[int]]:
    written: list[list[int]] = [[] for _ in prompts]
    for tokens in decode(model, tokenizer, prompts, decoding):
        for row, token in zip(written, tokens, strict=True):
            if token is not None:
                row.append(token)
    return written


def theirs(model: Any, tokenizer: Any, prompt: str, **options: Any) -> list[int]:
    """What ``generate`` writes, without the end of sequence."""
    encoded = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**encoded, do_sample=False, pad_token_id=tokenizer.pad_token_id, **options)
    ids: list[int] = written[0, encoded["input_ids"].shape[1] :].tolist()
    return ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids


@pytest.mark.parametrize("kind", ["base", "tuned"])
def test_greedy_decoding_is_transformers_own_token_for_token(base: Any, tuned: Any, tokenizer: Any, kind: str) -> None:
    model = base.model if kind == "base" else tuned
    for prompt in PROMPTS:
        wanted = theirs(model, tokenizer, prompt, max_new_tokens=30)
        assert ours(model, tokenizer, [prompt], Decoding(max_new_tokens=30)) == [wanted]
        assert len(wanted) == 30 or kind == "tuned"


@pytest.mark.parametrize("kind", ["base", "tuned"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_padded_batch_gives_what_each_prompt_gives_alone(
    base: Any, tuned: Any, tokenizer: Any, kind: str, penalty: float
) -> None:
    model = base.model if kind == "base" else tuned
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS}) == 4, "lengths must differ"
    decoding = Decoding(max_new_tokens=20, repetition_penalty=penalty)
    together = ours(model, tokenizer, PROMPTS, decoding)
    assert together == [ours(model, tokenizer, [prompt], decoding)[0] for prompt in PROMPTS]


def test_padding_does_not_shift_learned_positions(tokenizer: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        configuration = GPT2Config(
            vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2
        )
        model = GPT2LMHeadModel(configuration).eval()
    together = ours(model, tokenizer, PROMPTS, Decoding(max_new_tokens=12))
    assert together == [ours(model, tokenizer, [prompt], Decoding(max_new_tokens=12))[0] for prompt in PROMPTS]


def test_padding_does_not_count_as_a_repetition_of_the_end(eager_to_end: Any, tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    decoding = Decoding(max_new_tokens=5, repetition_penalty=50.0)
    alone = ours(eager_to_end, tokenizer, [PROMPT], decoding)[0]
    assert alone == [], "it ends at once"
    assert ours(eager_to_end, tokenizer, [PROMPT, PROMPTS[1]], decoding)[0] == alone


def test_a_trained_model_ends_its_answers_by_itself(tuned: Any, tokenizer: Any) -> None:
    prompts = [f"Question: {question}\nAnswer:" for question, _ in PAIRS]
    assert answers(tuned, tokenizer, prompts, Decoding(max_new_tokens=60)) == [answer for _, answer in PAIRS]


def test_a_batch_goes_on_until_the_last_answer_has_ended(tuned: Any, tokenizer: Any) -> None:
    steps = list(decode(tuned, tokenizer, [PROMPT, f"Question: {PAIRS[1][0]}\nAnswer:"], Decoding(max_new_tokens=60)))
    long, short = ([token for token in row if token is not None] for row in zip(*steps, strict=True))
    assert len(long) > len(short) > 0
    assert [row[1] for row in steps[len(short) :]] == [None] * (len(steps) - len(short)), "an ended row stays silent"
    assert len(steps) == len(long)


def test_every_end_of_the_generation_configuration_ends_an_answer(base: Any, tokenizer: Any) -> None:
    decoding = Decoding(max_new_tokens=10, repetition_penalty=5.0)  # so that it does not say one thing over and over
    free = ours(base.model, tokenizer, [PROMPT], decoding)[0]
    other = next(token for token in free if token != free[0])
    configured = base.model.generation_config.eos_token_id
    try:
        base.model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
        assert stop_token_ids(base.model, tokenizer) == {tokenizer.eos_token_id, other}
        ended = ours(base.model, tokenizer, [PROMPT], decoding)[0]
    finally:
        base.model.generation_config.eos_token_id = configured
    assert ended == free[: free.index(other)]


def test_an_answer_ends_after_a_token_that_holds_a_mark(tuned: Any, tokenizer: Any) -> None:
    prompt = f"Question: {PAIRS[7][0]}\nAnswer:"
    whole = answers(tuned, tokenizer, [prompt], Decoding(max_new_tokens=60))[0]
    assert whole.count("\n") == 1
    until = Decoding(max_new_tokens=60, until=("\n",))
    assert answers(tuned, tokenizer, [prompt], until)[0] == whole.partition("\n")[0]
    both = answers(tuned, tokenizer, [prompt, PROMPT], until)
    assert both == [whole.partition("\n")[0], PAIRS[0][1]], "the other answer goes on"


def test_a_stop_event_ends_decoding_between_two_tokens(base: Any, tokenizer: Any) -> None:
    stop = threading.Event()
    whole = answers(base.model, tokenizer, [PROMPT], Decoding(max_new_tokens=20))[0]
    stop.set()
    cut = answers(base.model, tokenizer, [PROMPT], Decoding(max_new_tokens=20), stop)[0]
    assert len(cut) < len(whole)
    assert whole.startswith(cut)
    assert answers(base.model, tokenizer, [PROMPT], Decoding(20, num_beams=2), stop)[0] != whole


@pytest.mark.parametrize("penalty", [1.2, 5.0])
def test_the_repetition_penalty_is_transformers_own(base: Any, tokenizer: Any, penalty: float) -> None:
    for prompt in PROMPTS:
        wanted = theirs(base.model, tokenizer, prompt, max_new_tokens=20, repetition_penalty=penalty)
        found = ours(base.model, tokenizer, [prompt], Decoding(max_new_tokens=20, repetition_penalty=penalty))[0]
        assert found == wanted
    assert len(set(wanted)) > len(set(theirs(base.model, tokenizer, PROMPTS[-1], max_new_tokens=20)))


def test_the_penalty_makes_likely_and_unlikely_tokens_less_likely(tokenizer: Any) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 30, generator=generator)
    seen = torch.randint(0, 30, (2, 12), generator=generator)
    after = penalised(logits.clone(), seen, 1.7)
    torch.testing.assert_close(after, RepetitionPenaltyLogitsProcessor(1.7)(seen, logits.clone()))
    assert (after <= logits).all()


def test_beam_search_is_transformers_own_and_finds_a_likelier_answer(base: Any, tokenizer: Any) -> None:
    beam = answers(base.model, tokenizer, PROMPTS, Decoding(max_new_tokens=8, num_beams=4))
    for prompt, answer in zip(PROMPTS, beam, strict=True):
        wanted = theirs(base.model, tokenizer, prompt, max_new_tokens=8, num_beams=4)
        assert answer == tokenizer.decode(wanted, skip_special_tokens=True).strip()
    assert beam != answers(base.model, tokenizer, PROMPTS, Decoding(max_new_tokens=8))


def test_sampling_repeats_itself_with_a_seed_and_varies_without(base: Any, tokenizer: Any) -> None:
    def sample(seed: int | None) -> list[str]:
        return answers(base.model, tokenizer, PROMPTS, Decoding(max_new_tokens=10, temperature=1.0, seed=seed))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(None) != sample(None)
    greedy = answers(base.model, tokenizer, PROMPTS, Decoding(max_new_tokens=10))
    cold = Decoding(max_new_tokens=10, temperature=1e-4, seed=1)
    assert answers(base.model, tokenizer, PROMPTS, cold) == greedy


def test_a_nucleus_holds_the_likeliest_tokens_only(base: Any, tokenizer: Any) -> None:
    greedy = ours(base.model, tokenizer, [PROMPT], Decoding(max_new_tokens=10))
    tight = Decoding(max_new_tokens=10, temperature=1.0, top_p=1e-6, seed=4)
    assert ours(base.model, tokenizer, [PROMPT], tight) == greedy

    logits = base.model(**tokenizer(PROMPT, return_tensors="pt")).logits[0, -1]
    ordered = logits.softmax(-1).sort(descending=True)
    size = int((ordered.values.cumsum(-1) - ordered.values < 0.3).sum())
    allowed = set(ordered.indices[:size].tolist())
    assert 1 < size < 100
    first = {
        ours(base.model, tokenizer, [PROMPT], Decoding(1, temperature=1.0, top_p=0.3, seed=seed))[0][0]
        for seed in range(60)
    }
    assert first <= allowed
    assert len(first) > 1


def test_decoding_leaves_no_gradient_and_no_mode_behind(base: Any, tokenizer: Any) -> None:
    before = torch.is_grad_enabled()
    stream = decode(base.model, tokenizer, [PROMPT], Decoding(max_new_tokens=3))
    next(stream)
    assert torch.is_grad_enabled() == before
    assert not torch.is_inference_mode_enabled(), "between two tokens, the caller's mode holds"
    stream.close()


def plain_mean(model: Any, tokenizer: Any, prompt: str, continuation: str, *, end: bool) -> float:
    """The mean log-probability of the continuation, one text at a time, all logits kept."""
    ids = tokenizer(prompt + continuation)["input_ids"] + ([tokenizer.eos_token_id] if end else [])
    start = len(tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    picked = [float(scores[place - 1, ids[place]]) for place in range(start, len(ids))]
    return sum(picked) / len(picked)


@pytest.mark.parametrize("tokens", [1, 40, 1024, 0])
@pytest.mark.parametrize("end", [False, True])
def test_mean_log_probabilities_are_those_of_a_plain_computation(
    base: Any, tokenizer: Any, end: bool, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tokens:
        monkeypatch.setattr(ranking, "_TOKENS", tokens)
    else:
        monkeypatch.setattr(decoding, "fast_form", lambda *_: None)
    texts = [(f"Question: {question}\nAnswer:", f" {answer}") for question, answer in PAIRS]
    found = mean_log_probabilities(base.model, tokenizer, texts, end=end)
    wanted = [plain_mean(base.model, tokenizer, *text, end=end) for text in texts]
    assert found == pytest.approx(wanted, abs=1e-4)
    assert len(set(found)) == len(found)


def test_a_likelier_answer_has_the_higher_mean(tuned: Any, tokenizer: Any) -> None:
    right, wrong = mean_log_probabilities(
        tuned, tokenizer, [(PROMPT, f" {PAIRS[0][1]}"), (PROMPT, f" {PAIRS[4][1]}")], end=True
    )
    assert right > wrong + 1


def test_an_empty_continuation_scores_nothing_or_the_end_alone(base: Any, tokenizer: Any) -> None:
    assert mean_log_probabilities(base.model, tokenizer, [(PROMPT, "")]) == [0.0]
    (end,) = mean_log_probabilities(base.model, tokenizer, [(PROMPT, "")], end=True)
    assert end == pytest.approx(plain_mean(base.model, tokenizer, PROMPT, "", end=True), abs=1e-4)


def test_a_continuation_without_a_prompt_is_scored_from_its_second_token(base: Any, tokenizer: Any) -> None:
    text = "green is a colour"
    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        scores = base.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = sum(float(scores[place - 1, ids[place]]) for place in range(1, len(ids))) / (len(ids) - 1)
    assert mean_log_probabilities(base.model, tokenizer, [("", text)]) == pytest.approx([wanted], abs=1e-4)


def test_a_tokenizer_that_begins_every_text_does_so_once_in_a_prompt(base: Any) -> None:
    tokenizer = make_tokenizer(adds_bos=True)
    wanted = theirs(base.model, tokenizer, PROMPT, max_new_tokens=5)
    assert ours(base.model, tokenizer, [PROMPT], Decoding(max_new_tokens=5)) == [wanted]
